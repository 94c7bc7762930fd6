"""Region operators: `roi_pool`, `roi_align`, `nms`, `batched_nms`; and the sums of batch normalisation.

Letters: N images, C channels, (H, W) the feature map, R regions, S the output size, M boxes.
`scale` is the feature map's size over the image's (1/16 for a C4 trunk). On a CPU they run our own kernels (csrc/),
elsewhere, and where those could not be built, torchvision's. Regions and boxes always count in full precision.
"""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor

from resdet.ops import library


def roi_pool(
    features: Tensor, rois: Tensor, image_index: Tensor, size: int, scale: float, stride: int = 1
) -> Tensor:
    """RoI max pooling (Fast R-CNN §2.1).

    A region's corners are rounded to cells, halves away from zero (``floor(x·scale + 0.5)``), the last cell
    included; it is divided into S × S bins whose borders are rounded outwards; an empty bin gives 0.

    Args:
        features: (N, C, H, W)
        rois: (R, 4) boxes in image pixels
        image_index: (R,) int64 in [0, N): the image of each region
        size: S, bins along each side
        scale: cells per pixel
        stride: every `stride`-th bin along each side is computed, the others are left out of the result

    Returns:
        (R, C, ⌈S/stride⌉, ⌈S/stride⌉), of the features' type
    """
    if _own(features):
        return library.OPS.roi_pool(_typed(features), rois, image_index, size, scale, stride)[0].to(features.dtype)
    full = _full_precision(features)
    pooled = torchvision.ops.roi_pool(full, _indexed(rois, image_index, full.dtype), size, scale)
    return pooled[:, :, ::stride, ::stride].to(features.dtype)


def roi_align(
    features: Tensor,
    rois: Tensor,
    image_index: Tensor,
    size: int,
    scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
    stride: int = 1,
) -> Tensor:
    """RoI align: the mean of bilinear samples in each bin (Mask R-CNN §3). Arguments as in `roi_pool`.

    Args:
        sampling_ratio: samples along each side of a bin; 0 takes one for each cell that the bin spans
        aligned: cell centres lie at half-integers (the exact reading); False is the older, half-cell shifted one

    Returns:
        (R, C, ⌈S/stride⌉, ⌈S/stride⌉), of the features' type
    """
    if _own(features):
        pooled = library.OPS.roi_align(
            _typed(features), rois, image_index, size, scale, sampling_ratio, aligned, stride
        )
        return pooled.to(features.dtype)
    full = _full_precision(features)
    pooled = torchvision.ops.roi_align(
        full, _indexed(rois, image_index, full.dtype), size, scale, sampling_ratio, aligned
    )
    return pooled[:, :, ::stride, ::stride].to(features.dtype)


def nms(boxes: Tensor, scores: Tensor, threshold: float, max_output: int | None = None) -> Tensor:
    """Greedy non-maximum suppression: a box goes if a better one overlaps it by IoU > `threshold`.

    Args:
        boxes: (M, 4)
        scores: (M,)
        max_output: boxes that are wanted; the search ends with them

    Returns:
        (K,) int64 indices of the boxes that stay, best first
    """
    boxes = _full_precision(boxes)
    if _own(boxes):
        return library.OPS.nms(boxes, scores.to(boxes.dtype), None, threshold, _limit(max_output))
    return torchvision.ops.nms(boxes, scores.to(boxes.dtype), threshold)[:max_output]


def batched_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, max_output: int | None = None
) -> Tensor:
    """`nms` among the boxes of each label (M,) separately; indices of all that stay, best first."""
    if _own(boxes):
        boxes = _full_precision(boxes)
        return library.OPS.nms(boxes, scores.to(boxes.dtype), labels, threshold, _limit(max_output))
    # torchvision moves each label's boxes apart, which holds only for coordinates from 0 up; float64 moves exactly.
    origin = boxes.min() if boxes.numel() else 0
    return torchvision.ops.batched_nms(boxes.double() - origin, scores.double(), labels, threshold)[:max_output]


def channel_sums(a: Tensor | None, b: Tensor, pivot: Tensor) -> Tensor:
    """Σ a and Σ a·(b − pivot) over all but the channels: the sums of batch normalisation and of its gradient.

    Args:
        a: (N, C, H, W); nothing stands for b − pivot
        b: (N, C, H, W), of the same type
        pivot: (C,)

    Returns:
        (2, C), float64 for float64 and float32 for everything else; no gradient flows through it
    """
    if _own(b) and b.dtype in library.TYPES:
        return library.OPS.channel_sums(a, b, pivot)
    centered = _full_precision(b) - pivot[:, None, None]
    a = centered if a is None else _full_precision(a)
    return torch.stack([a.sum((0, 2, 3)), (a * centered).sum((0, 2, 3))])


def _own(x: Tensor) -> bool:
    """Whether our own kernels serve this tensor's device."""
    return x.device.type == "cpu" and library.COMPILED


def _typed(x: Tensor) -> Tensor:
    """A type that our own kernels know."""
    return x if x.dtype in library.TYPES else x.float()


def _limit(max_output: int | None) -> int:
    return -1 if max_output is None else max_output


def _full_precision(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def _indexed(rois: Tensor, image_index: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, 5): image index and box, as torchvision's kernels take them.

    `dtype` is never a half type: bfloat16 would place a corner at pixel 600 two pixels off.
    """
    return torch.cat([image_index[:, None].to(dtype), rois.to(dtype)], dim=1)
