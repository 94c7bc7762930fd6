"""Layers and backbones, rearranged to run fast: `optimize` has one rule for each type of module.

- Normalisations are folded into the convolutions before them; bias, shortcut and ReLU are applied as a convolution
  writes its result (`convolutions`).
- What a strided 1×1 convolution will not read is not computed: the stride moves to the unit before it.
- Foreign modules (timm's) run under autocast, as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import singledispatch
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from resdet.engine.runtime import Runtime
from resdet.inference.convolutions import fused_conv2d
from resdet.inference.quantized import Quantized, dequantized
from resdet.inference.stem import FastMaxPool
from resdet.models.anchors import AnchorGenerator
from resdet.models.backbones.fpn import FPN, DilatedC5
from resdet.models.backbones.resnet import ResNetBackbone
from resdet.models.backbones.timm import TimmBackbone
from resdet.models.backbones.vgg import VGG16Backbone, ZFBackbone
from resdet.models.layers.blocks import Add, Bottleneck, Projection, Unit
from resdet.models.layers.conv_norm import ConvNorm
from resdet.models.layers.norm import BatchNorm2d, FrozenBatchNorm2d, GroupNorm, fold, folds
from resdet.models.rpn import RPN, RPNHead


@singledispatch
def optimize(module: Any, runtime: Runtime) -> Any:
    """What runs in the place of `module`, whose parts are taken. A type without a rule is foreign."""
    return Autocast(module, runtime) if any(True for _ in module.parameters()) else module


@optimize.register(nn.Sequential)
@optimize.register(nn.ModuleList)
@optimize.register(RPN)
@optimize.register(DilatedC5)
def _children(module: nn.Module, runtime: Runtime) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, optimize(child, runtime))
    return module


@optimize.register(FrozenBatchNorm2d)
@optimize.register(BatchNorm2d)
@optimize.register(GroupNorm)
def _as_it_is(module: nn.Module, runtime: Runtime) -> nn.Module:
    return module


@optimize.register
def _backbone(module: ResNetBackbone, runtime: Runtime) -> nn.Module:
    move_strides(module)
    return _all_stages(module, runtime)


def _all_stages(module: Any, runtime: Runtime) -> nn.Module:
    """A ResNet all of whose stages may be read."""
    module.conv1, module.pool = _conv_norm(module.conv1, runtime, chained=True), FastMaxPool()
    for name in ("conv2_x", "conv3_x", "conv4_x"):
        setattr(module, name, optimize(getattr(module, name), runtime))
    return module


@optimize.register
def _fpn(module: FPN, runtime: Runtime) -> Any:
    own: Any = module
    own.bottom_up = _all_stages(own.bottom_up, runtime)
    *lower, top = own.laterals
    joined = (_conv_norm(lateral, runtime, joined=True, chained=True) for lateral in lower)
    own.laterals = nn.ModuleList([*joined, _conv_norm(top, runtime, chained=True)])
    own.conv5_x, own.outputs = optimize(own.conv5_x, runtime), chain(own.outputs, runtime)
    own.upsample = Upsample()
    return own


def chain(layers: Iterable[Any], runtime: Runtime) -> nn.ModuleList:
    """Convolutions with their normalisations, whose results are read by what takes whole numbers."""
    return nn.ModuleList(_conv_norm(layer, runtime, chained=True) for layer in layers)


class Upsample(nn.Module):
    """`nn.Upsample` to twice the size, by the nearest cell."""

    def forward(self, x: Tensor | Quantized) -> Any:
        """(N, C, h, w) → (N, C, 2h, 2w)"""
        if isinstance(x, Quantized):
            return Quantized(self(x.values), x.grid)
        images, channels, height, width = x.shape
        cells = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(images, height, 2, width, 2, channels)
        return cells.reshape(images, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


@optimize.register
def _anchors(module: AnchorGenerator, runtime: Runtime) -> nn.Module:
    return RememberedAnchors(module)


class RememberedAnchors(nn.Module):
    """`AnchorGenerator`, which does not make the anchors of the last images again for the next of their size."""

    def __init__(self, make: AnchorGenerator) -> None:
        super().__init__()
        self.make, self.levels = make, make.levels
        self.last: tuple[Any, list[Tensor]] = (None, [])

    def forward(self, shapes: Sequence[tuple[int, int]], strides: Sequence[float]) -> list[Tensor]:
        """As `AnchorGenerator`; what it returns must not be changed."""
        asked, anchors = self.last  # one name, since threads may share this
        wanted = tuple(shapes), tuple(strides)
        if asked != wanted:
            anchors = self.make(shapes, strides)
            self.last = wanted, anchors
        return anchors


@optimize.register
def _timm(module: TimmBackbone, runtime: Runtime) -> nn.Module:
    wrapped: Any = Autocast(module, runtime)
    wrapped.strides, wrapped.channels = module.strides, module.channels
    return wrapped


@optimize.register
def _rpn_head(module: RPNHead, runtime: Runtime) -> nn.Module:
    return OptimizedRPNHead(module, runtime)


class OptimizedRPNHead(nn.Module):
    """`RPNHead`, whose two last layers are one."""

    def __init__(self, head: RPNHead, runtime: Runtime) -> None:
        super().__init__()
        convs: Any = head.convs
        self.convs: Any = nn.ModuleList(
            fused_conv2d(conv, conv.weight, conv.bias, runtime, chained=True) for conv in convs
        )
        siblings = head.objectness_logits, head.anchor_deltas
        self.num_anchors = siblings[0].out_channels
        weight, bias = (torch.cat([getattr(own, name) for own in siblings]) for name in ("weight", "bias"))
        self.siblings = fused_conv2d(siblings[0], weight, bias, runtime)

    def forward(self, features: Tensor | Quantized) -> tuple[Tensor, Tensor]:
        """As `RPNHead`: (N, channels, h, w) → objectness logits (N, K) and deltas (N, K, 4), float32"""
        hidden: Any = features
        for conv in self.convs:
            hidden = conv(hidden, relu=True)
        found = self.siblings(hidden).permute(0, 2, 3, 1)  # (N, h, w, 5A)
        logits, deltas = found.tensor_split([self.num_anchors], 3)
        return logits.float().flatten(1), deltas.float().reshape(len(features), -1, 4)


@optimize.register(VGG16Backbone)
@optimize.register(ZFBackbone)
def _convolutions(module: nn.Module, runtime: Runtime) -> nn.Module:
    for name, conv in list(module.named_children()):
        if isinstance(conv, nn.Conv2d):
            setattr(module, name, fused_conv2d(conv, conv.weight, conv.bias, runtime))
    return module


class FusedConvNorm(nn.Module):
    """`ConvNorm` in one step."""

    def __init__(self, conv: nn.Module, relu: bool) -> None:
        super().__init__()
        self.conv, self.relu = conv, relu

    def forward(self, x: Any, added: Any = None) -> Any:
        """As in ConvNorm; what is added is lost."""
        return self.conv(x, added, relu=self.relu)


@optimize.register
def _conv_norm(module: ConvNorm, runtime: Runtime, joined: bool = False, chained: bool = False) -> nn.Module:
    conv, norm = module.conv, module.norm
    if norm is None or folds(norm):
        weight, bias = (conv.weight, conv.bias) if norm is None else fold(conv, norm)
        return FusedConvNorm(fused_conv2d(conv, weight, bias, runtime, joined, chained), module.relu)
    module.conv = fused_conv2d(conv, conv.weight, None, runtime)
    norm.to(runtime.dtype)
    return module


@optimize.register
def _unit(module: Unit, runtime: Runtime) -> nn.Module:
    chains = _chains(module)
    for number in range(1, module.depth + 1):
        _fuse_pair(module, number, runtime, chains)
    if isinstance(module.shortcut, Projection):
        module.shortcut = _conv_norm(module.shortcut, runtime, chained=chains)
    else:
        module.shortcut = optimize(module.shortcut, runtime)
    return module if chains or not runtime.int8 else InFloats(module, runtime)


def _chains(unit: Any) -> bool:
    """Whether a residual unit is convolutions and a sum, and nothing else, so that it can hand on whole numbers."""
    simple = isinstance(unit.joining, Add) and isinstance(unit.shortcut, nn.Identity | Projection | Subsample)
    return unit.order == "original" and simple and all(folds(norm) for _, norm in unit.layers)


def _fuse_pair(module: Any, number: int, runtime: Runtime, chained: bool) -> None:
    """The fused convolution stands where the normalisation stood, which is given shortcut and ReLU."""
    conv_name, norm_name = f"conv{number}", f"norm{number}"
    conv, norm = getattr(module, conv_name), getattr(module, norm_name)
    if folds(norm) and module.order != "full_preactivation":
        setattr(module, conv_name, nn.Identity())
        fused = fused_conv2d(conv, *fold(conv, norm), runtime, joined=number == module.depth, chained=chained)
        setattr(module, norm_name, fused)
    else:
        setattr(module, conv_name, fused_conv2d(conv, conv.weight, None, runtime))
        if isinstance(norm, GroupNorm):  # others take maps of any type
            norm.to(runtime.dtype)


class InFloats(nn.Module):
    """A module that does not take whole numbers."""

    def __init__(self, module: nn.Module, runtime: Runtime) -> None:
        super().__init__()
        self.module, self.dtype = module, runtime.dtype

    def forward(self, x: Tensor | Quantized) -> Any:
        """What the module makes of x."""
        return self.module(dequantized(x, self.dtype))


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

    def forward(self, x: Any) -> Any:
        """(N, C, H, W) → (N, C, ⌈H/2⌉, ⌈W/2⌉)"""
        return x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)


@optimize.register
def _subsample(module: Subsample, runtime: Runtime) -> nn.Module:
    return module


def move_strides(backbone: Any) -> None:
    """Where a stage begins with 1×1 convolutions of stride 2, the stage before it computes only what they read."""
    for before, after in pairwise([backbone.conv2_x, backbone.conv3_x, backbone.conv4_x]):
        last, first = before[-1], after[0]
        if reads_every_second_cell(first) and isinstance(last.shortcut, nn.Identity):
            last.conv2.stride, last.shortcut = (2, 2), Subsample()
            first.conv1.stride = first.shortcut.conv.stride = (1, 1)


def reads_every_second_cell(unit: Any) -> bool:
    """Whether all that reads the unit's input are 1×1 convolutions of stride 2."""
    return isinstance(unit, Bottleneck) and unit.conv1.stride == (2, 2) and unit.projects
