"""The file that says which images of a data set are in which split, as `resdet split` writes it.

    {"train": ["JPEGImages/1.jpg", …], "val": […]}

The paths are relative to the data set's folder, with forward slashes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from resdet.data.annotations import Annotations
from resdet.errors import UserError, reason
from resdet.io import write_text

MAKE = "write it with `resdet split`"


def write_split_file(path: Path, splits: Mapping[str, Sequence[str]]) -> None:
    """Write the paths of each split in alphabetical order."""
    content = {split: sorted(Path(file).as_posix() for file in files) for split, files in splits.items()}
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_split_file(path: Path) -> dict[str, list[str]]:
    """Split → paths of its images.

    Raises UserError if the file is missing or holds something else, or an image is listed twice.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"The split file {path} cannot be read ({reason(error)}): {MAKE}.") from error
    lists = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(files, list) and all(isinstance(file, str) for file in files) for files in lists):
        raise UserError(f'{path} is not a split file, which looks like {{"train": ["a.jpg"], "val": []}}: {MAKE}.')
    splits = {split: [os.path.normpath(file) for file in files] for split, files in content.items()}
    owner: dict[str, str] = {}
    for split, files in splits.items():
        for file in files:
            if file in owner:
                where = f"twice in {split}" if owner[file] == split else f"in {owner[file]} and in {split}"
                raise UserError(f"{path} lists {file} {where}: delete one of them, or {MAKE}.")
            owner[file] = split
    return splits


def select_splits(
    whole: Annotations, root: Path, splits: Mapping[str, Sequence[str]], path: Path, names: str
) -> Annotations:
    """The images that a split file lists, in its order.

    `skipped` of the result says which of them are not in the data set, and which of the data set are in no list.

    Args:
        whole: all images of the data set
        root: its folder
        splits: split → paths of its images
        path: the split file, for messages
        names: of splits, joined by "+"

    Raises UserError for an unknown split, or if none of its images is there.
    """
    wanted: list[str] = []
    for name in map(str.strip, names.split("+")):
        if name not in splits:
            raise UserError(f"{path} has no split {name!r}: choose among {', '.join(splits) or 'none'}.")
        wanted += splits[name]
    places = {file: place for place, file in enumerate(relative_files(whole, root))}
    listed = {file for files in splits.values() for file in files}
    gone = [file for file in wanted if file not in places]
    kept = np.array([places[file] for file in wanted if file in places], np.int64)
    if not len(kept):
        error = f"{gone[0]} is missing" if gone else "the list is empty"
        raise UserError(f"No image that {path} lists for {names} is in {root} ({error}): {MAKE}.")
    skipped = [f"{file}, which {path} lists, is not among the usable images of {root}." for file in gone]
    others = [file for file in places if file not in listed]
    if others:
        skipped.append(f"{len(others)} images of {root} are in no split of {path}, such as {others[0]}.")
    return replace(whole.select(kept), skipped=(*whole.skipped, *skipped))


def relative_files(annotations: Annotations, root: Path) -> list[str]:
    """The path of each image, relative to the data set's folder."""
    return [os.path.relpath(annotations.file(index), root) for index in range(len(annotations))]
