"""Reading YOLO's text files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resdet.data.annotations import Annotations
from resdet.data.yolo import read_yolo

HEIGHT, WIDTH = 40, 60


class YoloFolder:
    """A data set that a test writes file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.description("names: [cat, dog]")

    def description(self, text: str) -> None:
        """Its data.yaml."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "data.yaml").write_text(text)

    def add(self, name: str, labels: str | None, folder: str = "images/train") -> None:
        """An image and its text file."""
        image = self.root / folder / f"{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes())
        if labels is not None:
            (text := self.text(image)).parent.mkdir(parents=True, exist_ok=True)
            text.write_text(labels)

    def text(self, image: Path) -> Path:
        """The text file of an image: in labels/ for images/, else beside it."""
        parts = list(image.relative_to(self.root).with_suffix(".txt").parts)
        if "images" in parts[:-1]:
            parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        return self.root.joinpath(*parts)

    def read(self, splits: str = "train", classes: tuple[str, ...] = (), **options: Any) -> Annotations:
        """A split of it."""
        return read_yolo(self.root, splits, classes, **options)


@pytest.fixture
def yolo(tmp_path: Path) -> YoloFolder:
    """A data set without images."""
    return YoloFolder(tmp_path / "images" / "set")  # an "images" above the data set misleads nobody


def test_the_arrays_hold_what_the_files_say(yolo: YoloFolder) -> None:
    yolo.add("b", "1 0.5 0.5 1 1\n\n0 0.25 0.25 0.1 0.2\n")
    yolo.add("a", None)
    yolo.add("c", "0 0.1 0.2 0.5 0.25 0.3 0.75")
    read = yolo.read()
    assert read.classes == ("cat", "dog") and read.category_ids.tolist() == [1, 2] and not read.skipped
    assert [read.id(index) for index in range(3)] == ["a", "b", "c"] and read.offsets.tolist() == [0, 0, 2, 3]
    assert "1 images of train have no text file" in read.notes[0]
    expected = [[0, 0, WIDTH, HEIGHT], [12, 6, 18, 14], [6, 8, 30, 30]]
    np.testing.assert_allclose(read.boxes, expected, atol=1e-9)
    assert read.labels.tolist() == [1, 0, 0] and not read.difficult.any()


@pytest.mark.parametrize(
    ("description", "folder"),
    [
        ("names: {0: cat, 1: dog}", "images/train"),
        ("names: [cat, dog]\ntrain: pictures/images/first", "pictures/images/first"),
        ("names: [cat, dog]\ntrain: ../train/images", "train/images"),
        ("names: [cat, dog]\npath: ../datasets/set\ntrain: images/train", "images/train"),
        ("names: [cat, dog]\ntrain: [images/one, images/two]", "images/two"),
        ("names: [cat, dog]", "train/images"),
        ("names: [cat, dog]\ntrain: list.txt", "images/far"),
    ],
)
def test_usual_places(yolo: YoloFolder, description: str, folder: str) -> None:
    yolo.description(description)
    (yolo.root / "images/one").mkdir(parents=True)
    yolo.add("a", "0 0.5 0.5 0.5 0.5", folder)
    (yolo.root / "list.txt").write_text("./images/far/a.png\n\n")
    read = yolo.read()
    assert len(read) == 1 and read.classes == ("cat", "dog") and len(read.boxes) == 1


def test_names_from_a_text_file(yolo: YoloFolder) -> None:
    (yolo.root / "data.yaml").unlink()
    yolo.add("a", "1 0.5 0.5 0.5 0.5\n7 0.5 0.5 0.5 0.5")
    read = yolo.read()
    assert (
        read.classes == ("class_1", "class_7")
        and read.labels.tolist() == [0, 1]
        and "Nothing names the classes" in read.notes[0]
    )
    yolo.add("a", "1 0.5 0.5 0.5 0.5")
    (yolo.root / "classes.txt").write_text("cat\nbig dog\n")
    assert yolo.read().classes == ("cat", "big dog")


def test_classes_in_another_order(yolo: YoloFolder, refuses: Callable[..., Any]) -> None:
    yolo.add("a", "1 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5 0.5")
    assert yolo.read(classes=("dog", "cat")).labels.tolist() == [0, 1]
    with refuses("'cat'", "other-classes"):
        yolo.read(classes=("dog",))
    assert yolo.read(classes=("dog",), other_classes="ignore").labels.tolist() == [0]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("0 0.5 0.5 0.5", "class x y width height"),
        ("hen 0.5 0.5 0.5 0.5", "class x y width height"),
        ("0 0.5 0.5 0.5 nan", "class x y width height"),
        ("2 0.5 0.5 0.5 0.5", "class 2"),
        ("-1 0.5 0.5 0.5 0.5", "class -1"),
        ("0.5 0.5 0.5 0.5 0.5", "class 0.5"),
        ("0 30 20 10 10", "fractions"),
    ],
)
def test_a_broken_line_is_left_out(yolo: YoloFolder, line: str, word: str, assert_sentence) -> None:
    yolo.add("bad", f"0 0.5 0.5 0.5 0.5\n{line}\n1 0.5 0.5 0.5 0.5")
    yolo.add("good", "")
    read = yolo.read()
    assert [read.id(0), read.id(1)] == ["bad", "good"] and read.labels.tolist() == [0, 1]
    assert read.left_out == (0, 1)
    assert_sentence(read.skipped[0], "bad.txt, line 2", word)


def test_a_class_may_be_given_by_its_name(yolo: YoloFolder) -> None:
    yolo.add("a", "dog 0.5 0.5 0.5 0.5\n0 0.5 0.5 1 1")
    assert yolo.read().labels.tolist() == [1, 0]


def test_a_box_without_area_is_left_out(yolo: YoloFolder, assert_sentence: Callable[..., None]) -> None:
    yolo.add("a", "0 0.5 0.5 0 0.5\n0 1.4 0.5 0.1 0.1\n1 0 0 0.5 0.5")
    read = yolo.read()
    assert read.boxes.tolist() == [[-15, -10, 15, 10]] and len(read.skipped) == 2
    assert_sentence(read.skipped[0], "a.txt: line 1", "no area")


def test_what_is_missing(yolo: YoloFolder, refuses: Callable[..., Any], tmp_path: Path) -> None:
    with refuses(tmp_path / "no", "ask Anna"):
        read_yolo(tmp_path / "no", "train", source="ask Anna")
    with refuses("'train'", "images/train"):
        yolo.read()
    yolo.description("names: [cat]\ntrain: nowhere")
    with refuses("nowhere", yolo.root):
        yolo.read()
    yolo.description("names: [cat\n")
    with refuses("data.yaml", "YAML"):
        yolo.read()
    yolo.description("names: [cat]")
    (yolo.root / "images/train").mkdir(parents=True)
    with refuses("No images", "images/train"):
        yolo.read()
    yolo.add("a", None)
    with refuses("No image of", "train", "text file"):
        yolo.read()
