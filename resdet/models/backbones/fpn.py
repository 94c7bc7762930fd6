"""Backbones that take all of a ResNet: feature pyramids (Lin et al. 2017), and conv5_x at stride 16 (DC5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.models.backbones import Backbone
from resdet.models.backbones.resnet import ResNet
from resdet.models.layers.conv_norm import ConvNorm
from resdet.models.layers.norm import Norm

CELLS = 32  # pixels: heights and widths are padded to multiples, so that all cells are whole


class WholeResNet(Backbone):
    """A backbone of conv1 to conv5_x.

    Args:
        resnet: the classifier, whose parts are taken
    """

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.bottom_up, self.conv5_x = resnet.backbone, resnet.conv5_x

    def classifier_parts(self) -> dict[str, nn.Module]:
        """Both parts of the classifier."""
        return {"backbone": self.bottom_up, "conv5_x": self.conv5_x}


class DilatedC5(WholeResNet):
    """conv5_x without stride and with dilation, as the one level (detectron2's DC5).

    Args:
        resnet: with a conv5_stride of 1 and a conv5_dilation of 2
    """

    strides = (16,)

    def __init__(self, resnet: ResNet) -> None:
        super().__init__(resnet)
        self.channels = resnet.channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised images → (N, channels, ⌈H/16⌉, ⌈W/16⌉), the one level"""
        return [self.conv5_x(self.bottom_up.stages(images)[-1])]


class FPN(WholeResNet):
    """A feature pyramid: the maps of conv2_x to conv5_x, each with what the map above it saw (2017, §3).

    P6 is every second cell of P5; it serves the RPN alone (§4.1, footnote 1).

    Args:
        resnet: the bottom-up path
        channels: of each level; 256 in the paper
        norm: makes the normalisations of the pyramid's own convolutions, which have a bias without
    """

    strides = (4, 8, 16, 32, 64)

    def __init__(self, resnet: ResNet, channels: int = 256, norm: Norm | None = None) -> None:
        super().__init__(resnet)
        self.channels = channels
        inputs = (*resnet.backbone.stage_channels, resnet.channels)
        self.laterals = nn.ModuleList(ConvNorm(wide, channels, 1, norm=norm) for wide in inputs)
        self.upsample = nn.Upsample(scale_factor=2)
        self.outputs = nn.ModuleList(ConvNorm(channels, channels, 3, norm=norm) for _ in inputs)
        for layer in (*self.laterals, *self.outputs):
            nn.init.kaiming_uniform_(layer.conv.weight, a=1)
            if layer.conv.bias is not None:
                nn.init.zeros_(layer.conv.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised images → (N, channels, h, w) for each level, of images padded to whole cells.

        Zeros at the right and at the bottom make height and width multiples of 32, as in detectron2 and
        torchvision, so that a level has twice the cells of the next one along each side.
        """
        stages = self.bottom_up.stages(pad_to_multiple(images, CELLS))
        stages.append(self.conv5_x(stages[-1]))
        merged: list[Tensor] = []
        for stage, lateral in zip(reversed(stages), reversed(self.laterals), strict=True):
            above = self.upsample(merged[0]) if merged else None
            merged.insert(0, lateral(stage, above))
        levels = [output(map_) for output, map_ in zip(self.outputs, merged, strict=True)]
        return [*levels, levels[-1][:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)]


def pad_to_multiple(images: Tensor, of: int) -> Tensor:
    """(N, C, H, W) → the same with zeros at the right and at the bottom."""
    bottom, right = (-side % of for side in images.shape[2:])
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images
