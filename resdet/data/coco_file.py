"""A file of COCO's instances, found and checked."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from resdet.errors import UserError, reason

# Where the file of a split may lie in the data set's folder: COCO's own place, plain ones, Roboflow's.
FILES = ("annotations/instances_{}.json", "annotations/{}.json", "{}.json", "{}/_annotations.coco.json")
# Where its images may lie.
FOLDERS = ("{}", "images/{}", "images", ".", "{}/images")


class Split(NamedTuple):
    """What one file says, checked."""

    path: Path
    images: list[dict[str, Any]]
    numbers: list[int]
    """of the images"""
    annotations: list[dict[str, Any]]
    categories: dict[int, str]
    files: list[str]
    """path of each image; empty where it is missing"""


def load_split(root: Path, split: str, source: str) -> Split:
    """The file of a split, and where its images are.

    Args:
        root: folder of the data set
        split: a name such as train2017, or the path of a JSON file
        source: where the data set comes from, for the message when it is missing

    Raises:
        UserError: data set or file missing or damaged, or two categories of one number or name
    """
    path = _find_file(root, split)
    if path is None:
        if not root.is_dir():
            raise UserError(f"The data set {root} was not found; to get it: {source or 'see datasets/README.md'}.")
        known = ", ".join(sorted(str(p.relative_to(root)) for p in root.rglob("*.json"))[:8]) or "none"
        raise UserError(
            f"Split not found: {split!r} has no {root / FILES[0].format(split)}; JSON files found: {known}."
        )
    try:
        with _without_collections():
            content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({reason(error)}): copy it again.") from error
    lists: list[Any] = [
        content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations", "categories")
    ]
    if not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in lists):
        raise UserError(
            f"{path} is not a COCO instances file: it needs lists of images, annotations and categories."
        )
    images, annotations, categories = lists
    names = dict(
        zip(whole_numbers(path, categories, "id", "category"), _texts(path, categories, "name"), strict=True)
    )
    if len(names) < len(categories) or len(set(names.values())) < len(categories):
        raise UserError(f"{path} has two categories of one number or name: give each its own.")
    files = _find_images(root, split, path, _texts(path, images, "file_name"))
    return Split(path, images, whole_numbers(path, images, "id", "image"), annotations, names, files)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Python's search for dead cycles, set off again and again by millions of new objects, takes half the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _find_file(root: Path, split: str) -> Path | None:
    """The JSON file of a split, if there is one."""
    places = [root / place.format(split) for place in FILES]
    if split.endswith(".json"):
        places = [root / split]
    return next((path for path in places if path.is_file()), None)


def _find_images(root: Path, split: str, path: Path, names: Sequence[str]) -> list[str]:
    """The file of each image, sought where the first one that exists lies, then elsewhere; "" if there is none."""
    stem = Path(split).stem.removeprefix("instances_")
    folders = [path.parent, *(root / place.format(stem) for place in FOLDERS)]
    files = []
    for name in names:
        for number, folder in enumerate(folders):
            file = folder / name
            if file.is_file():
                files.append(str(file))
                folders.insert(0, folders.pop(number))
                break
        else:
            files.append("")
    return files


def whole_numbers(path: Path, items: list[dict[str, Any]], key: str, what: str) -> list[int]:
    """The field `key` of all items. Raises UserError unless they are whole numbers; `path` and `what` are named."""
    numbers = [item.get(key) for item in items]
    for place, number in enumerate(numbers):
        if type(number) is not int:
            raise UserError(
                f"{path}: {what} number {place} (counted from 0) has the {key} {number!r}, not a whole number."
            )
    return numbers  # type: ignore[return-value]


def _texts(path: Path, items: list[dict[str, Any]], key: str) -> list[str]:
    texts = [item.get(key) for item in items]
    for place, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise UserError(
                f"{path}: item number {place} (counted from 0) of those with a {key} has {text!r} there."
            )
    return texts  # type: ignore[return-value]
