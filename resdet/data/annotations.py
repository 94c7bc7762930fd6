"""The annotations of a data set as flat arrays.

Arrays, not lists of objects: data workers are forked, and touching a Python object copies the page it lies on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from resdet.types import Target


@dataclass(frozen=True)
class Annotations:
    """M images and all their B boxes. A reader of a format makes one; nothing else knows the format."""

    classes: tuple[str, ...]
    """names in the order of the labels"""
    ids: np.ndarray
    """(M,) bytes: the identifier of each image in its data set"""
    files: np.ndarray
    """(M,) bytes: the path of each image"""
    sizes: np.ndarray
    """(M, 2) int32: height and width"""
    offsets: np.ndarray
    """(M + 1,) int64: boxes offsets[i] to offsets[i + 1] belong to image i"""
    boxes: np.ndarray
    """(B, 4) float32, pixels"""
    labels: np.ndarray
    """(B,) int64"""
    difficult: np.ndarray
    """(B,) bool"""
    skipped: tuple[str, ...]
    """one sentence for each image or box that was left out"""

    def __len__(self) -> int:
        return len(self.ids)

    def target(self, index: int) -> Target:
        """All that is annotated in image `index`, in its own pixels."""
        own = slice(self.offsets[index], self.offsets[index + 1])
        return Target(
            torch.from_numpy(self.boxes[own].copy()),
            torch.from_numpy(self.labels[own].copy()),
            torch.from_numpy(self.difficult[own].copy()),
        )

    def file(self, index: int) -> str:
        """Path of image `index`."""
        return self.files[index].decode()

    def id(self, index: int) -> str:
        """Identifier of image `index`."""
        return self.ids[index].decode()


@dataclass
class ImageRecord:
    """One image as a reader found it."""

    id: str
    file: str
    size: tuple[int, int]
    """height, width"""
    boxes: np.ndarray
    """(G, 4) float32"""
    names: list[str]
    difficult: list[bool]


def flatten(records: Sequence[ImageRecord], classes: tuple[str, ...], skipped: Sequence[str]) -> Annotations:
    """Join records into arrays; every name in them must be among `classes`."""
    label_of = {name: label for label, name in enumerate(classes)}
    return Annotations(
        classes=classes,
        ids=np.array([record.id.encode() for record in records], dtype=bytes),
        files=np.array([record.file.encode() for record in records], dtype=bytes),
        sizes=np.array([record.size for record in records], dtype=np.int32).reshape(-1, 2),
        offsets=np.cumsum([0, *(len(record.names) for record in records)], dtype=np.int64),
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *(record.boxes for record in records)]),
        labels=np.array([label_of[name] for record in records for name in record.names], dtype=np.int64),
        difficult=np.array([flag for record in records for flag in record.difficult], dtype=bool),
        skipped=tuple(skipped),
    )
