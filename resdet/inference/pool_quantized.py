"""RoI align of maps of whole numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from resdet import ops
from resdet.engine.runtime import Runtime
from resdet.inference.quantized import Grid, Quantized, covering, dequantized
from resdet.models.poolers import ALIGNED, RoIPooler, pyramid_level


class Int8Pooler(nn.Module):
    """`RoIPooler`, which leaves whole numbers what they are where it averages them.

    Args:
        pooler: the one that it is
        runtime: type of what is pooled otherwise
    """

    def __init__(self, pooler: RoIPooler, runtime: Runtime) -> None:
        super().__init__()
        self.pooler, self.dtype = pooler, runtime.dtype

    def forward(self, features: Any, rois: Tensor, image_index: Tensor, bin_stride: int = 1) -> Any:
        """As `RoIPooler`, of maps of either kind."""
        maps = features.maps
        if not isinstance(maps[0], Quantized):
            return self.pooler(features, rois, image_index, bin_stride)
        if self.pooler.kind in ALIGNED and (self.pooler.levels or len(maps) == 1):
            return self.align(features, rois, image_index, bin_stride)
        floats = features._replace(maps=[dequantized(map_, self.dtype) for map_ in maps])
        return self.pooler(floats, rois, image_index, bin_stride)

    def align(
        self,
        features: Any,
        rois: Tensor,
        image_index: Tensor,
        bin_stride: int,
        bias: Tensor | None = None,
        grid: Grid | None = None,
    ) -> Quantized:
        """RoI align of maps of whole numbers: ReLU(pooled + bias), or only pooled where there is no bias.

        Args:
            features: the levels
            rois: (R, 4) pixels
            image_index: (R,)
            bin_stride: every so many bins are computed
            bias: (C,)
            grid: of the result; without, one over all that the maps may hold
        """
        pooler = self.pooler
        levels = pooler.levels or 1
        maps, strides = features.maps[:levels], features.strides[:levels]
        grid = grid or covering([map_.grid for map_ in maps])
        offset = torch.full((maps[0].shape[1],), float(grid.zero))
        values = ops.roi_align_quantized(
            [map_.values for map_ in maps],
            [map_.grid.zero for map_ in maps],
            [map_.grid.scale / grid.scale for map_ in maps],
            offset if bias is None else offset + bias / grid.scale,
            rois,
            image_index,
            pyramid_level(rois, levels) if pooler.levels else rois.new_zeros(len(rois), dtype=torch.int64),
            pooler.size,
            [1 / stride for stride in strides],
            pooler.sampling_ratio,
            ALIGNED[pooler.kind],
            bin_stride,
        )
        return Quantized(values, grid)
