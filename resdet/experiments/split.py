"""Split a data set by what is in its images, and write the splits down as lists."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import track

from resdet.config import DataConfig, DataFormat
from resdet.data.annotations import Annotations
from resdet.data.build import describe, read_all, with_skipped
from resdet.data.duplicates import fingerprint, twins
from resdet.data.formats import find_format
from resdet.data.images import ImageError, decode_image
from resdet.data.split import group_images, split_images
from resdet.data.split_file import read_split_file, relative_files, write_split_file
from resdet.errors import UserError

NAMES = ("train", "val", "test")
logger = logging.getLogger(__name__)


class Content(NamedTuple):
    """What the images of a data set show, however they are called."""

    annotations: Annotations
    """those that can be read"""
    groups: np.ndarray
    """(M,) the group of equal and nearly equal images that each belongs to"""
    unreadable: list[str]
    """one sentence for each image that cannot be read"""


def split_data(
    root: Path,
    output: Path | None = None,
    *,
    format: DataFormat | None = None,
    val: float = 0.2,
    test: float = 0.0,
) -> Path:
    """Split all images of the data set in `root`, and report what is in each part → the file of the splits.

    Args:
        root: folder of the data set
        output: file to write; None takes splits.json in `root`
        format: format of the data set; detected if not given
        val, test: shares of the images to validate and to test on

    Raises UserError if the data set cannot be read or split, or the file not be written.
    """
    if not (val > 0 and test >= 0 and val + test < 1):
        raise UserError(
            f"--val {val} and --test {test} must be shares of more than 0 (or --test 0), less than 1 together."
        )
    kind = format or find_format(root)[0]
    output = output or root / "splits.json"
    folder = next((part for part in output.absolute().parents if part.exists()), Path("/"))
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} is not writable: pass another file with --output.")
    whole = read_all(DataConfig(format=kind, root=str(root)))
    splits = make_splits(whole, root, val, test)
    for sentence in moved(output, splits):
        logger.info(sentence)
    write_split_file(output, splits)
    logger.info(f"Wrote {output}. To use it:\n")
    logger.info(f"    resdet new-recipe {root} --split-file {output}")
    logger.info(f"    resdet train-det RECIPE --data.split-file {output} --data.train train --data.val val")
    return output


def make_splits(whole: Annotations, root: Path, val: float = 0.2, test: float = 0.0) -> dict[str, list[str]]:
    """Split all images of a data set, and report what is in each part → split → paths of its images.

    Args:
        whole: all images of the data set
        root: its folder
        val, test: shares of the images to validate and to test on

    Raises UserError if there are too few images.
    """
    logger.info(describe(whole, str(root)))
    annotations, groups, unreadable = look(whole)
    independent, names = len(np.unique(groups)), NAMES if test else NAMES[:2]
    logger.info(with_skipped(f"{len(annotations)} images, {independent} of them independent", "images", unreadable))
    if independent < len(names):
        raise UserError(f"{root} has {independent} independent images, too few for {len(names)} splits: add some.")
    parts = split_images(groups, annotations.owners, annotations.labels, val, test)
    logger.info(f"\n{table(annotations, parts, names)}\n")
    for sentence in absent(annotations, groups, parts, names):
        logger.info(sentence)
    files = relative_files(annotations, root)
    return {name: [files[index] for index in np.flatnonzero(parts == part)] for part, name in enumerate(names)}


def look(whole: Annotations) -> Content:
    """Open all images, and group those that are equal or nearly so."""

    def read(file: str) -> tuple[str, np.ndarray] | ImageError:
        try:
            data = Path(file).read_bytes()
            return sha256(data).hexdigest(), fingerprint(decode_image(data, file))
        except ImageError as error:
            return error
        except OSError as error:
            return ImageError(f"{file} cannot be read: {error.strerror}.")

    files = [whole.file(index) for index in range(len(whole))]
    with ThreadPoolExecutor(4) as pool:
        seen = list(track(pool.map(read, files), "Opening images", len(files), transient=True))
    good = [index for index, found in enumerate(seen) if not isinstance(found, ImageError)]
    digests, prints = zip(*(seen[index] for index in good), strict=True) if good else ((), ())
    groups = group_images(digests, twins(np.array(prints, np.uint32).reshape(-1, 8)))
    unreadable = [str(found) for found in seen if isinstance(found, ImageError)]
    return Content(whole.select(np.array(good, np.int64)), groups, unreadable)


def count(annotations: Annotations, parts: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(C, S, 2) int64: how many images of each split show a class, and how many objects of it they show."""
    counts = np.zeros((len(annotations.classes), len(names), 2), np.int64)
    labels, images = np.unique(np.stack([annotations.labels, annotations.owners]), axis=1)
    np.add.at(counts[..., 0], (labels, parts[images]), 1)
    np.add.at(counts[..., 1], (annotations.labels, parts[annotations.owners]), 1)
    return counts


def table(annotations: Annotations, parts: np.ndarray, names: Sequence[str]) -> str:
    """How many images and objects of each class each split has, for people to read."""
    empty, splits = np.diff(annotations.offsets) == 0, range(len(names))
    images, objects = parts, parts[annotations.owners]
    every = [((images == part).sum(), (objects == part).sum()) for part in splits]
    rows = dict(zip(annotations.classes, count(annotations, parts, names).tolist(), strict=True))
    lines = [
        ["", *(f"{name}: {what}" for name in names for what in ("images", "objects"))],
        *([name, *(str(number) for pair in row for number in pair)] for name, row in rows.items()),
        ["without objects", *(cell for part in splits for cell in (str((images[empty] == part).sum()), "0"))],
        ["all", *(str(number) for pair in every for number in pair)],
    ]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join(["", line[0].ljust(first), *map(str.rjust, line[1:], others)]).rstrip() for line in lines
    )


def absent(annotations: Annotations, groups: np.ndarray, parts: np.ndarray, names: Sequence[str]) -> list[str]:
    """A sentence for each class that a split lacks."""
    counts = count(annotations, parts, names)[..., 0]
    sentences = []
    for label, part in np.argwhere((counts == 0) & counts.any(1, keepdims=True)):
        independent = len(np.unique(groups[annotations.owners[annotations.labels == label]]))
        what = f"{annotations.classes[label]!r}, which {independent} independent image{'s' * (independent > 1)}"
        sentences.append(f"No image of {names[part]} shows {what} of the data set show{'s' * (independent == 1)}.")
    return sentences


def moved(output: Path, splits: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence on the images that an older file of splits has elsewhere."""
    if not output.exists():
        return []
    try:
        before = {file: split for split, files in read_split_file(output).items() for file in files}
    except UserError:
        return [f"{output} was not a split file and is replaced."]
    now = {file: split for split, files in splits.items() for file in files}
    changed = [file for file in before if now.get(file, before[file]) != before[file]]
    return [f"{len(changed)} of the {len(before)} images that {output} listed are in another split now."]
