"""The files that the writers of VOC's, COCO's, YOLO's and LabelMe's formats leave behind, to the letter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resdet.data.annotations import Annotations
from resdet.data.coco import image_numbers, write_coco
from resdet.data.labelme import write_labelme
from resdet.data.voc import write_voc
from resdet.data.yolo import write_yolo

ANNOTATIONS = Annotations(
    classes=("zebra", "big ant & Söhne"),
    category_ids=np.array([90, 7]),
    ids=np.array([b"x/first", b"second"]),
    files=np.array(["/pictures/a & ö.one.jpg".encode(), b"pictures/b.png"]),
    sizes=np.array([[40, 80], [100, 50]], np.int32),
    offsets=np.array([0, 2, 3]),
    boxes=np.array([[0, 0, 80, 40], [10, 5, 30.25, 25], [5, 10, 10, 30]], np.float64),
    labels=np.array([1, 0, 0]),
    difficult=np.array([False, True, False]),
    areas=np.array([3200, 405, 77.5]),
    skipped=(),
)
NAMES = ["a & ö.one.jpg", "b.png"]


def test_the_xml_and_the_list_of_voc(tmp_path: Path) -> None:
    """1-based corners, both inclusive: the first one is 1 greater than in continuous pixels."""
    places = write_voc(ANNOTATIONS, tmp_path / "new/set", "train", NAMES)
    assert places == [tmp_path / "new/set/JPEGImages/a & ö.one.jpg", tmp_path / "new/set/JPEGImages/b.png"]
    assert (tmp_path / "new/set/ImageSets/Main/train.txt").read_text("utf-8") == "a & ö.one\nb\n"
    assert (tmp_path / "new/set/Annotations/a & ö.one.xml").read_text("utf-8") == (
        "<annotation>\n"
        "<filename>a &amp; ö.one.jpg</filename>\n"
        "<size><width>80</width><height>40</height><depth>3</depth></size>\n"
        "<object><name>big ant &amp; Söhne</name><difficult>0</difficult>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>80</xmax><ymax>40</ymax></bndbox></object>\n"
        "<object><name>zebra</name><difficult>1</difficult>"
        "<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30.25</xmax><ymax>25</ymax></bndbox></object>\n"
        "</annotation>\n"
    )
    assert (tmp_path / "new/set/Annotations/b.xml").read_text("utf-8").count("<object>") == 1


def test_the_json_of_coco(tmp_path: Path) -> None:
    places = write_coco(ANNOTATIONS, tmp_path / "new/set", "train", NAMES)
    assert places == [tmp_path / "new/set/train/a & ö.one.jpg", tmp_path / "new/set/train/b.png"]
    box = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 80, 40], "area": 3200, "iscrowd": 0}
    assert json.loads((tmp_path / "new/set/annotations/instances_train.json").read_text()) == {
        "images": [
            {"id": 1, "file_name": "a & ö.one.jpg", "height": 40, "width": 80},
            {"id": 2, "file_name": "b.png", "height": 100, "width": 50},
        ],
        "annotations": [
            box,
            box | {"id": 2, "category_id": 90, "bbox": [10, 5, 20.25, 20], "area": 405, "iscrowd": 1},
            box | {"id": 3, "image_id": 2, "category_id": 90, "bbox": [5, 10, 5, 20], "area": 77.5},
        ],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 7, "name": "big ant & Söhne"}],
    }
    write_coco(ANNOTATIONS, tmp_path / "new/set", "val", NAMES)  # into folders that are there


def test_the_json_of_labelme(tmp_path: Path) -> None:
    places = write_labelme(ANNOTATIONS, tmp_path / "new/set", "train", NAMES)
    assert places == [tmp_path / "new/set/train/a & ö.one.jpg", tmp_path / "new/set/train/b.png"]
    content = json.loads((tmp_path / "new/set/train/a & ö.one.json").read_text("utf-8"))
    shape = {"label": "big ant & Söhne", "points": [[0, 0], [80, 40]], "group_id": None, "shape_type": "rectangle"}
    assert content.pop("version") and content == {
        "flags": {},
        "shapes": [
            shape | {"flags": {}},
            shape | {"label": "zebra", "points": [[10, 5], [30.25, 25]], "flags": {"difficult": True}},
        ],
        "imagePath": "a & ö.one.jpg",
        "imageData": None,
        "imageHeight": 40,
        "imageWidth": 80,
    }
    assert len(json.loads((tmp_path / "new/set/train/b.json").read_text())["shapes"]) == 1


def test_the_text_files_of_yolo(tmp_path: Path) -> None:
    """Centre and size as shares of the image; the difficult object is left out."""
    places = write_yolo(ANNOTATIONS, tmp_path / "new/set", "train", NAMES)
    assert places == [tmp_path / "new/set/images/train/a & ö.one.jpg", tmp_path / "new/set/images/train/b.png"]
    assert (tmp_path / "new/set/labels/train/a & ö.one.txt").read_text() == "1 0.5 0.5 1 1\n"
    assert (tmp_path / "new/set/labels/train/b.txt").read_text() == "0 0.15 0.2 0.1 0.2\n"


def test_the_yaml_of_yolo_keeps_its_order_and_what_was_there(tmp_path: Path) -> None:
    """A reader finds the names first, then the splits as they were written, in plain letters."""
    write_yolo(ANNOTATIONS, tmp_path, "train", NAMES)
    names = "names:\n- zebra\n- big ant & Söhne\n"
    assert (tmp_path / "data.yaml").read_text("utf-8") == names + "train: images/train\n"
    write_yolo(ANNOTATIONS, tmp_path, "also", NAMES)
    assert (tmp_path / "data.yaml").read_text("utf-8") == names + "train: images/train\nalso: images/also\n"
    (tmp_path / "data.yaml").write_text("nc: 2\nnames: [old]\ntrain: elsewhere\n")
    write_yolo(ANNOTATIONS, tmp_path, "train", NAMES)
    assert (tmp_path / "data.yaml").read_text("utf-8") == "nc: 2\n" + names + "train: images/train\n"


@pytest.mark.parametrize("write", [write_voc, write_coco, write_yolo, write_labelme])
def test_writing_again_replaces_what_was_written(write, tmp_path: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    write(ANNOTATIONS, tmp_path, "train", NAMES)
    first = content()
    write(ANNOTATIONS, tmp_path, "train", NAMES)
    assert content() == first and first


def images_named(ids: list[str], files: list[str]) -> Annotations:
    """Images without boxes."""
    return replace(
        ANNOTATIONS.select(np.zeros(len(ids), np.int64)),
        ids=np.array([name.encode() for name in ids]),
        files=np.array([name.encode() for name in files]),
    )


@pytest.mark.parametrize(
    ("ids", "files", "numbers"),
    [
        (["7", "0012"], ["a.jpg", "b.jpg"], [7, 12]),  # the data set's own
        (["x", "12"], ["3.jpg", "d/000004.png"], [3, 4]),  # else the files'
        (["7", "007"], ["3.jpg", "4.png"], [3, 4]),  # one number is not two images'
        (["7", "007"], ["3.jpg", "03.png"], [1, 2]),
        (["x", "y"], ["a.jpg", "4.png"], [1, 2]),
        (["٣", "4"], ["²", "5"], [1, 2]),  # digits that are not those of a file
    ],
)
def test_the_number_of_an_image(ids: list[str], files: list[str], numbers: list[int]) -> None:
    assert image_numbers(images_named(ids, files)) == numbers
