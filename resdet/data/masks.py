"""The boxes around masks: polygons, and COCO's run-length codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def mask_box(segmentation: Any, size: tuple[int, int] | None) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 around COCO's polygons or run-length code; None if it is neither.

    Args:
        segmentation: [[x1, y1, x2, y2, …], …], or {"counts": …, "size": [height, width]}
        size: height and width, where the code states none
    """
    try:
        if isinstance(segmentation, dict):
            return _rle_box(segmentation, size)
        points = np.array([value for polygon in segmentation for value in polygon], np.float64).reshape(-1, 2)
    except (TypeError, ValueError, KeyError):
        return None
    return points_box(points)


def points_box(points: np.ndarray | Sequence[Sequence[float]]) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 around (P, 2) points; None if there are fewer than two, or one is not finite."""
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or len(points) < 2 or not np.isfinite(points).all():
        return None
    return (*points.min(0).tolist(), *points.max(0).tolist())


def _rle_box(code: dict[str, Any], size: tuple[int, int] | None) -> tuple[float, float, float, float] | None:
    height, width = code.get("size") or size or (0, 0)
    counts = code["counts"]
    if isinstance(counts, list):
        code = coco_mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
    else:
        code = {"counts": counts.encode() if isinstance(counts, str) else counts, "size": [height, width]}
    x, y, w, h = coco_mask.toBbox(code).tolist()
    return (x, y, x + w, y + h) if w > 0 and h > 0 else None
