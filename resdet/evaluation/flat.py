"""The boxes of a data set one after another, checked; how far boxes overlap, and which belong together.

Shapes: n boxes of a data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resdet.types import Detections, Target


class Flat(NamedTuple):
    """The boxes of all images, one after another."""

    images: NDArray[np.int64]
    """(n,) position of the image"""
    boxes: NDArray[np.float64]
    """(n, 4)"""
    labels: NDArray[np.int64]
    """(n,)"""
    values: NDArray[np.float64]
    """(n,) scores of detections, difficult flags of ground truth"""


def flatten(
    per_image: Sequence[Detections] | Sequence[Target], value_field: str, num_classes: int, what: str
) -> Flat:
    """Join the boxes of all images.

    Args:
        value_field: the field beside boxes and labels: scores or difficult
        what: to call a box in messages

    Raises:
        ValueError: a label outside the classes, a number that is not finite, or fields of different lengths
    """
    boxes_per_image = [np.asarray(item.boxes, dtype=np.float64).reshape(-1, 4) for item in per_image]
    labels_per_image = [np.asarray(item.labels, dtype=np.int64) for item in per_image]
    values_per_image = [np.asarray(getattr(item, value_field), dtype=np.float64) for item in per_image]
    for i, fields in enumerate(zip(boxes_per_image, labels_per_image, values_per_image, strict=True)):
        if len({len(field) for field in fields}) > 1:
            raise ValueError(
                f"Image number {i} (counted from 0) must have as many labels and {value_field} as boxes."
            )
    flat = Flat(
        images=np.repeat(np.arange(len(per_image)), [len(b) for b in boxes_per_image]),
        boxes=np.concatenate([np.empty((0, 4)), *boxes_per_image]),
        labels=np.concatenate([np.empty(0, np.int64), *labels_per_image]),
        values=np.concatenate([np.empty(0), *values_per_image]),
    )
    finite = np.logical_and.reduce(np.isfinite(flat.boxes), axis=1)
    inside = (flat.labels >= 0) & (flat.labels < num_classes)
    _require(flat, np.isfinite(flat.values), f"has a {what} whose score is not a finite number")
    _require(flat, finite, f"has a {what} whose corners are not finite numbers")
    _require(flat, inside, f"has a {what} outside the {num_classes} classes")
    return flat


def flatten_both(
    detections: Sequence[Detections], targets: Sequence[Target], num_classes: int
) -> tuple[Flat, Flat]:
    """`flatten` of detections and ground truth. Raises ValueError if they are not of as many images, too."""
    if len(detections) != len(targets):
        raise ValueError(f"There are detections for {len(detections)} images but ground truth for {len(targets)}.")
    found = flatten(detections, "scores", num_classes, "detection")
    return found, flatten(targets, "difficult", num_classes, "ground-truth box")


def _require(flat: Flat, good: NDArray[np.bool_], complaint: str) -> None:
    if not good.all():
        raise ValueError(f"Image number {flat.images[good.argmin()]} (counted from 0) {complaint}.")


def overlap(a: NDArray[np.float64], b: NDArray[np.float64], crowd: bool = False) -> NDArray[np.float64]:
    """(…, 4), (…, 4) → (…,): intersection over union of boxes that broadcast; 0 where they do not meet.

    With `crowd`, over the area of `a` alone: how much of it lies in a crowd region `b`, as COCO matches those.
    """
    sides = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    area_a, area_b = ((box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b))
    union = np.broadcast_to(area_a, intersection.shape) if crowd else area_a + area_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)


def pair(overlaps: NDArray[np.float64], least: float = 0.0) -> list[tuple[int, int]]:
    """(R, S) → rows and columns that belong together, each in one pair: highest overlap first, then what is left.

    The first row counts in a tie, then the first column. Pairs overlap, and by `least` or more.
    """
    places = np.argwhere((overlaps > 0) & (overlaps >= least))  # (P, 2), row by row
    order = np.argsort(-overlaps[tuple(places.T)], kind="stable")
    pairs: dict[int, int] = {}
    taken = set()
    for row, column in places[order].tolist():
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return list(pairs.items())
