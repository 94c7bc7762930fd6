"""The residual networks of He et al. 2015 and 2016, for ImageNet and for CIFAR, and their plain counterparts.

An ImageNet network has two parts: `ResNetBackbone` is conv1–conv4_x (stride 16), which a detector runs once for an
image; conv5_x is what a detector runs for each region. A classifier is both, average pooling and a linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.models.backbones import Backbone
from resdet.models.layers.blocks import BasicBlock, Bottleneck, Unit
from resdet.models.layers.conv_norm import ConvNorm
from resdet.models.layers.norm import Norm

# Depth → (residual unit, units in conv2_x, conv3_x, conv4_x, conv5_x): 2015, Table 1; 200 layers: 2016, Table 5.
ARCHITECTURES: dict[int, tuple[type[Unit], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
    200: (Bottleneck, (3, 24, 36, 3)),
}


class ResNetBackbone(Backbone):
    """conv1–conv4_x: what the RPN and the RoI heads share.

    Args:
        depth: of the whole network, one of `ARCHITECTURES`
        norm: makes the normalisation layers
        options: of the units, as `Unit` takes them
    """

    strides = (16,)

    def __init__(self, depth: int, *, norm: Norm, **options: Any) -> None:
        super().__init__()
        block, (units2, units3, units4, _) = ARCHITECTURES[depth]
        wide = block.expansion
        self.stage_channels = (64 * wide, 128 * wide, 256 * wide)
        self.channels = self.stage_channels[-1]
        self.conv1 = ConvNorm(3, 64, 7, 2, norm=norm, relu=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2_x = stage(block, 64, 64, units2, 1, first=True, norm=norm, **options)
        self.conv3_x = stage(block, 64 * wide, 128, units3, 2, norm=norm, **options)
        self.conv4_x = stage(block, 128 * wide, 256, units4, 2, norm=norm, **options)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised images → (N, channels, ⌈H/16⌉, ⌈W/16⌉), the one level"""
        return [self.stages(images)[-1]]

    def stages(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised images → what conv2_x, conv3_x and conv4_x give, of strides 4, 8 and 16"""
        c2 = self.conv2_x(self.pool(self.conv1(images)))
        c3 = self.conv3_x(c2)
        return [c2, c3, self.conv4_x(c3)]


class ResNet(nn.Module):
    """An ImageNet classifier; `backbone` and `conv5_x` are the parts that a detector takes over.

    Args:
        depth: 18, 34, 50, 101, 152 or 200
        num_classes: outputs of the last layer
        norm: makes the normalisation layers
        conv5_stride: 2 as in Table 1; 1 keeps the size of what enters conv5_x (2015, appendix A)
        conv5_dilation: of conv5_x; 2 makes up for a stride of 1 (detectron2's DC5)
        options: of the units, as `Unit` takes them: shortcut="none" makes the plain network,
            order="full_preactivation" that of 2016
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int = 1000,
        norm: Norm,
        conv5_stride: int = 2,
        conv5_dilation: int = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        if depth not in ARCHITECTURES:
            raise ValueError(f"No ResNet has {depth} layers: choose one of {', '.join(map(str, ARCHITECTURES))}.")
        block, (_, _, _, units5) = ARCHITECTURES[depth]
        self.backbone = ResNetBackbone(depth, norm=norm, **options)
        own: dict[str, Any] = {"last": True, "norm": norm, "dilation": conv5_dilation}
        self.conv5_x = stage(block, self.backbone.channels, 512, units5, conv5_stride, **own, **options)
        self.channels = 512 * block.expansion
        self.fc = nn.Linear(self.channels, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images → (N, num_classes) logits"""
        return self.fc(self.conv5_x(self.backbone(images)[-1]).mean((2, 3)))

    def dense(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images → (N, num_classes) logits, the mean over all windows of 7×7 cells.

        The network as a fully convolutional one (2015, §3.4): each window is what a crop of 224 pixels would see.
        """
        features = self.conv5_x(self.backbone(images)[-1])
        window = min(7, *features.shape[2:])
        return self.fc(F.avg_pool2d(features, window, 1).mean((2, 3)))


class CifarResNet(nn.Module):
    """A CIFAR classifier of 6n + 2 layers (2015, §4.2), or of 9n + 2 with bottlenecks (2016, §4).

    Three stages of n units on maps of 32, 16 and 8 cells; 16, 32 and 64 channels, with bottlenecks four times as
    many between the units.

    Args:
        depth: layers
        num_classes: outputs of the last layer
        norm: makes the normalisation layers
        bottleneck: units of three convolutions
        options: of the units, as `Unit` takes them
    """

    def __init__(
        self, depth: int, *, num_classes: int = 10, norm: Norm, bottleneck: bool = False, **options: Any
    ) -> None:
        super().__init__()
        block: type[Unit] = Bottleneck if bottleneck else BasicBlock
        units, rest = divmod(depth - 2, 3 * block.depth)
        if rest or not units:
            raise ValueError(f"A CIFAR network cannot have {depth} layers: choose {3 * block.depth}n + 2.")
        wide = block.expansion
        self.channels = 64 * wide
        self.conv1 = ConvNorm(3, 16, 3, norm=norm, relu=True)
        self.conv2_x = stage(block, 16, 16, units, 1, first=True, norm=norm, **options)
        self.conv3_x = stage(block, 16 * wide, 32, units, 2, norm=norm, **options)
        self.conv4_x = stage(block, 32 * wide, 64, units, 2, last=True, norm=norm, **options)
        self.fc = nn.Linear(self.channels, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, 32, 32) normalised images → (N, num_classes) logits"""
        x = self.conv4_x(self.conv3_x(self.conv2_x(self.conv1(images))))
        return self.fc(x.mean((2, 3)))


def stage(
    block: type[Unit],
    inputs: int,
    width: int,
    units: int,
    stride: int,
    *,
    first: bool = False,
    last: bool = False,
    norm: Norm,
    **options: Any,
) -> nn.Sequential:
    """`units` residual units; the first one downsamples by `stride` and widens.

    In a network with pre-activation the `first` stage's input is activated already, and the `last` one ends with
    the activation that no further unit brings (2016, appendix).
    """
    outputs = width * block.expansion
    layers = nn.Sequential(
        block(inputs, width, stride, norm=norm, activated=first, **options),
        *(block(outputs, width, 1, norm=norm, **options) for _ in range(units - 1)),
    )
    order = options.get("order", "original")
    if last and order == "full_preactivation":
        layers.add_module("norm", norm(outputs))
    if last and order in ("relu_preactivation", "full_preactivation"):
        layers.add_module("relu", nn.ReLU())
    return layers


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Convolutions as in He et al. 2015b (fan-out, ReLU); normalisations start as the identity."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
