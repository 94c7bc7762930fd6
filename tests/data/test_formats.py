"""Which format a folder has, the splits in it, and what a format cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import Picture, annotated

from resdet.data.annotations import Annotations
from resdet.data.coco import coco_splits
from resdet.data.formats import find_format, lost_in_coco, lost_in_voc, lost_in_yolo
from resdet.data.tree import Tree
from resdet.data.voc import voc_splits
from resdet.data.yolo import yolo_splits

XML, LINE = "<annotation></annotation>", "0 0.5 0.5 0.5 0.5"
COCO = json.dumps({"images": [], "annotations": [], "categories": []})


def touch(root: Path, *files: str, content: str = "") -> Path:
    """Write files with the folders above them."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(content)
    return root


# The splits of a folder


def test_the_splits_of_voc(tmp_path: Path) -> None:
    """A list NAME_LIST beside LIST is that of a class, unless there is no LIST."""
    lists = [f"ImageSets/Main/{name}.txt" for name in ("val", "train", "cat_train", "my_cat_val", "test_small")]
    touch(tmp_path, *lists, "ImageSets/Main/notes.md", "ImageSets/Layout/other.txt")
    assert voc_splits(Tree(tmp_path)) == []  # without Annotations it is no data set of VOC's
    touch(tmp_path, "Annotations/a.xml", content=XML)
    assert voc_splits(Tree(tmp_path)) == ["test_small", "train", "val"]


def test_the_splits_of_several_years(tmp_path: Path) -> None:
    for year in ("2012", "2007"):
        touch(tmp_path, f"VOC{year}/ImageSets/Main/train.txt", f"VOC{year}/ImageSets/Main/cat_train.txt")
        touch(tmp_path, f"VOC{year}/Annotations/a.xml", content=XML)
    touch(tmp_path, "VOCdevkit/ImageSets/Main/train.txt", "VOC2007/ImageSets/Main/test.txt")
    assert voc_splits(Tree(tmp_path)) == ["2007_test", "2007_train", "2012_train", "train"]


@pytest.mark.parametrize("folder", ["", "deep/er/"])
def test_other_places_of_the_lists_of_voc(tmp_path: Path, folder: str) -> None:
    """Beside the annotations; in ImageSets; in its folder Main, whatever else is there."""
    touch(tmp_path, f"{folder}Annotations/a.xml", content=XML)
    touch(tmp_path, f"{folder}train_list.txt", f"{folder}labels.txt", f"{folder}valid.txt")
    assert voc_splits(Tree(tmp_path)) == ["train_list", "valid"]
    touch(tmp_path, f"{folder}ImageSets/a.txt", f"{folder}ImageSets/b.txt")
    assert voc_splits(Tree(tmp_path)) == ["a", "b"]
    touch(tmp_path, f"{folder}imagesets/main/c.txt")
    assert voc_splits(Tree(tmp_path)) == ["c"]


def test_lists_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for site in "ab":
        touch(tmp_path, f"{site}/Annotations/1.xml", content=XML)
        touch(tmp_path, f"{site}/ImageSets/Main/train.txt")
    assert voc_splits(Tree(tmp_path)) == ["train", "b/ImageSets/Main/train"]


def test_the_splits_of_coco(tmp_path: Path) -> None:
    """Anywhere; beside files called instances_ only those count, for the others are of captions and keypoints."""
    touch(
        tmp_path,
        "annotations/instances_val.json",
        "annotations/instances_train2017.json",
        "annotations/person_keypoints_val.json",
        "test.json",
        "val.json",
        "extra/_annotations.coco.json",
        "deep/er/other.json",
        content=COCO,
    )
    touch(tmp_path, "annotations/captions.json", "settings.json", content='{"info": "categories and images"}')
    touch(tmp_path, "annotations/notes.txt", content=COCO)
    assert coco_splits(Tree(tmp_path)) == ["train2017", "val", "test", "val.json", "extra", "other"]


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_file_of_coco_is_known_by_any_of_its_lists(tmp_path: Path, key: str) -> None:
    """It is looked for in the first 65 536 bytes, for such files are large."""
    touch(tmp_path, "near.json", content="{" + " " * (65_536 - len(key) - 3) + f'"{key}": []')
    touch(tmp_path, "far.json", content="{" + " " * (65_536 - len(key) - 2) + f'"{key}": []')
    assert coco_splits(Tree(tmp_path)) == ["near"]
    touch(tmp_path, "notes.json", content=f'{{"{key}": []}}')  # all of it has no other
    assert coco_splits(Tree(tmp_path)) == ["near"]


def test_the_splits_of_yolo_are_those_of_its_yaml_file(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "data.yaml",
        content="path: .\ntrain: images/a\nval: [images/b]\ntest:\nnames: [cat]\nnc: 1\ndownload: x\nflip: 3",
    )
    touch(tmp_path, "images/other/a.jpg", "labels/other/a.txt")
    assert yolo_splits(Tree(tmp_path)) == ["train", "val"]


def test_the_splits_of_yolo_without_a_yaml_file(tmp_path: Path) -> None:
    touch(tmp_path, "images/train/a.jpg", "images/val/a.jpg", "images/none/a.jpg", "labels/train/a.txt")
    touch(tmp_path, "labels/val/a.txt", "labels/more/a.txt")
    assert yolo_splits(Tree(tmp_path)) == ["train", "val"]
    touch(tmp_path, "data.yaml", content="model: large")  # of something else
    assert yolo_splits(Tree(tmp_path)) == ["train", "val"]


def test_the_format_of_a_folder(tmp_path: Path) -> None:
    assert find_format(touch(tmp_path / "coco", "val.json", content=COCO)) == ("coco", ["val"])
    assert find_format(touch(tmp_path / "yolo", "images/val/a.jpg", "labels/val/a.txt")) == ("yolo", ["val"])
    voc = touch(tmp_path / "voc", "Annotations/a.xml", "ImageSets/Main/val.txt", content=XML)
    assert find_format(voc) == ("voc", ["val"])


def test_folders_that_are_no_data_set(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    with refuses(tmp_path / "no", "not found"):
        find_format(tmp_path / "no")
    touch(tmp_path, "a.jpg", "b.txt")
    with refuses(tmp_path, "not a data set", "2 files, 1 of them images"):
        find_format(tmp_path)
    touch(tmp_path, "a.xml", content=XML)
    touch(tmp_path, "a.txt", content=LINE)
    with refuses(tmp_path, "voc and yolo", "--format"):
        find_format(tmp_path)


# What a format cannot hold


def named(ids: list[str], stems: list[str], **changes: Any) -> Annotations:
    """Images of these identifiers and files, each with a box of 10 × 20 pixels."""
    whole = annotated([Picture(stem, (100, 100), [[5, 5, 15, 25]]) for stem in stems], ("cat", "dog"))
    return replace(whole, ids=np.array([name.encode() for name in ids]), **changes)


IDS = "the images' identifiers"


@pytest.mark.parametrize(
    ("ids", "stems", "in_voc", "in_coco"),
    [
        (["a", "b"], ["a", "b"], [], []),
        (["42", "7"], ["000042", "7"], [], []),  # one number, written in two ways
        (["42", "7"], ["a", "b"], [IDS], []),  # COCO keeps the numbers
        (["42", "x"], ["42", "y"], [IDS], [IDS]),
        (["a", "x"], ["a", "b"], [IDS], [IDS]),
        (["x", "b"], ["a", "b"], [IDS], [IDS]),
        (["1", "2"], ["2", "1"], [IDS], []),
    ],
)
def test_identifiers_that_are_lost(ids: list[str], stems: list[str], in_voc: list, in_coco: list) -> None:
    annotations = named(ids, stems)
    assert (lost_in_voc(annotations), lost_in_yolo(annotations), lost_in_coco(annotations)) == (
        in_voc,
        in_voc,
        in_coco,
    )


def test_areas_numbers_and_flags_that_are_lost() -> None:
    """An area that differs from its box's by a millionth is a rounding, not a mask."""
    areas = np.array([200, 200 * (1 + 5e-7), 200 * (1 + 2e-6), 199, 201])
    names = list("abcde")
    rich = named(names, names, areas=areas, category_ids=np.array([1, 3]), difficult=np.arange(5) < 2)
    lost = ["the areas of 3 masks", "the categories' numbers"]
    assert lost_in_voc(rich) == lost and lost_in_coco(rich) == []
    assert lost_in_yolo(rich) == ["2 objects marked difficult or as a crowd, which are left out", *lost]
    assert lost_in_voc(replace(rich, areas=np.full(5, 200.0), category_ids=np.array([2, 1]))) == lost[1:]
