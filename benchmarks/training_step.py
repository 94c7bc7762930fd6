"""Seconds of a detector's training step, against pooling first, and against torchvision's operators.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --depths 101 --rounds 9
    python benchmarks/training_step.py --depths 18 --short-side 320 --regions 16 --rounds 1

One 600×1000 image with eight objects, 128 regions, RoI align 14×14, frozen norms, bfloat16 where the processor has
it. The three take turns; medians, medians of the ratios, and the share of the RoI operators in our step are shown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import torch
from torch.profiler import ProfilerActivity, profile

from resdet.config import Depth, DetConfig
from resdet.engine import runtime as runtimes
from resdet.engine.runtime import Runtime
from resdet.models.box_heads import Conv5Head
from resdet.models.build import build_detector
from resdet.models.poolers import RoIPooler
from resdet.ops import library
from resdet.types import FeatureMaps, Target

OPERATORS = ("resdet::roi_align", "resdet::roi_align_backward", "resdet::nms")


class PoolingFirst(Conv5Head):
    """conv5 that never convolves before it pools."""

    def commutes(self, pooler: RoIPooler, features: FeatureMaps) -> bool:
        """No."""
        return False


def make_step(
    depth: Depth, short_side: int, regions: int, runtime: Runtime, pool_first: bool
) -> Callable[[], None]:
    """A training step of a fresh detector, the same one each time."""
    torch.manual_seed(0)
    config = DetConfig()
    model = replace(config.model, depth=depth, pooling="align", pool_size=14, conv5_stride=2)
    roi = replace(config.roi, batch_size_per_image=regions)
    network = build_detector(replace(config, model=model, roi=roi), 20).to(memory_format=torch.channels_last)
    if pool_first:
        head = network.roi_heads.box_head
        assert isinstance(head, Conv5Head)
        network.roi_heads.box_head = PoolingFirst(head.conv5_x, head.channels)
    optimizer = torch.optim.SGD(network.parameters(), 1e-5, momentum=0.9)
    height, width = short_side, short_side * 5 // 3
    images, sizes = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8), torch.tensor([[height, width]])
    boxes = torch.rand(8, 4) * height / 2
    boxes[:, 2:] += boxes[:, :2] + height / 10
    target = Target(boxes, torch.randint(0, 20, (8,)), torch.zeros(8, dtype=torch.bool))

    def step() -> None:
        torch.manual_seed(1)
        with runtime.autocast():
            losses = network(images, sizes, [target])
        losses.loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Print a line for each depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, choices=get_args(Depth), nargs="+", default=[18, 50])
    parser.add_argument("--short-side", type=int, default=600, help="pixels; the longer side is 5/3 of it")
    parser.add_argument("--regions", type=int, default=128, help="to sample")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runtime = runtimes.start("cpu", "auto")
    own = set(library.DEVICES)
    for depth in options.depths:
        step, pool_first = (
            make_step(depth, options.short_side, options.regions, runtime, first) for first in (False, True)
        )
        variants: tuple[tuple[Callable[[], None], set[str]], ...] = (
            (step, own),
            (pool_first, own),
            (pool_first, set()),
        )
        step()
        times: list[list[float]] = [[], [], []]
        for _ in range(options.rounds):
            for seconds, (variant, devices) in zip(times, variants, strict=True):
                library.DEVICES.clear()
                library.DEVICES.update(devices)
                started = time.perf_counter()
                variant()
                seconds.append(time.perf_counter() - started)
        library.DEVICES.update(own)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            step()
        spent = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
        share = sum(spent.get(name, 0) for name in OPERATORS) / sum(spent.values())
        ours, pooled, theirs = (statistics.median(seconds) for seconds in times)
        against_pooled, against_theirs = (
            statistics.median(b / a for a, b in zip(times[0], others, strict=True)) for others in times[1:]
        )
        print(
            f"ResNet-{depth}, {runtime.dtype}, {torch.get_num_threads()} threads: {ours:.2f} s; pooling first "
            f"{pooled:.2f} s, ratio {against_pooled:.2f}; and torchvision's operators {theirs:.2f} s, ratio "
            f"{against_theirs:.2f}; RoI operators and NMS {100 * share:.1f} % of our step"
        )


if __name__ == "__main__":
    main()
