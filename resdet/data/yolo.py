"""Reader and writer of data sets in YOLO's format: beside each image a text file, a line for each object."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from resdet.data.annotations import Annotations
from resdet.data.images import ImageError, is_image_name, probe_image
from resdet.data.records import BadRecordError, ImageRecord, flatten, inside, read_records
from resdet.errors import UserError, reason

# Where the images of a split may lie if no YAML file says so.
FOLDERS = ("images/{}", "{}/images", "{}")


def read_yolo(
    root: str | Path,
    splits: str,
    classes: tuple[str, ...] = (),
    *,
    other_classes: str = "error",
    source: str = "",
) -> Annotations:
    """Read the images of `splits`, and for each ``images/…/NAME.jpg`` the objects in ``labels/…/NAME.txt``.

    A line is ``class x y width height``, the box's centre and size as shares of the image's width and height; a
    longer one, ``class x1 y1 x2 y2 …``, is a polygon, of which the box around it is taken. Images without a text
    file show no object. The classes' names are those of ``data.yaml`` or ``classes.txt``. Images with a broken
    file are left out; `skipped` of the result says which and why.

    Args:
        root: folder of the data set
        splits: names such as train, joined by "+": keys of ``data.yaml``, or folders ``images/NAME``
        classes: in the order of the labels; empty takes all that the data set names
        other_classes: "error" refuses an object of another class, "ignore" leaves it out
        source: where the data set comes from, for the message when it is missing

    Raises:
        UserError: data set, split or names of classes missing, no usable image, unknown class
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"The data set {root} was not found; to get it: {source or 'see datasets/README.md'}.")
    description = read_description(root)
    names = _class_names(root, description)
    images = [entry for split in splits.split("+") for entry in _list(root, split.strip(), description)]
    records, skipped = read_records(lambda entry: _read_record(*entry, names), images, f"{root}, {splits},")
    return flatten(records, classes or tuple(names), skipped, other_classes)


# Where things are


def read_description(root: Path) -> dict[str, Any]:
    """What the YAML file in the data set's folder says; empty if there is none."""
    files = sorted([*root.glob("*.yaml"), *root.glob("*.yml")], key=lambda path: path.stem != "data")
    if not files:
        return {}
    try:
        content = yaml.safe_load(files[0].read_bytes())
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise UserError(f"{files[0]} cannot be read as YAML: {reason(error)}.") from error
    return content if isinstance(content, dict) else {}


def _class_names(root: Path, description: dict[str, Any]) -> list[str]:
    named = description.get("names")
    if isinstance(named, dict) and sorted(named) == list(range(len(named))):
        named = [named[number] for number in range(len(named))]
    if isinstance(named, list) and named:
        return [str(name).strip() for name in named]
    for path in (root / "classes.txt", root / "labels" / "classes.txt", root / "obj.names"):
        if path.is_file():
            return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    raise UserError(f"Class names not found in {root}: write data.yaml with `names: [first, second]`.")


def _list(root: Path, split: str, description: dict[str, Any]) -> list[tuple[Path, str]]:
    """The images of one split, each with its identifier: its path in their folder, without the ending."""
    stated = description.get(split)
    entries = stated if isinstance(stated, list) else [stated] if stated else []
    base = root / str(description.get("path", ""))
    places = [_place(str(entry), root, base) for entry in entries]
    if not places:
        found = [root / folder.format(split) for folder in FOLDERS if (root / folder.format(split)).is_dir()]
        if not found:
            raise UserError(
                f"Split not found: {split!r} of {root} has neither data.yaml nor {root / 'images' / split}."
            )
        places = found[:1]
    images = [entry for place in places for entry in _images(place)]
    if not images:
        raise UserError(f"No images found in {places[0]}: put the images of the split {split!r} there.")
    return images


def _place(entry: str, root: Path, base: Path) -> Path:
    """What `entry` of the YAML file means; exports write paths that begin at other folders than the file's own."""
    below = entry.removeprefix("../")
    for path in (base / entry, root / entry, root / below, root / base.name / entry):
        if path.exists():
            return path
    raise UserError(f"data.yaml in {root} names {entry}, which was not found there: fix the path.")


def _images(place: Path) -> list[tuple[Path, str]]:
    """The images below a folder, or those that a text file lists, one a line."""
    if place.is_dir():
        found = sorted(path for path in place.rglob("*") if is_image_name(path))
        return [(path, str(path.relative_to(place).with_suffix(""))) for path in found]
    lines = place.read_text(encoding="utf-8-sig").splitlines()
    return [(place.parent / line.strip(), Path(line.strip()).stem) for line in lines if line.strip()]


def label_file(image: Path) -> Path:
    """The text file of an image: its path with the last folder ``images`` replaced by ``labels``."""
    before, images, after = str(image).rpartition(f"{os.sep}images{os.sep}")
    return Path(f"{before}{os.sep}labels{os.sep}{after}" if images else image).with_suffix(".txt")


# An image


def _read_record(image: Path, image_id: str, names: Sequence[str]) -> ImageRecord | BadRecordError:
    """One image, or why it is left out."""
    text = label_file(image)
    try:
        record = ImageRecord(image_id, str(image), probe_image(image), np.zeros((0, 4)), [], [], [])
        lines = text.read_text(encoding="utf-8-sig").splitlines() if text.is_file() else []
        boxes = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                label, box = _read_line(line, f"{text}, line {number}", record.size, len(names))
                if inside(box, record.size):
                    boxes.append(box)
                    record.names.append(names[label])
                else:
                    record.dropped.append(f"{text}, line {number}: the box has no area inside the image.")
    except (BadRecordError, ImageError) as error:
        return BadRecordError(str(error))
    except (OSError, UnicodeDecodeError) as error:
        return BadRecordError(f"{text} cannot be read: {reason(error)}.")
    record.boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    record.difficult = [False] * len(boxes)
    return record


def _read_line(line: str, where: str, size: tuple[int, int], classes: int) -> tuple[int, list[float]]:
    """Label and box, ``x1, y1, x2, y2`` in pixels."""
    try:
        label, *values = map(float, line.split())
    except ValueError:
        label, values = -1.0, []
    box = len(values) == 4
    polygon = len(values) >= 6 and len(values) % 2 == 0
    if not (box or polygon) or not all(map(math.isfinite, values)):
        raise BadRecordError(f"{where} is not `class x y width height`: {line.strip()[:60]!r}.")
    if label not in range(classes):
        raise BadRecordError(f"{where} has the class {label:g}, but {classes} classes are named, counted from 0.")
    height, width = size
    if any(abs(value) > 1.5 for value in values):
        raise BadRecordError(
            f"{where} has {max(values, key=abs):g}: the numbers must be fractions of the image's size."
        )
    if polygon:
        x, y = values[::2], values[1::2]
        return int(label), [min(x) * width, min(y) * height, max(x) * width, max(y) * height]
    x_center, y_center, box_width, box_height = values
    return int(label), [
        (x_center - box_width / 2) * width,
        (y_center - box_height / 2) * height,
        (x_center + box_width / 2) * width,
        (y_center + box_height / 2) * height,
    ]


# The writer


def write_yolo(annotations: Annotations, root: Path, split: str) -> list[Path]:
    """Write ``labels/SPLIT/NAME.txt`` and ``data.yaml`` below `root`; returns where each image is to be put.

    Difficult objects and crowd regions, which YOLO's format cannot mark, are left out.
    """
    labels = root / "labels" / split
    labels.mkdir(parents=True, exist_ok=True)
    images = []
    for index in range(len(annotations)):
        own = slice(*annotations.offsets[index : index + 2])
        easy = ~annotations.difficult[own]
        boxes, height_width = annotations.boxes[own][easy], annotations.sizes[index]
        corners = boxes / np.tile(height_width[::-1], 2)
        centers, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        rows = zip(annotations.labels[own][easy].tolist(), np.hstack([centers, sides]).tolist(), strict=True)
        name = Path(annotations.file(index)).name
        text = "".join(f"{label} {' '.join(f'{value:.12g}' for value in values)}\n" for label, values in rows)
        (labels / name).with_suffix(".txt").write_text(text)
        images.append(root / "images" / split / name)
    description = {**read_description(root), "names": list(annotations.classes), split: f"images/{split}"}
    (root / "data.yaml").write_text(yaml.safe_dump(description, sort_keys=False, allow_unicode=True))
    return images
