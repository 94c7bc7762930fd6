"""Images in folders SPLIT/CLASS, such as ImageNet, for classification."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from resdet.data.images import ImageError, is_image_name, read_image
from resdet.data.loader import ImageDataset, Unreadable, shared_or_own
from resdet.data.transforms import ClsTestTransform, ClsTrainTransform
from resdet.data.tree import is_hidden
from resdet.errors import UserError, listed
from resdet.io import printable
from resdet.types import ClsBatch


class ImageFolder(NamedTuple):
    """M image files and their classes, in flat arrays that workers share without copying."""

    root: Path
    files: np.ndarray
    """(M,) bytes, paths below `root` as the system has them, which may be no UTF-8"""
    labels: np.ndarray
    """(M,) int64"""
    classes: tuple[str, ...]
    hidden: int = 0
    """images left out since they are hidden, as are the copies in .ipynb_checkpoints"""

    def file(self, index: int) -> Path:
        """Path of an image."""
        return self.root / os.fsdecode(self.files[index])


def read_image_folder(root: str | Path, split: str, classes: tuple[str, ...], *, source: str) -> ImageFolder:
    """The files of a split; the classes are its folders, sorted, or those given. The files are not opened.

    Raises UserError, which names `source`, if there are none, and for a folder that is none of the given classes.
    """
    folder = Path(root) / split
    if not folder.is_dir():
        raise UserError(f"Image folder not found: {folder}; put the images there ({source}).")
    found, hidden = _files_of_classes(folder)
    unknown = sorted(set(found) - set(classes))
    if classes and unknown:
        raise UserError(f"{folder / unknown[0]} is not a class of the training data, which has {listed(classes)}.")
    classes = classes or tuple(sorted(found))
    files = [os.fsencode(path.relative_to(folder)) for name in classes for path in found.get(name, [])]
    labels = np.repeat(np.arange(len(classes)), [len(found.get(name, [])) for name in classes])
    if not files:
        raise UserError(f"No images found in {folder}/CLASS: put them there ({source}).")
    return ImageFolder(folder, np.array(files), labels.astype(np.int64), classes, hidden)


def _files_of_classes(folder: Path) -> tuple[dict[str, list[Path]], int]:
    """The images in each class's folder, sorted, and how many more are hidden."""
    found: dict[str, list[Path]] = {}
    hidden = 0
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        images = sorted(path for path in place.rglob("*") if is_image_name(path))
        seen = [path for path in images if not any(map(is_hidden, path.relative_to(folder).parts))]
        hidden += len(images) - len(seen)
        if not is_hidden(place.name):
            found[printable(place.name)] = seen
    return found, hidden


class ClsSample(NamedTuple):
    """One image on its way into a batch, or several views of it."""

    views: np.ndarray
    """(V, H, W, 3) uint8"""
    label: int
    name: str
    position: int


class FolderDataset(ImageDataset):
    """Files, labels and a transform.

    Args:
        unreadable: as in `ImageDataset`
    """

    def __init__(
        self, folder: ImageFolder, transform: ClsTrainTransform | ClsTestTransform, *, unreadable: Unreadable
    ) -> None:
        super().__init__(len(folder.labels), unreadable)
        self.folder, self.transform = folder, transform

    def load(self, index: int, seed: int) -> ClsSample:
        """The image at `index`, resized and augmented as `seed` says. Raises ImageError."""
        name = self.folder.file(index)
        views = self.transform(read_image(name), seed)
        return ClsSample(views, int(self.folder.labels[index]), str(name), index)

    @staticmethod
    def collate(samples: list[ClsSample | ImageError]) -> ClsBatch | ImageError:
        """The views of all images that could be read, one after the other."""
        good = [sample for sample in samples if isinstance(sample, ClsSample)]
        if not good:
            return samples[0]  # type: ignore[return-value]
        count = sum(len(sample.views) for sample in good)
        views = shared_or_own(torch.empty(count, *good[0].views.shape[1:], dtype=torch.uint8))
        np.concatenate([sample.views for sample in good], out=views.numpy())
        return ClsBatch(
            views.permute(0, 3, 1, 2),
            torch.tensor([sample.label for sample in good]),
            [sample.name for sample in good],
            [sample.position for sample in good],
        )
