"""Which image files are meant by files, folders and patterns on a command line."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from resdet.data.images import is_image_name
from resdet.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg", ".flv", ".3gp")


class FoundImage(NamedTuple):
    """An image file, and where it was found."""

    file: Path
    folder: Path
    """below the folder that was searched; "." for a file that was named itself"""


class FoundImages(NamedTuple):
    """What a search found, in the order of the names."""

    images: list[FoundImage]
    others: list[Path]
    """files in folders that are not images by their names; hidden ones are not listed"""


def find_images(places: Iterable[str | os.PathLike[str]]) -> FoundImages:
    """The images that `places` name: files, folders with all that is below them, and patterns such as photos/*.jpg.

    Hidden files and folders are passed over, and each file is listed once. Raises UserError for a pattern that
    matches nothing, and for URLs, videos and cameras, with what to do.
    """
    images: dict[str, FoundImage] = {}
    others: dict[str, Path] = {}
    for place in places:
        for found in _expand(os.fspath(place)):
            if found.file.is_dir():
                for file, below in _files_in(found.file):
                    if is_image_name(file):
                        images.setdefault(os.path.abspath(file), FoundImage(file, found.folder / below))
                    else:
                        others.setdefault(os.path.abspath(file), file)
            else:
                images.setdefault(os.path.abspath(found.file), found)
    return FoundImages(list(images.values()), list(others.values()))


def _expand(place: str) -> list[FoundImage]:
    """A file or a folder as it is, a pattern as what it matches."""
    path = Path(place)
    if path.exists():
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            raise UserError(
                f"{place} is a video: extract its frames, `ffmpeg -i {shlex.quote(place)} FOLDER/%06d.jpg`."
            )
        return [FoundImage(path, Path())]
    if re.match(r"[a-z][a-z0-9+]+:/", place, re.IGNORECASE):
        raise UserError(f"{place} is not a file: download it, and pass the file.")
    if place.isdecimal():
        raise UserError(f"{place} is not a file, and cameras are not read: save frames, for instance with ffmpeg.")
    if not glob.has_magic(place):
        return [FoundImage(path, Path())]
    matches = sorted(map(Path, glob.glob(place, recursive=True)))
    if not matches:
        raise UserError(f"No file matches {place}: check the pattern.")
    parts = path.parts
    fixed = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    return [FoundImage(match, match.parent.relative_to(fixed)) for match in matches]


def _files_in(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Each file below `folder`, and the folder that holds it, relative to `folder`; links are followed once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        names = [] if real in seen else sorted(name for name in names if not name.startswith("."))
        seen.add(real)
        for name in names:
            yield Path(place, name), Path(place).relative_to(folder)
