"""COCO's format: one JSON file for each split, with all its images, boxes and categories."""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from resdet.data.annotations import Annotations
from resdet.data.masks import mask_box
from resdet.data.records import Found, ImageRecord, assemble, box_array
from resdet.data.text import decode, read_head
from resdet.data.tree import ALL, Tree, is_file, listing, split_word
from resdet.errors import UserError, reason

# Where the file of a split may lie in the data set's folder: COCO's own place, plain ones, Roboflow's.
FILES = ("annotations/instances_{}.json", "annotations/{}.json", "{}.json", "{}/_annotations.coco.json")
# Where its images may lie.
FOLDERS = ("{}", "images/{}", "images", "{}/images", "data")
# What files are called that say nothing of their split.
PLAIN = ("_annotations.coco", "annotations", "labels", "result", "coco", "instances", "data")
HEAD = 1 << 16  # bytes in which a file shows what it is
NUMBERS = {int, float}


def read_coco(
    root: str | Path, splits: str, classes: tuple[str, ...] = (), *, source: str = "", **rules: Any
) -> Annotations:
    """Read the images and boxes that the files of `splits` list.

    An object with a mask and no box gets the box around its mask. Crowd regions, and objects to be ignored, are
    `difficult`. What cannot be used is left out; `skipped` of the result says what and why.

    Args:
        root: folder of the data set
        splits: names joined by "+", as `coco_splits` gives them, such as train2017; or paths of JSON files
        classes: in the order of the labels; empty takes all categories, by their numbers
        source: where the data set comes from, for the message when it is missing
        rules: `other_classes` and `exif`, as in `assemble`

    Raises:
        UserError: data set or file missing or damaged, a category's number that occurs twice, no usable image,
            unknown class
    """
    tree = Tree.of(root, source)
    parts = [_read_split(tree, split.strip(), classes) for split in splits.split("+")]
    known = list(dict.fromkeys(name for part in parts for name in part.classes))
    for name in classes:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise UserError(
                f"{root}, {splits}, has no category {name!r}{f', did you mean {near[0]!r}' if near else ''}: "
                f"name classes among its {len(known)} in data.classes."
            )
    return assemble(parts, tree, splits, classes, **rules)


# Where things are


def coco_splits(tree: Tree) -> list[str]:
    """The names of the splits: X of instances_X.json, X.json or X/_annotations.coco.json."""
    return list(_split_files(tree))


def _split_files(tree: Tree) -> dict[str, Path]:
    """The file of each split."""
    files: dict[str, Path] = {}
    found = [path for path in tree.ending(".json") if _lists_images(path)]
    official = {path.parent for path in found if path.stem.startswith("instances_")}
    for path in sorted(found, key=lambda path: (path.parent.name != "annotations", len(path.parts), str(path))):
        if path.parent in official and not path.stem.startswith("instances_"):
            continue  # captions and keypoints of the same images
        name = path.stem.removeprefix("instances_")
        if path.stem.casefold() in PLAIN:
            name = tree.group(path)
            name = tree.parts(path)[-1] if name == ALL and len(found) > 1 and tree.parts(path) else name
        if name in files:
            place = path.relative_to(tree.root)
            name = (place.parent if path.stem.casefold() in PLAIN else place).as_posix()
        files[name] = path
    return files


def _lists_images(path: Path) -> bool:
    """Whether a JSON file looks like one of instances, from its first bytes: it may be large."""
    head = read_head(path, HEAD).replace(b"\x00", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \r\n\t")
    keys = [key in head for key in (b'"images"', b'"annotations"', b'"categories"')]
    whole = len(head) < HEAD - 4
    return head.startswith(b"{") and b'"imagePath"' not in head and (sum(keys) >= 2 or (any(keys) and not whole))


def _find_file(tree: Tree, split: str) -> Path | None:
    """The JSON file of a split, if there is one."""
    places = (
        [tree.root / split] if split.endswith(".json") else [tree.root / place.format(split) for place in FILES]
    )
    return next((path for path in places if path.is_file()), None) or _split_files(tree).get(split)


def _load(tree: Tree, split: str) -> tuple[Path, dict[str, Any]]:
    path = _find_file(tree, split) if split else None
    if path is None:
        known = listing([str(p.relative_to(tree.root)) for p in tree.ending(".json")])
        raise UserError(
            f"Split not found: {split!r} has no {tree.root / FILES[0].format(split)}; JSON files found: {known}."
        )
    try:
        with _without_collections():
            content = json.loads(decode(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({reason(error)}): copy it again.") from error
    if isinstance(content, dict) and isinstance(named := content.get("categories"), dict):
        content["categories"] = [{"id": number, "name": name} for number, name in named.items()]
    for key in ("images", "annotations", "categories"):
        part = content.get(key) if isinstance(content, dict) else None
        if not isinstance(part, list) or not all(isinstance(item, dict) for item in part):
            raise UserError(
                f"{path} is not a COCO instances file: it needs lists of images, annotations and categories, but "
                f"{key} is none."
            )
    return path, content


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


# Numbers


def _key(value: Any) -> Any:
    """An identifier as it is compared: 1, 1.0 and "1" are one."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip().isdecimal() and value.strip().isascii():
        return int(value)
    return value if isinstance(value, str) else None


def _number(value: Any) -> float:
    """A number, or a text that is one; NaN for anything else."""
    if type(value) in (int, float):
        return value if abs(value) < 1e300 else math.nan
    try:
        return float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return math.nan


def _size(item: dict[str, Any]) -> tuple[int, int] | None:
    height, width = _number(item.get("height")), _number(item.get("width"))
    return (int(height), int(width)) if 0 < height < 2**31 and 0 < width < 2**31 else None


# A file


def _read_split(tree: Tree, split: str, classes: tuple[str, ...]) -> Found:
    path, content = _load(tree, split)
    name_of, numbers, notes = _categories(path, content, classes)
    records: dict[Any, ImageRecord] = {}
    word = split_word(split) or split_word(tree.group(path))
    for place, (item, file) in enumerate(
        zip(content["images"], _files(tree, split, path, content["images"], word), strict=True)
    ):
        number = _key(item.get("id"))
        if number is None:
            raise UserError(
                f"{path}: image number {place} (counted from 0) has the id {item.get('id')!r}: give it a number."
            )
        record = ImageRecord(
            file, str(path), _file_name(item) or f"number {number}", str(number), _size(item), "annotation"
        )
        if number in records:
            record.error = (
                f"{path}: the image number {number} is there twice, as {records[number].name} and {record.name}."
            )
            records[(place,)] = record
        else:
            records[number] = record
    stray = _add_objects(path, content["annotations"], records, name_of)
    found = Found(list(records.values()), numbers, stray=stray, notes=notes)
    _check_boxes(path, found)
    return found


def _categories(
    path: Path, content: dict[str, Any], classes: tuple[str, ...]
) -> tuple[dict[Any, str], dict[str, int], list[str]]:
    """Number → name of each category; name → number of those that are classes; what to tell.

    Roboflow's root category, which has no objects and only says what the others are, is not a class; nor is a
    second category of one name.
    """
    used = Counter(_key(item.get("category_id")) for item in content["annotations"])
    name_of: dict[Any, str] = {}
    for place, item in enumerate(content["categories"]):
        number, name = _key(item.get("id")), item.get("name")
        name = str(name).strip() if isinstance(name, str | int | float) else ""
        if number is None or not name:
            raise UserError(
                f"{path}: category number {place} (counted from 0) has the id {item.get('id')!r} and the name "
                f"{item.get('name')!r}: give it both."
            )
        if name_of.setdefault(number, name) != name:
            raise UserError(
                f"{path} has two categories of the number {number}, {name_of[number]!r} and {name!r}: give each "
                "its own."
            )
    groups = {_key(item["id"]): item.get("supercategory") for item in content["categories"]}
    notes = []
    numbers: dict[str, int] = {}
    for number, name in sorted(name_of.items(), key=lambda item: (not used[item[0]], str(type(item[0])), item[0])):
        grouped = groups[number] not in (None, "", "none")
        if name in numbers:
            notes.append(f"{path} has two categories {name!r}: they are taken as one.")
        elif (
            name in groups.values()
            and not grouped
            and not used[number]
            and name not in classes
            and len(name_of) > 1
        ):
            notes.append(
                f"{path}: the category {name!r} has no objects and is the group of the others: it is not a class."
            )
        else:
            numbers[name] = number
    if not all(type(number) is int for number in numbers.values()):
        numbers = {name: place for place, name in enumerate(numbers, 1)}
    return name_of, dict(sorted(numbers.items(), key=lambda item: item[1])), notes


def _file_name(item: dict[str, Any]) -> str:
    """What an image is called: LVIS has only addresses."""
    for key in ("file_name", "filename", "path", "coco_url", "flickr_url"):
        if isinstance(name := item.get(key), str) and name:
            return "/".join(name.split("/")[-2:]) if "://" in name else name
    return ""


def _files(tree: Tree, split: str, path: Path, items: Sequence[dict[str, Any]], word: str) -> list[Path | None]:
    """The file of each image, sought where the last one was, in COCO's own places, and then anywhere."""
    name = Path(split).stem.removeprefix("instances_")
    base = path.parents[1] if path.parent.name == "annotations" else path.parent
    folders = [path.parent, *(base / place.format(name) for place in FOLDERS), base]
    files: list[Path | None] = []
    home = None
    for item in items:
        file_name = _file_name(item).replace("\\", "/")
        for number, folder in enumerate(folders if file_name else []):
            if is_file(file := folder / file_name):
                files.append(file)
                folders.insert(0, folders.pop(number))
                break
        else:
            home = home or tree.home(path, len(items))
            files.append(tree.image(file_name, path.parent, word or split, home))
    return files


def _add_objects(
    path: Path, items: Sequence[dict[str, Any]], records: dict[Any, ImageRecord], name_of: dict[Any, str]
) -> list[str]:
    """Add each annotation to its image's record → a sentence for each that has none."""
    stray = []
    for place, item in enumerate(items, 1):
        image, category = item.get("image_id"), item.get("category_id")
        record = records.get(image if type(image) is int else _key(image))
        number = item.get("id", place)
        if record is None:
            stray.append(
                f"{path}: the annotation {number} is of the image {image!r}, which the file does not list."
            )
            continue
        name = name_of.get(category if type(category) is int else _key(category))
        box = _box(item, record)
        if name is None:
            record.dropped.append(
                f"{path}: the annotation {number} of {record.name} is of the category {category!r}, which the file "
                "does not list."
            )
        elif box is None:
            record.dropped.append(
                f"{path}: the annotation {number} of {record.name} has no box of four numbers, and no mask."
            )
        else:
            crowd = item.get("iscrowd") in (1, True, "1") or item.get("ignore") in (1, True, "1")
            record.add(box, name, crowd, _number(item.get("area")), number if type(number) is int else place)
    return stray


def _box(item: dict[str, Any], record: ImageRecord) -> Sequence[float] | None:
    """x1, y1, x2, y2 of an annotation's box, or of the box around its mask."""
    bbox = item.get("bbox")
    if isinstance(bbox, list) and len(bbox) == 1 and isinstance(bbox[0], list):
        bbox = bbox[0]
    if not isinstance(bbox, list) or len(bbox) != 4:
        return mask_box(item.get("segmentation"), record.size) if not bbox else None
    x, y, width, height = bbox if NUMBERS.issuperset(map(type, bbox)) else map(_number, bbox)
    return (x, y, x + width, y + height) if abs(x + y + width + height) < 1e300 else None  # NaN is not less


def _check_boxes(path: Path, found: Found) -> None:
    """Notice boxes that are fractions of the image's size; refuse boxes that are corners, as in other formats."""
    sized = [record for record in found.records if record.size]
    boxes = box_array(sized)
    if not len(boxes):
        return
    if boxes.max() <= 1.001 and (boxes % 1 > 0).any():
        if len(sized) < len(found.records):
            raise UserError(f"{path} has boxes between 0 and 1: write them in pixels.")
        for record in sized:
            height, width = record.size or (1, 1)
            record.boxes = [(a * width, b * height, c * width, d * height) for a, b, c, d in record.boxes]
        found.notes.append(f"{path} has boxes between 0 and 1: they are taken as fractions of the image's size.")
        return
    sizes = np.repeat(
        np.array([(r.size or (0, 0))[::-1] for r in sized], np.float64), [len(r.boxes) for r in sized], 0
    )
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)  # what stands in the file
    fits = (corners[:, 2:] > corners[:, :2]).all() and (corners[:, 2:] <= sizes + 1).all()
    if len(boxes) >= 5 and fits and (boxes[:, 2:] > sizes + 1).any(1).mean() > 0.2:
        raise UserError(
            f"{path} has x1, y1, x2, y2 in its boxes, but COCO's are x, y, width, height: convert them."
        )


# The writer


def write_coco(annotations: Annotations, root: Path, split: str, names: list[str]) -> list[Path]:
    """Write ``annotations/instances_SPLIT.json`` below `root`; returns where each image is to be put.

    An image keeps its number if its name or its data set gave it one, else they count from 1.
    """
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
