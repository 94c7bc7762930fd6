"""Reading LabelMe's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resdet.data.annotations import Annotations
from resdet.data.labelme import labelme_splits, read_labelme
from resdet.data.tree import Tree

HEIGHT, WIDTH = 40, 60
BOX = {"label": "cat", "points": [[5, 6], [25, 30]], "shape_type": "rectangle", "flags": {}}


class LabelmeFolder:
    """A data set that a test writes file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, name: str, *shapes: object, place: str = "", image: str | None = None, **changes: Any) -> None:
        """An image (if None, beside the JSON file) and its JSON file."""
        file = self.root / (f"{place}{name}.png" if image is None else image)
        for path in (file, self.root / f"{place}{name}.json"):
            path.parent.mkdir(parents=True, exist_ok=True)
        if image != "":
            file.write_bytes(cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes())
        content = {"version": "5.0.1", "flags": {}, "shapes": list(shapes), "imagePath": f"{name}.png"}
        content |= {"imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH} | changes
        (self.root / f"{place}{name}.json").write_text(json.dumps(content))

    def read(self, splits: str = "all", classes: tuple[str, ...] = (), **options: Any) -> Annotations:
        """A split of it."""
        return read_labelme(self.root, splits, classes, **options)


@pytest.fixture
def labelme(tmp_path: Path) -> LabelmeFolder:
    """A data set without images."""
    return LabelmeFolder(tmp_path / "set")


def names(read: Annotations) -> list[str]:
    """Of the images in use."""
    return [Path(read.file(index)).name for index in range(len(read))]


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("rectangle", [[25, 6], [5, 30]], [5, 6, 25, 30]),
        ("polygon", [[5, 9], [9, 6], [25, 20], [8, 30.5]], [5, 6, 25, 30.5]),
        (None, [[5, 9], [9, 6], [25, 20], [8, 30]], [5, 6, 25, 30]),  # of old versions
        ("circle", [[20, 20], [23, 24]], [15, 15, 25, 25]),
        ("mask", [[5, 6], [25, 30]], [5, 6, 25, 30]),
        ("rotation", [[5, 10], [15, 6], [25, 20], [10, 30]], [5, 6, 25, 30]),
        ("oriented_rectangle", [[5, 10], [15, 6], [25, 20], [10, 30]], [5, 6, 25, 30]),
        ("quadrilateral", [[5, 10], [15, 6], [25, 20], [10, 30]], [5, 6, 25, 30]),
    ],
)
def test_the_box_of_a_shape(labelme: LabelmeFolder, kind: str | None, points: list, box: list[float]) -> None:
    labelme.add("a", BOX | {"shape_type": kind, "points": points})
    read = labelme.read()
    assert read.boxes.tolist() == [box] and read.classes == ("cat",) and not read.skipped


@pytest.mark.parametrize(
    "shape",
    [
        BOX | {"shape_type": "point", "points": [[5, 5]]},
        BOX | {"shape_type": "line", "points": [[5, 5], [9, 9]]},
        BOX | {"shape_type": "linestrip", "points": [[5, 5], [9, 9], [7, 3]]},
        BOX | {"points": [[5, 5]]},
        BOX | {"points": [[5, 5], [9, None]]},
        BOX | {"points": [[5, 5], [9, float("nan")]]},
        BOX | {"points": "5 5 9 9"},
        BOX | {"points": []},
        BOX | {"label": ""},
        BOX | {"label": None},
        {"label": "cat"},
        "cat",
        None,
    ],
)
def test_a_shape_without_area_or_label_is_left_out(
    labelme: LabelmeFolder, shape: object, assert_sentence: Callable[..., None]
) -> None:
    labelme.add("a", BOX, shape)
    read = labelme.read()
    assert len(read.boxes) == 1 and read.left_out == (0, 1)
    assert_sentence(read.skipped[0], labelme.root / "a.json", "shape 2")


def test_a_label_that_is_a_number_and_a_difficult_object(labelme: LabelmeFolder) -> None:
    labelme.add(
        "a", BOX | {"label": 7}, BOX | {"flags": {"difficult": True}}, BOX | {"flags": None, "label": " cat "}
    )
    read = labelme.read()
    assert read.classes == ("7", "cat") and read.labels.tolist() == [0, 1, 1]
    assert read.difficult.tolist() == [False, True, False]


def test_an_image_is_the_one_beside_the_file_or_else_the_one_that_it_names(labelme: LabelmeFolder) -> None:
    labelme.add("a", BOX, imagePath="b.png")  # renamed, but for this
    labelme.add("b", BOX, BOX)
    labelme.add("c", BOX, place="jsons/", image="images/c.png", imagePath="..\\images\\c.png")
    labelme.add("d", BOX, place="jsons/", image="images/photo.png", imagePath="C:\\old\\photo.png")
    read = labelme.read()
    assert names(read) == ["a.png", "b.png", "c.png", "photo.png"] and read.offsets.tolist() == [0, 1, 3, 4, 5]


def test_what_is_left_out(labelme: LabelmeFolder, assert_sentence: Callable[..., None]) -> None:
    labelme.add("good", BOX)
    labelme.add("gone", BOX, image="")
    labelme.add("inside", BOX, BOX, image="", imageData="aGVsbG8=")
    labelme.add("size", BOX, imageHeight=HEIGHT + 2)
    labelme.add("cut", BOX)
    (labelme.root / "cut.json").write_text((labelme.root / "cut.json").read_text()[:-1])
    (labelme.root / "bare.png").write_bytes((labelme.root / "good.png").read_bytes())
    read = labelme.read()
    assert names(read) == ["good.png"] and read.left_out == (5, 4)
    words = [
        "cut.json",
        "gone.json is missing",
        "inside.png inside",
        f"{WIDTH}×{HEIGHT + 2}",
        "bare.png has no JSON",
    ]
    for sentence, word in zip(read.skipped, words, strict=True):
        assert_sentence(sentence, word)


def test_two_files_of_one_image(labelme: LabelmeFolder) -> None:
    labelme.add("a", BOX, place="images/")
    labelme.add("a", BOX, BOX, place="labels/", image="")
    read = labelme.read()
    assert len(read) == 1 and read.left_out[0] == 1 and "as another file does" in read.skipped[0]


@pytest.mark.parametrize("text", ['[{"shapes": [], "imagePath": "a.png"}]', '{"shapes": 3, "imagePath": 4}'])
def test_odd_files_are_told_or_empty(labelme: LabelmeFolder, text: str) -> None:
    labelme.add("good", BOX)
    labelme.add("a")
    (labelme.root / "a.json").write_text(text)
    read = labelme.read()
    assert len(read) + read.left_out[0] == 2 and len(read.boxes) == 1


def test_the_splits_are_folders(labelme: LabelmeFolder, refuses: Callable[..., Any]) -> None:
    for place, count in (("train/", 1), ("val/", 2)):
        labelme.add("a", *[BOX] * count, place=place)
    (labelme.root / "train/settings.json").write_text('{"shapes": "round"}')
    assert labelme_splits(Tree(labelme.root)) == ["train", "val"]
    assert len(labelme.read("train").boxes) == 1 and len(labelme.read("train+val").boxes) == 3
    with refuses("'test'", labelme.root, "train, val"):
        labelme.read("test")
    with refuses("nowhere", "ask Anna"):
        read_labelme(labelme.root / "nowhere", "train", source="ask Anna")
