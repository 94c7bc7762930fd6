"""What a list of VOC's may hold, which of several images counts, and the fields of an annotation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_voc import CAT, HEIGHT, WIDTH, VocFolder, ids, picture, xml

from resdet.data.voc import read_voc


@pytest.fixture
def voc(tmp_path: Path) -> VocFolder:
    """An empty data set."""
    return VocFolder(tmp_path / "set")


def test_the_lists_of_a_class_have_a_flag_behind_each_name(voc: VocFolder) -> None:
    """1 is set off by two spaces, as is 0: both are as wide as −1; or a tab. A name may end in a number itself."""
    names = ["000012", "b", "c", "image 1", "image 0", "d-1", "e"]
    for name in names:
        voc.add(name)
    path = voc.root / "ImageSets/Main/cat_train.txt"
    path.write_text("000012 -1\nb  1\nc  0 \n\nimage 1\nimage 0  1\nd-1 -1\r\ne\t1\n")
    assert ids(read_voc(voc.root, "cat_train")) == names


@pytest.mark.parametrize("ending", [".bmp", ".JPEG", ".PNG"])
def test_more_endings_of_images(voc: VocFolder, ending: str) -> None:
    voc.add("a", ending=ending)
    assert Path(voc.read().file(0)).name == f"a{ending}"


def test_of_several_images_of_one_name_the_jpeg_counts(voc: VocFolder) -> None:
    for ending in (".tif", ".WEBP", ".webp", ".bmp", ".PNG", ".png", ".JPEG", ".jpeg", ".JPG", ".jpg"):
        (voc.root / "ImageSets/Main/train.txt").unlink(missing_ok=True)
        voc.add("a", ending=ending)
        assert Path(voc.read().file(0)).name == f"a{ending}"


@pytest.mark.parametrize(
    ("flag", "difficult"), [("1", True), (" 1 ", True), ("0", False), ("", False), ("2", False), ("true", True)]
)
def test_only_a_flag_of_1_is_difficult(voc: VocFolder, flag: str, difficult: bool) -> None:
    voc.add("a", xml([("cat", flag, (1, 1, 9, 9))]))
    voc.add("b", xml([CAT]).replace("<difficult>0</difficult>", ""))
    assert voc.read().difficult.tolist() == [difficult, False]


def test_names_and_numbers_may_have_spaces_around_them(voc: VocFolder) -> None:
    voc.add("a", xml([(" big\tcat\n", 0, (" 1", "2 ", " 1e1 ", 20.5))]))
    read = voc.read()
    assert read.classes == ("big cat",) and read.boxes.tolist() == [[0, 1, 10, 20.5]]


@pytest.mark.parametrize(
    ("width", "height", "good"),
    [
        (WIDTH, HEIGHT, True),
        (f"{WIDTH}.0", f" {HEIGHT} ", True),
        (WIDTH + 1, HEIGHT - 1, True),  # of a tool that rounds
        (WIDTH, HEIGHT + 2, False),
        (WIDTH - 2, HEIGHT, False),
        (HEIGHT, WIDTH, False),
        (0, HEIGHT + 9, True),  # one side alone states no size
        (WIDTH + 9, "", True),
    ],
)
def test_the_stated_size_is_the_image_s(voc: VocFolder, width: object, height: object, good: bool) -> None:
    voc.add("a", xml([CAT], f"<size><width>{width}</width><height>{height}</height></size>"))
    voc.add("b")
    read = voc.read()
    assert ids(read) == (["a", "b"] if good else ["b"])
    if not good:
        assert read.skipped == (
            f"{voc.root / 'Annotations/a.xml'} describes an image of {width}×{height} pixels, but "
            f"{voc.root / 'JPEGImages/a.jpg'} has {WIDTH}×{HEIGHT}: correct the size, or copy the image again; "
            "its 1 objects are left out too.",
        )


def test_two_sentences_for_two_boxes_that_are_left_out(voc: VocFolder) -> None:
    voc.add("a", xml([("dog", 0, (9, 9, 1, 1)), CAT, ("cow", 0, (99, 99, 120, 120))]))
    read = voc.read()
    assert read.classes == ("cat",) and len(read.boxes) == 1
    assert ["'dog'" in read.skipped[0], "'cow'" in read.skipped[1]] == [True, True]


def test_a_picture_of_another_format_than_its_ending_is_read(voc: VocFolder) -> None:
    voc.add("a", image=picture(".png"))
    assert ids(voc.read()) == ["a"]


def test_a_list_in_a_folder_that_looks_like_a_year(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    """Four digits before the last underscore name a folder; other numbers belong to the list's name."""
    voc = VocFolder(tmp_path)
    voc.add("a")
    for split in ("12_train", "20071_train", "2007_small_train", "x2007_train"):
        (tmp_path / f"ImageSets/Main/{split}.txt").write_text("a\n")
        assert ids(read_voc(tmp_path, split)) == ["a"]
    with refuses(tmp_path / "VOC2007", "not found"):
        read_voc(tmp_path, "2007_train")
