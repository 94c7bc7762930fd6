"""Where YOLO's images, text files and names of classes are looked for, and what a line may hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_read_yolo import HEIGHT, WIDTH, YoloFolder

from resdet.data.tree import Partners, Tree
from resdet.data.yolo import read_description, read_yolo, yolo_splits

ONE = "0 0.5 0.5 0.5 0.5"


@pytest.fixture
def yolo(tmp_path: Path) -> YoloFolder:
    """A data set without images, below no folder called images."""
    return YoloFolder(tmp_path / "set")


def ids(read: Any) -> list[str]:
    """Of the images in use."""
    return [read.id(index) for index in range(len(read))]


# Images


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("images/one/images/two/a.b.png", "images/one/labels/two/a.b.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("train/a.jpg", "train/a.txt"),
        ("pictures_images/a.jpg", "pictures_images/a.txt"),
    ],
)
def test_the_text_file_of_an_image(tmp_path: Path, image: str, text: str) -> None:
    """Folders that only say what is in them do not tell images apart."""
    for file in (image, text, "images/train/b.jpg", "labels/train/b.txt", "labels/val/a.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    tree = Tree(tmp_path)
    partners = Partners(tree, tree.ending(".txt"))
    assert partners.of_image(tmp_path / image) == tmp_path / text
    assert partners.of_file(tmp_path / text) == tmp_path / image


def test_images_are_sorted_and_known_by_their_names(yolo: YoloFolder) -> None:
    yolo.add("b", ONE)
    yolo.add("a.x", ONE)
    yolo.add("deep/c", None)
    yolo.add("deep/b", None)
    (yolo.root / "images/train/notes.txt").write_text("No images")
    read = yolo.read()
    assert ids(read) == ["a.x", "train/b", "deep/b", "c"] and read.offsets.tolist() == [0, 1, 2, 2, 2]
    assert read.file(3) == str(yolo.root / "images/train/deep/c.png")
    assert read.sizes.tolist() == [[HEIGHT, WIDTH]] * 4


def test_a_list_of_images_names_them_from_its_own_folder(yolo: YoloFolder) -> None:
    yolo.description("names: [cat, dog]\ntrain: lists/first.txt")
    yolo.add("b", ONE, "lists/images")
    yolo.add("a", None, "lists/images")
    (yolo.root / "lists/first.txt").write_bytes(b"\xef\xbb\xbfimages/b.png \n\n images/a.png\n")
    read = yolo.read()
    assert ids(read) == ["b", "a"] and len(read.boxes) == 1  # in the list's order
    assert Path(read.file(0)) == yolo.root / "lists/images/b.png"


def test_all_folders_of_the_split_s_name_are_read(yolo: YoloFolder) -> None:
    yolo.add("c", ONE, "train")
    assert ids(yolo.read()) == ["c"] and len(yolo.read().boxes) == 1
    yolo.add("b", ONE, "train/images")
    yolo.add("a", ONE, "images/train")
    assert sorted(ids(yolo.read())) == ["a", "b", "c"] and len(yolo.read().boxes) == 3


def test_the_yaml_file_comes_before_the_usual_folders(yolo: YoloFolder) -> None:
    yolo.add("usual", ONE)
    yolo.add("stated", ONE, "images/first")
    yolo.add("more", ONE, "images/second")
    yolo.description("names: [cat]\ntrain: [images/second, images/first]")
    assert ids(yolo.read()) == ["more", "stated"]
    yolo.description("names: [cat]\ntrain: images/first\nval:\n")
    assert ids(yolo.read()) == ["stated"]
    read = yolo.read("train + train")
    assert ids(read) == ["stated", "stated"] and "1 images are listed more than once" in read.notes[-1]


@pytest.mark.parametrize(
    ("path", "entry", "folder"),
    [
        ("below", "images/train", "below/images/train"),  # base / entry
        ("nowhere", "images/train", "images/train"),  # the file's own folder
        ("nowhere", "../images/train", "images/train"),  # an export that was moved
        ("/data/coco8", "images/train", "coco8/images/train"),  # unpacked one folder deeper
    ],
)
def test_the_folders_that_an_entry_may_begin_at(yolo: YoloFolder, path: str, entry: str, folder: str) -> None:
    yolo.description(f"path: {path}\nnames: [cat]\ntrain: {entry}")
    yolo.add("a", ONE, folder)
    assert Path(yolo.read().file(0)).resolve() == yolo.root / folder / "a.png"


def test_the_stated_base_folder_comes_first(yolo: YoloFolder) -> None:
    yolo.description("path: below\nnames: [cat]\ntrain: images")
    yolo.add("own", ONE, "images")
    yolo.add("stated", ONE, "below/images")
    assert ids(yolo.read()) == ["stated"]


# Names


def test_data_yaml_comes_before_other_yaml_files(yolo: YoloFolder) -> None:
    (yolo.root / "a.yaml").write_text("names: [hen]")
    (yolo.root / "data.yaml").write_text("names: [cat]")
    assert read_description(Tree(yolo.root)).content == {"names": ["cat"]}
    (yolo.root / "data.yaml").rename(yolo.root / "data.yml")
    assert read_description(Tree(yolo.root)).content == {"names": ["cat"]}
    (yolo.root / "data.yml").unlink()
    assert read_description(Tree(yolo.root)).content == {"names": ["hen"]}
    (yolo.root / "a.yaml").write_text("just a sentence")
    assert read_description(Tree(yolo.root)).content == {}
    (yolo.root / "a.yaml").unlink()
    assert read_description(Tree(yolo.root)).content == {}


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("[' cat ', dog]", ("cat", "dog")),
        ("[1, 2]", ("1", "2")),
        ("{1: dog, 0: cat}", ("cat", "dog")),
        ("{1: dog, 2: cat}", ("dog", "cat")),
        ("{'0': dog, '2': cat}", ("dog", "cat")),
        ("[yes, no, 007]", ("yes", "no", "007")),
        ("[]", ("hen",)),  # the next place is read
        ("cat", ("hen",)),
    ],
)
def test_the_names_in_the_yaml_file(yolo: YoloFolder, names: str, classes: tuple[str, ...]) -> None:
    yolo.description(f"names: {names}")
    (yolo.root / "classes.txt").write_text("hen\n")
    yolo.add("a", "")
    assert yolo.read().classes == classes


def test_numbers_that_are_not_named_are_no_classes(yolo: YoloFolder) -> None:
    yolo.description("names: {3: dog, 1: cat}")
    yolo.add("a", "3 0.5 0.5 1 1\n1 0.5 0.5 1 1\n2 0.5 0.5 1 1")
    read = yolo.read()
    assert read.classes == ("cat", "dog") and read.labels.tolist() == [1, 0] and "the class 2" in read.skipped[0]


def test_the_text_files_of_names_in_their_order(yolo: YoloFolder) -> None:
    (yolo.root / "data.yaml").unlink()
    yolo.add("a", ONE)
    for place, name in (("obj.names", "third"), ("labels/classes.txt", "second"), ("classes.txt", "first")):
        (yolo.root / place).write_bytes(f"\ufeff{name}\n\n other \n".encode())
        assert yolo.read().classes == (name, "other")


def test_the_classes_of_the_caller_come_before_those_of_the_files(yolo: YoloFolder) -> None:
    yolo.add("a", "1 0.5 0.5 0.5 0.5")
    read = yolo.read(classes=("hen", "dog"))
    assert read.classes == ("hen", "dog") and read.labels.tolist() == [1]


# Lines


def test_a_polygon_becomes_the_box_around_it(yolo: YoloFolder) -> None:
    yolo.add("a", "1 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5\n0 0.1 0.1 0.2 0.1 0.2 0.3")
    expected = [[15, 10, 45, 30], [6, 4, 12, 12]]
    np.testing.assert_allclose(yolo.read().boxes, expected, atol=1e-9)


def test_a_number_up_to_one_and_a_half_is_a_share(yolo: YoloFolder) -> None:
    """A box may leave its image in part; beyond that the numbers are likely pixels."""
    yolo.add("bad", "0 0.5 0.5 0.5 1.51")
    yolo.add("good", "0 1.5 0.5 1.5 1\n0 -0.25 0.5 1.5 1.5")
    yolo.add("worse", "0 0.5 -1.6 0.5 1.55")
    read = yolo.read()
    assert (
        ids(read) == ["bad", "good", "worse"]
        and read.offsets.tolist() == [0, 0, 2, 2]
        and read.boxes.tolist() == [[45, 0, 135, 40], [-60, -10, 30, 50]]
    )
    assert "has 1.51:" in read.skipped[0] and "has -1.6:" in read.skipped[1]


@pytest.mark.parametrize(
    "line", ["0 0.5 0.5", "0", "0 .1 .1 .2 .2 .3 .3 .4", "0 .1 .1 .2 .2 .3 inf", "0 .1 .1 -inf .1"]
)
def test_a_line_that_is_neither_box_nor_polygon(yolo: YoloFolder, line: str) -> None:
    yolo.add("bad", line)
    yolo.add("good", "0 .1 .1 .2 .2 .3 .3")
    read = yolo.read()
    assert ids(read) == ["bad", "good"] and len(read.boxes) == 1 and "class x y width height" in read.skipped[0]


def test_a_broken_line_is_quoted_up_to_its_sixtieth_letter(yolo: YoloFolder) -> None:
    yolo.add("bad", f"  cat {'x' * 100}")
    yolo.add("good", ONE)
    assert yolo.read().skipped[0].endswith(f"bad.txt, line 1 is not `class x y width height`: 'cat {'x' * 56}'.")


def test_lines_are_counted_with_the_blank_ones(yolo: YoloFolder) -> None:
    yolo.add("bad", f"\n{ONE}\n\n9 0.5 0.5 0.5 0.5\n")
    yolo.add("good", f"\ufeff{ONE}\n \n1 0.5 0.5 0 1\n{ONE}")
    read = yolo.read()
    assert read.labels.tolist() == [0, 0, 0] and read.difficult.tolist() == [False] * 3
    assert "bad.txt, line 4 has the class 9, but the classes are 0 to 1." in read.skipped[0]
    assert "good.txt: line 3, a box of 'dog' with no area" in read.skipped[1]


def test_a_text_file_that_is_no_text(yolo: YoloFolder, assert_sentence: Callable[..., None]) -> None:
    yolo.add("bad", "")
    yolo.add("good", ONE)
    (yolo.root / "labels/train/bad.txt").write_bytes(b"\xff\xfe\x00")
    read = yolo.read()
    assert ids(read) == ["good"]
    assert_sentence(read.skipped[0], "bad.txt", "not a text file")


def test_a_broken_image_is_left_out(yolo: YoloFolder) -> None:
    yolo.add("bad", ONE)
    yolo.add("good", ONE)
    (yolo.root / "images/train/bad.png").write_bytes(b"no picture")
    read = yolo.read()
    assert ids(read) == ["good"] and "bad.png" in read.skipped[0]


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5 0.5 0.5 0.9",  # a score
        "0 0.5 0.5 0.5 0.5 0.9 12",  # a score and a track
        "0 0.5 0.5 0.5 0.5 0.3 0.4 2 0.7 0.6 1 0 0 0",  # keypoints that are visible or not
        "0 0.5 0.5 0.5 0.5 0.3 0.4 0.7 0.6",  # keypoints
        "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75 0.9",  # a polygon and its score
        "0.0 0.5, 0.5, 0.5, 0.5",
        "0\t0.5\t0.5\t0.5\t0.5\t",
        "0,0.5,0.5,0.5,0.5",
        "0 0,5 0,5 0,5 0,5",
        "cat .5 .5 5e-1 +0.5",
    ],
)
def test_lines_of_other_tools(yolo: YoloFolder, line: str) -> None:
    yolo.add("a", f"{line}\n{line}")
    read = yolo.read()
    np.testing.assert_allclose(read.boxes, [[15, 10, 45, 30]] * 2, atol=1e-9)
    assert not read.skipped and len(read.notes) == (len(line.replace(",", " ").split()) > 5 and "0,5" not in line)


@pytest.mark.parametrize("label", ["nan", "inf", "-inf", "1e300", "99999999999999999999", "-1"])
def test_numbers_that_no_class_has(yolo: YoloFolder, label: str) -> None:
    yolo.add("a", f"{label} 0.5 0.5 0.5 0.5\n{ONE}")
    read = yolo.read()
    assert len(read.boxes) == 1 and read.left_out == (0, 1) and "a.txt, line 1" in read.skipped[0]


def test_labels_and_classes_that_are_counted_from_another_number(yolo: YoloFolder, refuses: Callable) -> None:
    yolo.add("a", "1 0.5 0.5 1 1\n2 0.5 0.5 1 1")
    with refuses(yolo.root / "labels/train", "from 1 to 2", "subtract 1"):
        yolo.read()
    yolo.description("names: {1: cat, 2: dog}")
    assert yolo.read().labels.tolist() == [0, 1]
    yolo.add("a", "0 0.5 0.5 1 1\n1 0.5 0.5 1 1")
    with refuses("from 1 to 2", "from 0 to 1", yolo.root / "labels/train"):
        yolo.read()
    yolo.add("a", "0 0.5 0.5 1 1\n2 0.5 0.5 1 1")
    assert yolo.read().left_out == (0, 1)  # as of a choice of classes


def test_lists_of_classes_that_differ(yolo: YoloFolder, refuses: Callable[..., Any]) -> None:
    """As labelImg leaves them in every folder; one may be the beginning of another."""
    (yolo.root / "data.yaml").unlink()
    for folder in "ab":
        yolo.add(folder, "1 0.5 0.5 0.5 0.5", folder)
    (yolo.root / "a/classes.txt").write_text("cat\ndog\n")
    (yolo.root / "b/classes.txt").write_text("cat\ndog\nhen\n")
    assert yolo.read("all").classes == ("cat", "dog", "hen")
    (yolo.root / "b/classes.txt").write_text("dog\ncat\n")
    with refuses("lists of classes that differ", yolo.root / "a/classes.txt", yolo.root / "b/classes.txt"):
        yolo.read("all")


def test_several_data_sets_in_one_folder(yolo: YoloFolder, refuses: Callable[..., Any]) -> None:
    (yolo.root / "data.yaml").unlink()
    for folder in "ab":
        yolo.add(folder, ONE, f"{folder}/images")
        (yolo.root / folder / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    with refuses("several data sets", yolo.root / "a", yolo.root / "b"):
        yolo.read()


def test_lists_of_images_without_a_description(yolo: YoloFolder) -> None:
    yolo.description("names: [cat, dog]")
    for name in "abc":
        yolo.add(name, ONE, "images")
    (yolo.root / "train.txt").write_text("images/a.png\nimages/b.png\n")
    (yolo.root / "lists").mkdir()
    (yolo.root / "lists/val.txt").write_text("../images/c.png\n")
    (yolo.root / "test.txt").write_text("notes on the test\n")
    assert yolo_splits(Tree(yolo.root)) == ["train", "val"]
    assert ids(yolo.read()) == ["a", "b"] and ids(yolo.read("val")) == ["c"]
    (yolo.root / "lists/train.txt").write_text("../images/c.png\n")
    assert sorted(ids(yolo.read())) == ["a", "b", "c"]


def test_a_split_that_is_named_in_vain(yolo: YoloFolder, refuses: Callable[..., Any]) -> None:
    """It is told of, but stops nobody who reads another."""
    yolo.description("names: [cat]\ntrain: images/train\ntest: ../test/images\nauthor: me\nlicense: MIT\n")
    yolo.add("a", ONE)
    assert yolo_splits(Tree(yolo.root)) == ["train"]
    assert yolo.read().notes == (
        f"The description of {yolo.root} names the split test, ../test/images, which was not found there.",
    )
    with refuses("../test/images", "fix the path"):
        yolo.read("test")


# What is refused


def test_a_yaml_file_that_is_none(yolo: YoloFolder, refuses: Callable[..., Any]) -> None:
    for content, word in (
        (b"names: [cat", "YAML"),
        (b"\xff\xfe\xfa", "text"),
        (b"\x00", "text"),
        (b"{a: b: c}", "YAML"),
    ):
        (yolo.root / "data.yaml").write_bytes(content)
        with refuses(yolo.root / "data.yaml", word):
            yolo.read()


def test_the_messages_name_split_folder_and_source(yolo: YoloFolder, refuses: Callable[..., Any]) -> None:
    with refuses("nowhere", "datasets/README.md"):
        read_yolo(yolo.root / "nowhere", "train")
    yolo.add("a", ONE)
    with refuses("'val'", yolo.root, yolo.root / "images/val"):
        yolo.read("train+val")
    yolo.description("names: [cat]\ntrain: [images/train, images/none]")
    with refuses("images/none", "not found"):
        yolo.read()
    (yolo.root / "images/none").mkdir()
    (yolo.root / "images/train/a.png").unlink()
    with refuses("No images", yolo.root / "images/train"):
        yolo.read()
