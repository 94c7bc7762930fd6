"""Operators and detectors on a GPU, ours against torchvision's, as tables in Markdown.

    python benchmarks/gpu.py operators
    python benchmarks/gpu.py detectors --minutes 3
    python benchmarks/gpu.py detectors --device cpu --size 64 96 --proposals 10 --rounds 1

operators: 1000 regions on a map of 256×200×336 cells, 12,000 boxes. detectors: fasterrcnn_resnet50_fpn with random
weights on an image of 800×1333: torchvision's, eager and with a compiled backbone, and the same in resdet, in
float32, TF32 and bfloat16. Medians in milliseconds; sides take turns; those for which no time is left are left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torchvision
from sides.fpn import converted, torchvision_detector
from torch import Tensor, nn

from resdet import ops
from resdet.engine import runtime as runtimes
from resdet.inference.optimize import OptimizedRCNN


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one call, whose work is done at its end."""
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def take_turns(sides: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each side."""
    for run in sides.values():
        for _ in range(2):
            seconds(run, device)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            taken[name].append(1e3 * seconds(run, device))
    return {name: statistics.median(times) for name, times in taken.items()}


# Operators


def operators(device: torch.device, rounds: int, regions: int, boxes: int) -> None:
    """A row for each operator and number type."""
    print("| operator | type | resdet | torchvision | ratio |")
    print("|---|---|---|---|---|")
    corner = torch.rand(regions, 2, device=device) * torch.tensor([1100.0, 600.0], device=device)
    rois = torch.cat([corner, corner + 20 + torch.rand(regions, 2, device=device) * 200], 1)
    index = torch.zeros(regions, dtype=torch.int64, device=device)
    indexed = torch.cat([index[:, None].float(), rois], 1)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(1, 256, 200, 336, device=device).to(dtype)
        last = x.to(memory_format=torch.channels_last)
        pairs: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
            "RoI align": (
                lambda x: ops.roi_align(x, rois, index, 7, 1 / 4, 2),
                lambda x: torchvision.ops.roi_align(x.float(), indexed, 7, 1 / 4, 2, True),
            ),
            "RoI pooling": (
                lambda x: ops.roi_pool(x, rois, index, 7, 1 / 4),
                lambda x: torchvision.ops.roi_pool(x.float(), indexed, 7, 1 / 4),
            ),
        }
        for name, (ours, theirs) in pairs.items():
            row(name, dtype, partial(ours, last), partial(theirs, x), rounds, device)
            row(f"{name}, both ways", dtype, partial(both, ours, last), partial(both, theirs, x), rounds, device)
    sorted_scores = torch.rand(boxes, device=device).sort(descending=True).values
    corner = torch.rand(boxes, 2, device=device) * 1000
    many = torch.cat([corner, corner + 16 + torch.rand(boxes, 2, device=device) * 200], 1)
    row(
        f"NMS of {boxes:,}",
        torch.float32,
        lambda: ops.nms(many, sorted_scores, 0.7, boxes // 6),
        lambda: torchvision.ops.nms(many, sorted_scores, 0.7)[: boxes // 6],
        rounds,
        device,
    )


def both(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Forward and backward."""
    given = x.detach().requires_grad_()
    function(given).sum().backward()


def row(
    name: str,
    dtype: torch.dtype,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    device: torch.device,
) -> None:
    """Time both and print."""
    own, other = take_turns({"ours": ours, "theirs": theirs}, rounds, device).values()
    kind = str(dtype).removeprefix("torch.")
    print(f"| {name} | {kind} | {own:.3f} ms | {other:.3f} ms | {other / own:.2f}× |", flush=True)


# Detectors


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """With or without TF32 for float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@torch.no_grad()
def theirs_on(network: nn.Module, images: Tensor, device: torch.device, autocast: bool) -> object:
    """torchvision's detector."""
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        return network([image.float() / 255 for image in images])


def detectors(
    device: torch.device, rounds: int, size: tuple[int, int], proposals: int, images_at_a_time: int, minutes: float
) -> None:
    """A row for each detector and number type."""
    ends = time.perf_counter() + 60 * minutes
    images = torch.randint(0, 256, (images_at_a_time, 3, *size), dtype=torch.uint8, device=device)
    sizes = torch.tensor([size] * images_at_a_time)

    def ours(precision: str) -> Callable[[], object]:
        network, _ = converted(proposals, size)
        return partial(OptimizedRCNN(network, runtimes.choose(device, precision), keep=False), images, sizes)

    def theirs(autocast: bool, compiled: bool) -> Callable[[], object]:
        network = torchvision_detector(proposals, size).to(device, memory_format=torch.channels_last)
        if compiled:
            network.backbone = torch.compile(network.backbone)
        return partial(theirs_on, network, images, device, autocast)

    print(f"| {size[0]}×{size[1]} pixels, {images_at_a_time} at a time | type | milliseconds an image |")
    print("|---|---|---|")
    kinds = [("float32", "fp32", False, False), ("TF32", "fp32", False, True), ("bfloat16", "bf16", True, True)]
    for compiled in (False, True):
        for title, precision, autocast, allowed in kinds:
            if title == "TF32" and device.type != "cuda":
                continue
            sides = {f"torchvision{', compiled' * compiled}": partial(theirs, autocast, compiled)}
            sides |= {} if compiled else {"resdet": partial(ours, precision)}
            if time.perf_counter() > ends:
                print(f"| {', '.join(sides)} | {title} | no time was left |")
                continue
            with tf32(allowed):
                taken = take_turns({name: make() for name, make in sides.items()}, rounds, device)
            for name, milliseconds in taken.items():
                print(f"| {name} | {title} | {milliseconds / images_at_a_time:.1f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["operators", "detectors"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--boxes", type=int, default=12_000)
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1333], help="height and width of the images")
    parser.add_argument("--proposals", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1, help="at a time")
    parser.add_argument("--minutes", type=float, default=3, help="after which no further side is begun")
    options = parser.parse_args()
    device = runtimes.choose(options.device, "fp32").device
    torch.manual_seed(0)
    if options.what == "operators":
        operators(device, options.rounds, options.regions, options.boxes)
    else:
        height, width = options.size
        detectors(device, options.rounds, (height, width), options.proposals, options.images, options.minutes)


if __name__ == "__main__":
    main()
