"""Tables of boxes, a row for each: of TensorFlow's tutorials and Roboflow, RetinaNet, Open Images, makesense."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resdet.data.annotations import Annotations
from resdet.data.images import is_image_name
from resdet.data.records import Found, ImageRecord, read_splits
from resdet.data.text import read_text
from resdet.data.tree import ALL, Tree, listing, split_word, split_words, stem
from resdet.errors import UserError

# What columns are called, in lower case without anything but letters and digits.
COLUMNS = {
    "image": ("filename", "imageid", "image", "imagename", "imagepath", "path", "file", "img", "imgname", "name"),
    "label": (
        "class",
        "label",
        "labelname",
        "classname",
        "category",
        "categoryname",
        "labelsname",
        "classid",
        "target",
    ),
    "x1": ("xmin", "x1", "left", "bboxx1", "xtl", "bboxxmin"),
    "y1": ("ymin", "y1", "top", "bboxy1", "ytl", "bboxymin"),
    "x2": ("xmax", "x2", "right", "bboxx2", "xbr", "bboxxmax"),
    "y2": ("ymax", "y2", "bottom", "bboxy2", "ybr", "bboxymax"),
    "x": ("bboxx", "x", "boxx"),
    "y": ("bboxy", "y", "boxy"),
    "w": ("bboxwidth", "bboxw", "w", "boxwidth"),
    "h": ("bboxheight", "bboxh", "h", "boxheight"),
    "width": ("width", "imagewidth", "imgwidth", "originalwidth"),
    "height": ("height", "imageheight", "imgheight", "originalheight"),
    "crowd": ("isgroupof", "iscrowd", "difficult"),
    "split": ("split", "subset", "set"),
}
NEEDED = ("image", "label")
# Tables without a head: RetinaNet's, and makesense's.
RETINANET = ("image", "x1", "y1", "x2", "y2", "label")
MAKESENSE = ("label", "x", "y", "w", "h", "image", "width", "height")
PLAIN = ("_annotations", "annotations", "labels", "data", "dataset", "bbox")


def read_csv(
    root: str | Path, splits: str, classes: tuple[str, ...] = (), *, source: str = "", **rules: Any
) -> Annotations:
    """Read the images and boxes in the tables of `splits`.

    The names of the columns say what they hold: `COLUMNS` lists those that are known. Boxes that all lie between 0
    and 1 are fractions of the image's size, as Open Images has them. Images without a row are not part of it.

    Arguments and errors are those of `read_splits`; `csv_splits` gives the names of the splits.
    """
    return read_splits(_read_split, root, splits, classes, source, **rules)


def csv_splits(tree: Tree) -> list[str]:
    """The tables by their names, X of X_labels.csv or X/_annotations.csv; or what a column `split` holds."""
    return list(_rows_of_splits(tree, first=True))


def _rows_of_splits(tree: Tree, first: bool = False) -> dict[str, list[tuple[Path, int, Mapping[str, str]]]]:
    """The rows of each split, with their file and line; of each table only the `first` one will do for names."""
    splits: dict[str, list[tuple[Path, int, Mapping[str, str]]]] = {}
    for path in tree.ending(".csv"):
        table = _read_table(path, 1 if first and not _has_split_column(path) else None)
        for line, row in table:
            splits.setdefault(row.get("split", "").strip() or _split_of(tree, path), []).append((path, line, row))
    return splits


def _split_of(tree: Tree, path: Path) -> str:
    name = re.sub(
        r"([_-]?(labels?|annotations?|bbox|boxes|data))+$", "", path.stem.strip("_-"), flags=re.IGNORECASE
    )
    if not name or path.stem.casefold() in PLAIN:
        return tree.group(path)
    return name if split_word(name) or len(tree.ending(".csv")) > 1 else ALL


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _rows(path: Path, most: int | None) -> list[list[str]]:
    try:
        text = read_text(path)
        sample = text[: 1 << 13]
        delimiter = max(",;\t", key=sample.split("\n")[0].count)
        lines = text.splitlines() if most is None else text.splitlines()[: most + 1]
        return [row for row in csv.reader(lines, delimiter=delimiter)]
    except (UserError, csv.Error):
        return []


def _columns(head: Sequence[str]) -> dict[str, int]:
    """What is in which column, by the head of a table."""
    names = [_plain(name) for name in head]
    found = {key: names.index(name) for key, known in COLUMNS.items() for name in reversed(known) if name in names}
    # `width` and `height` beside x and y, without others, are the box's.
    if "x1" not in found and {"x", "y", "width", "height"} <= found.keys() and "w" not in found:
        found["w"], found["h"] = found.pop("width"), found.pop("height")
    return found


def _has_split_column(path: Path) -> bool:
    rows = _rows(path, 0)
    return bool(rows) and "split" in _columns(rows[0])


def _read_table(path: Path, most: int | None = None) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table, with their lines; none if it is not a table of boxes."""
    rows = _rows(path, most)
    if not rows:
        return []
    columns, first = _columns(rows[0]), 1
    corners = {"x1", "y1", "x2", "y2"} <= columns.keys() or {"x", "y", "w", "h"} <= columns.keys()
    if not corners or not all(key in columns for key in NEEDED):
        known = _without_head(rows[0])
        if known is None:
            return []
        columns, first = {key: place for place, key in enumerate(known)}, 0
    return [
        (number, {key: row[place].strip() for key, place in columns.items() if place < len(row)})
        for number, row in enumerate(rows[first:], first + 1)
        if any(cell.strip() for cell in row)
    ]


def _without_head(row: Sequence[str]) -> tuple[str, ...] | None:
    if (
        len(row) == 6
        and is_image_name(Path(row[0]))
        and all(_number(cell) is not None or not cell for cell in row[1:5])
    ):
        return RETINANET
    if len(row) == 8 and is_image_name(Path(row[5])) and all(_number(cell) is not None for cell in row[1:5]):
        return MAKESENSE
    return None


def _number(text: str | None) -> float | None:
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read_split(tree: Tree, split: str) -> Found:
    splits = _rows_of_splits(tree)
    rows = splits.get(split)
    if not rows:
        raise UserError(f"Split not found: {split!r} of {tree.root}; splits found: {listing(csv_splits(tree))}.")
    records: dict[object, ImageRecord] = {}
    descriptions = _descriptions(tree)
    for path in dict.fromkeys(path for path, _, _ in rows):
        own = [(line, row, row.get("image", "")) for at, line, row in rows if at == path]
        names = dict.fromkeys(name for _, _, name in own)
        home = tree.home(path, len(names))
        files = {name: tree.image(_file_name(name), path.parent, split, home) for name in names}
        for line, row, name in own:
            key, label = files[name] or (path, name), row.get("label", "")
            if key not in records:
                records[key] = ImageRecord(files[name], str(path), name, size=_size(row), unit="line")
            _add(records[key], path, line, {**row, "label": descriptions.get(label, label)})
    boxes = [box for record in records.values() for box in record.boxes]
    fractions = bool(boxes) and max(map(max, boxes)) <= 1.001 and any(value % 1 for box in boxes for value in box)
    named = {
        stem(_file_name(row.get("image", "")).rpartition("/")[2]) for own in splits.values() for _, _, row in own
    }
    words = split_words([split])
    bare = [image for image in tree.images if stem(image.name) not in named]
    bare = [image for image in bare if not words or not (place := split_words(tree.parts(image))) or place & words]
    notes = [f"{len(bare)} images of {tree.root} have no row: they are not part of {split}."] if bare else []
    return Found(list(records.values()), fractions=fractions, notes=notes)


def _file_name(name: str) -> str:
    """What the file of an image may be called, if a table states it without its ending."""
    name = name.replace("\\", "/")
    return name if is_image_name(Path(name)) else f"{name}.jpg"


def _descriptions(tree: Tree) -> dict[str, str]:
    """Code → name of the classes of Open Images."""
    tables = [path for path in tree.ending(".csv") if "class-descriptions" in path.name]
    return {row[0].strip(): row[1].strip() for path in tables for row in _rows(path, None) if len(row) == 2}


def _size(row: Mapping[str, str]) -> tuple[int, int] | None:
    height, width = _number(row.get("height")), _number(row.get("width"))
    return (int(height), int(width)) if height and width and height > 0 and width > 0 else None


def _add(record: ImageRecord, path: Path, line: int, row: Mapping[str, str]) -> None:
    """Add the box of a row; a row of nothing but an image is one without objects."""
    keys = ("x1", "y1", "x2", "y2") if "x1" in row else ("x", "y", "w", "h")
    if not any(row.get(key) for key in (*keys, "label")):
        return
    box, label = [_number(row.get(key)) for key in keys], row.get("label", "")
    if None in box or not label:
        record.dropped.append(f"{path}, line {line}, of {record.name}, has no box of four numbers with a class.")
        return
    a, b, c, d = (value for value in box if value is not None)
    corners = (a, b, c, d) if "x1" in row else (a, b, a + c, b + d)
    record.add(corners, label, row.get("crowd", "") in ("1", "1.0", "True", "true"), place=line)
