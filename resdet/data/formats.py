"""The formats of data sets: their readers and writers, which one a folder has, and what each cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from resdet.config import DataFormat
from resdet.data.annotations import Annotations
from resdet.data.coco import coco_splits, image_numbers, read_coco, write_coco
from resdet.data.labelme import labelme_splits, read_labelme, write_labelme
from resdet.data.tables import csv_splits, read_csv
from resdet.data.tree import Tree
from resdet.data.via import read_via, via_splits
from resdet.data.voc import read_voc, voc_splits, write_voc
from resdet.data.yolo import read_yolo, write_yolo, yolo_splits
from resdet.errors import UserError


class Format(NamedTuple):
    """A way to write down which boxes are in which images."""

    read: Callable[..., Annotations]
    splits: Callable[[Tree], list[str]]
    """folder → names of the splits in it, `all` where nothing is split; none if it has another format"""
    looks: str
    """what such a folder holds, for messages"""
    write: Callable[[Annotations, Path, str, list[str]], list[Path]] | None = None
    """annotations, folder, split, names of the images' files → where the images are to be put"""
    lost: Callable[[Annotations], list[str]] | None = None
    """what the format cannot hold of these annotations, one phrase for each kind"""


def lost_in_voc(annotations: Annotations) -> list[str]:
    """VOC knows an image by its file's name, a class by its name, and no areas but those of boxes."""
    stems = [Path(annotations.file(index)).stem for index in range(len(annotations))]
    areas = (annotations.boxes[:, 2:] - annotations.boxes[:, :2]).prod(1)
    masks = int((abs(annotations.areas - areas) > 1e-6 * areas).sum())
    numbers = annotations.category_ids.tolist() != list(range(1, len(annotations.classes) + 1))
    return [
        *([f"the areas of {masks} masks"] if masks else []),
        *(["the categories' numbers"] if numbers else []),
        *([] if all(map(_same, stems, _ids(annotations))) else ["the images' identifiers"]),
    ]


def lost_in_yolo(annotations: Annotations) -> list[str]:
    """YOLO's format has neither those nor objects that do not count."""
    difficult = int(annotations.difficult.sum())
    flagged = [f"{difficult} objects marked difficult or as a crowd, which are left out"] if difficult else []
    return [*flagged, *lost_in_voc(annotations)]


def lost_in_coco(annotations: Annotations) -> list[str]:
    """COCO knows an image by a number; its file's name is kept too."""
    stems = [Path(annotations.file(index)).stem for index in range(len(annotations))]
    numbers, ids = map(str, image_numbers(annotations)), _ids(annotations)
    kept = all(map(_same, numbers, ids)) or all(map(_same, stems, ids))
    return [] if kept else ["the images' identifiers"]


def _ids(annotations: Annotations) -> list[str]:
    return [annotations.id(index) for index in range(len(annotations))]


def _same(a: str, b: str) -> bool:
    """Whether two identifiers are equal, or are one number: 000042 and 42."""
    return a == b or (a.isdecimal() and b.isdecimal() and int(a) == int(b))


FORMATS: dict[DataFormat, Format] = {
    "voc": Format(read_voc, voc_splits, "XML files with <annotation>", write_voc, lost_in_voc),
    "coco": Format(
        read_coco, coco_splits, "JSON files with images, annotations, categories", write_coco, lost_in_coco
    ),
    "yolo": Format(read_yolo, yolo_splits, "images with text files of numbers", write_yolo, lost_in_yolo),
    "labelme": Format(read_labelme, labelme_splits, "JSON files with shapes", write_labelme, lost_in_voc),
    "csv": Format(read_csv, csv_splits, "CSV files with a row for each box"),
    "via": Format(read_via, via_splits, "JSON or CSV files with regions"),
}


def find_format(root: Path) -> tuple[DataFormat, list[str]]:
    """The format of the data set in this folder, and its splits.

    Raises UserError if there is none, or traces of more than one.
    """
    if not root.is_dir():
        raise UserError(f"Data set not found: {root}; pass the folder that holds it.")
    tree = Tree(root)
    found = {name: splits for name, form in FORMATS.items() if (splits := form.splits(tree))}
    if not found:
        looks = "; ".join(f"{form.looks} ({name})" for name, form in FORMATS.items())
        raise UserError(
            f"{root} is not a data set: it has {len(tree.files)} files, {len(tree.images)} of them images, but no "
            f"annotations of a known format: {looks}."
        )
    if len(found) > 1:
        raise UserError(f"{root} holds {' and '.join(found)} at once: choose one with --format.")
    return next(iter(found.items()))
