"""Seconds per image of the fast detector against the plain one, and whether they find the same.

    python benchmarks/detector.py
    python benchmarks/detector.py --short-side 800 --proposals 1000 --allocator stock
    python benchmarks/detector.py --depth 18 --short-side 64 --proposals 5 --rounds 1 --memory plain

The plain side is the network as it trains, eager, in float32, with torchvision's operators and torch's own
normalisation; the fast side is `resdet.inference.optimize`, in float32 and in bfloat16. All have the random weights
of one ResNet-101 with the C4 head that detectron2 made common (RoI align 14×14, stride in the first 1×1). They take
turns; medians and ratios of the medians are printed. Peak memory is that of a process of its own for each.

The allocator is stock, or tuned to keep what is freed, as resdet's commands tune it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor, nn

from resdet.config import Depth, DetConfig
from resdet.engine.runtime import Runtime, keep_freed_memory
from resdet.inference.optimize import OptimizedRCNN
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.layers.norm import FrozenBatchNorm2d
from resdet.ops import library
from resdet.types import Detections

Run = Callable[[Tensor, Tensor], list[Detections]]
SIDES = ("plain", "fast", "fast bf16")


def network(depth: Depth, proposals: int) -> FasterRCNN:
    """A detector of 20 classes with random weights whose normalisations and scores are not trivial."""
    torch.manual_seed(0)
    config = DetConfig()
    model = replace(config.model, depth=depth, style="msra", pooling="align_v2", pool_size=14, conv5_stride=2)
    test = replace(config.test, post_nms_topk=proposals)
    result = build_detector(replace(config, model=model, test=test), 20)
    for module in result.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.uniform_(0.3, 0.6)
            module.bias.normal_(0, 0.1)
    assert result.rpn is not None
    nn.init.normal_(result.rpn.head.objectness_logits.weight, std=0.1)
    nn.init.normal_(result.roi_heads.box_predictor.cls_score.weight, std=0.5)
    return result.eval().to(memory_format=torch.channels_last)


def side(name: str, model: FasterRCNN) -> Run:
    """One of SIDES as a function."""
    if name == "plain":
        own = set(library.DEVICES)

        def run(images: Tensor, sizes: Tensor) -> list[Detections]:
            library.DEVICES.clear()  # torchvision's operators serve
            try:
                with torch.no_grad():
                    return model(images, sizes)
            finally:
                library.DEVICES.update(own)

        return run
    dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
    return OptimizedRCNN(model, Runtime(0, 1, torch.device("cpu"), dtype))


def differences(found: Detections, expected: Detections) -> str:
    """How far detections are from those that are expected."""
    if not torch.equal(found.labels, expected.labels):
        alike = (found.labels[:, None] == expected.labels) & (
            (found.boxes[:, None] - expected.boxes).abs().amax(2) < 1
        )
        return f"{int(alike.any(1).sum())} of {len(expected.labels)} detections alike"
    scores = (found.scores - expected.scores).abs().max().item()
    boxes = (found.boxes - expected.boxes).abs().max().item()
    return f"the same {len(expected.labels)} detections, scores within {scores:.1e}, boxes within {boxes:.1e} px"


def peak(name: str, arguments: list[str]) -> float:
    """GiB that a process takes which does nothing else."""
    command = [sys.executable, __file__, *arguments, "--peak-of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Take turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, choices=get_args(Depth), default=101)
    parser.add_argument("--short-side", type=int, default=600, help="pixels; the longer side is 5/3 of it")
    parser.add_argument("--proposals", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--allocator", choices=["tuned", "stock"], default="tuned")
    parser.add_argument(
        "--memory", choices=SIDES, nargs="*", default=SIDES, help="sides whose peak memory is measured"
    )
    parser.add_argument("--peak-of", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # First, because a process's peak counts that of the one which started it.
    peaks = {} if options.peak_of else {name: peak(name, sys.argv[1:]) for name in options.memory}
    if options.allocator == "tuned":
        keep_freed_memory()
    model = network(options.depth, options.proposals)
    height, width = options.short_side, options.short_side * 5 // 3
    images, sizes = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8), torch.tensor([[height, width]])
    if options.peak_of:
        run = side(options.peak_of, model)
        del model
        for _ in range(2):
            run(images, sizes)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    runs = {name: side(name, model) for name in SIDES}
    found = {name: run(images, sizes)[0] for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(options.rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run(images, sizes)
            seconds[name].append(time.perf_counter() - started)
    print(
        f"ResNet-{options.depth}, {height}×{width}, {options.proposals} proposals, {options.allocator} allocator, "
        f"{torch.get_num_threads()} threads, medians of {options.rounds}"
    )
    median = {name: statistics.median(times) for name, times in seconds.items()}
    for name in SIDES:
        memory = f"{peaks[name]:.1f} GiB" if name in peaks else "–"
        print(
            f"{name:10s} {median[name]:6.2f} s  {median['plain'] / median[name]:5.2f}×  "
            f"{memory:8} {differences(found[name], found['plain'])}"
        )


if __name__ == "__main__":
    main()
