"""Region operators: `roi_pool`, `roi_align`, `nms`, `batched_nms`.

Letters: N images, C channels, (H, W) the feature map, R regions, S the output size, M boxes.
`scale` is the feature map's size over the image's (1/16 for a C4 trunk). For now all of them run torchvision's
kernels; what is here fixes the conventions.
"""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor


def roi_pool(features: Tensor, rois: Tensor, image_index: Tensor, size: int, scale: float) -> Tensor:
    """RoI max pooling (Fast R-CNN §2.1).

    A region's corners are rounded to cells, halves away from zero (``floor(x·scale + 0.5)``), the last cell
    included; it is divided into S × S bins whose borders are rounded outwards; an empty bin gives 0.

    Args:
        features: (N, C, H, W)
        rois: (R, 4) boxes in image pixels
        image_index: (R,) int64 in [0, N): the image of each region
        size: S, bins along each side
        scale: cells per pixel

    Returns:
        (R, C, S, S), of the features' type
    """
    full = _full_precision(features)
    pooled = torchvision.ops.roi_pool(full, _indexed(rois, image_index, full.dtype), size, scale)
    return pooled.to(features.dtype)


def roi_align(
    features: Tensor,
    rois: Tensor,
    image_index: Tensor,
    size: int,
    scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """RoI align: the mean of bilinear samples in each bin (Mask R-CNN §3). Arguments as in `roi_pool`.

    Args:
        sampling_ratio: samples along each side of a bin; 0 takes one for each cell that the bin spans
        aligned: cell centres lie at half-integers (the exact reading); False is the older, half-cell shifted one

    Returns:
        (R, C, S, S), of the features' type
    """
    full = _full_precision(features)
    pooled = torchvision.ops.roi_align(
        full, _indexed(rois, image_index, full.dtype), size, scale, sampling_ratio, aligned
    )
    return pooled.to(features.dtype)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression: a box goes if a better one overlaps it by IoU > `threshold`.

    Args:
        boxes: (M, 4)
        scores: (M,)

    Returns:
        (K,) int64 indices of the boxes that stay, best first
    """
    boxes = _full_precision(boxes)
    return torchvision.ops.nms(boxes, scores.to(boxes.dtype), threshold)


def batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """`nms` among the boxes of each label (M,) separately; indices of all that stay, best first."""
    # torchvision moves each label's boxes apart, which holds only for coordinates from 0 up; float64 moves exactly.
    origin = boxes.min() if boxes.numel() else 0
    return torchvision.ops.batched_nms(boxes.double() - origin, scores.double(), labels, threshold)


def _full_precision(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def _indexed(rois: Tensor, image_index: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, 5): image index and box, as torchvision's kernels take them.

    `dtype` is never a half type: bfloat16 would place a corner at pixel 600 two pixels off.
    """
    return torch.cat([image_index[:, None].to(dtype), rois.to(dtype)], dim=1)
