"""The residual units of He et al. 2015, Fig. 5."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.nn.norm import Norm


class Conv2d(nn.Conv2d):
    """A convolution without bias that keeps the size at stride 1, and that trains fast on many small maps.

    On a CPU the gradient of the weights over hundreds of small maps (a detector's pooled regions) takes most of a
    step. There the maps are laid side by side as one wide map, with zero columns between them that stand for the
    padding: the same sums, several times sooner.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉)"""
        many_small = len(x) >= 16 and x.shape[2] * x.shape[3] <= 256
        if x.device.type == "cpu" and many_small and self.weight.requires_grad and torch.is_grad_enabled():
            return self._side_by_side(x)
        return super().forward(x)

    def _side_by_side(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        stride, gap = self.stride[0], self.kernel_size[0] // 2
        gap += -(width + gap) % stride  # each map starts where the stride reads
        rows = F.pad(x.permute(2, 0, 3, 1), (0, 0, 0, gap))  # (H, N, W + gap, channels)
        wide = rows.reshape(1, height, -1, channels).permute(0, 3, 1, 2)  # (1, channels, H, N·(W + gap))
        y = super().forward(wide).permute(0, 2, 3, 1)  # (1, H', N·(W + gap)', outputs)
        y = y.reshape(y.shape[1], count, -1, y.shape[3])[:, :, : -(-width // stride)]  # (H', N, W', outputs)
        return y.permute(1, 3, 0, 2).contiguous(memory_format=torch.channels_last)


class Projection(nn.Module):
    """Shortcut option B where the shape changes: 1×1 convolution and normalisation (§3.3)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv = Conv2d(inputs, outputs, 1, stride)
        self.norm = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H/stride, W/stride)"""
        return self.norm(self.conv(x))


def shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module:
    """Identity where the shapes agree, a projection where they do not."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return Projection(inputs, outputs, stride, norm)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (Fig. 5 left), for 18 and 34 layers."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int, stride_in_1x1: bool, norm: Norm) -> None:
        super().__init__()
        del stride_in_1x1  # this block has no 1×1 convolution
        self.conv1 = Conv2d(inputs, width, 3, stride)
        self.norm1 = norm(width)
        self.conv2 = Conv2d(width, width, 3)
        self.norm2 = norm(width)
        self.shortcut = shortcut(inputs, width, stride, norm)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, width, H/stride, W/stride)"""
        residual = self.relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        return self.relu(residual + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions (Fig. 5 right), for 50, 101 and 152 layers.

    The stride sits in the first 1×1 (the paper and its Caffe weights) or in the 3×3 (torchvision's weights).
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int, stride_in_1x1: bool, norm: Norm) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = Conv2d(inputs, width, 1, stride if stride_in_1x1 else 1)
        self.norm1 = norm(width)
        self.conv2 = Conv2d(width, width, 3, 1 if stride_in_1x1 else stride)
        self.norm2 = norm(width)
        self.conv3 = Conv2d(width, outputs, 1)
        self.norm3 = norm(outputs)
        self.shortcut = shortcut(inputs, outputs, stride, norm)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, 4·width, H/stride, W/stride)"""
        residual = self.relu(self.norm1(self.conv1(x)))
        residual = self.relu(self.norm2(self.conv2(residual)))
        residual = self.norm3(self.conv3(residual))
        return self.relu(residual + self.shortcut(x))
