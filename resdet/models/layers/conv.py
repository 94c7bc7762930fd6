"""The convolution of all networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resdet import ops
from resdet.ops.fastest import cells_class, fastest

# With fewer channels, Winograd's transforms take as long as the multiplications that they save.
WINOGRAD_CHANNELS = 64


class Conv2d(nn.Conv2d):
    """A convolution that keeps the size at stride 1, and that trains fast on a CPU (3×3, see `_Convolution`).

    Args:
        inputs, outputs: channels
        kernel: cells along each side
        stride: of the convolution
        dilation: cells from one that the kernel reads to the next
        groups: of channels that are convolved apart
        bias: a number is added to each output channel
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(inputs, outputs, kernel, stride, padding, dilation, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉)"""
        bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        if not (self._trains_on_a_cpu(x) and (bf16 or self._is_winograd_s(x))):
            return super().forward(x)
        y = _Convolution.apply(x.bfloat16() if bf16 else x, self.weight, self.stride[0])
        # In one number type: torch adds float32 to bfloat16 over thirty times as slowly.
        return y if self.bias is None else y.add_(self.bias.to(y.dtype)[:, None, None])

    def _trains_on_a_cpu(self, x: Tensor) -> bool:
        trains = self.weight.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        simple = self.kernel_size == (3, 3) and self.dilation == (1, 1) and self.groups == 1
        return trains and simple and x.device.type == "cpu" and self.weight.dtype == torch.float32

    def _is_winograd_s(self, x: Tensor) -> bool:
        exact = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return exact and _ways(x, self.weight, self.stride[0]) == ["Winograd"]


def winograd_pays(inputs: int, outputs: int) -> bool:
    """Whether Winograd's algorithm takes such a 3×3 convolution, and is the faster one in float32."""
    return min(inputs, outputs) >= WINOGRAD_CHANNELS and inputs % 16 == outputs % 16 == 0


class _Convolution(torch.autograd.Function):
    """A 3×3 convolution with padding, of which the result and the two gradients each go the fastest way.

    They are torch's own ("direct"); Winograd's; or, for hundreds of small maps (a detector's pooled regions),
    torch's over all of them laid side by side as one wide map: else the gradient of the weights takes most of a
    step. In float32, wide convolutions are Winograd's; in bfloat16, what is fastest is measured.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """(N, C, H, W), (K, C, 3, 3) float32 → (N, K, ⌈H/stride⌉, ⌈W/stride⌉) of the type of x"""
        ctx.stride, rounded = stride, weight.to(x.dtype)
        ctx.save_for_backward(x, weight, rounded)
        return _fastest("result", x, weight, stride, partial(_result, x, weight, rounded, stride))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients of x and of the weights."""
        (x, weight, rounded), stride = ctx.saved_tensors, ctx.stride
        for_x = for_weight = None
        if ctx.needs_input_grad[0]:
            compute = partial(_maps_gradient, gradient, x, weight, rounded, stride)
            for_x = _fastest("gradient of the maps", x, weight, stride, compute)
        if ctx.needs_input_grad[1]:
            compute = partial(_weight_gradient, gradient, x, rounded, stride)
            for_weight = _fastest("gradient of the weights", x, weight, stride, compute)
        return for_x, for_weight, None


def _ways(x: Tensor, weight: Tensor, stride: int) -> list[str]:
    """How a 3×3 convolution of x can be computed; by rule the first."""
    outputs, inputs, *_ = weight.shape
    winograd = stride == 1 and winograd_pays(inputs, outputs) and ops.has_native_kernel(x)
    if x.dtype == torch.float32:
        return ["Winograd"] if winograd else ["direct"]
    small = len(x) >= 16 and x.shape[2] * x.shape[3] <= 196
    return ["side by side"] * small + ["direct"] + ["Winograd"] * winograd


def _fastest(what: str, x: Tensor, weight: Tensor, stride: int, compute: Callable[[str], Tensor]) -> Tensor:
    """What the fastest way gives."""
    ways, (outputs, inputs, *_), (count, _, height, width) = _ways(x, weight, stride), weight.shape, x.shape
    where = "small maps, " * (ways[0] == "side by side") + cells_class(count * height * width)
    layer = f"training, bf16, 3×3, {inputs} → {outputs}, stride {stride}, {where}, {what}"
    return compute(fastest(layer, {way: partial(compute, way) for way in ways}))


def _result(x: Tensor, weight: Tensor, rounded: Tensor, stride: int, way: str) -> Tensor:
    if way == "Winograd":
        return ops.winograd(x, ops.winograd_weights(weight), weight.new_zeros(len(weight)), None, False)
    if way == "direct":
        return F.conv2d(x, rounded, None, stride, 1)
    width, gap = x.shape[3], _gap(x, stride)
    y = F.conv2d(_laid(x, gap), rounded, None, stride, 1)
    return _apart(y, len(x), -(-width // stride))


def _maps_gradient(gradient: Tensor, x: Tensor, weight: Tensor, rounded: Tensor, stride: int, way: str) -> Tensor:
    if way == "Winograd":  # a convolution too
        turned = ops.winograd_weights(weight, turned=True)
        return ops.winograd(gradient, turned, weight.new_zeros(weight.shape[1]), None, False)
    if way == "direct":
        return _backward(gradient, x, rounded, stride, [True, False, False])[0]
    gradient, laid = _laid_gradient(gradient, x, stride), _laid(x, _gap(x, stride))
    return _apart(_backward(gradient, laid, rounded, stride, [True, False, False])[0], len(x), x.shape[3])


def _weight_gradient(gradient: Tensor, x: Tensor, rounded: Tensor, stride: int, way: str) -> Tensor:
    if way == "Winograd":
        return ops.winograd_weight_gradient(gradient, x)
    if way == "side by side":
        gradient, x = _laid_gradient(gradient, x, stride), _laid(x, _gap(x, stride))
    return _backward(gradient, x, rounded, stride, [False, True, False])[1].float()


def _backward(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, wanted: list[bool]) -> Any:
    """torch's gradients of the maps, of the weights and of a bias."""
    how = ([stride, stride], [1, 1], [1, 1], False, [0, 0], 1)
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, *how, wanted)


def _gap(x: Tensor, stride: int) -> int:
    """Columns of zeros after each map, so that the next one starts where the stride reads."""
    return 1 + -(x.shape[3] + 1) % stride


def _laid(x: Tensor, gap: int) -> Tensor:
    """(N, C, H, W) → (1, C, H, N·(W + gap)): the maps side by side, with `gap` columns of zeros after each.

    The zeros stand for the padding of a convolution, at the right of a map and at the left of the next.
    """
    rows = F.pad(x.permute(2, 0, 3, 1), (0, 0, 0, gap))  # (H, N, W + gap, C)
    return rows.reshape(1, x.shape[2], -1, x.shape[1]).permute(0, 3, 1, 2)


def _laid_gradient(gradient: Tensor, x: Tensor, stride: int) -> Tensor:
    """The gradient of the result of `_laid(x)`, of which what lies in the gaps does not count."""
    return _laid(gradient, (x.shape[3] + _gap(x, stride)) // stride - gradient.shape[3])


def _apart(y: Tensor, count: int, width: int) -> Tensor:
    """(1, K, H, N·(width + …)) → (N, K, H, width), channels-last: the inverse of `_laid`."""
    rows = y.permute(0, 2, 3, 1)
    rows = rows.reshape(rows.shape[1], count, -1, rows.shape[3])[:, :, :width]  # (H, N, width, K)
    return rows.permute(1, 3, 0, 2).contiguous(memory_format=torch.channels_last)
