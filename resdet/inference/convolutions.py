"""Convolutions and fully connected layers for inference: ReLU(conv(x) + bias + added) in one step.

All of them have the same forward; `fused_conv2d` and `fused_linear` choose what is fastest on the device, by rule,
and in bfloat16 by measurement. Shapes: K outputs, C inputs, a kernel of k×k, R rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet import ops
from resdet.engine.runtime import Runtime
from resdet.inference.int8 import Int8Conv2d, Int8Linear, Observed
from resdet.models.layers.conv import winograd_pays
from resdet.ops.fastest import cells_class, fastest

Ways = dict[str, Callable[[], "FusedConv2d"]]


def fused_conv2d(
    like: nn.Conv2d,
    weight: Tensor,
    bias: Tensor | None,
    runtime: Runtime,
    joined: bool = False,
    chained: bool = False,
) -> Any:
    """The fastest of the classes below; in int8, a layer that is still to be given its grids (`int8`).

    Args:
        like: stride and padding
        weight: (K, C, k, k)
        bias: (K,), or nothing
        runtime: device and number type
        joined: a shortcut is added
        chained: what reads the result takes it in whole numbers
    """
    if runtime.int8:
        weight, bias = weight.detach().float(), None if bias is None else bias.detach().float()
        exactly = replace(runtime, dtype=torch.float32, int8=False)
        return Observed(
            partial(fused_conv2d, like, weight, bias, exactly, joined),
            partial(Int8Conv2d, like, weight, bias, runtime.dtype, joined, chained),
        )
    outputs, inputs, kernel, _ = weight.shape
    exact = runtime.dtype == torch.float32
    kinds: list[type[FusedConv2d]] = [FusedConv2d]  # by rule the first
    if _packs(runtime):
        kinds = [PackedConv2d]
        if kernel == 1 and like.groups == 1:
            # oneDNN's matrix products are faster than its 1×1 convolutions, up to seven times where the outputs are
            # many, but add in a second pass over memory, which often costs more.
            multiplies = not joined or (exact and outputs >= 1024)
            kinds = [MatrixConv2d, PackedConv2d] if multiplies else [PackedConv2d, MatrixConv2d]
        simple = like.stride == like.dilation == (1, 1) and like.groups == 1
        native = ops.has_native_kernel(weight.new_empty(0, dtype=torch.float32, device=runtime.device))
        if simple and kernel == 3 and native and winograd_pays(inputs, outputs):
            kinds = [WinogradConv2d] if exact else [PackedConv2d, WinogradConv2d]
    dtype = torch.float32 if WinogradConv2d in kinds else runtime.dtype
    weight = weight.detach().to(runtime.device, dtype, memory_format=torch.channels_last)
    bias = None if bias is None else bias.detach().to(runtime.device)
    made: Ways = {kind.__name__: partial(kind, like, weight, bias, runtime.dtype) for kind in kinds}
    if exact or len(made) == 1:  # float32 is the same on all processors
        return made[kinds[0].__name__]()
    shape = f"{kernel}×{kernel}, {inputs} → {outputs}, stride {like.stride[0]}{', joined' if joined else ''}"
    return FastestConv2d(f"detection, bf16, {shape}", made)


def _packs(runtime: Runtime) -> bool:
    """Whether oneDNN, of which inductor makes the same use, serves this processor and number type."""
    if runtime.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if runtime.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return runtime.dtype == torch.float32


class FusedConv2d(nn.Module):
    """By torch's own convolution, on any device."""

    def __init__(self, like: nn.Conv2d, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.stride, self.padding = list(like.stride), [side for side in like.padding if isinstance(side, int)]
        self.dilation, self.groups = list(like.dilation), like.groups
        self.dtype, self.bias = dtype, None if bias is None else bias.to(dtype)
        self.weight = self.pack(weight)

    def pack(self, weight: Tensor) -> Tensor:
        """(K, C, k, k) → the weights as `forward` wants them"""
        return weight.to(self.dtype)

    def forward(self, x: Tensor, added: Tensor | None = None, relu: bool = False) -> Tensor:
        """(N, C, H, W), and (N, K, ⌈H/stride⌉, ⌈W/stride⌉) to add, which is lost → ReLU(conv(x) + bias + added)"""
        y = F.conv2d(
            x.to(self.dtype), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        y = y if added is None else y.add_(added)
        return y.relu_() if relu else y


class PackedConv2d(FusedConv2d):
    """By oneDNN, with weights in its own layout."""

    def pack(self, weight: Tensor) -> Tensor:
        """As in FusedConv2d."""
        return torch.ops.mkldnn._reorder_convolution_weight(
            weight.to(self.dtype), self.padding, self.stride, self.dilation, self.groups
        )

    def forward(self, x: Tensor, added: Tensor | None = None, relu: bool = False) -> Tensor:
        """As in FusedConv2d."""
        x = x.to(self.dtype)
        where = (self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups)
        if added is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *where, "relu" if relu else "none", [], "")
        after = "relu" if relu else None
        return torch.ops.mkldnn._convolution_pointwise_(added, x, *where, "add", 1.0, after, [], None)


class MatrixConv2d(FusedConv2d):
    """1×1, by oneDNN's matrix product of the pixels."""

    def pack(self, weight: Tensor) -> Tensor:
        """As in FusedConv2d."""
        return torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1).to(self.dtype))

    def forward(self, x: Tensor, added: Tensor | None = None, relu: bool = False) -> Tensor:
        """As in FusedConv2d."""
        down, right = self.stride
        pixels = x.to(self.dtype).permute(0, 2, 3, 1)[:, ::down, ::right].contiguous()
        matrix = self.weight, self.bias
        if added is None:
            y = torch.ops.mkldnn._linear_pointwise(pixels, *matrix, "relu" if relu else "none", [], "")
        else:
            y = torch.ops.mkldnn._linear_pointwise.binary(pixels, added.permute(0, 2, 3, 1), *matrix, "add")
            y = y.relu_() if relu else y
        return y.permute(0, 3, 1, 2)


class WinogradConv2d(FusedConv2d):
    """3×3 at stride 1 by Winograd's algorithm, in float32 also where maps are bfloat16."""

    def pack(self, weight: Tensor) -> Tensor:
        """As in FusedConv2d."""
        self.bias = weight.new_zeros(len(weight)) if self.bias is None else self.bias.float()
        return ops.winograd_weights(weight.float()).contiguous()

    def forward(self, x: Tensor, added: Tensor | None = None, relu: bool = False) -> Tensor:
        """As in FusedConv2d."""
        assert self.bias is not None
        return ops.winograd(x.to(self.dtype), self.weight, self.bias, added, relu)


class FastestConv2d(nn.Module):
    """The fastest of several of the classes above, which is found when the first maps come.

    Args:
        layer: names the layer and its shape
        made: the name of a class → makes the layer; by rule the first
    """

    def __init__(self, layer: str, made: Ways) -> None:
        super().__init__()
        self.layer, self.made = layer, made
        self.chosen: FusedConv2d | None = None

    def forward(self, x: Tensor, added: Tensor | None = None, relu: bool = False) -> Tensor:
        """As in FusedConv2d."""
        if self.chosen is None:
            self.chosen = self._choose(x, added, relu)
            self.made = {}  # and the weights with them
        return self.chosen(x, added, relu)

    def _choose(self, x: Tensor, added: Tensor | None, relu: bool) -> FusedConv2d:
        layers = {name: cache(make) for name, make in self.made.items()}
        lost = None if added is None else added.clone()
        layer = f"{self.layer}, {cells_class(len(x) * x.shape[2] * x.shape[3])}"
        ways = {name: partial(_run, make, x, lost, relu) for name, make in layers.items()}
        return layers[fastest(layer, ways)]()


def _run(make: Callable[[], FusedConv2d], *arguments: Any) -> Tensor:
    return make()(*arguments)


def fused_linear(like: nn.Linear, weight: Tensor, runtime: Runtime, chained: bool = False) -> Any:
    """A fully connected layer with ReLU; in int8, one that is still to be given its grids.

    Args:
        like: has the bias
        weight: (K, C)
        runtime: device and number type
        chained: what reads the result takes it in whole numbers
    """
    if runtime.int8:
        weight, bias = weight.detach().float(), like.bias.detach().float()
        exactly = replace(runtime, dtype=torch.float32, int8=False)
        return Observed(
            partial(fused_linear, like, weight, exactly),
            partial(Int8Linear, weight, bias, runtime.dtype, chained),
        )
    kind = PackedLinear if _packs(runtime) else FusedLinear
    return kind(
        weight.detach().to(runtime.device, runtime.dtype), like.bias.detach().to(runtime.device, runtime.dtype)
    )


class FusedLinear(nn.Module):
    """By torch's own, on any device."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.dtype, self.bias = weight.dtype, bias
        self.weight = self.pack(weight)

    def pack(self, weight: Tensor) -> Tensor:
        """(K, C) → the weights as `forward` wants them"""
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """(R, C) → ReLU(x · weightᵀ + bias)"""
        return F.linear(x.to(self.dtype), self.weight, self.bias).relu_()


class PackedLinear(FusedLinear):
    """By oneDNN, with weights in its own layout."""

    def pack(self, weight: Tensor) -> Tensor:
        """As in FusedLinear."""
        return torch.ops.mkldnn._reorder_linear_weight(weight)

    def forward(self, x: Tensor) -> Tensor:
        """As in FusedLinear."""
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.weight, self.bias, "relu", [], "")
