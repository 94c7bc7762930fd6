"""Several scales of the same images: feature maps, and regions pooled from the two that suit them (maxout).

He et al. 2015, appendix B; networks on conv feature maps (Ren et al. 2015), §3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resdet.precision import full_precision

CANONICAL = 224.0  # pixels; the side at which the trunk saw objects in its pre-training (SPPnet §4.1)


@dataclass(frozen=True)
class Pyramid:
    """The feature maps of N images at several scales, from the smallest to the largest."""

    maps: Sequence[Tensor]
    """(N, channels, h, w) at each scale"""
    factors: Sequence[float]
    """by how much the images were resized for each map"""


def finest(features: Tensor | Pyramid) -> Tensor:
    """The map of the largest images."""
    return features.maps[-1] if isinstance(features, Pyramid) else features


class MaxoutPool:
    """Pooling from the two adjacent scales at which a region is nearest to 224², the larger feature of both.

    Args:
        pool: of one map
    """

    def __init__(self, pool: Callable[..., Tensor]) -> None:
        self.pool = pool

    def __call__(self, features: Pyramid, rois: Tensor, image_index: Tensor, **options: Any) -> Tensor:
        """Pyramid, (R, 4), (R,) → (R, channels, S, S)"""
        first = lower_scale(rois, features.factors)
        pooled: Tensor | None = None
        for scale, (map_, factor) in enumerate(zip(features.maps, features.factors, strict=True)):
            own = ((first == scale) | (first + 1 == scale)).nonzero()[:, 0]
            values = self.pool(map_, rois[own] * factor, image_index[own], **options)
            if pooled is None:
                pooled = values.new_full((len(rois), *values.shape[1:]), -torch.inf)
            pooled[own] = torch.maximum(pooled[own], values)
        assert pooled is not None
        return pooled.contiguous(memory_format=torch.channels_last)


@full_precision
def lower_scale(rois: Tensor, factors: Sequence[float]) -> Tensor:
    """(R, 4) → (R,): the position of the lower of the two adjacent scales that bring a region nearest to 224².

    Nearest is the pair of the smallest sum of |log(side / 224)|, the lower one in a tie.
    """
    sides = (rois[:, 2:] - rois[:, :2]).clamp(min=1e-3).prod(1).sqrt()  # (R,)
    distance = (sides[:, None] * rois.new_tensor(factors) / CANONICAL).log().abs()  # (R, scales)
    return (distance[:, :-1] + distance[:, 1:]).argmin(1)


def resize_images(images: Tensor, sizes: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) uint8 and (N, 2) → the same, resized by `factor`; bilinear, antialiased, as they are for 1."""
    if factor == 1:
        return images, sizes
    smaller = (sizes * factor).round().long().clamp(min=1)
    canvas = images.new_zeros((len(images), 3, *smaller.amax(0).tolist()))
    for image, (height, width), target, (h, w) in zip(
        images, sizes.tolist(), canvas, smaller.tolist(), strict=True
    ):
        own = image[None, :, :height, :width].float()
        resized = F.interpolate(own, (h, w), mode="bilinear", antialias=True)
        target[:, :h, :w] = resized[0].round().clamp(0, 255).to(torch.uint8)
    return canvas, smaller
