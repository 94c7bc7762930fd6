"""The operators against torchvision's and torch's on the same inputs, in turns: medians and ratios.

    python benchmarks/operators.py
    python benchmarks/operators.py --regions 300 --channels 256
    python benchmarks/operators.py --regions 10 --channels 16 --boxes 400 --images 2 --rounds 1

1000 regions on a map of 1024×50×84 cells (a 1344×800 image, stride 16), 7×7 bins, float32; 12,000 boxes for NMS;
batch normalisation with shortcut and ReLU in bfloat16 on the maps of ResNet-20 (128 images) and of a detector's
conv5 (128 regions); Winograd's 3×3 convolution in float32, and the gradient of its weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from resdet import ops
from resdet.engine.runtime import keep_freed_memory
from resdet.models.layers.norm import SyncBatchNorm2d

MAPS = ((16, 32), (32, 16), (64, 8), (512, 7))  # channels and side


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
    print(f"{name:32} {own:9.2f} ms {other:9.2f} ms {ratio:8.1f}×", flush=True)


def compare_gradients(
    name: str, ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], x: Tensor, rounds: int
) -> None:
    """The backward passes of two functions of x, (N, C, H, W)."""
    own, other = (t.detach().requires_grad_() for t in (x.to(memory_format=torch.channels_last), x))
    y, z = ours(own), theirs(other)
    upstream = torch.randn_like(z)
    laid = upstream.to(memory_format=torch.channels_last)
    compare(
        name,
        lambda: torch.autograd.grad(y, own, laid, retain_graph=True),
        lambda: torch.autograd.grad(z, other, upstream, retain_graph=True),
        rounds,
    )


def regions(count: int, channels: int, rounds: int) -> None:
    """RoI align and RoI pooling."""
    features = torch.randn(1, channels, 50, 84)
    last = features.to(memory_format=torch.channels_last)
    corner = torch.rand(count, 2) * torch.tensor([1100.0, 600.0])
    rois = torch.cat([corner, corner + 20 + torch.rand(count, 2).square() * 400], 1)
    index = torch.zeros(count, dtype=torch.int64)
    indexed = torch.cat([index[:, None].float(), rois], 1)

    def native_align(x: Tensor) -> Tensor:
        return ops.roi_align(x, rois, index, 7, 1 / 16)

    def align(x: Tensor) -> Tensor:
        return torchvision.ops.roi_align(x, indexed, 7, 1 / 16, 0, True)

    def native_pool(x: Tensor) -> Tensor:
        return ops.roi_pool(x, rois, index, 7, 1 / 16)

    def pool(x: Tensor) -> Tensor:
        return torchvision.ops.roi_pool(x, indexed, 7, 1 / 16)

    for name, ours, theirs in (("RoI align", native_align, align), ("RoI pooling", native_pool, pool)):
        compare(f"{name} forward", partial(ours, last), partial(theirs, features), rounds)
        compare_gradients(f"{name} backward", ours, theirs, features, rounds)


def suppression(count: int, rounds: int) -> None:
    """Non-maximum suppression."""
    corner = torch.rand(count, 2) * torch.tensor([1300.0, 760.0])
    boxes = torch.cat([corner, corner + 16 + torch.rand(count, 2) * 200], 1)
    scores = torch.rand(count).sort(descending=True).values

    def best(wanted: int) -> Tensor:
        return torchvision.ops.nms(boxes, scores, 0.7)[:wanted]

    for wanted in (count, count // 6, count // 40):
        native = partial(ops.nms, boxes, scores, 0.7, wanted)
        compare(f"NMS at 0.7, {wanted} wanted", native, partial(best, wanted), rounds)


def normalisation(images: int, channels: int, side: int, rounds: int) -> None:
    """Batch norm with shortcut and ReLU, as in training in bfloat16."""
    x, shortcut = (t.to(memory_format=torch.channels_last) for t in maps(images, channels, side))
    own, norm = SyncBatchNorm2d(channels), nn.BatchNorm2d(channels)

    def ours(x: Tensor) -> Tensor:
        return own(x, shortcut, relu=True)

    def theirs(x: Tensor) -> Tensor:
        return F.relu(norm(x) + shortcut)

    name = f"batch norm {channels}×{side}×{side}"
    compare(f"{name} forward", lambda: ours(x), lambda: theirs(x), rounds)
    compare_gradients(f"{name} backward", ours, theirs, x, rounds)


def winograd(images: int, channels: int, side: int, rounds: int) -> None:
    """A 3×3 convolution with ReLU in float32, and the gradient of its weights."""
    x, upstream = (t.float().to(memory_format=torch.channels_last) for t in maps(images, channels, side))
    weight, bias = (
        torch.randn(channels, channels, 3, 3).to(memory_format=torch.channels_last),
        torch.randn(channels),
    )
    terms, name = ops.winograd_weights(weight), f"Winograd {images}×{channels}×{side}×{side}"
    shape = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False])
    compare(
        name,
        lambda: ops.winograd(x, terms, bias, None, True),
        lambda: F.conv2d(x, weight, bias, padding=1).relu_(),
        rounds,
    )
    compare(
        f"{name}, weights",
        lambda: ops.winograd_weight_gradient(upstream, x),
        lambda: torch.ops.aten.convolution_backward(upstream, x, weight, None, *shape),
        rounds,
    )


def maps(images: int, channels: int, side: int) -> Tensor:
    """Two batches of maps."""
    return torch.randn(2, images, channels, side, side).bfloat16()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--boxes", type=int, default=12_000, help="for NMS")
    parser.add_argument("--images", type=int, default=128, help="or regions whose maps are normalised")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, torchvision {torchvision.__version__}")
    print(f"{'':32} {'ours':>12} {'torch or':>12} {'ratio':>9}\n{'':32} {'':>12} {'torchvision':>12}")
    regions(options.regions, options.channels, options.rounds)
    suppression(options.boxes, options.rounds)
    for channels, side in MAPS:
        normalisation(options.images, channels, side, options.rounds)
    for images, channels, side in ((1, 64, 150), (1, 128, 75), (1, 256, 38), (options.images, 512, 7)):
        winograd(images, channels, side, options.rounds)


if __name__ == "__main__":
    main()
