"""Images at other sizes, inside the network: an image pyramid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_images(images: Tensor, sizes: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) uint8 and (N, 2) → the same, resized by `scale`; bilinear, antialiased, as they are for 1."""
    if scale == 1:
        return images, sizes
    smaller = (sizes * scale).round().long().clamp(min=1)
    canvas = images.new_zeros((len(images), 3, *smaller.amax(0).tolist()))
    for image, (height, width), target, (h, w) in zip(
        images, sizes.tolist(), canvas, smaller.tolist(), strict=True
    ):
        own = image[None, :, :height, :width].float()
        resized = F.interpolate(own, (h, w), mode="bilinear", antialias=True)
        target[:, :h, :w] = resized[0].round().clamp(0, 255).to(torch.uint8)
    return canvas, smaller
