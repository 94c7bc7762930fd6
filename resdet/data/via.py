"""The format of the VGG Image Annotator (VIA): a JSON project, or a table, with regions of any shape."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from resdet.data.annotations import Annotations
from resdet.data.masks import points_box
from resdet.data.records import Found, ImageRecord, read_splits
from resdet.data.text import read_head, read_text
from resdet.data.tree import Tree
from resdet.errors import UserError

LABELS = ("label", "class", "name", "type", "category", "object", "object_name")  # attributes that name the class
HEAD = 1 << 16


def read_via(
    root: str | Path, splits: str, classes: tuple[str, ...] = (), *, source: str = "", **rules: Any
) -> Annotations:
    """Read the images and regions of `splits`; of other regions than rectangles, the boxes around them.

    Arguments and errors are those of `read_splits`; `via_splits` gives the names of the splits.
    """
    return read_splits(_read_split, root, splits, classes, source, **rules)


def via_splits(tree: Tree) -> list[str]:
    """The folders of projects that are called as splits are, or `all`."""
    return sorted({tree.group(path) for path in _files(tree)})


def _files(tree: Tree) -> list[Path]:
    return [path for path in tree.ending(".json", ".csv") if _has_regions(path)]


def _has_regions(path: Path) -> bool:
    head = read_head(path, HEAD)
    if path.suffix.lower() == ".csv":
        return b"region_shape_attributes" in head.split(b"\n")[0]
    return b'"shape_attributes"' in head or b'"_via_img_metadata"' in head


def _read_split(tree: Tree, split: str) -> Found:
    files = tree.in_split(_files(tree), split)
    return Found([record for path in files for record in _read(tree, path, split)])


def _read(tree: Tree, path: Path, split: str) -> list[ImageRecord]:
    try:
        images = _table(path) if path.suffix.lower() == ".csv" else _project(path)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a usable VIA project: export it again.") from error
    records, home = [], tree.home(path, len(images))
    for name, regions in images.items():
        record = ImageRecord(tree.image(name, path.parent, split, home), str(path), name, unit="region")
        for number, (shape, attributes) in enumerate(regions, 1):
            box, label = _box(shape), _label(attributes)
            if box is None or not label:
                record.dropped.append(f"{path}: region {number} of {name} is not an area with a class.")
            else:
                record.add(box, label, place=number)
        records.append(record)
    return records


def _project(path: Path) -> dict[str, list[tuple[Any, Any]]]:
    content = json.loads(read_text(path))
    images: dict[str, list[tuple[Any, Any]]] = {}
    for item in content.get("_via_img_metadata", content).values():
        name, regions = item["filename"], item["regions"]
        if not isinstance(name, str):
            raise TypeError(name)
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        images.setdefault(name, []).extend(
            (region.get("shape_attributes"), region.get("region_attributes")) for region in regions
        )
    return images


def _table(path: Path) -> dict[str, list[tuple[Any, Any]]]:
    images: dict[str, list[tuple[Any, Any]]] = {}
    for row in csv.DictReader(read_text(path).splitlines()):
        shape = json.loads(row["region_shape_attributes"] or "{}")
        regions = images.setdefault(row.get("filename") or row["#filename"], [])
        if shape:
            regions.append((shape, json.loads(row["region_attributes"] or "{}")))
    return images


def _box(shape: Any) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 around a region; None for points and lines."""
    if not isinstance(shape, dict):
        return None
    try:
        if shape.get("name") == "rect":
            x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
            return (x, y, x + width, y + height) if math.isfinite(x + y + width + height) else None
        if shape.get("name") in ("circle", "ellipse"):
            x, y = float(shape["cx"]), float(shape["cy"])
            rx, ry = (float(shape[key] if key in shape else shape["r"]) for key in ("rx", "ry"))
            return (x - rx, y - ry, x + rx, y + ry)
        if shape.get("name") == "polygon":
            return points_box(np.stack([shape["all_points_x"], shape["all_points_y"]], 1).astype(np.float64))
    except (KeyError, TypeError, ValueError):
        return None
    return None


def _label(attributes: Any) -> str:
    """The class of a region: its only attribute, or the one that is called like it; of check boxes, the one set."""
    if not isinstance(attributes, dict) or not attributes:
        return ""
    key = next((key for key in attributes if key.casefold() in LABELS), next(iter(attributes)))
    value = attributes[key]
    if isinstance(value, dict):
        value = next((name for name, chosen in value.items() if chosen), "")
    return str(value).strip()
