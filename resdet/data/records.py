"""Images as the readers of VOC's and YOLO's files find them, one file at a time, on their way into arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from resdet.data.annotations import Annotations
from resdet.errors import UserError

T = TypeVar("T")


class BadRecordError(Exception):
    """An image that is left out, and why."""


@dataclass
class ImageRecord:
    """One image and what is annotated in it."""

    id: str
    file: str
    size: tuple[int, int]
    """height, width"""
    boxes: np.ndarray
    """(G, 4) float64"""
    names: list[str]
    difficult: list[bool]
    dropped: list[str]
    """one sentence for each box that was left out"""


def read_records(
    read: Callable[[T], ImageRecord | BadRecordError], entries: Sequence[T], where: str
) -> tuple[list[ImageRecord], list[str]]:
    """`read` of each entry, several at a time: the good images, and a sentence for all that is left out.

    Raises UserError if no image of `where` is good.
    """
    records: list[ImageRecord] = []
    skipped: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        for outcome in pool.map(read, entries):
            if isinstance(outcome, BadRecordError):
                skipped.append(str(outcome))
            else:
                records.append(outcome)
                skipped += outcome.dropped
    if not records:
        raise UserError(f"No image of {where} can be used; first error: {skipped[0]}")
    return records, skipped


def inside(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether some of a box ``x1, y1, x2, y2`` lies in an image of this height and width."""
    x1, y1, x2, y2 = box
    return min(x2, size[1]) > max(x1, 0) and min(y2, size[0]) > max(y1, 0)


def flatten(
    records: Sequence[ImageRecord], classes: tuple[str, ...], skipped: Sequence[str], other_classes: str
) -> Annotations:
    """Join records into arrays.

    Args:
        classes: in the order of the labels
        other_classes: "error" refuses an object of another class, "ignore" leaves it out

    Raises:
        UserError: an object of another class, or a class named twice
    """
    label_of = label_names(classes)
    for record in records:
        _check_classes(record, label_of, other_classes)
    boxes = np.concatenate([np.zeros((0, 4)), *(record.boxes for record in records)])
    return Annotations(
        classes=classes,
        category_ids=np.arange(1, len(classes) + 1),
        ids=np.array([record.id.encode() for record in records], dtype=bytes),
        files=np.array([record.file.encode() for record in records], dtype=bytes),
        sizes=np.array([record.size for record in records], dtype=np.int32).reshape(-1, 2),
        offsets=np.cumsum([0, *(len(record.names) for record in records)], dtype=np.int64),
        boxes=boxes,
        labels=np.array([label_of[name] for record in records for name in record.names], dtype=np.int64),
        difficult=np.array([flag for record in records for flag in record.difficult], dtype=bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        skipped=tuple(skipped),
    )


def label_names(classes: tuple[str, ...]) -> dict[str, int]:
    """The label of each class. Raises UserError for a class named twice."""
    if len(set(classes)) < len(classes):
        raise UserError(f"data.classes contains a class twice: {', '.join(classes)}.")
    return {name: label for label, name in enumerate(classes)}


def _check_classes(record: ImageRecord, known: Iterable[str], other_classes: str) -> None:
    """Refuse or remove, in place, the objects of other classes."""
    unknown = [name for name in record.names if name not in known]
    if unknown and other_classes == "error":
        raise unknown_class(record.file, unknown[0], known)
    if unknown:
        keep = [i for i, name in enumerate(record.names) if name in known]
        record.names = [record.names[i] for i in keep]
        record.boxes = record.boxes[keep]
        record.difficult = [record.difficult[i] for i in keep]


def unknown_class(file: str, name: str, known: Iterable[str]) -> UserError:
    """What to report of an object in `file` whose class no setting names."""
    return UserError(
        f"{file} has an object of class {name!r}, which is not among data.classes "
        f"({', '.join(known)}): add it there, or set --data.other-classes ignore."
    )
