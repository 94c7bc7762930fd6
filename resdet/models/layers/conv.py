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

Ways = dict[str, Callable[[Tensor], Tensor]]  # of computing a convolution; by rule the first


class Conv2d(nn.Conv2d):
    """A convolution that keeps the size at stride 1, and that trains fast on a CPU.

    In float32, wide 3×3 convolutions are Winograd's. In bfloat16 the fastest of several ways is taken: torch's
    convolution; Winograd's, on processors whose bfloat16 is not much faster than their float32; and, for hundreds
    of small maps (a detector's pooled regions), torch's over all of them laid side by side as one wide map, since
    their gradient of the weights would take most of a step.

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
        trains = self.weight.requires_grad and torch.is_grad_enabled()
        simple = self.dilation == (1, 1) and self.groups == 1
        if x.device.type != "cpu" or not (trains and simple) or torch.compiler.is_compiling():
            return super().forward(x)
        if self.kernel_size != (3, 3) or self.weight.dtype != torch.float32:
            return super().forward(x)
        winograd = (
            self.stride == (1, 1)
            and winograd_pays(self.in_channels, self.out_channels)
            and ops.has_native_kernel(x)
        )
        if not torch.is_autocast_enabled("cpu"):
            return self._by_winograd(x) if winograd and x.dtype == torch.float32 else super().forward(x)
        if torch.get_autocast_dtype("cpu") != torch.bfloat16:
            return super().forward(x)
        ways: Ways = {"side by side": self._side_by_side} if _small(x) else {}
        ways["direct"] = super().forward
        if winograd:
            ways["Winograd"] = self._by_winograd
        return ways[self._fastest(x, ways)](x)

    def _fastest(self, x: Tensor, ways: Ways) -> str:
        """The one whose result and gradients take the least time."""
        where = "small maps, " * _small(x) + cells_class(len(x) * x.shape[2] * x.shape[3])
        layer = f"training, bf16, 3×3, {self.in_channels} → {self.out_channels}, stride {self.stride[0]}, {where}"
        return fastest(layer, {name: partial(self._try, way, x.detach()) for name, way in ways.items()})

    def _try(self, way: Callable[[Tensor], Tensor], x: Tensor) -> None:
        x.requires_grad_()
        y = way(x)
        torch.autograd.grad(y, (x, self.weight), torch.ones_like(y))

    def _by_winograd(self, x: Tensor) -> Tensor:
        x = x.bfloat16() if torch.is_autocast_enabled("cpu") else x
        y = _Winograd.apply(x, self.weight)
        # In one number type: torch adds float32 to bfloat16 over thirty times as slowly.
        return y if self.bias is None else y.add_(self.bias.to(y.dtype)[:, None, None])

    def _side_by_side(self, x: Tensor) -> Tensor:
        count, _, _, width = x.shape
        stride = self.stride[0]
        gap = 1 + -(width + 1) % stride  # each map starts where the stride reads
        y = super().forward(_laid(x, gap)).permute(0, 2, 3, 1)  # (1, H', N·(W + gap)', outputs)
        y = y.reshape(y.shape[1], count, -1, y.shape[3])[:, :, : -(-width // stride)]  # (H', N, W', outputs)
        return y.permute(1, 3, 0, 2).contiguous(memory_format=torch.channels_last)


def winograd_pays(inputs: int, outputs: int) -> bool:
    """Whether Winograd's algorithm takes such a 3×3 convolution, and is the faster one."""
    return min(inputs, outputs) >= WINOGRAD_CHANNELS and inputs % 16 == outputs % 16 == 0


def _small(x: Tensor) -> bool:
    """Whether these are many small maps."""
    return len(x) >= 16 and x.shape[2] * x.shape[3] <= 196


def _laid(x: Tensor, gap: int) -> Tensor:
    """(N, C, H, W) → (1, C, H, N·(W + gap)): the maps side by side, with `gap` columns of zeros after each.

    The zeros stand for the padding of a convolution, at the right of a map and at the left of the next.
    """
    rows = F.pad(x.permute(2, 0, 3, 1), (0, 0, 0, gap))  # (H, N, W + gap, C)
    return rows.reshape(1, x.shape[2], -1, x.shape[1]).permute(0, 3, 1, 2)


class _Winograd(torch.autograd.Function):
    """A 3×3 convolution at stride 1 whose input's gradient is one too (`ops.winograd`)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """(N, C, H, W), (K, C, 3, 3) → (N, K, H, W)"""
        ctx.save_for_backward(x, weight)
        return ops.winograd(x, ops.winograd_weights(weight), weight.new_zeros(len(weight)), None, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of x and of the weights."""
        x, weight = ctx.saved_tensors
        for_x = for_weight = None
        if ctx.needs_input_grad[0]:
            turned = ops.winograd_weights(weight, turned=True)
            for_x = ops.winograd(gradient, turned, weight.new_zeros(weight.shape[1]), None, False)
        if ctx.needs_input_grad[1]:
            for_weight = ops.winograd_weight_gradient(gradient, x)
        return for_x, for_weight
