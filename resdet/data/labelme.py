"""LabelMe's format: beside each image a JSON file with its shapes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from resdet.data.annotations import Annotations
from resdet.data.masks import points_box
from resdet.data.records import Found, ImageRecord, pair, read_splits
from resdet.data.text import read_text
from resdet.data.tree import Partners, Tree
from resdet.errors import UserError

HEAD = 1 << 12
OPEN = ("point", "points", "line", "linestrip")  # shapes that have no area


def read_labelme(
    root: str | Path, splits: str, classes: tuple[str, ...] = (), *, source: str = "", **rules: Any
) -> Annotations:
    """Read the images of `splits`, and the shapes in the JSON file of each.

    A rectangle is a box; of a polygon, a circle or a mask, the box around it is taken. Points and lines are no
    objects. An image without a JSON file is not annotated, and left out.

    Arguments and errors are those of `read_splits`; `labelme_splits` gives the names of the splits.
    """
    return read_splits(_read_split, root, splits, classes, source, **rules)


def labelme_splits(tree: Tree) -> list[str]:
    """The folders that are called as splits are, or `all`."""
    return sorted({tree.group(path) for path in _files(tree)})


def _files(tree: Tree) -> list[Path]:
    return [path for path in tree.ending(".json") if _has_shapes(path)]


def _has_shapes(path: Path) -> bool:
    """Whether a JSON file is one of LabelMe's: by its first and last bytes; an image may be between."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            file.seek(max(0, path.stat().st_size - HEAD))
            return b'"shapes"' in head and b'"imagePath"' in head + file.read()
    except OSError:
        return False


def _read_split(tree: Tree, split: str) -> Found:
    files = tree.in_split(_files(tree), split)
    records = {path: _read(path) for path in files}
    return pair(records, Partners(tree, files), [i for i in tree.images if tree.group(i) == split], "JSON")


def _read(path: Path) -> ImageRecord:
    record = ImageRecord(None, str(path), path.stem, unit="shape")
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError, UserError):
        content = None
    if not isinstance(content, dict):
        record.error = f"{path} is not usable JSON of one image: save it again."
        return record
    name = content.get("imagePath")
    record.name = name if isinstance(name, str) and name else path.stem
    if content.get("imageData"):
        record.missing = f"{path} holds its image {record.name} inside: export it to a file beside the JSON file."
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        record.size = (height, width)
    shapes = content.get("shapes")
    for number, shape in enumerate(shapes if isinstance(shapes, list) else [], 1):
        box, label = _box(shape), str(shape.get("label") or "").strip() if isinstance(shape, dict) else ""
        if box is None or not label:
            record.dropped.append(f"{path}: shape {number} is not a box or an area with a label.")
        else:
            flags = shape.get("flags") if isinstance(shape.get("flags"), dict) else {}
            record.add(box, label, bool(flags.get("difficult")), place=number)
    return record


def _box(shape: Any) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 around a shape; None for points, lines and what is broken."""
    if not isinstance(shape, dict):
        return None
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    try:
        points = np.array(points, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        return None
    if kind == "circle" and len(points) == 2:
        (x, y), radius = points[0].tolist(), float(np.hypot(*(points[1] - points[0])))
        return (x - radius, y - radius, x + radius, y + radius) if math.isfinite(radius) else None
    return None if kind in OPEN else points_box(points)


# The writer


def write_labelme(annotations: Annotations, root: Path, split: str, names: list[str]) -> list[Path]:
    """Write ``SPLIT/NAME.json`` below `root`, for images that get these names; returns where each is to be put."""
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        own = slice(*annotations.offsets[index : index + 2])
        height, width = annotations.sizes[index].tolist()
        shapes = [
            {
                "label": annotations.classes[label],
                "points": [[x1, y1], [x2, y2]],
                "group_id": None,
                "shape_type": "rectangle",
                "flags": {"difficult": True} if difficult else {},
            }
            for label, (x1, y1, x2, y2), difficult in zip(
                annotations.labels[own].tolist(),
                annotations.boxes[own].tolist(),
                annotations.difficult[own].tolist(),
                strict=True,
            )
        ]
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        (folder / name).with_suffix(".json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return [folder / name for name in names]
