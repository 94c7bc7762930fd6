"""Region proposals that were made before the training: selective search's, EdgeBoxes', another detector's.

A file holds those of any number of images, each known by its identifier; best first. Shapes: M images, B boxes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resdet.data.annotations import Annotations
from resdet.errors import UserError, reason
from resdet.io import write_atomically


@dataclass(frozen=True)
class Proposals:
    """The proposals of M images, in the order of their data set."""

    offsets: np.ndarray
    """(M + 1,) int64: boxes offsets[i] to offsets[i + 1] belong to image i"""
    boxes: np.ndarray
    """(B, 4) float32, pixels"""
    seconds: float
    """that it took to make those of an image, in the mean; nan if nobody measured it"""

    def of(self, index: int) -> Tensor:
        """(P, 4) those of image `index`, in its own pixels."""
        return torch.from_numpy(self.boxes[self.offsets[index] : self.offsets[index + 1]].copy())


def write_proposals(
    path: Path, ids: Sequence[str], boxes: Sequence[np.ndarray], seconds: float = float("nan")
) -> None:
    """Write the boxes (P, 4) of each image, best first, and the seconds that one took, as a file of numpy's."""
    names = np.array([name.encode() for name in ids], dtype=bytes)
    offsets = np.cumsum([0, *(len(own) for own in boxes)], dtype=np.int64)
    together = np.concatenate([np.zeros((0, 4), np.float32), *boxes]).astype(np.float32)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, ids=names, offsets=offsets, boxes=together, seconds=seconds)

    write_atomically(path, write)


def read_proposals(paths: Sequence[str], annotations: Annotations, most: int) -> Proposals:
    """The best `most` proposals of the images of `annotations`, from files that may hold others' too.

    Raises UserError for a file that is missing or none of `write_proposals`, for an image in none of the files, and
    for boxes that leave their image.
    """
    found: dict[str, np.ndarray] = {}
    seconds = []
    for path in paths:
        boxes_of, time = _read(Path(path))
        found |= boxes_of
        seconds.append(time)
    own = []
    for index in range(len(annotations)):
        name, (height, width) = annotations.id(index), annotations.sizes[index].tolist()
        if name not in found:
            raise UserError(f"No proposals found for the image {name!r} in {', '.join(paths)}: make them first.")
        boxes = found[name]
        beyond = np.concatenate([-boxes[:, :2], boxes[:, 2:] - [width, height]]).max(initial=0)
        if not np.isfinite(boxes).all() or beyond > 1:
            raise UserError(
                f"A proposal of the image {name!r} in {', '.join(paths)} leaves it ({width}×{height} pixels): "
                "these are proposals for another image."
            )
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
        own.append(boxes[solid][:most].clip(0, np.array([width, height] * 2, np.float32)))
    offsets = np.cumsum([0, *(len(boxes) for boxes in own)], dtype=np.int64)
    return Proposals(offsets, np.concatenate([np.zeros((0, 4), np.float32), *own]), float(np.mean(seconds)))


def _read(path: Path) -> tuple[dict[str, np.ndarray], float]:
    """The boxes of each image, and the mean seconds that they took."""
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, offsets, boxes, seconds = (file[name] for name in ("ids", "offsets", "boxes", "seconds"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not a proposals file ({reason(error)}): make one with `resdet propose`."
        ) from error
    parts = np.split(boxes.reshape(-1, 4), offsets[1:-1])
    return dict(zip((name.decode() for name in ids.tolist()), parts, strict=True)), float(seconds)
