"""The operators against torchvision's on the same inputs, in turns: medians and ratios.

    python benchmarks/operators.py
    python benchmarks/operators.py --regions 300 --channels 256

1000 regions on a map of 1024×50×84 cells (a 1344×800 image, stride 16), 7×7 bins, float32; 12,000 boxes for NMS.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision

from resdet import ops
from resdet.engine.runtime import keep_freed_memory


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> None:
    """Time both in turns and print a row."""
    ours()
    theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    own, other = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    print(f"{name:28} {own:9.2f} ms {other:9.2f} ms {ratio:8.1f}×", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    count = options.regions
    features = torch.randn(1, options.channels, 50, 84)
    last = features.to(memory_format=torch.channels_last)
    corner = torch.rand(count, 2) * torch.tensor([1100.0, 600.0])
    rois = torch.cat([corner, corner + 20 + torch.rand(count, 2).square() * 400], 1)
    index = torch.zeros(count, dtype=torch.int64)
    indexed = torch.cat([index[:, None].float(), rois], 1)
    upstream = torch.randn(count, options.channels, 7, 7)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, torchvision {torchvision.__version__}")
    print(f"{'':28} {'ours':>12} {'torchvision':>12} {'ratio':>9}")
    for name, own, other in (
        (
            "RoI align",
            lambda x: ops.roi_align(x, rois, index, 7, 1 / 16),
            lambda x: torchvision.ops.roi_align(x, indexed, 7, 1 / 16, 0, True),
        ),
        (
            "RoI pool",
            lambda x: ops.roi_pool(x, rois, index, 7, 1 / 16),
            lambda x: torchvision.ops.roi_pool(x, indexed, 7, 1 / 16),
        ),
    ):
        with torch.no_grad():
            compare(
                f"{name} forward", lambda own=own: own(last), lambda other=other: other(features), options.rounds
            )
        a, b = last.clone().requires_grad_(), features.clone().requires_grad_()
        y, z = own(a), other(b)
        g = upstream.to(memory_format=torch.channels_last)
        compare(
            f"{name} backward",
            lambda y=y, a=a, g=g: torch.autograd.grad(y, a, g, retain_graph=True),
            lambda z=z, b=b: torch.autograd.grad(z, b, upstream, retain_graph=True),
            options.rounds,
        )
    corner = torch.rand(12_000, 2) * torch.tensor([1300.0, 760.0])
    boxes = torch.cat([corner, corner + 16 + torch.rand(12_000, 2) * 200], 1)
    scores = torch.rand(12_000).sort(descending=True).values
    for wanted in (12_000, 2000, 300):
        compare(
            f"NMS at 0.7, {wanted} wanted",
            lambda wanted=wanted: ops.nms(boxes, scores, 0.7, wanted),
            lambda wanted=wanted: torchvision.ops.nms(boxes, scores, 0.7)[:wanted],
            options.rounds,
        )


if __name__ == "__main__":
    main()
