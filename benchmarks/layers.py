"""Where the time of a detector goes: each of its layers, with its arithmetic rate against the processor's limit.

    python benchmarks/layers.py --precision bf16 configs/coco_r50_fpn_torchvision.py
    python benchmarks/layers.py --size 600 1000 --rows 20 configs/coco_r101_3x.py --test.post-nms-topk 300

The detector of a recipe, with random weights, rearranged as `Detector` does it, on an image of random pixels. The
limit is the rate of a product of two 4096×4096 matrices in the same number type. Multiplications are counted
as a plain convolution has them, so that Winograd's may be beyond the limit. A layer's loss is what it takes longer
than at the limit; the rows are sorted by it. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from sides import grids_of, make_lively
from torch import Tensor, nn

from resdet.config import load_config
from resdet.engine import runtime as runtimes
from resdet.engine.runtime import Runtime
from resdet.inference.convolutions import FusedConv2d, FusedLinear, WinogradConv2d
from resdet.inference.int8 import Int8Conv2d, Int8Linear
from resdet.inference.optimize import OptimizedRCNN
from resdet.inference.quantized import Grid, Quantized, quantized
from resdet.models.build import build_detector

CLASSES = 80  # where the recipe names none
SIDE = 4096


def matrix_product(runtime: Runtime, side: int) -> Callable[[], Any]:
    """A product of two square matrices; in int8, by the operator that the layers use."""
    a, b = torch.randn(2, side, side)
    if not runtime.int8:
        a, b = a.to(runtime.dtype), b.to(runtime.dtype)
        return lambda: torch.mm(a, b)
    grid = Grid.over(4.0, signed=False)
    layer, x = Int8Linear(b, torch.zeros(side), runtime.dtype, True, grid, grid), quantized(a, grid)
    return lambda: layer(x)


def matrix_rate(runtime: Runtime, rounds: int, side: int) -> float:
    """Multiplications and additions a second, in billions, of a product of two matrices."""
    product, seconds = matrix_product(runtime, side), []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(seconds[1:]) / 1e9


def products_of_output(layer: nn.Module) -> int:
    """How many products are summed for one number that the layer gives; 0 for what does not multiply."""
    weight: Any = getattr(layer, "weight", None)
    if isinstance(layer, WinogradConv2d):
        return 9 * weight.shape[1]  # (36, C, K)
    if isinstance(layer, Int8Linear):
        return weight.numel() // len(layer.scales)
    multiplies = isinstance(layer, FusedConv2d | FusedLinear | Int8Conv2d | nn.Conv2d | nn.Linear)
    return weight.numel() // len(weight) if multiplies else 0


class Watch:
    """The seconds and the products of each layer of a network, round by round."""

    def __init__(self, network: nn.Module) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.products: dict[str, int] = defaultdict(int)
        self.kinds: dict[str, str] = {}
        self.calls: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        self.started: dict[str, float] = {}
        for name, layer in network.named_modules():
            if name and not list(layer.children()):
                self.kinds[name] = type(layer).__name__
                layer.register_forward_pre_hook(self.before(name))
                layer.register_forward_hook(self.after(name, products_of_output(layer)))

    def before(self, name: str) -> Any:
        """A hook that starts the watch."""

        def start(layer: nn.Module, inputs: Any) -> None:
            self.started[name] = time.perf_counter()

        return start

    def after(self, name: str, products: int) -> Any:
        """A hook that stops it."""

        def stop(layer: nn.Module, inputs: Any, output: Any) -> None:
            seconds, total = self.calls[name]
            numbers = output.values if isinstance(output, Quantized) else output
            own = products * numbers.numel() if isinstance(numbers, Tensor) else 0
            self.calls[name] = seconds + time.perf_counter() - self.started[name], total + own

        return stop

    def end_round(self) -> None:
        """What was called since the last round is one more round."""
        for name, (seconds, products) in self.calls.items():
            self.seconds[name].append(seconds)
            self.products[name] = products
        self.calls.clear()


def main() -> None:
    """Run the detector and print its layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1333], help="height and width of the image")
    parser.add_argument("--precision", choices=["fp32", "bf16", "int8"], default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=30, help="layers that are printed")
    parser.add_argument("--side", type=int, default=SIDE, help="of the matrices that find the limit")
    parser.add_argument("recipe", help="a file, or the name of a recipe in configs/")
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="that differ from the recipe's")
    options = parser.parse_args()
    config = load_config(options.recipe, options.settings)
    runtime = runtimes.start("cpu", options.precision, detects=True)
    runtimes.keep_freed_memory()
    torch.manual_seed(0)
    network = build_detector(config, len(config.data.classes) or CLASSES)
    assert network.rpn is not None
    make_lively(network, network.rpn.head.objectness_logits, network.roi_heads.box_predictor.cls_score)
    network = network.eval().to(memory_format=torch.channels_last)
    height, width = options.size
    grids = grids_of(network, (height, width)) if runtime.int8 else None
    detector = OptimizedRCNN(network, runtime, grids, keep=False)
    images, sizes = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8), torch.tensor([[height, width]])
    detector(images, sizes)
    watch, whole = Watch(detector.model), []
    for _ in range(options.rounds):
        started = time.perf_counter()
        detector(images, sizes)
        whole.append(time.perf_counter() - started)
        watch.end_round()
    limit = matrix_rate(runtime, options.rounds, options.side)
    total, products = statistics.median(whole), sum(watch.products.values())
    title = f"{config.name}, {height}×{width}, {options.precision}, {torch.get_num_threads()} threads"
    print(
        f"{title}: {1e3 * total:.0f} ms, {2 * products / 1e9:.0f} GFLOP; limit {limit:.0f} GFLOP/s, "
        f"{2e-6 * products / limit:.0f} ms"
    )
    rows = []
    for name, seconds in watch.seconds.items():
        own, flop = statistics.median(seconds), 2 * watch.products[name] / 1e9
        rows.append((own - flop / limit, own, flop / own, name, watch.kinds[name]))
    rows.sort(reverse=True)
    print(f"{'loss':>9} {'time':>9} {'share':>6} {'GFLOP/s':>8} {'limit':>6}  layer")
    for loss, own, rate, name, kind in rows[: options.rows]:
        rates = f"{rate:8.0f} {rate / limit:6.0%}" if rate else f"{'–':>8} {'–':>6}"
        print(f"{1e3 * loss:6.1f} ms {1e3 * own:6.1f} ms {own / total:6.1%} {rates}  {name} {kind}")
    rest = total - sum(own for _, own, *_ in rows)
    print(f"{'':9} {1e3 * rest:6.1f} ms {rest / total:6.1%} {'':15}  between the layers")


if __name__ == "__main__":
    main()
