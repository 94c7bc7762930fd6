"""Seconds of a classifier's training step, against torchvision's network in the same loop.

    python benchmarks/classifier_step.py
    python benchmarks/classifier_step.py --depths 50 --precision fp32 --rounds 9
    python benchmarks/classifier_step.py --depths 18 --images 2 --size 64 --rounds 1

A batch of images of 224×224, cross-entropy, SGD. torchvision's ResNet runs channels-last in the same number type,
and as a tutorial has it: float32, channels first. The three take turns; medians are shown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import torch
import torch.nn.functional as F
import torchvision

from resdet.config import ClsConfig, ClsModelConfig, Depth
from resdet.engine import runtime as runtimes
from resdet.engine.runtime import Runtime
from resdet.engine.solver import build_optimizer
from resdet.models.classifier import build_classifier, classification_loss

CLASSES = 1000


def our_step(depth: Depth, images: torch.Tensor, labels: torch.Tensor, runtime: Runtime) -> Callable[[], Any]:
    """A step of train_cls's network on uint8 images."""
    config = ClsConfig(model=ClsModelConfig(depth=depth))
    model = build_classifier(config.model, CLASSES, torch.full((3, 1, 1), 120.0), torch.full((3, 1, 1), 60.0))
    model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model.train(), replace(config.solver, lr=1e-4))

    def step() -> None:
        with runtime.autocast():
            loss = classification_loss(model(images), labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_step(
    depth: int, images: torch.Tensor, labels: torch.Tensor, runtime: Runtime, layout: torch.memory_format
) -> Callable[[], Any]:
    """A step of torchvision's network on float32 images."""
    model = getattr(torchvision.models, f"resnet{depth}")().train().to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9, weight_decay=1e-4)
    x = ((images.float() - 120) / 60).contiguous(memory_format=layout)

    def step() -> None:
        with runtime.autocast():
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Print a line for each depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, choices=get_args(Depth), nargs="+", default=[18, 50])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="pixels along each side")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    runtime = runtimes.start("cpu", options.precision)
    plain = replace(runtime, dtype=torch.float32)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (options.images, 3, options.size, options.size), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (options.images,))
    for depth in options.depths:
        steps = (
            our_step(depth, images, labels, runtime),
            their_step(depth, images, labels, runtime, torch.channels_last),
            their_step(depth, images, labels, plain, torch.contiguous_format),
        )
        times: list[list[float]] = [[] for _ in steps]
        for turn in range(options.rounds + 1):
            for seconds, step in zip(times, steps, strict=True):
                started = time.perf_counter()
                step()
                if turn:  # the first is the warm-up
                    seconds.append(time.perf_counter() - started)
        ours, same, tutorial = (statistics.median(seconds) for seconds in times)
        ratios = [statistics.median(b / a for a, b in zip(times[0], other, strict=True)) for other in times[1:]]
        print(
            f"ResNet-{depth}, {options.images} images of {options.size}², {runtime.dtype}, "
            f"{torch.get_num_threads()} threads: {ours:.3f} s; torchvision channels-last {same:.3f} s, ratio "
            f"{ratios[0]:.2f}; float32 as tutorials have it {tutorial:.3f} s, ratio {ratios[1]:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
