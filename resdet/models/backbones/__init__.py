"""Backbones: normalised images → one feature map for each level."""

from __future__ import annotations

from torch import Tensor, nn


class Backbone(nn.Module):
    """What images pass through once."""

    strides: tuple[int, ...]
    """pixels from cell to cell of each level"""
    channels: int
    """of each level"""

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised images → (N, channels, ⌈H/stride⌉, ⌈W/stride⌉) for each level"""
        raise NotImplementedError

    def classifier_parts(self) -> dict[str, nn.Module]:
        """Which part of a classifier fills which module of this one."""
        return {"backbone": self}


class Pixels(Backbone):
    """The images themselves: the backbone of R-CNN, which cuts its regions out of them."""

    strides, channels = (1,), 3

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) → the same, as the one level"""
        return [images]
