"""The splits that a folder is seen to have, what a format cannot hold, and how images are put in their places."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.data.annotations import Annotations
from resdet.data.formats import (
    coco_splits,
    convert,
    find_format,
    lost_in_coco,
    lost_in_voc,
    lost_in_yolo,
    voc_splits,
    yolo_splits,
)


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
    assert voc_splits(tmp_path) == []  # without Annotations it is no data set of VOC's
    (tmp_path / "Annotations").mkdir()
    assert voc_splits(tmp_path) == ["test_small", "train", "val"]


def test_the_splits_of_several_years(tmp_path: Path) -> None:
    for year in ("2012", "2007"):
        touch(tmp_path, f"VOC{year}/ImageSets/Main/train.txt", f"VOC{year}/ImageSets/Main/cat_train.txt")
    touch(tmp_path, "VOCdevkit/ImageSets/Main/train.txt", "VOC2007/ImageSets/Main/test.txt")
    assert voc_splits(tmp_path) == ["2007_test", "2007_train", "2012_train"]


COCO = json.dumps({"images": [], "annotations": [], "categories": []})


def test_the_splits_of_coco(tmp_path: Path) -> None:
    """In each of the usual places; a split that is in two of them counts once."""
    touch(
        tmp_path,
        "annotations/instances_val.json",
        "annotations/instances_train.json",
        "annotations/small.json",
        "test.json",
        "train.json",
        "extra/_annotations.coco.json",
        content=COCO,
    )
    touch(tmp_path, "annotations/captions.json", "settings.json", content='{"info": "categories and images"}')
    touch(tmp_path, "deep/er/other.json", "annotations/notes.txt", content=COCO)
    assert coco_splits(tmp_path) == ["train", "val", "small", "test", "extra"]


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_file_of_coco_is_known_by_any_of_its_lists(tmp_path: Path, key: str) -> None:
    """It is looked for in the first 65 536 bytes, for such files are large."""
    touch(tmp_path, "near.json", content=" " * (65_536 - len(key) - 2) + f'"{key}": []')
    touch(tmp_path, "far.json", content=" " * (65_536 - len(key) - 1) + f'"{key}": []')
    assert coco_splits(tmp_path) == ["near"]


def test_the_splits_of_yolo_are_those_of_its_yaml_file(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "data.yaml",
        content="path: .\ntrain: images/a\nval: [images/b]\ntest:\nnames: [cat]\nnc: 1\ndownload: x\nflip: 3",
    )
    touch(tmp_path, "images/other/a.jpg", "labels/other/a.txt")
    assert yolo_splits(tmp_path) == ["train", "val"]


def test_the_splits_of_yolo_without_a_yaml_file(tmp_path: Path) -> None:
    touch(tmp_path, "images/train/a.jpg", "images/val/a.jpg", "images/none/a.jpg", "labels/train/a.txt")
    touch(tmp_path, "labels/val/a.txt", "labels/more/a.txt")
    assert yolo_splits(tmp_path) == ["train", "val"]
    touch(tmp_path, "data.yaml", content="train: images/a")  # a file without names says nothing
    assert yolo_splits(tmp_path) == ["train", "val"]


def test_the_format_of_a_folder(tmp_path: Path) -> None:
    assert find_format(touch(tmp_path / "coco", "val.json", content=COCO)) == ("coco", ["val"])
    assert find_format(touch(tmp_path / "yolo", "images/val/a", "labels/val/a")) == ("yolo", ["val"])
    voc = touch(tmp_path / "voc", "Annotations/a.xml", "ImageSets/Main/val.txt")
    assert find_format(voc) == ("voc", ["val"])


# What a format cannot hold


def named(ids: list[str], stems: list[str], **changes: Any) -> Annotations:
    """Images of these identifiers and files, each with a box of 10 × 20 pixels."""
    count = len(ids)
    whole = Annotations(
        classes=("cat", "dog"),
        category_ids=np.array([1, 2]),
        ids=np.array([name.encode() for name in ids]),
        files=np.array([f"d/{stem}.jpg".encode() for stem in stems]),
        sizes=np.full((count, 2), 100, np.int32),
        offsets=np.arange(count + 1),
        boxes=np.tile([5.0, 5, 15, 25], (count, 1)),
        labels=np.zeros(count, np.int64),
        difficult=np.zeros(count, bool),
        areas=np.full(count, 200.0),
        skipped=(),
    )
    return replace(whole, **changes)


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


# Images in their places


@pytest.fixture
def source(tmp_path: Path) -> Annotations:
    """Two images with files."""
    touch(tmp_path / "d", "a.jpg", content="first")
    touch(tmp_path / "d", "b.jpg", content="second")
    return named(["a", "b"], ["a", "b"], files=np.array([str(tmp_path / f"d/{n}.jpg").encode() for n in "ab"]))


def test_images_are_copied_or_linked(source: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(source, "voc", tmp_path / "copies", "train", link=False)
    convert(source, "voc", tmp_path / "links", "train", link=True)
    copy, link = (tmp_path / f"{kind}/JPEGImages/b.jpg" for kind in ("copies", "links"))
    assert copy.read_text() == link.read_text() == "second"
    assert not copy.is_symlink() and link.is_symlink() and link.readlink() == tmp_path / "d/b.jpg"
    monkeypatch.chdir(tmp_path)
    relative = replace(source, files=np.array([b"d/a.jpg", b"d/b.jpg"]))
    convert(relative, "coco", tmp_path / "absolute", "train", link=True)
    assert (tmp_path / "absolute/train/a.jpg").readlink() == tmp_path / "d/a.jpg"


def test_a_conversion_may_be_repeated_and_may_end_where_it_began(source: Annotations, tmp_path: Path) -> None:
    for _ in range(2):
        convert(source, "coco", tmp_path / "new", "train", link=False)
    assert (tmp_path / "new/train/a.jpg").read_text() == "first"
    own = replace(source, files=np.array([str(tmp_path / f"new/train/{n}.jpg").encode() for n in "ab"]))
    convert(own, "coco", tmp_path / "new", "train", link=True)
    assert (tmp_path / "new/train/a.jpg").read_text() == "first" and not (tmp_path / "new/train/a.jpg").is_symlink()


def test_another_image_in_the_way_is_refused(source: Annotations, tmp_path: Path, refuses: Callable) -> None:
    touch(tmp_path, "new/train/b.jpg", content="longer than second")
    with refuses(tmp_path / "new/train/b.jpg", "differs", "empty folder"):
        convert(source, "coco", tmp_path / "new", "train", link=False)
    assert (tmp_path / "new/train/b.jpg").read_text() == "longer than second"


def test_one_image_twice_is_no_conflict(source: Annotations, tmp_path: Path) -> None:
    convert(source.select(np.array([0, 1, 0])), "voc", tmp_path / "new", "train", link=False)
    assert (tmp_path / "new/ImageSets/Main/train.txt").read_text() == "a\nb\na\n"
