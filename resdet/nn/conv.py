"""The convolution of all networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet import ops


class Conv2d(nn.Conv2d):
    """A convolution without bias that keeps the size at stride 1, and that trains fast on a CPU.

    Where the processor has a tile unit, bfloat16 training runs our own operator. Elsewhere the gradient of the
    weights over hundreds of small maps (a detector's pooled regions) would take most of a step: there the maps are
    laid side by side as one wide map, with zero columns between them that stand for the padding, for the same sums.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉)"""
        trains = self.weight.requires_grad and torch.is_grad_enabled()
        if x.device.type != "cpu" or not trains or torch.compiler.is_compiling():
            return super().forward(x)
        if self._tiles():
            return ops.conv2d(x.bfloat16(), self.weight, self.stride[0])
        if len(x) >= 16 and x.shape[2] * x.shape[3] <= 196:
            return self._side_by_side(x)
        return super().forward(x)

    def _tiles(self) -> bool:
        channels = (self.in_channels, self.out_channels)
        # Beyond 128 channels the weights outgrow a core's cache, and oneDNN, which cuts them up, is faster.
        fits = self.kernel_size[0] in (1, 3) and all(c % 16 == 0 and c <= 128 for c in channels)
        bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        return fits and bf16 and ops.has_tiles() and self.weight.dtype == torch.float32

    def _side_by_side(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        stride, gap = self.stride[0], self.kernel_size[0] // 2
        gap += -(width + gap) % stride  # each map starts where the stride reads
        rows = F.pad(x.permute(2, 0, 3, 1), (0, 0, 0, gap))  # (H, N, W + gap, channels)
        wide = rows.reshape(1, height, -1, channels).permute(0, 3, 1, 2)  # (1, channels, H, N·(W + gap))
        y = super().forward(wide).permute(0, 2, 3, 1)  # (1, H', N·(W + gap)', outputs)
        y = y.reshape(y.shape[1], count, -1, y.shape[3])[:, :, : -(-width // stride)]  # (H', N, W', outputs)
        return y.permute(1, 3, 0, 2).contiguous(memory_format=torch.channels_last)
