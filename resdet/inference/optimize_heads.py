"""Box heads, rearranged to run fast.

- RoI align is linear: conv5_x's first 1×1 convolution and its projection run once on the feature map, and what they
  give is pooled, instead of running once for each region. Their biases come after the pooling, in which samples
  beyond the map count as zero.
- Where conv5_x begins with a stride, the bins that it would not read are not pooled.
- On a CPU, regions go through the box head some at a time, so that their maps stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from resdet import ops
from resdet.engine.runtime import Runtime
from resdet.inference.convolutions import fused_conv2d, fused_linear
from resdet.inference.int8 import Int8Conv2d
from resdet.inference.optimize_layers import chain, optimize, reads_every_second_cell
from resdet.inference.quantized import cell_means, concatenated, dequantized, flatten_bins
from resdet.models.box_heads import Conv5Head, ConvFCHead, WarpedHead
from resdet.models.layers.blocks import Bottleneck
from resdet.models.layers.norm import fold, folds
from resdet.models.poolers import RoIPooler
from resdet.types import FeatureMaps

REGIONS_AT_A_TIME = 128


def optimize_head(head: nn.Module, linear: bool, runtime: Runtime) -> Any:
    """What runs in the place of a box head, whose parts are taken.

    Args:
        head: the trained one
        linear: its pooling commutes with 1×1 convolutions
        runtime: device and number type
    """
    if type(head) is Conv5Head:
        return OptimizedConv5Head(head, linear, runtime)
    return optimize(head, runtime)


@optimize.register
def _conv_fc(module: ConvFCHead, runtime: Runtime) -> nn.Module:
    return OptimizedConvFCHead(module, runtime)


@optimize.register
def _warped(module: WarpedHead, runtime: Runtime) -> nn.Module:
    return OptimizedWarpedHead(module, runtime)


class OptimizedConv5Head(nn.Module):
    """`Conv5Head` with as little as possible done for each region.

    Args:
        head: the trained one, whose parts are taken
        linear: the pooling commutes with 1×1 convolutions
        runtime: device and number type
    """

    def __init__(self, head: Conv5Head, linear: bool, runtime: Runtime) -> None:
        super().__init__()
        self.channels, self.runtime = head.channels, runtime
        first: Any
        first, *rest = head.conv5_x.children()
        hoists = linear and isinstance(first, Bottleneck) and first.projects and first.order == "original"
        self.start = (HoistedStart if hoists and folds(first.norm1) else Start)(first, runtime)
        self.rest = optimize(nn.Sequential(*rest), runtime)

    def forward(self, pooler: RoIPooler, features: FeatureMaps, rois: Tensor, image_index: Tensor) -> Tensor:
        """As `Conv5Head`: feature maps, (R, 4), (R,) → (R, channels), float32"""
        prepared = self.start.prepare(features)

        def run(some: Tensor, images: Tensor) -> Tensor:
            return self.rest(self.start(pooler, prepared, some, images))

        return _in_parts(run, rois, image_index, self.channels, self.runtime)


class OptimizedConvFCHead(nn.Module):
    """`ConvFCHead`: the convolutions for some regions at a time, the fully connected layers for all at once.

    The first of these reads the channels of a bin side by side, as they lie in memory.

    Args:
        head: the trained one, whose parts are taken
        runtime: device and number type
    """

    def __init__(self, head: ConvFCHead, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime
        self.convs: Any = chain(head.convs, runtime)
        self.fcs = nn.ModuleList()
        fcs: Any = head.fcs
        for number, fc in enumerate(fcs):
            by_bin = fc.weight.unflatten(1, (-1, head.bins if number == 0 else 1))  # (K, channels, bins)
            chained = number + 1 < len(fcs)
            self.fcs.append(fused_linear(fc, by_bin.transpose(1, 2).flatten(1), runtime, chained))

    def forward(self, pooler: RoIPooler, features: FeatureMaps, rois: Tensor, image_index: Tensor) -> Tensor:
        """As `ConvFCHead`: feature maps, (R, 4), (R,) → (R, channels), float32"""
        parts = _parts(len(rois), self.runtime) if len(self.convs) else 1
        pooled = []
        for some, images in zip(rois.tensor_split(parts), image_index.tensor_split(parts), strict=True):
            x: Any = pooler(features, some, images)
            for conv in self.convs:
                x = conv(x)
            pooled.append(flatten_bins(x) if len(self.fcs) else dequantized(x, torch.float32).flatten(1))
        vectors = concatenated(pooled)
        for fc in self.fcs:
            vectors = fc(vectors)
        return vectors.float()


class OptimizedWarpedHead(nn.Module):
    """`WarpedHead`, some regions at a time.

    Args:
        head: the trained one, whose parts are taken
        runtime: device and number type
    """

    def __init__(self, head: WarpedHead, runtime: Runtime) -> None:
        super().__init__()
        self.channels, self.runtime = head.channels, runtime
        self.backbone, self.conv5_x = optimize(head.backbone, runtime), optimize(head.conv5_x, runtime)

    def forward(self, pooler: RoIPooler, features: FeatureMaps, rois: Tensor, image_index: Tensor) -> Tensor:
        """As `WarpedHead`: normalised images, (R, 4), (R,) → (R, channels), float32"""

        def run(some: Tensor, images: Tensor) -> Tensor:
            return self.conv5_x(self.backbone(pooler(features, some, images))[-1])

        return _in_parts(run, rois, image_index, self.channels, self.runtime)


def _parts(count: int, runtime: Runtime) -> int:
    """How often so many regions go through convolutions."""
    return max(1, -(-count // REGIONS_AT_A_TIME)) if runtime.device.type == "cpu" else 1


def _in_parts(
    run: Callable[[Tensor, Tensor], Tensor], rois: Tensor, image_index: Tensor, channels: int, runtime: Runtime
) -> Tensor:
    """(R, channels): the global averages of the maps that `run` makes of the regions, on a CPU some at a time."""
    parts = _parts(len(rois), runtime)
    vectors = [rois.new_empty(0, channels)]
    for some, images in zip(rois.tensor_split(parts), image_index.tensor_split(parts), strict=True):
        if len(some):
            vectors.append(cell_means(run(some, images)))
    return torch.cat(vectors)


class Start(nn.Module):
    """Pooling, and the first unit of conv5_x; where that reads every second bin, the others are left out."""

    def __init__(self, unit: Any, runtime: Runtime) -> None:
        super().__init__()
        self.bin_stride = 1
        if reads_every_second_cell(unit):
            self.bin_stride = 2
            unit.conv1.stride = unit.shortcut.conv.stride = (1, 1)
        self.unit = optimize(unit, runtime)

    def prepare(self, features: FeatureMaps) -> tuple[FeatureMaps, ...]:
        """What is pooled: the features."""
        return (features,)

    def forward(
        self, pooler: RoIPooler, prepared: tuple[FeatureMaps, ...], rois: Tensor, image_index: Tensor
    ) -> Tensor:
        """What `prepare` returned, (R, 4), (R,) → (R, outputs, S, S)"""
        return self.unit(pooler(prepared[0], rois, image_index, self.bin_stride))


class HoistedStart(nn.Module):
    """The first bottleneck of conv5_x, whose 1×1 convolutions of the features run before RoI align."""

    def __init__(self, unit: Any, runtime: Runtime) -> None:
        super().__init__()
        self.bin_strides = unit.conv1.stride[0], unit.shortcut.conv.stride[0]
        unit.conv1.stride = unit.shortcut.conv.stride = (1, 1)
        weight, bias = fold(unit.conv1, unit.norm1)
        self.reduce = fused_conv2d(unit.conv1, weight, None, runtime, chained=True)
        self.bias = bias.to(runtime.device)
        weight, projection_bias = fold(unit.shortcut.conv, unit.shortcut.norm)
        self.project = fused_conv2d(unit.shortcut.conv, weight, None, runtime, chained=True)
        self.conv2 = fused_conv2d(unit.conv2, *fold(unit.conv2, unit.norm2), runtime, chained=True)
        weight, bias = fold(unit.conv3, unit.norm3)
        self.conv3 = fused_conv2d(unit.conv3, weight, bias + projection_bias, runtime, joined=True, chained=True)

    def prepare(self, features: FeatureMaps) -> tuple[FeatureMaps, ...]:
        """What is pooled: the two convolutions of the features, without bias."""
        return tuple(
            features._replace(maps=[conv(map_) for map_ in features.maps]) for conv in (self.reduce, self.project)
        )

    def forward(
        self, pooler: RoIPooler, prepared: tuple[FeatureMaps, ...], rois: Tensor, image_index: Tensor
    ) -> Tensor:
        """What `prepare` returned, (R, 4), (R,) → (R, outputs, S, S)"""
        reduced, projected = prepared
        regions, (stride, other) = (rois, image_index), self.bin_strides
        if isinstance(self.conv2, Int8Conv2d):
            y: Any = pooler.align(reduced, *regions, stride, self.bias, self.conv2.came_in)  # type: ignore[operator]
        else:
            y = pooler(reduced, *regions, stride)
            if ops.has_native_kernel(y):  # one pass over memory in the place of two
                y = ops.affine(y, None, torch.ones_like(self.bias), self.bias, True)
            else:
                y = y.add_(self.bias.to(y.dtype)[:, None, None]).relu_()
        y = self.conv2(y, relu=True)
        return self.conv3(y, added=pooler(projected, *regions, other), relu=True)
