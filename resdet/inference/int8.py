"""Convolutions and fully connected layers in whole numbers, and how their grids are found (calibration).

Weights have a grid for each output, symmetric about 0; maps have one each, which is fixed before: a network of
`Observed` layers computes in float32 and watches what comes in and goes out, and `quantize_layers` puts a layer of
oneDNN's in the place of each. A layer that is `chained` gives whole numbers, since all that read them take them.

Shapes: K outputs, C inputs, a kernel of k×k, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resdet.inference.quantized import Grid, Quantized, dequantized, quantized

Method = Literal["minmax", "percentile", "mse"]
OUTLIERS = 1e-4  # share of numbers beyond the percentile's limit
SAMPLE = 2**18  # numbers of a map that are counted


class Observer:
    """A histogram of the numbers that it is shown, which widens as they grow."""

    bins = 4096

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.limit = 2.0**-20  # the histogram covers −limit to limit
        self.counts = torch.zeros(self.bins, dtype=torch.float64)

    def watch(self, x: Tensor) -> None:
        """Count a sample of the numbers; extremes are those of all."""
        if not x.numel():
            return
        x = x.detach().float()
        flat = x.permute(0, 2, 3, 1).reshape(-1) if x.dim() == 4 else x.reshape(-1)
        low, high = (value.item() for value in flat.aminmax())
        self.low, self.high = min(self.low, low), max(self.high, high)
        while self.limit < max(-low, high):
            self.counts = torch.nn.functional.pad(self.counts.view(-1, 2).sum(1), [self.bins // 4] * 2)
            self.limit *= 2
        sample = flat[:: len(flat) // SAMPLE | 1]  # odd, so that it meets every channel
        self.counts += torch.histc(sample, self.bins, -self.limit, self.limit)

    def grid(self, method: Method) -> Grid:
        """The grid over these numbers."""
        signed, largest = self.low < 0, max(-self.low, self.high)
        if method == "minmax" or not self.counts.sum():
            return Grid.over(largest, signed)
        # Of magnitudes, from the center of the histogram outwards.
        counts = self.counts[self.bins // 2 :] + self.counts[: self.bins // 2].flip(0)
        step = 2 * self.limit / self.bins
        middles = (torch.arange(len(counts)) + 0.5) * step
        if method == "percentile":
            inside = counts.cumsum(0) <= (1 - OUTLIERS) * counts.sum()
            return Grid.over(min(largest, (inside.sum().item() + 1) * step), signed)
        candidates = [largest * share / 100 for share in range(20, 101)]
        errors = []
        for limit in candidates:
            beyond = (middles - limit).clamp(min=0).square()
            rounding = Grid.over(limit, signed).scale ** 2 / 12
            errors.append((counts * torch.where(middles > limit, beyond, rounding)).sum().item())
        return Grid.over(candidates[errors.index(min(errors))], signed)


class Observed(nn.Module):
    """A layer in float32, whose inputs and outputs are watched.

    Args:
        make: the layer that computes, which is made when it is first used
        int8: makes the layer in whole numbers that takes its place, from the two grids
    """

    def __init__(self, make: Callable[[], nn.Module], int8: Callable[[Grid, Grid], nn.Module]) -> None:
        super().__init__()
        self.make, self.int8 = make, int8
        self.layer: Any = None
        self.came_in, self.went_out = Observer(), Observer()

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """As the layer."""
        if self.layer is None:
            self.layer = self.make()
        self.came_in.watch(x)
        y = self.layer(x, *arguments, **options)
        self.went_out.watch(y)
        return y

    @property
    def seen(self) -> bool:
        """Whether anything came in."""
        return bool(self.came_in.counts.any())

    def grids(self, method: Method) -> Tensor:
        """(2, 2): scale and zero of the input and of the output."""
        return torch.tensor([self.came_in.grid(method), self.went_out.grid(method)])


def observed_grids(network: nn.Module, method: Method) -> dict[str, Tensor]:
    """What `quantize_layers` takes, from a network that has seen images."""
    return {name: layer.grids(method) for name, layer in network.named_modules() if isinstance(layer, Observed)}


def quantize_layers(network: nn.Module, grids: Mapping[str, Tensor]) -> None:
    """Put layers in whole numbers in the place of the observed ones. Raises KeyError where one has no grids."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Observed):
            came_in, went_out = (Grid(scale, int(zero)) for scale, zero in grids[name].tolist())
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, layer.int8(came_in, went_out))


def whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(K, …) → int8 of the same shape and scales (K,): what each output's numbers stand for."""
    scales = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    numbers = weight / scales.view(-1, *[1] * (weight.dim() - 1))
    return numbers.round().clamp(-127, 127).to(torch.int8), scales


class Int8Conv2d(nn.Module):
    """ReLU(conv(x) + bias + added) by oneDNN, in whole numbers.

    Args:
        like: stride, padding, dilation, groups
        weight: (K, C, k, k) float32
        bias: (K,) or nothing
        dtype: of the result, if it is not chained
        joined: a shortcut is added
        chained: the result is whole numbers
        came_in: grid of an input that is not whole numbers yet
        went_out: grid of the result
    """

    def __init__(
        self,
        like: nn.Conv2d,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        joined: bool,
        chained: bool,
        came_in: Grid,
        went_out: Grid,
    ) -> None:
        super().__init__()
        self.shape = [list(own) for own in (like.stride, like.padding, like.dilation)]
        self.groups, self.came_in = like.groups, came_in
        self.out: tuple[float, int, torch.dtype] = (*went_out, torch.uint8) if chained else (1.0, 0, dtype)
        self.weight, self.scales = whole(weight)
        self.zeros = torch.zeros(len(weight), dtype=torch.long)
        self.bias = None if bias is None else bias.float()
        # oneDNN's convolution copies what it adds to; its matrix product does not, and serves large layers better.
        self.matrix = weight.shape[2:] == (1, 1) and like.groups == 1 and (joined or weight.numel() >= 2**19)
        self.packed: dict[int, Tensor] = {}

    def forward(self, x: Tensor | Quantized, added: Any = None, relu: bool = False) -> Any:
        """(N, C, H, W), and what to add, which is lost → (N, K, ⌈H/stride⌉, ⌈W/stride⌉)"""
        x, compute = quantized(x, self.came_in), self._multiply if self.matrix else self._convolve
        scale, zero, dtype = self.out
        if dtype == torch.uint8:
            return Quantized(compute(x, added, "relu" if relu else "none"), Grid(scale, zero))
        y = compute(x, None, "relu" if relu and added is None else "none")
        if added is not None:
            y = y.add_(dequantized(added, dtype))
            y = y.relu_() if relu else y
        return y

    def _convolve(self, x: Quantized, added: Quantized | None, after: str) -> Tensor:
        weight = self.packed.get(x.grid.zero)
        if weight is None:
            weight = torch.ops.onednn.qconv_prepack(self.weight, self.scales, *x.grid, *self.shape, self.groups)
            self.packed[x.grid.zero] = weight
        inputs, matrix = (x.values, *x.grid), (weight, self.scales, self.zeros)
        where = (self.bias, *self.shape, self.groups)
        if added is None:
            return torch.ops.onednn.qconv2d_pointwise(*inputs, *matrix, *where, *self.out, after, [], "")
        total: Any = (*self.out, *added.grid, "sum", 1.0, after, [], "")
        return torch.ops.onednn.qconv2d_pointwise.binary(*inputs, *matrix, added.values, *where, *total)

    def _multiply(self, x: Quantized, added: Quantized | None, after: str) -> Tensor:
        """A 1×1 convolution as a product of the pixels."""
        if 0 not in self.packed:
            self.packed[0] = torch.ops.onednn.qlinear_prepack(self.weight.flatten(1), None)
        down, right = self.shape[0]
        pixels = x.values.permute(0, 2, 3, 1)[:, ::down, ::right].contiguous()  # (N, h, w, C)
        shape = *pixels.shape[:3], len(self.weight)
        matrix = (pixels.flatten(0, 2), *x.grid, self.packed[0], self.scales, self.zeros)
        if added is None:
            y = torch.ops.onednn.qlinear_pointwise(*matrix, self.bias, *self.out, after, [], "")
        else:
            sums = added.values.permute(0, 2, 3, 1).flatten(0, 2)
            total: Any = (*self.out, *added.grid, "sum", 1.0, after, [], "")
            y = torch.ops.onednn.qlinear_pointwise.binary(*matrix, sums, self.bias, *total)
        return y.view(shape).permute(0, 3, 1, 2)


class Int8Linear(nn.Module):
    """ReLU(x · weightᵀ + bias) by oneDNN, in whole numbers.

    Args:
        weight: (K, C) float32
        bias: (K,)
        dtype: of the result, if it is not chained
        chained: the result is whole numbers
        came_in: grid of an input that is not whole numbers yet
        went_out: grid of the result
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, dtype: torch.dtype, chained: bool, came_in: Grid, went_out: Grid
    ) -> None:
        super().__init__()
        self.came_in, self.bias = came_in, bias.float()
        self.out: tuple[float, int, torch.dtype] = (*went_out, torch.uint8) if chained else (1.0, 0, dtype)
        numbers, self.scales = whole(weight)
        self.weight = torch.ops.onednn.qlinear_prepack(numbers, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.long)

    def forward(self, x: Tensor | Quantized) -> Any:
        """(R, C) → (R, K)"""
        x = quantized(x, self.came_in)
        matrix = (x.values, *x.grid, self.weight, self.scales, self.zeros, self.bias)
        y = torch.ops.onednn.qlinear_pointwise(*matrix, *self.out, "relu", [], "")
        scale, zero, dtype = self.out
        return Quantized(y, Grid(scale, zero)) if dtype == torch.uint8 else y
