"""From regions to maps of one size: RoI pooling, RoI align, spatial pyramids, warped images.

Shapes: N images, C channels, (h, w) a feature map, R regions, S bins along each side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from resdet import ops
from resdet.precision import full_precision
from resdet.types import FeatureMaps

ALIGNED = {"align": False, "align_v2": True}  # kinds of RoI align: are cell centers at half-integers?
CANONICAL = 224.0  # pixels; the side at which the backbone saw objects in its pre-training (SPPnet §4.1)


class RoIPooler(nn.Module):
    """Pools each region from the level that suits it.

    One map: that is the level. Maps of several image scales: the two adjacent scales at which the region is nearest
    to 224², and the larger feature of both (He et al. 2015, appendix B; networks on conv feature maps, §3.3). A
    feature pyramid: the level of the region's size (`pyramid_level`).

    RoI align comes in two versions. A convolution of stride 2 with symmetric padding centers its output i on its
    input 2i, so that cell i of a map of stride 16 sees the surroundings of pixel 16i: "align" reads the map like
    that (and takes a region to be at least one cell large). "align_v2", detectron2's default, takes the cell to be
    centered on pixel 16i + 8, half a cell away from what it sees.

    Args:
        kind: RoI max pooling, RoI align (`ALIGNED`), a spatial pyramid (`pyramid_pool`), or the image itself warped
            (`warp`)
        size: S, bins along each side; of warped images pixels
        pyramid: bins along each side of a pyramid's grids
        sampling_ratio: of RoI align, samples along each side of a bin; 0 takes one for each cell that it spans
        levels: of a feature pyramid, those from which regions are pooled; 0 where there is none
    """

    def __init__(
        self,
        kind: Literal["pool", "align", "align_v2", "pyramid", "warp"],
        size: int,
        pyramid: Sequence[int] = (),
        *,
        sampling_ratio: int = 0,
        levels: int = 0,
    ) -> None:
        super().__init__()
        self.kind, self.size, self.pyramid = kind, size, tuple(pyramid)
        self.sampling_ratio, self.levels = sampling_ratio, levels

    @property
    def bins(self) -> int:
        """Numbers that a region has in each channel."""
        return sum(n * n for n in self.pyramid) if self.kind == "pyramid" else self.size**2

    def is_linear(self, levels: int) -> bool:
        """Whether pooling from so many levels commutes with 1×1 convolutions without bias."""
        return self.kind in ALIGNED and levels == 1

    def forward(self, features: FeatureMaps, rois: Tensor, image_index: Tensor, bin_stride: int = 1) -> Tensor:
        """Pool the regions.

        Args:
            features: the levels
            rois: (R, 4) pixels
            image_index: (R,) int64, the image of each region
            bin_stride: of RoI pooling and RoI align: every so many bins along each side are computed

        Returns:
            (R, C, ⌈S/bin_stride⌉, ⌈S/bin_stride⌉), channels-last; of a pyramid (R, C, bins)
        """
        if self.levels:
            return self._pool_levels(features, rois, image_index, bin_stride)
        if len(features.maps) == 1:
            return self._pool(features.maps[0], rois, image_index, 1 / features.strides[0], bin_stride)
        scales = [features.strides[-1] / stride for stride in features.strides]
        first = lower_scale(rois, scales)
        pooled: Tensor | None = None
        for level, (map_, scale) in enumerate(zip(features.maps, scales, strict=True)):
            own = ((first == level) | (first + 1 == level)).nonzero()[:, 0]
            values = self._pool(map_, rois[own] * scale, image_index[own], 1 / features.strides[-1], bin_stride)
            if pooled is None:
                pooled = values.new_full((len(rois), *values.shape[1:]), -torch.inf)
            pooled[own] = torch.maximum(pooled[own], values)
        assert pooled is not None
        return pooled.contiguous(memory_format=torch.channels_last) if pooled.dim() == 4 else pooled

    def _pool_levels(self, features: FeatureMaps, rois: Tensor, image_index: Tensor, bin_stride: int) -> Tensor:
        """Each region from one level of the feature pyramid."""
        maps, scales = features.maps[: self.levels], [1 / stride for stride in features.strides[: self.levels]]
        level = pyramid_level(rois, self.levels)
        if self.kind in ALIGNED:
            how = (self.size, scales, self.sampling_ratio, ALIGNED[self.kind], bin_stride)
            return ops.roi_align_levels(maps, rois, image_index, level, *how)
        pooled = maps[0].new_empty(0)
        for n, (map_, scale) in enumerate(zip(maps, scales, strict=True)):
            own = (level == n).nonzero()[:, 0]
            values = self._pool(map_, rois[own], image_index[own], scale, bin_stride)
            pooled = values.new_empty((len(rois), *values.shape[1:])) if n == 0 else pooled
            pooled = pooled.index_copy(0, own, values)
        return pooled.contiguous(memory_format=torch.channels_last)

    def _pool(self, map_: Tensor, rois: Tensor, image_index: Tensor, scale: float, bin_stride: int) -> Tensor:
        if self.kind == "pyramid":
            return pyramid_pool(map_, rois, image_index, levels=self.pyramid, scale=scale)
        if self.kind == "warp":
            return warp(map_, rois, image_index, size=self.size)
        if self.kind in ALIGNED:
            aligned = ALIGNED[self.kind]
            return ops.roi_align(
                map_, rois, image_index, self.size, scale, self.sampling_ratio, aligned, stride=bin_stride
            )
        return ops.roi_pool(map_, rois, image_index, self.size, scale, bin_stride)


@full_precision
def lower_scale(rois: Tensor, scales: Sequence[float]) -> Tensor:
    """(R, 4) → (R,): the position of the lower of the two adjacent scales that bring a region nearest to 224².

    Nearest is the pair of the smallest sum of |log(side / 224)|, the lower one in a tie.
    """
    sides = (rois[:, 2:] - rois[:, :2]).clamp(min=1e-3).prod(1).sqrt()  # (R,)
    distance = (sides[:, None] * rois.new_tensor(scales) / CANONICAL).log().abs()  # (R, scales)
    return (distance[:, :-1] + distance[:, 1:]).argmin(1)


@full_precision
def pyramid_level(rois: Tensor, levels: int) -> Tensor:
    """(R, 4) → (R,) int64: the level of a feature pyramid that a region is pooled from; 0 is P2.

    ⌊4 + log₂(√(wh) / 224)⌋ (Lin et al. 2017, eq. 1), and the nearest there is. What is added, as in torchvision,
    keeps rounding from moving regions of exactly 112, 224 or 448 pixels.
    """
    sides = (rois[:, 2:] - rois[:, :2]).prod(1).sqrt()  # (R,)
    return (2 + (sides / CANONICAL).log2() + 1e-6).floor().clamp(0, levels - 1).long()


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
