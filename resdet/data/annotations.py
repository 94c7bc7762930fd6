"""The annotations of a data set as flat arrays.

Arrays, not lists of objects: data workers are forked, and touching a Python object copies the page it lies on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from resdet.types import Target


@dataclass(frozen=True)
class Annotations:
    """M images and all their B boxes. A reader of a format makes one; nothing else knows the format."""

    classes: tuple[str, ...]
    """names in the order of the labels"""
    category_ids: np.ndarray
    """(C,) int64: the numbers of the classes in COCO's files; 1 to C where the format has none"""
    ids: np.ndarray
    """(M,) bytes: the identifier of each image in its data set"""
    files: np.ndarray
    """(M,) bytes: the path of each image"""
    sizes: np.ndarray
    """(M, 2) int32: height and width"""
    offsets: np.ndarray
    """(M + 1,) int64: boxes offsets[i] to offsets[i + 1] belong to image i"""
    boxes: np.ndarray
    """(B, 4) float64, pixels, as annotated: a box may leave its image, but has some area inside"""
    labels: np.ndarray
    """(B,) int64"""
    difficult: np.ndarray
    """(B,) bool: VOC's difficult objects, COCO's crowd regions"""
    areas: np.ndarray
    """(B,) float64, square pixels: of masks where the files state them, else of boxes (for COCO's size ranges)"""
    skipped: tuple[str, ...]
    """one sentence for each image or box that was left out"""
    notes: tuple[str, ...] = ()
    """what else the user should know of how the files were read, one sentence each"""
    left_out: tuple[int, int] = (0, 0)
    """how many images and how many boxes are not here, those of these images included"""

    def __len__(self) -> int:
        return len(self.ids)

    def target(self, index: int) -> Target:
        """All that is annotated in image `index`, in its own pixels."""
        own = slice(self.offsets[index], self.offsets[index + 1])
        return Target(
            torch.from_numpy(self.boxes[own].astype(np.float32)),
            torch.from_numpy(self.labels[own].copy()),
            torch.from_numpy(self.difficult[own].copy()),
        )

    @property
    def owners(self) -> np.ndarray:
        """(B,) position of the image of each box"""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def without_empty(self) -> Annotations:
        """Without the images in which nothing is annotated but difficult objects."""
        return self.select(np.unique(self.owners[~self.difficult]))

    def select(self, images: np.ndarray) -> Annotations:
        """The images at these (n,) positions, in this order, and their boxes."""
        counts = np.diff(self.offsets)[images]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        boxes = np.arange(offsets[-1]) + np.repeat(self.offsets[images] - offsets[:-1], counts)
        return replace(
            self,
            ids=self.ids[images],
            files=self.files[images],
            sizes=self.sizes[images],
            offsets=offsets,
            boxes=self.boxes[boxes],
            labels=self.labels[boxes],
            difficult=self.difficult[boxes],
            areas=self.areas[boxes],
        )

    def file(self, index: int) -> str:
        """Path of image `index`."""
        return self.files[index].decode("utf-8", "surrogateescape")

    def id(self, index: int) -> str:
        """Identifier of image `index`."""
        return self.ids[index].decode()
