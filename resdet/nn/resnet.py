"""ResNet-18/34/50/101/152 (He et al. 2015, Table 1), in two parts.

`Trunk` is conv1–conv4_x (stride 16), which a detector runs once for an image; conv5_x is what a detector runs
for each region. A classifier is the trunk, conv5_x, average pooling and a linear layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resdet.nn.blocks import BasicBlock, Bottleneck, Conv2d
from resdet.nn.norm import Norm

# Depth → (residual unit, units in conv2_x, conv3_x, conv4_x, conv5_x): Table 1.
ARCHITECTURES: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class Trunk(nn.Module):
    """conv1–conv4_x: what the RPN and the RoI head share."""

    stride = 16

    def __init__(self, depth: int, *, norm: Norm, stride_in_1x1: bool) -> None:
        super().__init__()
        block, (units2, units3, units4, _) = ARCHITECTURES[depth]
        self.channels = 256 * block.expansion
        self.conv1 = nn.Sequential()
        self.conv1.add_module("conv", Conv2d(3, 64, 7, stride=2))
        self.conv1.add_module("norm", norm(64))
        self.conv1.add_module("relu", nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2_x = stage(block, 64, 64, units2, 1, norm=norm, stride_in_1x1=stride_in_1x1)
        self.conv3_x = stage(block, 64 * block.expansion, 128, units3, 2, norm=norm, stride_in_1x1=stride_in_1x1)
        self.conv4_x = stage(block, 128 * block.expansion, 256, units4, 2, norm=norm, stride_in_1x1=stride_in_1x1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images → (N, channels, ⌈H/16⌉, ⌈W/16⌉)"""
        x = self.pool(self.conv1(images))
        return self.conv4_x(self.conv3_x(self.conv2_x(x)))


class ResNet(nn.Module):
    """A classifier; `trunk` and `conv5_x` are the parts that a detector takes over.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_classes: outputs of the last layer.
        norm: makes the normalisation layers.
        stride_in_1x1: a bottleneck's stride in its first 1×1 (the paper) or in its 3×3 (torchvision's weights).
        conv5_stride: 2 as in Table 1; 1 keeps the size of what enters conv5_x (He et al. 2015, appendix A).
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int = 1000,
        norm: Norm,
        stride_in_1x1: bool = False,
        conv5_stride: int = 2,
    ) -> None:
        super().__init__()
        if depth not in ARCHITECTURES:
            raise ValueError(f"No ResNet of {depth} layers: choose from {', '.join(map(str, ARCHITECTURES))}.")
        block, (_, _, _, units5) = ARCHITECTURES[depth]
        self.trunk = Trunk(depth, norm=norm, stride_in_1x1=stride_in_1x1)
        self.conv5_x = stage(
            block, self.trunk.channels, 512, units5, conv5_stride, norm=norm, stride_in_1x1=stride_in_1x1
        )
        self.channels = 512 * block.expansion
        self.fc = nn.Linear(self.channels, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images → (N, num_classes) logits"""
        return self.fc(self.conv5_x(self.trunk(images)).mean((2, 3)))


def stage(
    block: type[BasicBlock | Bottleneck],
    inputs: int,
    width: int,
    units: int,
    stride: int,
    *,
    norm: Norm,
    stride_in_1x1: bool,
) -> nn.Sequential:
    """`units` residual units; the first one downsamples by `stride` and widens."""
    outputs = width * block.expansion
    first = block(inputs, width, stride=stride, stride_in_1x1=stride_in_1x1, norm=norm)
    rest = [block(outputs, width, stride=1, stride_in_1x1=stride_in_1x1, norm=norm) for _ in range(units - 1)]
    return nn.Sequential(first, *rest)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Convolutions as in He et al. 2015b (fan-out, ReLU); normalisations start as the identity."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
