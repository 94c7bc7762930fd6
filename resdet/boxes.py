"""Boxes as plain tensors.

A box is ``x1, y1, x2, y2`` in continuous pixel coordinates: the image spans [0, W] × [0, H], a box's width is
x2 − x1, and no "+1" occurs anywhere. Every function takes float tensors whose last dimension is 4, and computes in
float32 or float64, also inside autocast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from resdet.precision import full_precision

# A size delta beyond this (a 16-pixel anchor grown to 1000 pixels) is clamped, so that exp() cannot overflow.
MAX_SIZE_DELTA = math.log(1000.0 / 16)


@full_precision
def area(boxes: Tensor) -> Tensor:
    """(..., 4) → (...): width times height; zero for a box without extent."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


@full_precision
def iou(a: Tensor, b: Tensor) -> Tensor:
    """(A, 4), (B, 4) → (A, B): intersection over union; 0 where both boxes are empty."""
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])  # (A, B, 2)
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])  # (A, B, 2)
    intersection = (bottom_right - top_left).clamp(min=0).prod(-1)  # (A, B)
    union = area(a)[:, None] + area(b)[None, :] - intersection
    return torch.where(union > 0, intersection / union, torch.zeros_like(union))


def _centers_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


@full_precision
def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(..., 4), (..., 4) → (..., 4): t_x, t_y, t_w, t_h of `boxes` relative to `anchors` (R-CNN, appendix C).

    Both must have positive width and height.
    """
    x, y, w, h = _centers_and_sizes(boxes)
    xa, ya, wa, ha = _centers_and_sizes(anchors)
    return torch.stack([(x - xa) / wa, (y - ya) / ha, torch.log(w / wa), torch.log(h / ha)], dim=-1)


@full_precision
def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """(..., 4), (..., 4) → (..., 4): the inverse of `encode`; leading dimensions broadcast."""
    tx, ty, tw, th = deltas.unbind(-1)
    xa, ya, wa, ha = _centers_and_sizes(anchors)
    x, y = tx * wa + xa, ty * ha + ya
    w, h = tw.clamp(max=MAX_SIZE_DELTA).exp() * wa, th.clamp(max=MAX_SIZE_DELTA).exp() * ha
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)


@full_precision
def clip(boxes: Tensor, height: float, width: float) -> Tensor:
    """(..., 4) → (..., 4): the part of each box inside the image."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=-1)


@full_precision
def resize(boxes: Tensor, size: Sequence[int], new_size: Sequence[int]) -> Tensor:
    """(..., 4) → (..., 4): boxes of an image of (height, width) `size`, in pixels of that image at `new_size`."""
    y_scale, x_scale = new_size[0] / size[0], new_size[1] / size[1]
    return boxes * boxes.new_tensor([x_scale, y_scale, x_scale, y_scale])
