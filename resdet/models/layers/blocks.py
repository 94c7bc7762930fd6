"""The residual units of He et al. 2015 (Fig. 5) and 2016 (Figs. 2 and 4).

A unit computes x_{l+1} = f(h(x_l) + F(x_l, W_l)): the residual branch F of two or three convolutions, the shortcut
h, their joining, and the order of convolution, normalisation (BN) and ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.models.layers.conv import Conv2d
from resdet.models.layers.conv_norm import ConvNorm
from resdet.models.layers.norm import Norm

Order = Literal["original", "norm_after", "relu_before", "relu_preactivation", "full_preactivation"]
Shortcut = Literal["A", "B", "C", "none"]
Joining = Literal["add", "scale", "exclusive_gate", "shortcut_gate", "dropout"]


# Shortcuts


class Projection(ConvNorm):
    """Option B where the shape changes, C everywhere: 1×1 convolution and normalisation (2015, §3.3)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__(inputs, outputs, 1, stride, norm=norm)


class PaddedIdentity(nn.Module):
    """Option A where the shape changes: every `stride`-th pixel, zeros in the new channels (2015, §3.3)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉)"""
        pixels = x.permute(0, 2, 3, 1)  # so that the gradient is channels-last too
        pixels = pixels[:, :: self.stride, :: self.stride]
        return F.pad(pixels, (0, self.new)).permute(0, 3, 1, 2)


def make_shortcut(kind: Shortcut, inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module:
    """h for a unit of this shape: the identity where `kind` allows it."""
    if kind == "C" or (kind == "B" and (stride != 1 or inputs != outputs)):
        return Projection(inputs, outputs, stride, norm)
    return nn.Identity() if stride == 1 and inputs == outputs else PaddedIdentity(inputs, outputs, stride)


# Joinings: shortcut and residual → their sum, each weighted (2016, §3). The unit's input decides on the gates.


class Add(nn.Module):
    """(a) The sum."""

    def forward(self, x: Tensor, shortcut: Tensor, residual: Tensor) -> Tensor:
        """The unit's input, (N, C, H, W) and (N, C, H, W) → (N, C, H, W)"""
        return shortcut + residual


class Scale(nn.Module):
    """(b) Constant scaling: λ of the shortcut, 1 − λ of the residual."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor, shortcut: Tensor, residual: Tensor) -> Tensor:
        """The unit's input, (N, C, H, W) and (N, C, H, W) → (N, C, H, W)"""
        return torch.lerp(residual, shortcut, self.share)


class Gate(nn.Module):
    """(c), (d) g(x) = sigmoid(W_g x + b_g) of each output; the shortcut counts 1 − g(x), the residual g(x) or 1.

    Args:
        exclusive: the residual counts g(x) (c), not 1 (d)
        bias: initial b_g; 2016, Table 1 is best at −6
    """

    def __init__(self, inputs: int, outputs: int, stride: int, exclusive: bool, bias: float = -6.0) -> None:
        super().__init__()
        self.exclusive = exclusive
        self.conv = nn.Conv2d(inputs, outputs, 1, stride)
        nn.init.constant_(self.conv.bias, bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, shortcut: Tensor, residual: Tensor) -> Tensor:
        """The unit's input, (N, C, H, W) and (N, C, H, W) → (N, C, H, W)"""
        gate = self.conv(x).sigmoid()
        return (1 - gate) * shortcut + (gate * residual if self.exclusive else residual)


class DropoutShortcut(nn.Module):
    """(f) Dropout of ratio 0.5 on the shortcut."""

    def forward(self, x: Tensor, shortcut: Tensor, residual: Tensor) -> Tensor:
        """The unit's input, (N, C, H, W) and (N, C, H, W) → (N, C, H, W)"""
        return F.dropout(shortcut, 0.5, self.training) + residual


class Residual(nn.Module):
    """No shortcut at all: a plain network."""

    def forward(self, x: Tensor, shortcut: Tensor, residual: Tensor) -> Tensor:
        """The unit's input, (N, C, H, W) and (N, C, H, W) → (N, C, H, W)"""
        return residual


def make_joining(kind: Joining, inputs: int, outputs: int, stride: int) -> nn.Module:
    """The joining of a unit of this shape."""
    if kind in ("exclusive_gate", "shortcut_gate"):
        return Gate(inputs, outputs, stride, exclusive=kind == "exclusive_gate")
    return {"add": Add, "scale": Scale, "dropout": DropoutShortcut}[kind]()


# Orders (2016, Fig. 4). `unit.layers` are the convolutions with their normalisations.


def original(unit: Unit, x: Tensor) -> Tensor:
    """(a) F: conv, BN, ReLU, …, conv, BN; f: ReLU."""
    *layers, (last, last_norm) = unit.layers
    y = x
    for conv, norm in layers:
        y = norm(conv(y), relu=True)
    if isinstance(unit.joining, Add):
        return last_norm(last(y), added=unit.shortcut(x), relu=True)
    return _relu(unit.join(x, last_norm(last(y))))


def norm_after(unit: Unit, x: Tensor) -> Tensor:
    """(b) F: conv, BN, ReLU, …, conv; f: BN, ReLU."""
    *layers, (last, last_norm) = unit.layers
    y = x
    for conv, norm in layers:
        y = norm(conv(y), relu=True)
    return last_norm(unit.join(x, last(y)), relu=True)


def relu_before(unit: Unit, x: Tensor) -> Tensor:
    """(c) F: conv, BN, ReLU, …, conv, BN, ReLU; f: identity."""
    y = x
    for conv, norm in unit.layers:
        y = norm(conv(y), relu=True)
    return unit.join(x, y)


def relu_preactivation(unit: Unit, x: Tensor) -> Tensor:
    """(d) F: ReLU, conv, BN, …, ReLU, conv, BN; f: identity."""
    *layers, (last, last_norm) = unit.layers
    y = x if unit.activated else F.relu(x)
    x = y if unit.projects else x
    for conv, norm in layers:
        y = norm(conv(y), relu=True)
    return unit.join(x, last_norm(last(y)))


def full_preactivation(unit: Unit, x: Tensor) -> Tensor:
    """(e) F: BN, ReLU, conv, …, BN, ReLU, conv; f: identity."""
    (first, first_norm), *layers = unit.layers
    y = x if unit.activated else first_norm(x, relu=True)
    x = y if unit.projects else x
    y = first(y)
    for conv, norm in layers:
        y = conv(norm(y, relu=True))
    return unit.join(x, y)


ORDERS: dict[str, Callable[[Unit, Tensor], Tensor]] = {
    "original": original,
    "norm_after": norm_after,
    "relu_before": relu_before,
    "relu_preactivation": relu_preactivation,
    "full_preactivation": full_preactivation,
}


def _relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


# Units


class Unit(nn.Module):
    """A residual unit; `BasicBlock` and `Bottleneck` say which convolutions it has.

    Args:
        inputs: channels that come in
        width: channels of the 3×3 convolutions; `expansion` times as many go out
        stride: of the unit
        norm: makes the normalisation layers
        order: of convolution, normalisation and ReLU
        shortcut: A (zero padding), B (projection where the shape changes), C (projection everywhere), none (plain)
        joining: of shortcut and residual
        stride_in_1x1: a bottleneck's stride in its first 1×1 (the paper) or in its 3×3 (torchvision's weights)
        activated: with pre-activation: the input is normalised and rectified already, for both paths, as is that
            of a network's first unit (2016, appendix)
        dilation: of the 3×3 convolutions
        groups: of channels that a bottleneck's 3×3 convolution takes apart (Xie et al. 2017, Fig. 3c)
        width_per_group: channels of each of them in conv2_x; 64 with one group is the plain bottleneck
    """

    expansion: int
    depth: int

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        *,
        norm: Norm,
        order: Order = "original",
        shortcut: Shortcut = "B",
        joining: Joining = "add",
        stride_in_1x1: bool = False,
        activated: bool = False,
        dilation: int = 1,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.order, self.activated = order, activated
        inner = width * width_per_group // 64 * groups
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        for number, conv in enumerate(
            self.convolutions(inputs, inner, outputs, first, second, dilation, groups), 1
        ):
            before = order == "full_preactivation"
            unused = before and activated and number == 1
            self.add_module(f"conv{number}", conv)
            self.add_module(
                f"norm{number}",
                nn.Identity() if unused else norm(conv.in_channels if before else conv.out_channels),
            )
        plain = shortcut == "none"
        self.shortcut = nn.Identity() if plain else make_shortcut(shortcut, inputs, outputs, stride, norm)
        self.joining = Residual() if plain else make_joining(joining, inputs, outputs, stride)
        self.projects = isinstance(self.shortcut, Projection)

    @staticmethod
    def convolutions(
        inputs: int, width: int, outputs: int, first: int, second: int, dilation: int, groups: int
    ) -> list[Conv2d]:
        """Of the residual branch; `first` and `second` are the strides of a bottleneck's first two."""
        raise NotImplementedError

    @property
    def layers(self) -> list[tuple[nn.Module, nn.Module]]:
        """The convolutions of the residual branch, each with its normalisation."""
        return [(getattr(self, f"conv{n}"), getattr(self, f"norm{n}")) for n in range(1, self.depth + 1)]

    def join(self, x: Tensor, residual: Tensor) -> Tensor:
        """What the shortcut makes of the unit's input, and the residual, together."""
        return self.joining(x, self.shortcut(x), residual)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, expansion·width, ⌈H/stride⌉, ⌈W/stride⌉)"""
        return ORDERS[self.order](self, x)


class BasicBlock(Unit):
    """Two 3×3 convolutions (2015, Fig. 5 left), for 18 and 34 layers."""

    expansion, depth = 1, 2

    @staticmethod
    def convolutions(
        inputs: int, width: int, outputs: int, first: int, second: int, dilation: int, groups: int
    ) -> list[Conv2d]:
        """3×3, 3×3; there is no 1×1 for the stride to sit in."""
        assert groups == 1, "only bottlenecks have groups"
        return [
            Conv2d(inputs, width, 3, first * second, dilation=dilation),
            Conv2d(width, outputs, 3, dilation=dilation),
        ]


class Bottleneck(Unit):
    """1×1, 3×3, 1×1 convolutions (2015, Fig. 5 right), for 50 layers and more."""

    expansion, depth = 4, 3

    @staticmethod
    def convolutions(
        inputs: int, width: int, outputs: int, first: int, second: int, dilation: int, groups: int
    ) -> list[Conv2d]:
        """1×1 to `width`, 3×3, 1×1 to `outputs`."""
        return [
            Conv2d(inputs, width, 1, first),
            Conv2d(width, width, 3, second, dilation=dilation, groups=groups),
            Conv2d(width, outputs, 1),
        ]
