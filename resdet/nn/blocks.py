"""The residual units of He et al. 2015, Fig. 5."""

from __future__ import annotations

from torch import Tensor, nn

from resdet.nn.norm import Norm


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1; no bias, since a normalisation follows."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Projection(nn.Module):
    """Shortcut option B where the shape changes: 1×1 convolution and normalisation (§3.3)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, 1, stride)
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
        self.conv1 = conv(inputs, width, 3, stride)
        self.norm1 = norm(width)
        self.conv2 = conv(width, width, 3)
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
        self.conv1 = conv(inputs, width, 1, stride if stride_in_1x1 else 1)
        self.norm1 = norm(width)
        self.conv2 = conv(width, width, 3, 1 if stride_in_1x1 else stride)
        self.norm2 = norm(width)
        self.conv3 = conv(width, outputs, 1)
        self.norm3 = norm(outputs)
        self.shortcut = shortcut(inputs, outputs, stride, norm)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, 4·width, H/stride, W/stride)"""
        residual = self.relu(self.norm1(self.conv1(x)))
        residual = self.relu(self.norm2(self.conv2(residual)))
        residual = self.norm3(self.conv3(residual))
        return self.relu(residual + self.shortcut(x))
