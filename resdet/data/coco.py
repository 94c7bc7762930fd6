"""Reader and writer of data sets in COCO's format: one JSON file for each split, with all its boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from resdet.data.annotations import Annotations
from resdet.data.coco_file import FILES, Split, load_split, whole_numbers
from resdet.data.images import ImageError, probe_image
from resdet.data.records import label_names, unknown_class
from resdet.errors import UserError


def read_coco(
    root: str | Path,
    splits: str,
    classes: tuple[str, ...] = (),
    *,
    other_classes: str = "error",
    source: str = "",
) -> Annotations:
    """Read the images and boxes that the files of `splits` list; segmentations and keypoints are not read.

    Images that are missing, or of whose boxes one is not four numbers, are left out; so are boxes without area in
    their image. `skipped` of the result says which and why. The images themselves are not opened, unless the file
    does not state their sizes. Crowd regions are `difficult`.

    Args:
        root: folder of the data set
        splits: names such as train2017, joined by "+"; or paths of JSON files
        classes: in the order of the labels; empty takes all categories, by their numbers
        other_classes: "error" refuses an object of another class, "ignore" leaves it out
        source: where the data set comes from, for the message when it is missing

    Raises:
        UserError: data set or file missing or damaged, a number that occurs twice or points nowhere, no usable
            image, unknown class
    """
    root = Path(root)
    parts = [load_split(root, split.strip(), source) for split in splits.split("+")]
    _refuse_shared_numbers(parts)
    category_ids = _categories(parts)
    if not classes:
        classes = tuple(sorted(category_ids, key=category_ids.__getitem__))
    label_of = label_names(classes)
    for name in classes:
        if name not in category_ids:
            near = get_close_matches(name, category_ids, 1)
            raise UserError(
                f"{parts[0].path} has no category {name!r}{f', did you mean {near[0]!r}' if near else ''}: "
                f"name classes among its {len(category_ids)} in data.classes."
            )
    read = [_arrays(part, label_of, other_classes) for part in parts]
    if not any(len(part) for part in read):
        error = next((sentence for part in read for sentence in part.skipped), "the files list none")
        raise UserError(f"No image of {root}, {splits}, can be used; first error: {error.rstrip('.')}.")
    return _join(read, classes, np.array([category_ids[name] for name in classes], np.int64))


def _refuse_shared_numbers(parts: Sequence[Split]) -> None:
    """Results are known by the image's number, which must be one image's alone."""
    owner: dict[int, Path] = {}
    for part in parts:
        for number in part.numbers:
            if number in owner:
                where = f"{part.path} twice" if owner[number] == part.path else f"{owner[number]} and {part.path}"
                raise UserError(f"The image number {number} is in {where}: give each image its own.")
            owner[number] = part.path


def _categories(parts: Sequence[Split]) -> dict[str, int]:
    """Name → number over all files. Raises UserError if two files disagree."""
    number_of: dict[str, int] = {}
    for part in parts:
        for number, name in part.categories.items():
            if number_of.setdefault(name, number) != number:
                raise UserError(
                    f"The category {name!r} is {number_of[name]} in {parts[0].path} and {number} in {part.path}: "
                    "give it one number."
                )
    return number_of


# From lists to arrays


def _arrays(part: Split, label_of: dict[str, int], other_classes: str) -> Annotations:
    """One file's images and boxes; `classes` and `category_ids` of the result are empty."""
    images = part.numbers
    place_of = {number: place for place, number in enumerate(images)}
    owner = whole_numbers(part.path, part.annotations, "image_id", "annotation")
    category = whole_numbers(part.path, part.annotations, "category_id", "annotation")
    label_of_category = {number: label_of.get(name, -1) for number, name in part.categories.items()}
    for item, image, number in zip(part.annotations, owner, category, strict=True):
        if image not in place_of or number not in label_of_category:
            what = f"image {image}" if image not in place_of else f"category {number}"
            raise UserError(
                f"{part.path}: the annotation {item.get('id')} points at {what}, which the file does not list."
            )
    place = np.array([place_of[image] for image in owner], np.int64)  # (B,)
    labels = np.array([label_of_category[number] for number in category], np.int64)  # (B,)
    boxes = np.array([_box(item.get("bbox")) for item in part.annotations], np.float64).reshape(-1, 4)
    areas = np.array([_number(item.get("area")) for item in part.annotations], np.float64)
    areas = np.where(np.isfinite(areas), areas, boxes[:, 2:].prod(1))
    boxes[:, 2:] += boxes[:, :2]
    crowd = np.array([item.get("iscrowd") == 1 for item in part.annotations], bool)

    sizes, skipped = _sizes(part)
    bad = np.zeros(len(images), bool)
    bad[place[~np.isfinite(boxes).all(1)]] = True
    skipped += [f"{part.path}: a box of image {images[i]} is not four numbers." for i in np.flatnonzero(bad)]
    left_out = bad | (sizes[:, 0] == 0)

    low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], sizes[place, ::-1])
    solid = (high > low).all(1)
    for i in np.flatnonzero(~solid & ~left_out[place]):
        skipped.append(f"{part.path}: a box of image {images[place[i]]} has no area inside it and is skipped.")
    others = np.flatnonzero(solid & (labels < 0))
    if len(others) and other_classes == "error":
        raise unknown_class(str(part.path), part.categories[category[others[0]]], label_of)

    order = np.argsort(place, kind="stable")
    order = order[solid[order] & (labels[order] >= 0)]
    whole = Annotations(
        classes=(),
        category_ids=np.empty(0, np.int64),
        ids=np.array([str(number).encode() for number in images], dtype=bytes),
        files=np.array([file.encode() for file in part.files], dtype=bytes),
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(place[order], minlength=len(images)))]),
        boxes=boxes[order],
        labels=labels[order],
        difficult=crowd[order],
        areas=areas[order],
        skipped=tuple(skipped),
    )
    return whole.select(np.flatnonzero(~left_out))


def _box(bbox: Any) -> Sequence[float]:
    """x, y, width, height as they stand, or NaN."""
    good = isinstance(bbox, list) and len(bbox) == 4 and all(type(value) in (int, float) for value in bbox)
    return bbox if good else (np.nan,) * 4


def _number(value: Any) -> float:
    return value if type(value) in (int, float) else np.nan


def _sizes(part: Split) -> tuple[np.ndarray, list[str]]:
    """(M, 2) int32 heights and widths, zeros for an image that is missing; and a sentence for each such."""
    sizes, skipped = np.zeros((len(part.images), 2), np.int32), []
    for place, (item, file) in enumerate(zip(part.images, part.files, strict=True)):
        size: Any = (item.get("height"), item.get("width"))
        if not file:
            skipped.append(f"The image {item['file_name']} of {part.path} is missing.")
        elif all(type(side) is int and 0 < side < 2**31 for side in size):
            sizes[place] = size
        else:
            try:
                sizes[place] = probe_image(file)
            except ImageError as error:
                skipped.append(str(error))
    return sizes, skipped


def _join(parts: Sequence[Annotations], classes: tuple[str, ...], category_ids: np.ndarray) -> Annotations:
    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    arrays = {name: joined(name) for name in ("ids", "files", "sizes", "boxes", "labels", "difficult", "areas")}
    return Annotations(
        classes=classes,
        category_ids=category_ids,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        skipped=tuple(sentence for part in parts for sentence in part.skipped),
        **arrays,
    )


# The writer


def write_coco(annotations: Annotations, root: Path, split: str) -> list[Path]:
    """Write ``annotations/instances_SPLIT.json`` below `root`; returns where each image is to be put.

    An image keeps its number if its name or its data set gave it one, else they count from 1.
    """
    names = [Path(annotations.file(index)).name for index in range(len(annotations))]
    numbers = image_numbers(annotations)
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, name, (height, width) in zip(numbers, names, annotations.sizes.tolist(), strict=True)
    ]
    owner = np.repeat(np.array(numbers, dtype=np.int64), np.diff(annotations.offsets))
    sides = np.concatenate([annotations.boxes[:, :2], annotations.boxes[:, 2:] - annotations.boxes[:, :2]], 1)
    columns = (owner, annotations.category_ids[annotations.labels], sides, annotations.areas, annotations.difficult)
    boxes = [
        {"id": n, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for n, (image, category, box, area, crowd) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), 1
        )
    ]
    categories = [
        {"id": number, "name": name}
        for number, name in zip(annotations.category_ids.tolist(), annotations.classes, strict=True)
    ]
    path = root / FILES[0].format(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return [root / split / name for name in names]


def image_numbers(annotations: Annotations) -> list[int]:
    """A whole number for each image: its identifier or the name of its file if those are such, else 1, 2, …"""
    ids = [annotations.id(index) for index in range(len(annotations))]
    stems = [Path(annotations.file(index)).stem for index in range(len(annotations))]
    for names in (ids, stems):
        if all(name.isdecimal() and name.isascii() for name in names) and len(set(map(int, names))) == len(names):
            return [int(name) for name in names]
    return list(range(1, len(ids) + 1))
