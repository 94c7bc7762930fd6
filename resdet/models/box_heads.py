"""What a pooled region goes through before the two sibling layers: a vector comes out.

A box head is a module: a pooler, feature maps, regions (R, 4) and their images (R,) → vectors (R, channels). It is
given the pooler, since conv5's first convolutions may change places with the pooling. Shapes: N images, (h, w) the
feature map, R regions, S the pooled size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.models.layers.blocks import Bottleneck
from resdet.models.layers.conv_norm import ConvNorm
from resdet.models.layers.norm import Norm
from resdet.models.poolers import RoIPooler
from resdet.types import FeatureMaps


class Conv5Head(nn.Module):
    """The network's own conv5_x and the global average (He et al. 2015, appendix A).

    Args:
        conv5_x: (R, inputs, S, S) → (R, channels, …)
        channels: that conv5_x gives
    """

    def __init__(self, conv5_x: nn.Sequential, channels: int) -> None:
        super().__init__()
        self.conv5_x, self.channels = conv5_x, channels

    def classifier_parts(self) -> dict[str, nn.Module]:
        """Which part of a classifier fills which module of this one."""
        return {"conv5_x": self.conv5_x}

    def forward(self, pooler: RoIPooler, features: FeatureMaps, rois: Tensor, image_index: Tensor) -> Tensor:
        """Feature maps, (R, 4), (R,) → (R, channels)"""
        if torch.is_grad_enabled() and self.commutes(pooler, features) and _fewer(features, rois, pooler):
            y = convolve_and_pool(self.conv5_x[0], pooler, features, rois, image_index)
        else:
            pooled = pooler(features, rois, image_index)
            y = self.conv5_x[0](pooled.contiguous(memory_format=torch.channels_last))
        return self.conv5_x[1:](y).mean((2, 3))

    def commutes(self, pooler: RoIPooler, features: FeatureMaps) -> bool:
        """Whether pooling is linear and all that reads its result are 1×1 convolutions without bias."""
        first = self.conv5_x[0]
        return (
            pooler.is_linear(len(features.maps))
            and isinstance(first, Bottleneck)
            and first.projects
            and first.order == "original"
        )


class WarpedHead(Conv5Head):
    """A whole classifier without its last layer, on each region warped to one size (R-CNN).

    Args:
        backbone: images → the last of its maps is what conv5_x takes
        conv5_x: as of `Conv5Head`
        channels: that conv5_x gives
    """

    def __init__(self, backbone: nn.Module, conv5_x: nn.Sequential, channels: int) -> None:
        super().__init__(conv5_x, channels)
        self.backbone = backbone

    def classifier_parts(self) -> dict[str, nn.Module]:
        """Both parts."""
        return {"backbone": self.backbone, "conv5_x": self.conv5_x}

    def forward(self, pooler: RoIPooler, features: FeatureMaps, rois: Tensor, image_index: Tensor) -> Tensor:
        """Normalised images, (R, 4), (R,) → (R, channels)"""
        crops = pooler(features, rois, image_index).contiguous(memory_format=torch.channels_last)
        return self.conv5_x(self.backbone(crops)[-1]).mean((2, 3))


class ConvFCHead(nn.Module):
    """Convolutions and fully connected layers, each with ReLU.

    The fully connected layers of VGG-16 (Fast R-CNN §2.2), and networks on conv feature maps (Ren et al. 2015).

    Args:
        inputs: channels of the feature maps
        bins: numbers of a pooled region in each channel
        conv_dims: outputs of the 3×3 convolutions
        fc_dims: outputs of the fully connected layers
        dropout: probability after each of these
        norm: makes the normalisations of the convolutions, which have a bias without
        after_vgg16: the feature maps are VGG-16's
    """

    def __init__(
        self,
        inputs: int,
        bins: int,
        *,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        dropout: float,
        norm: Norm | None = None,
        after_vgg16: bool = False,
    ) -> None:
        super().__init__()
        self.bins, self.dropout = bins, dropout
        self.are_vgg16s = after_vgg16 and not conv_dims and tuple(fc_dims) == (4096, 4096) and bins == 49
        self.convs, self.fcs = nn.ModuleList(), nn.ModuleList()
        for width in conv_dims:
            self.convs.append(ConvNorm(inputs, width, 3, norm=norm, relu=True))
            inputs = width
        inputs *= bins
        for width in fc_dims:
            self.fcs.append(nn.Linear(inputs, width))
            inputs = width
        self.channels = inputs
        for layer in (*(block.conv for block in self.convs), *self.fcs):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def classifier_parts(self) -> dict[str, nn.Module]:
        """VGG-16's fc6 and fc7, if these are the same layers."""
        return {"fcs": self.fcs} if self.are_vgg16s else {}

    def forward(self, pooler: RoIPooler, features: FeatureMaps, rois: Tensor, image_index: Tensor) -> Tensor:
        """Feature maps, (R, 4), (R,) → (R, channels)"""
        x = pooler(features, rois, image_index)
        for conv in self.convs:
            x = conv(x)
        x = x.flatten(1)
        for fc in self.fcs:
            x = F.dropout(F.relu(fc(x), inplace=True), self.dropout, self.training)
        return x


def _fewer(features: FeatureMaps, rois: Tensor, pooler: RoIPooler) -> bool:
    """Whether the feature map has fewer cells than the regions have bins."""
    (map_,) = features.maps
    return map_.shape[0] * map_.shape[2] * map_.shape[3] < len(rois) * pooler.bins


def convolve_and_pool(
    unit: Any, pooler: RoIPooler, features: FeatureMaps, rois: Tensor, image_index: Tensor
) -> Tensor:
    """A bottleneck of the pooled features: its 1×1 convolutions and RoI align, which commute, change places.

    Most cells lie in many regions, and are convolved once. One map (N, inputs, h, w) → (R, outputs, …).
    """
    shortcut = unit.shortcut
    y, added = (
        pooler(
            features._replace(maps=[F.conv2d(map_, conv.weight) for map_ in features.maps]),
            rois,
            image_index,
            conv.stride[0],
        ).contiguous(memory_format=torch.channels_last)
        for conv in (unit.conv1, shortcut.conv)
    )
    y = unit.norm2(unit.conv2(unit.norm1(y, relu=True)), relu=True)
    return unit.norm3(unit.conv3(y), added=shortcut.norm(added), relu=True)
