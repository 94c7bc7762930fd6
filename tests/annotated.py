"""Annotations that no file holds, for the tests of what is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resdet.data.annotations import Annotations


class Picture(NamedTuple):
    """An image and its objects."""

    name: str
    size: tuple[int, int]
    boxes: Sequence[Sequence[float]] | np.ndarray = ()
    labels: Sequence[int] = ()
    """0 for each box if there are none"""
    difficult: Sequence[bool] = ()
    """False for each box if there are none"""


def annotated(
    pictures: Sequence[Picture], classes: tuple[str, ...] = ("x",), skipped: tuple[str, ...] = ()
) -> Annotations:
    """The arrays of these images, whose files are called NAME.jpg."""
    counts = [len(picture.boxes) for picture in pictures]
    boxes = np.concatenate([np.reshape(picture.boxes, (-1, 4)) for picture in pictures]).astype(np.float64)
    labels = [label for picture in pictures for label in (picture.labels or [0] * len(picture.boxes))]
    flags = [flag for picture in pictures for flag in (picture.difficult or [False] * len(picture.boxes))]
    return Annotations(
        classes=classes,
        category_ids=np.arange(1, len(classes) + 1),
        ids=np.array([picture.name.encode() for picture in pictures]),
        files=np.array([f"{picture.name}.jpg".encode() for picture in pictures]),
        sizes=np.array([picture.size for picture in pictures], np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=np.array(labels, np.int64),
        difficult=np.array(flags, bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        skipped=skipped,
    )
