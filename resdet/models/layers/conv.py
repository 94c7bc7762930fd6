"""The convolution of all networks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resdet import ops

# With fewer channels, Winograd's transforms take as long as the multiplications that they save.
WINOGRAD_CHANNELS = 64


class Conv2d(nn.Conv2d):
    """A convolution that keeps the size at stride 1, and that trains fast on a CPU.

    Where the processor has a tile unit, bfloat16 training runs our own operator; in float32, wide 3×3 convolutions
    are Winograd's. Elsewhere the gradient of the weights over hundreds of small maps (a detector's pooled regions)
    would take most of a step: there the maps are laid side by side as one wide map, for the same sums.

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
        if self._tiles():
            return self._biased(ops.conv2d(x.bfloat16(), self.weight, self.stride[0]))
        if self._winograd(x):
            return self._biased(_Winograd.apply(x, self.weight))
        return self._side_by_side(x) if _small(x) else super().forward(x)

    def _biased(self, y: Tensor) -> Tensor:
        # In one number type: torch adds float32 to bfloat16 over thirty times as slowly.
        return y if self.bias is None else y.add_(self.bias.to(y.dtype)[:, None, None])

    def _tiles(self) -> bool:
        channels = (self.in_channels, self.out_channels)
        # Beyond 128 channels the weights outgrow a core's cache, and oneDNN, which cuts them up, is faster.
        fits = self.kernel_size[0] in (1, 3) and all(c % 16 == 0 and c <= 128 for c in channels)
        bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        return fits and bf16 and ops.has_tiles() and self.weight.dtype == torch.float32

    def _winograd(self, x: Tensor) -> bool:
        fits = self.kernel_size == (3, 3) and self.stride == (1, 1)
        exact = x.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return fits and exact and winograd_pays(self.in_channels, self.out_channels) and ops.has_native_kernel(x)

    def _side_by_side(self, x: Tensor) -> Tensor:
        count, _, _, width = x.shape
        stride, gap = self.stride[0], self.kernel_size[0] // 2
        gap += -(width + gap) % stride  # each map starts where the stride reads
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
