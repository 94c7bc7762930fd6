"""What a region goes through between the feature map and the two sibling layers.

A body is a module: features, regions (R, 4) and their images (R,) → vectors (R, channels). It has the attribute
`channels`. Letters: N images, (h, w) the feature map, R regions, S the pooled size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet import ops
from resdet.nn.blocks import Bottleneck, Projection

Pool = Callable[..., Tensor]


class Conv5(nn.Module):
    """RoI pooling, conv5_x and the global average (He et al. 2015, appendix A).

    Args:
        pool: (N, inputs, h, w), (R, 4), (R,), optionally a `stride` → (R, inputs, S, S), as in `ops`
        conv5_x: (R, inputs, S, S) → (R, channels, …)
        channels: that conv5_x gives
    """

    def __init__(self, pool: Pool, conv5_x: nn.Sequential, channels: int) -> None:
        super().__init__()
        self.pool, self.conv5_x, self.channels = pool, conv5_x, channels

    def forward(self, features: Tensor, rois: Tensor, image_index: Tensor) -> Tensor:
        """(N, inputs, h, w), (R, 4), (R,) → (R, channels)"""
        pool = partial(self.pool, rois=rois, image_index=image_index)
        if torch.is_grad_enabled() and self.commutes() and _fewer(features, rois, self.pool):
            y = convolve_and_pool(self.conv5_x[0], features, pool)
        else:
            y = self.conv5_x[0](pool(features).contiguous(memory_format=torch.channels_last))
        return self.conv5_x[1:](y).mean((2, 3))

    def commutes(self) -> bool:
        """Whether pooling is linear and all that reads its result are 1×1 convolutions without bias."""
        first = self.conv5_x[0]
        linear = isinstance(self.pool, partial) and self.pool.func is ops.roi_align
        return linear and isinstance(first, Bottleneck) and first.projects and first.order == "original"


def _fewer(features: Tensor, rois: Tensor, pool: Any) -> bool:
    """Whether the feature maps have fewer cells than the regions have bins."""
    return features.shape[0] * features.shape[2] * features.shape[3] < len(rois) * pool.keywords["size"] ** 2


def convolve_and_pool(unit: Any, features: Tensor, pool: Callable[..., Tensor]) -> Tensor:
    """A bottleneck of the pooled features: its 1×1 convolutions and RoI align, which commute, change places.

    Most cells lie in many regions, and are convolved once. (N, inputs, h, w) → (R, outputs, …).
    """
    shortcut: Projection = unit.shortcut
    y, added = (
        pool(F.conv2d(features, conv.weight), stride=conv.stride[0]).contiguous(memory_format=torch.channels_last)
        for conv in (unit.conv1, shortcut.conv)
    )
    y = unit.norm2(unit.conv2(unit.norm1(y, relu=True)), relu=True)
    return unit.norm3(unit.conv3(y), added=shortcut.norm(added), relu=True)


class Layers(nn.Module):
    """Pooling, then convolutions and fully connected layers, each with ReLU.

    The heads of VGG-16 and ZF (fc6, fc7 with dropout: Fast R-CNN §2.2), and the networks on conv feature maps of
    Ren et al. 2015 (NoC §3), whatever their number.

    Args:
        pool: as in `Conv5`, or pyramid pooling (R, inputs, bins)
        inputs: channels of the feature map
        cells: of a pooled region: S², or the bins of all levels
        convs: channels of each 3×3 convolution
        fcs: outputs of each fully connected layer
        dropout: of the fully connected layers' outputs
    """

    def __init__(
        self, pool: Pool, inputs: int, cells: int, *, convs: Sequence[int], fcs: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.pool, self.dropout = pool, dropout
        self.convs, self.fcs = nn.ModuleList(), nn.ModuleList()
        for width in convs:
            self.convs.append(nn.Conv2d(inputs, width, 3, padding=1))
            inputs = width
        inputs *= cells
        for width in fcs:
            self.fcs.append(nn.Linear(inputs, width))
            inputs = width
        self.channels = inputs
        for layer in (*self.convs, *self.fcs):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, rois: Tensor, image_index: Tensor) -> Tensor:
        """(N, inputs, h, w), (R, 4), (R,) → (R, channels)"""
        x = self.pool(features, rois=rois, image_index=image_index)
        for conv in self.convs:
            x = F.relu(conv(x), inplace=True)
        x = x.flatten(1).float()
        for fc in self.fcs:
            x = F.dropout(F.relu(fc(x), inplace=True), self.dropout, self.training)
        return x


def pyramid_pool(
    features: Tensor, rois: Tensor, image_index: Tensor, *, levels: Sequence[int], scale: float
) -> Tensor:
    """Spatial pyramid pooling (SPPnet §2.2): the largest value in each bin of several grids over a region.

    Args:
        features: (N, C, h, w)
        rois: (R, 4) pixels
        image_index: (R,)
        levels: bins along each side of each grid; 6, 3, 2, 1 in SPPnet §4
        scale: cells per pixel

    Returns:
        (R, C, Σ levels²)
    """
    return torch.cat([ops.roi_pool(features, rois, image_index, n, scale).flatten(2) for n in levels], 2)


def warp(features: Tensor, rois: Tensor, image_index: Tensor, *, size: int, context: int = 16) -> Tensor:
    """Each region of the image warped to a square, with what lies around it (R-CNN, appendix A).

    Around the warped region there are `context` pixels of its surroundings, for a `size` of 227; for others, in
    proportion. What lies beyond the image is zero, the mean.

    Args:
        features: (N, 3, H, W) normalised images
        rois: (R, 4) pixels
        image_index: (R,)
        size: pixels along each side of the result

    Returns:
        (R, 3, size, size)
    """
    center, sides = (rois[:, :2] + rois[:, 2:]) / 2, rois[:, 2:] - rois[:, :2]
    half = sides / 2 * (227 / (227 - 2 * context))
    return ops.roi_align(features, torch.cat([center - half, center + half], 1), image_index, size, 1.0)
