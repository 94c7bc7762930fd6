"""A trained detector, rearranged to run fast: the same function, another order of its steps.

`optimize` has one rule for each type of module:

- Normalisations are folded into the convolutions before them; bias, shortcut and ReLU are applied as a convolution
  writes its result (`convolutions`).
- What a strided 1×1 convolution will not read is not computed: the stride moves to the unit before it, and the
  pooling leaves bins out.
- RoI align is linear: conv5_x's first 1×1 convolution and its projection run once on the feature map, and what they
  give is pooled, instead of running once for each region. Their biases come after the pooling, in which samples
  beyond the map count as zero.
- On a CPU, regions go through the box head some at a time, so that their maps stay in the cache.
- Foreign modules (timm's) run under autocast, as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import singledispatch
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from resdet.engine.runtime import Runtime
from resdet.inference.convolutions import fused_conv2d
from resdet.models.backbones.resnet import ResNetBackbone, Stem
from resdet.models.backbones.timm import TimmBackbone
from resdet.models.backbones.vgg import VGG16Backbone, ZFBackbone
from resdet.models.box_heads import Conv5Head, ConvFCHead, WarpedHead
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.layers.blocks import Bottleneck, Projection, Unit
from resdet.models.layers.norm import FrozenBatchNorm2d, GroupNorm, SyncBatchNorm2d, fold, folds
from resdet.models.poolers import RoIPooler
from resdet.models.roi_heads import BoxPredictor, RoIHeads
from resdet.models.rpn import RPN, RPNHead
from resdet.types import Detections, FeatureMaps

REGIONS_AT_A_TIME = 128


class OptimizedRCNN(nn.Module):
    """What `model`, which is left as it is, computes at test time.

    Args:
        model: the network, wherever it is
        runtime: device and number type of the copy
    """

    def __init__(self, model: FasterRCNN, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime
        self.model: FasterRCNN = optimize(copy.deepcopy(model).eval().to(runtime.device), runtime)

    @torch.no_grad()
    def forward(
        self, images: Tensor, sizes: Tensor, targets: None = None, proposals: Sequence[Tensor] | None = None
    ) -> list[Detections]:
        """As `FasterRCNN`, without losses: (N, 3, H, W) uint8 and (N, 2) sizes → detections of each image."""
        with torch.autocast(self.runtime.device.type, enabled=False):
            return self.model(images, sizes, None, proposals)

    @torch.no_grad()
    def detect_and_propose(
        self, images: Tensor, sizes: Tensor, most: int, proposals: Sequence[Tensor] | None = None
    ) -> tuple[list[Detections], Sequence[Tensor]]:
        """As `FasterRCNN.detect_and_propose`."""
        with torch.autocast(self.runtime.device.type, enabled=False):
            return self.model.detect_and_propose(images, sizes, most, proposals)

    # The parts of `forward`, one after the other

    def see(self, images: Tensor, sizes: Tensor) -> FeatureMaps:
        """(N, 3, H, W) uint8 and (N, 2) → the feature maps."""
        return self.model.features(images, sizes)

    def propose(self, images: Tensor, sizes: Tensor, seen: FeatureMaps) -> list[Tensor]:
        """What `see` returned → proposals (R, 4) of each image."""
        return self.model.propose(self.model.score_anchors(seen), sizes)

    def detect(self, seen: FeatureMaps, rois: Sequence[Tensor], sizes: Tensor) -> list[Detections]:
        """What `see` and `propose` returned → detections of each image."""
        return self.model.roi_heads.detect(seen, rois, sizes)


# The rules


@singledispatch
def optimize(module: Any, runtime: Runtime) -> Any:
    """What runs in the place of `module`, whose parts are taken. A type without a rule is foreign."""
    return Autocast(module, runtime) if any(True for _ in module.parameters()) else module


@optimize.register(nn.Sequential)
@optimize.register(RPN)
def _children(module: nn.Module, runtime: Runtime) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, optimize(child, runtime))
    return module


@optimize.register(BoxPredictor)  # scores and boxes are computed in float32
@optimize.register(FrozenBatchNorm2d)
@optimize.register(SyncBatchNorm2d)
@optimize.register(GroupNorm)
def _as_it_is(module: nn.Module, runtime: Runtime) -> nn.Module:
    return module


@optimize.register
def _detector(module: FasterRCNN, runtime: Runtime) -> FasterRCNN:
    module.backbone = optimize(module.backbone, runtime)
    module.rpn = None if module.rpn is None else optimize(module.rpn, runtime)
    heads: RoIHeads = module.roi_heads
    head: Any = heads.box_head
    if type(head) is Conv5Head:
        linear = heads.pooler.kind == "align" and len(module.scales) == 1
        heads.box_head = OptimizedConv5Head(head, linear, runtime)  # type: ignore[assignment]
    else:
        heads.box_head = optimize(head, runtime)
    return module


@optimize.register
def _backbone(module: ResNetBackbone, runtime: Runtime) -> nn.Module:
    move_strides(module)
    return _children(module, runtime)


@optimize.register
def _timm(module: TimmBackbone, runtime: Runtime) -> nn.Module:
    wrapped: Any = Autocast(module, runtime)
    wrapped.strides, wrapped.channels = module.strides, module.channels
    return wrapped


@optimize.register(VGG16Backbone)
@optimize.register(ZFBackbone)
@optimize.register(RPNHead)
@optimize.register(nn.ModuleList)
def _convolutions(module: nn.Module, runtime: Runtime) -> nn.Module:
    for name, conv in list(module.named_children()):
        if isinstance(conv, nn.Conv2d):
            setattr(module, name, fused_conv2d(conv, conv.weight, conv.bias, runtime))
    return module


@optimize.register
def _conv_fc(module: ConvFCHead, runtime: Runtime) -> nn.Module:
    module.convs = optimize(module.convs, runtime)
    return module


@optimize.register
def _warped(module: WarpedHead, runtime: Runtime) -> nn.Module:
    return OptimizedWarpedHead(module, runtime)


@optimize.register(Stem)
@optimize.register(Projection)
def _convolution_and_norm(module: Any, runtime: Runtime) -> nn.Module:
    _fuse_pair(module, "conv", "norm", runtime)
    return module


@optimize.register
def _unit(module: Unit, runtime: Runtime) -> nn.Module:
    for number in range(1, module.depth + 1):
        _fuse_pair(module, f"conv{number}", f"norm{number}", runtime, joined=number == module.depth)
    module.shortcut = optimize(module.shortcut, runtime)
    return module


def _fuse_pair(module: nn.Module, conv_name: str, norm_name: str, runtime: Runtime, joined: bool = False) -> None:
    """The fused convolution stands where the normalisation stood, which is given shortcut and ReLU."""
    conv, norm = getattr(module, conv_name), getattr(module, norm_name)
    if folds(norm):
        setattr(module, conv_name, nn.Identity())
        setattr(module, norm_name, fused_conv2d(conv, *fold(conv, norm), runtime, joined))
    else:
        setattr(module, conv_name, fused_conv2d(conv, conv.weight, None, runtime))
        norm.to(runtime.dtype)


class Autocast(nn.Module):
    """A foreign module as it is, in the number type of `runtime`."""

    def __init__(self, module: nn.Module, runtime: Runtime) -> None:
        super().__init__()
        self.module, self.runtime = module, runtime

    def forward(self, x: Tensor) -> Any:
        """What the module makes of x."""
        with self.runtime.autocast():
            return self.module(x)


# Positions that nobody reads


class Subsample(nn.Module):
    """Every second row and column."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, ⌈H/2⌉, ⌈W/2⌉)"""
        return x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)


@optimize.register
def _subsample(module: Subsample, runtime: Runtime) -> nn.Module:
    return module


def move_strides(backbone: Any) -> None:
    """Where a stage begins with 1×1 convolutions of stride 2, the stage before it computes only what they read."""
    for before, after in pairwise([backbone.conv2_x, backbone.conv3_x, backbone.conv4_x]):
        last, first = before[-1], after[0]
        if _strided(first) and isinstance(last.shortcut, nn.Identity):
            last.conv2.stride, last.shortcut = (2, 2), Subsample()
            first.conv1.stride = first.shortcut.conv.stride = (1, 1)


def _strided(unit: Any) -> bool:
    """Whether all that reads the unit's input are 1×1 convolutions of stride 2."""
    return isinstance(unit, Bottleneck) and unit.conv1.stride == (2, 2) and unit.projects


# The box heads


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


def _in_parts(
    run: Callable[[Tensor, Tensor], Tensor], rois: Tensor, image_index: Tensor, channels: int, runtime: Runtime
) -> Tensor:
    """(R, channels): the global averages of the maps that `run` makes of the regions, on a CPU some at a time."""
    parts = max(1, -(-len(rois) // REGIONS_AT_A_TIME)) if runtime.device.type == "cpu" else 1
    vectors = [rois.new_empty(0, channels)]
    for some, images in zip(rois.tensor_split(parts), image_index.tensor_split(parts), strict=True):
        if len(some):
            vectors.append(run(some, images).mean((2, 3), dtype=torch.float32))
    return torch.cat(vectors)


class Start(nn.Module):
    """Pooling, and the first unit of conv5_x; where that reads every second bin, the others are left out."""

    def __init__(self, unit: Any, runtime: Runtime) -> None:
        super().__init__()
        self.bin_stride = 1
        if _strided(unit):
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
        self.reduce = fused_conv2d(unit.conv1, weight, None, runtime)
        self.bias = bias.to(runtime.device, runtime.dtype)[:, None, None]
        weight, projection_bias = fold(unit.shortcut.conv, unit.shortcut.norm)
        self.project = fused_conv2d(unit.shortcut.conv, weight, None, runtime)
        self.conv2 = fused_conv2d(unit.conv2, *fold(unit.conv2, unit.norm2), runtime)
        weight, bias = fold(unit.conv3, unit.norm3)
        self.conv3 = fused_conv2d(unit.conv3, weight, bias + projection_bias, runtime, joined=True)

    def prepare(self, features: FeatureMaps) -> tuple[FeatureMaps, ...]:
        """What is pooled: the two convolutions of the features, without bias."""
        return tuple(
            features._replace(maps=[conv(map_) for map_ in features.maps]) for conv in (self.reduce, self.project)
        )

    def forward(
        self, pooler: RoIPooler, prepared: tuple[FeatureMaps, ...], rois: Tensor, image_index: Tensor
    ) -> Tensor:
        """What `prepare` returned, (R, 4), (R,) → (R, outputs, S, S)"""
        y, shortcut = (
            pooler(maps, rois, image_index, stride) for maps, stride in zip(prepared, self.bin_strides, strict=True)
        )
        y = self.conv2(y.add_(self.bias).relu_(), relu=True)
        return self.conv3(y, added=shortcut, relu=True)
