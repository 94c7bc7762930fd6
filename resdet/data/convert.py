"""A data set on its way into another format, with its images."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Mapping
from pathlib import Path

from resdet.config import DataFormat
from resdet.data.annotations import Annotations
from resdet.data.formats import FORMATS
from resdet.data.tree import unique_names
from resdet.errors import UserError


def convert(splits: Mapping[str, Annotations], kind: DataFormat, root: Path, link: bool) -> dict[str, list[str]]:
    """Write splits below `root` in the format `kind`, with copies of (or links to) their images.

    Two images of one name get names with their folders in them. Returns what the format cannot hold of each split.
    Raises UserError if the format cannot be written, or another image is in the way.
    """
    form = FORMATS[kind]
    if form.write is None or form.lost is None:
        raise UserError(f"{kind} can be read, but not written: choose {' or '.join(writable())}.")
    files = [part.file(index) for part in splits.values() for index in range(len(part))]
    name_of = dict(zip(files, unique_names(files, "_"), strict=True))
    for split, part in splits.items():
        own = [part.file(index) for index in range(len(part))]
        names = [name_of[file] + Path(file).suffix for file in own]
        for file, image in zip(own, form.write(part, root, split, names), strict=True):
            _put(Path(file), image, link)
    return {split: form.lost(part) for split, part in splits.items()}


def writable() -> list[str]:
    """The formats that can be written."""
    return [name for name, form in FORMATS.items() if form.write]


def _put(source: Path, image: Path, link: bool) -> None:
    """Copy an image to its place, or link it."""
    image.parent.mkdir(parents=True, exist_ok=True)
    if not image.exists():
        image.symlink_to(source.absolute()) if link else shutil.copy2(source, image)
    elif not image.samefile(source) and not filecmp.cmp(image, source, shallow=False):
        raise UserError(f"{image} differs from {source}: choose an empty folder.")
