"""A trained detector, rearranged to run fast: the same function, another order of its steps.

- Normalisations are folded into the convolutions before them; bias, shortcut and ReLU are applied as a convolution
  writes its result (`convolutions`).
- What a strided 1×1 convolution will not read is not computed: the stride moves to the unit before it, and the
  pooling leaves bins out.
- RoI align is linear: conv5_x's first 1×1 convolution and its projection run once on the feature map, and what they
  give is pooled, instead of running once for each region. Their biases come after the pooling, in which samples
  beyond the map count as zero.
- On a CPU, regions go through conv5_x some at a time, so that their maps stay in the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from resdet.detection.bodies import Conv5
from resdet.detection.faster_rcnn import FasterRCNN
from resdet.detection.pyramid import Pyramid
from resdet.detection.rpn import RPN
from resdet.engine.runtime import Runtime
from resdet.inference.convolutions import fused_conv2d
from resdet.nn.blocks import Bottleneck, Projection, Unit
from resdet.nn.norm import fold, folds
from resdet.nn.resnet import Stem, Trunk
from resdet.nn.timm_trunk import TimmTrunk
from resdet.nn.vgg import VGG16Trunk, ZFTrunk
from resdet.types import Detections

REGIONS_AT_A_TIME = 128


class FastRCNN(nn.Module):
    """What `model`, which is left as it is, computes at test time.

    Args:
        model: the network, wherever it is
        runtime: device and number type of the copy
    """

    def __init__(self, model: FasterRCNN, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime
        model = copy.deepcopy(model).eval().to(runtime.device)
        if isinstance(model.trunk, Trunk):
            move_strides(model)
        body = model.head.body
        if isinstance(model.trunk, TimmTrunk):
            model.trunk = Autocast(model.trunk, runtime)
            if isinstance(body, Conv5):
                body.conv5_x = nn.Sequential(*(Autocast(module, runtime) for module in body.conv5_x))
        if isinstance(body, Conv5):
            model.head.body = FastConv5(body, runtime)
        fuse(model, runtime)
        self.model = model

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

    def see(self, images: Tensor, sizes: Tensor) -> Tensor | Pyramid:
        """(N, 3, H, W) uint8 and (N, 2) → the feature maps."""
        return self.model.features(images, sizes)

    def propose(self, images: Tensor, sizes: Tensor, seen: Tensor | Pyramid) -> list[Tensor]:
        """What `see` returned → proposals (R, 4) of each image."""
        return self.model.propose_for_test(*self.model.score_anchors(seen), sizes)

    def detect(self, seen: Tensor | Pyramid, rois: Sequence[Tensor], sizes: Tensor) -> list[Detections]:
        """What `see` and `propose` returned → detections of each image."""
        return self.model.detect(seen, rois, sizes)


class Autocast(nn.Module):
    """A foreign module as it is, in the number type of `runtime`."""

    def __init__(self, module: nn.Module, runtime: Runtime) -> None:
        super().__init__()
        self.module, self.runtime = module, runtime

    def forward(self, x: Tensor) -> Tensor:
        """What the module makes of x."""
        with self.runtime.autocast():
            return self.module(x)


def fuse(network: nn.Module, runtime: Runtime) -> None:
    """Replace the convolutions of `network`, and the normalisations that follow them where those are constant."""
    for module in list(network.modules()):
        if isinstance(module, Stem | Projection):
            _fuse_pair(module, "conv", "norm", runtime)
        elif isinstance(module, RPN | VGG16Trunk | ZFTrunk | nn.ModuleList):
            for name, conv in list(module.named_children()):
                if isinstance(conv, nn.Conv2d):
                    setattr(module, name, fused_conv2d(conv, conv.weight, conv.bias, runtime))
        elif isinstance(module, Unit):
            for number in range(1, module.depth + 1):
                _fuse_pair(module, f"conv{number}", f"norm{number}", runtime, joined=number == module.depth)


def _fuse_pair(module: nn.Module, conv_name: str, norm_name: str, runtime: Runtime, joined: bool = False) -> None:
    """The fused convolution stands where the normalisation stood, which is told of shortcut and ReLU."""
    conv, norm = getattr(module, conv_name), getattr(module, norm_name)
    if folds(norm):
        setattr(module, conv_name, nn.Identity())
        setattr(module, norm_name, fused_conv2d(conv, *fold(conv, norm), runtime, joined))
    else:
        setattr(module, conv_name, fused_conv2d(conv, conv.weight, None, runtime))
        norm.to(runtime.dtype)


# Positions that nobody reads


class Subsample(nn.Module):
    """Every second row and column."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, ⌈H/2⌉, ⌈W/2⌉)"""
        return x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)


def move_strides(model: FasterRCNN) -> None:
    """Where a stage begins with 1×1 convolutions of stride 2, the stage before it computes only what they read."""
    trunk: Any = model.trunk
    for before, after in pairwise([trunk.conv2_x, trunk.conv3_x, trunk.conv4_x]):
        last, first = before[-1], after[0]
        if _strided(first) and isinstance(last.shortcut, nn.Identity):
            last.conv2.stride, last.shortcut = (2, 2), Subsample()
            first.conv1.stride = first.shortcut.conv.stride = (1, 1)


def _strided(unit: Any) -> bool:
    """Whether all that reads the unit's input are 1×1 convolutions of stride 2."""
    return isinstance(unit, Bottleneck) and unit.conv1.stride == (2, 2) and unit.projects


# The head


class FastConv5(nn.Module):
    """`Conv5` with as little as possible done for each region.

    Args:
        body: the trained one, whose parts are taken
        runtime: device and number type
    """

    def __init__(self, body: Conv5, runtime: Runtime) -> None:
        super().__init__()
        self.channels = body.channels
        first: Any
        first, *rest = body.conv5_x.children()
        if body.commutes() and folds(first.norm1):
            self.start: Start | HoistedStart = HoistedStart(first, body.pool, runtime)
        else:
            self.start = Start(first, body.pool)
        self.rest = nn.Sequential(*rest)
        self.on_cpu = runtime.device.type == "cpu"

    def forward(self, features: Tensor, rois: Tensor, image_index: Tensor) -> Tensor:
        """As `Conv5`: (N, inputs, h, w), (R, 4), (R,) → (R, channels), float32"""
        maps = self.start.maps(features)
        chunks = max(1, -(-len(rois) // REGIONS_AT_A_TIME)) if self.on_cpu else 1
        vectors = [rois.new_empty(0, self.channels)]
        for some, images in zip(rois.tensor_split(chunks), image_index.tensor_split(chunks), strict=True):
            if len(some):
                y = self.rest(self.start(maps, some, images))
                vectors.append(y.mean((2, 3), dtype=torch.float32))
        return torch.cat(vectors)


class Start(nn.Module):
    """Pooling, and the first unit of conv5_x; where that reads every second bin, the others are left out."""

    def __init__(self, unit: Any, pool: Callable[..., Tensor]) -> None:
        super().__init__()
        self.unit, self.pool = unit, pool
        if _strided(unit):
            self.pool = partial(pool, stride=2)
            unit.conv1.stride = unit.shortcut.conv.stride = (1, 1)

    def maps(self, features: Tensor) -> tuple[Tensor, ...]:
        """What is pooled: the features."""
        return (features,)

    def forward(self, maps: tuple[Tensor, ...], rois: Tensor, image_index: Tensor) -> Tensor:
        """One (N, channels, h, w), (R, 4), (R,) → (R, outputs, S, S)"""
        return self.unit(self.pool(maps[0], rois, image_index))


class HoistedStart(nn.Module):
    """The first bottleneck of conv5_x, whose 1×1 convolutions of the features run before RoI align."""

    def __init__(self, unit: Any, pool: Callable[..., Tensor], runtime: Runtime) -> None:
        super().__init__()
        first, projection = unit.conv1.stride[0], unit.shortcut.conv.stride[0]
        self.pools = [partial(pool, stride=first), partial(pool, stride=projection)]
        unit.conv1.stride = unit.shortcut.conv.stride = (1, 1)
        weight, bias = fold(unit.conv1, unit.norm1)
        self.reduce = fused_conv2d(unit.conv1, weight, None, runtime)
        self.bias = bias.to(runtime.device, runtime.dtype)[:, None, None]
        weight, projection_bias = fold(unit.shortcut.conv, unit.shortcut.norm)
        self.project = fused_conv2d(unit.shortcut.conv, weight, None, runtime)
        self.conv2 = fused_conv2d(unit.conv2, *fold(unit.conv2, unit.norm2), runtime)
        weight, bias = fold(unit.conv3, unit.norm3)
        self.conv3 = fused_conv2d(unit.conv3, weight, bias + projection_bias, runtime, joined=True)

    def maps(self, features: Tensor) -> tuple[Tensor, ...]:
        """What is pooled: the two convolutions of the features, without bias."""
        return self.reduce(features), self.project(features)

    def forward(self, maps: tuple[Tensor, ...], rois: Tensor, image_index: Tensor) -> Tensor:
        """Two (N, channels, h, w), (R, 4), (R,) → (R, outputs, S, S)"""
        y, shortcut = (pool(x, rois, image_index) for pool, x in zip(self.pools, maps, strict=True))
        y = self.conv2(y.add_(self.bias).relu_(), relu=True)
        return self.conv3(y, added=shortcut, relu=True)
