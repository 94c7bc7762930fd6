"""What a backbone's weights expect of an image: channel order, mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PixelStyle:
    """The facts that come with a family of backbone weights."""

    channels: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    """of a pixel in [0, 255], in the order of `channels`"""
    std: tuple[float, float, float]
    stride_in_1x1: bool
    """a bottleneck's stride sits in its first 1×1 convolution, not in the 3×3"""


STYLES: dict[str, PixelStyle] = {
    "torchvision": PixelStyle("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), stride_in_1x1=False),
    "msra": PixelStyle("bgr", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), stride_in_1x1=True),
    "caffe2": PixelStyle("bgr", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), stride_in_1x1=False),
}


class PixelNorm(nn.Module):
    """uint8 RGB images → what the backbone was trained on; padding becomes exactly zero, as in a convolution."""

    mean: Tensor
    std: Tensor

    def __init__(self, style: PixelStyle) -> None:
        super().__init__()
        self.bgr = style.channels == "bgr"
        self.register_buffer("mean", torch.tensor(style.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(style.std)[:, None, None], persistent=False)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) uint8 RGB, (N, 2) heights and widths without padding → (N, 3, H, W) float32"""
        images = images.flip(1) if self.bgr else images
        x = (images.float() - self.mean) / self.std
        for image, (height, width) in zip(x, [] if sizes is None else sizes.tolist(), strict=False):
            image[:, height:] = 0
            image[:, :, width:] = 0
        return x.contiguous(memory_format=torch.channels_last)
