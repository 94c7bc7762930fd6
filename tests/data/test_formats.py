"""Which format a folder has, and data sets on their way from one format to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resdet.data.annotations import Annotations
from resdet.data.formats import FORMATS, convert, find_format

CLASSES = ("cat", "big dog & co")


def annotated(root: Path, whole_numbers: bool) -> Annotations:
    """Five images, one of them without objects, with all that every format can hold."""
    random = np.random.default_rng(0)
    counts = np.array([2, 0, 3, 1, 4])
    sizes = random.integers(40, 90, (5, 2)).astype(np.int32)
    (root / "images").mkdir(parents=True)
    files = [root / "images" / f"{number:06d}.png" for number in (17, 3, 4, 90, 21)]
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(cv2.imencode(".png", np.zeros(size, np.uint8))[1].tobytes())
    boxes = random.uniform(0, 20, (10, 4))
    boxes[:, 2:] = boxes[:, :2] + random.uniform(2, 20, (10, 2))
    boxes = boxes.round() if whole_numbers else boxes
    return Annotations(
        classes=CLASSES,
        category_ids=np.array([1, 2]),
        ids=np.array([file.stem.encode() for file in files]),
        files=np.array([str(file).encode() for file in files]),
        sizes=sizes,
        offsets=np.concatenate([[0], counts.cumsum()]),
        boxes=boxes,
        labels=random.integers(0, 2, 10),
        difficult=np.zeros(10, bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        skipped=(),
    )


def assert_same(read: Annotations, original: Annotations) -> None:
    """Image by image, whatever their order."""
    assert read.classes == original.classes and not read.skipped and len(read) == len(original)
    place = {Path(read.file(index)).name: index for index in range(len(read))}
    read = read.select(np.array([place[Path(original.file(index)).name] for index in range(len(original))]))
    for field in ("category_ids", "sizes", "offsets", "labels", "difficult"):
        assert np.array_equal(getattr(read, field), getattr(original, field)), field
    for field in ("boxes", "areas"):
        np.testing.assert_allclose(getattr(read, field), getattr(original, field), rtol=0, atol=1e-7)


@pytest.mark.parametrize("order", [*permutations(FORMATS, 3), *permutations(FORMATS, 2)], ids="-".join)
@pytest.mark.parametrize("whole_numbers", [True, False])
def test_round_trips_lose_nothing(tmp_path: Path, order: tuple[str, ...], whole_numbers: bool) -> None:
    original = current = annotated(tmp_path / "original", whole_numbers)
    for number, kind in enumerate([*order, order[0]]):
        folder = tmp_path / f"{number}"
        assert convert(current, kind, folder, "train", link=number % 2 == 0) == []
        assert find_format(folder) == (kind, ["train"])
        current = FORMATS[kind].read(folder, "train", CLASSES)
        assert_same(current, original)


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    original = annotated(tmp_path / "original", True)
    difficult, areas = original.difficult.copy(), original.areas.copy()
    difficult[[0, 4]], areas[5] = True, 1.5
    rich = replace(original, difficult=difficult, areas=areas, category_ids=np.array([5, 90]))
    named = replace(rich, ids=np.array([b"a", b"b", b"c", b"d", b"e"]))
    areas_lost, numbers_lost = "the areas of 1 masks", "the categories' numbers"
    ids_lost = "the images' identifiers"
    flags_lost = "2 objects marked difficult or as a crowd, which are left out"
    assert convert(named, "voc", tmp_path / "voc", "train", True) == [areas_lost, numbers_lost, ids_lost]
    assert convert(named, "coco", tmp_path / "coco", "train", True) == [ids_lost]
    assert convert(named, "yolo", tmp_path / "yolo", "train", True) == [
        flags_lost,
        areas_lost,
        numbers_lost,
        ids_lost,
    ]

    coco = FORMATS["coco"].read(tmp_path / "coco", "train")
    assert_same(coco, rich)
    voc = FORMATS["voc"].read(tmp_path / "voc", "train", CLASSES)
    assert_same(replace(voc, areas=rich.areas, category_ids=rich.category_ids), rich)
    yolo = FORMATS["yolo"].read(tmp_path / "yolo", "train", CLASSES)
    assert len(yolo.boxes) == 8 and not yolo.difficult.any()


def test_two_images_of_one_name_are_refused(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    original = annotated(tmp_path / "original", True)
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other/000003.jpg"
    files = original.files.astype(object)
    files[0] = str(twin).encode()
    with refuses(twin, "000003.png", "one name"):
        convert(replace(original, files=files.astype(bytes)), "coco", tmp_path / "new", "train", False)


def test_images_in_the_way_are_not_overwritten(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    original = annotated(tmp_path / "original", True)
    there = tmp_path / "new/JPEGImages/000003.png"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"another")
    with refuses(there, "empty folder"):
        convert(original, "voc", tmp_path / "new", "train", False)
    assert there.read_bytes() == b"another"


def test_folders_that_are_no_data_set(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    with refuses(tmp_path / "no", "not found"):
        find_format(tmp_path / "no")
    with refuses(tmp_path, "not a data set"):
        find_format(tmp_path)
    original = annotated(tmp_path / "original", True)
    for kind in ("voc", "yolo"):
        convert(original, kind, tmp_path / "mixed", "train", True)
    with refuses(tmp_path / "mixed", "voc and yolo"):
        find_format(tmp_path / "mixed")


def test_the_splits_of_voc_are_not_the_lists_of_classes(tmp_path: Path) -> None:
    original = annotated(tmp_path / "original", True)
    convert(original, "voc", tmp_path / "VOC2007", "train", True)
    (tmp_path / "VOC2007/ImageSets/Main/cat_train.txt").write_text("000003 1\n")
    assert find_format(tmp_path) == ("voc", ["2007_train"])


def test_the_command(
    tmp_path: Path, cli: Callable[..., Any], complains: Callable[..., None], shapes_root: Path
) -> None:
    status, out, _ = cli("convert-data", shapes_root, tmp_path / "coco", "--to", "coco", "--link")
    assert status == 0 and "train: 6 images" in out and "train, val in the format coco" in out
    cli("convert-data", tmp_path / "coco", tmp_path / "yolo", "--to", "yolo", "--splits", "val")
    assert find_format(tmp_path / "yolo") == ("yolo", ["val"])
    there = FORMATS["voc"].read(shapes_root, "val")
    back = FORMATS["coco"].read(tmp_path / "coco", "val", there.classes, other_classes="ignore")
    assert_same(back, there)
    complains(["convert-data", tmp_path / "yolo", tmp_path / "yolo", "--to", "voc"], "data set itself")
    complains(["convert-data", tmp_path, tmp_path / "new", "--to", "voc"], tmp_path, "not a data set")
