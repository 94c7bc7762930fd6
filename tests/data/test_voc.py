"""Reading VOC data sets: what lands in the arrays, and every broken file that a user may have."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from resdet.config import SHAPES_CLASSES
from resdet.data.annotations import Annotations
from resdet.data.voc import read_voc

HEIGHT, WIDTH = 40, 60
CAT = ("cat", 0, (11, 6, 30, 25))
LAUGHS = """<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;">]>
<annotation><object><name>&lol2;</name></object></annotation>"""
EXTERNAL = """<!DOCTYPE a [<!ENTITY secret SYSTEM "file:///etc/hostname">]>
<annotation><object><name>&secret;</name></object></annotation>"""


def xml(objects: Sequence[tuple[str, object, Sequence[object]]], size: str | None = None) -> str:
    """An annotation; `objects` are (name, difficult, corners as they stand in the file)."""
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>" if size is None else size
    corners = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult>{corners.format(*box)}</object>"
        for name, difficult, box in objects
    )
    return f"<annotation>{size}{body}</annotation>"


def picture(ending: str = ".jpg", height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """An encoded image."""
    ramp = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    return cv2.imencode(ending, cv2.merge([ramp, ramp, ramp]))[1].tobytes()


class VocFolder:
    """A data set that a test writes file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    def add(
        self, image_id: str, annotation: str | None = None, image: bytes | None = None, ending: str = ".jpg"
    ) -> None:
        """Write an image, by default a good one with one cat, and list it in ``train``."""
        (self.root / f"Annotations/{image_id}.xml").write_text(xml([CAT]) if annotation is None else annotation)
        (self.root / f"JPEGImages/{image_id}{ending}").write_bytes(picture(ending) if image is None else image)
        with (self.root / "ImageSets/Main/train.txt").open("a", encoding="utf-8") as file:
            file.write(f"{image_id}\n")

    def read(self, classes: tuple[str, ...] = (), other_classes: str = "error") -> Annotations:
        """Its list ``train``."""
        return read_voc(self.root, "train", classes, other_classes=other_classes)


def ids(annotations: Annotations) -> list[str]:
    """The images that are in use."""
    return [annotations.id(index) for index in range(len(annotations))]


@pytest.fixture
def voc(tmp_path: Path) -> VocFolder:
    """An empty data set."""
    return VocFolder(tmp_path / "set")


# What is read


def test_the_arrays_hold_what_the_files_say(voc: VocFolder) -> None:
    voc.add("b", xml([("dog", 1, (1, 1, WIDTH, HEIGHT)), ("cat", 0, (11, 6, 30, 25))]))
    voc.add("empty", xml([]))
    voc.add("a", xml([("cat", 0, (2, 3, 4.5, 5))]))
    read = voc.read(("dog", "cat"))
    assert ids(read) == ["b", "empty", "a"], "the order is that of the list"
    assert [Path(read.file(i)) for i in range(3)] == [voc.root / f"JPEGImages/{name}.jpg" for name in ids(read)]
    assert read.classes == ("dog", "cat")
    assert read.offsets.tolist() == [0, 2, 2, 3] and read.offsets.dtype == np.int64
    # 1-based and inclusive becomes continuous: only the first corner moves.
    expected = [[0, 0, WIDTH, HEIGHT], [10, 5, 30, 25], [1, 2, 4.5, 5]]
    assert read.boxes.tolist() == expected and read.boxes.dtype == np.float64
    assert read.labels.tolist() == [0, 1, 1] and read.labels.dtype == np.int64
    assert read.difficult.tolist() == [True, False, False] and read.difficult.dtype == bool
    assert read.sizes.tolist() == [[HEIGHT, WIDTH]] * 3
    assert read.skipped == ()
    target = read.target(0)
    assert target.boxes.tolist() == expected[:2] and target.labels.tolist() == [0, 1]
    assert [tuple(part.shape) for part in read.target(1)] == [(0, 4), (0,), (0,)]


def test_a_target_is_a_copy(voc: VocFolder) -> None:
    voc.add("a")
    read = voc.read()
    read.target(0).boxes.zero_()
    assert read.target(0).boxes.tolist() == [[10, 5, 30, 25]]


def test_without_classes_the_annotations_name_them(voc: VocFolder) -> None:
    voc.add("a", xml([(name, 0, (1, 1, 9, 9)) for name in ("zebra", "ant", "zebra")]))
    voc.add("b", xml([("mole", 0, (1, 1, 9, 9))]))
    read = voc.read()
    assert read.classes == ("ant", "mole", "zebra")
    assert read.labels.tolist() == [2, 0, 2, 1]


def test_years_are_folders_and_lists_are_joined(tmp_path: Path) -> None:
    for year, names in (("2007", "ab"), ("2012", "cd")):
        for name in names:
            VocFolder(tmp_path / f"VOC{year}").add(name)
    assert ids(read_voc(tmp_path, "2007_train+2012_train")) == ["a", "b", "c", "d"]
    assert ids(read_voc(tmp_path, "2012_train + 2007_train")) == ["c", "d", "a", "b"]
    assert ids(read_voc(tmp_path, "2012_train")) == ["c", "d"]


@pytest.mark.parametrize("split", ["train_small", "2012", "v1_train"])
def test_a_list_may_have_any_name(voc: VocFolder, split: str) -> None:
    voc.add("a")
    (voc.root / f"ImageSets/Main/{split}.txt").write_text("\n a \r\n\n")
    assert ids(read_voc(voc.root, split)) == ["a"]


def test_the_embedded_data_set_is_read_whole(shapes_root: Path) -> None:
    read = read_voc(shapes_root, "train+val", SHAPES_CLASSES)
    assert len(read) == 10 and read.skipped == () and len(read.labels) > 10


@pytest.mark.parametrize("name", ["two words", "image 1", "猫_ö", "a.b"])
def test_names_with_spaces_and_of_any_alphabet(tmp_path: Path, name: str) -> None:
    voc = VocFolder(tmp_path / "мои данные")
    voc.add(name)
    read = voc.read()
    assert ids(read) == [name] and Path(read.file(0)).is_file() and not read.skipped


def test_a_byte_order_mark_belongs_to_no_name(voc: VocFolder) -> None:
    voc.add("a")
    (voc.root / "ImageSets/Main/train.txt").write_bytes(b"\xef\xbb\xbfa\r\n")
    assert ids(voc.read()) == ["a"]


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".png", ".JPG"])
def test_endings_of_images(voc: VocFolder, ending: str) -> None:
    voc.add("a", ending=ending)
    assert ids(voc.read()) == ["a"]


@pytest.mark.parametrize(
    "size", ["", "<size/>", "<size><width>0</width><height>0</height></size>", "<size><width/><height/></size>"]
)
def test_a_size_that_says_nothing_is_accepted(voc: VocFolder, size: str) -> None:
    voc.add("a", xml([CAT], size))
    assert voc.read().sizes.tolist() == [[HEIGHT, WIDTH]] and not voc.read().skipped


def test_a_box_partly_outside_is_kept_as_annotated(voc: VocFolder) -> None:
    boxes = [(-5, -7, 20, 20), (0, 0, 20, 20), (50, 30, 1000, 41)]
    voc.add("a", xml([("cat", 0, box) for box in boxes]))
    read = voc.read()
    assert read.boxes.tolist() == [[-6, -8, 20, 20], [-1, -1, 20, 20], [49, 29, 1000, 41]] and not read.skipped


def test_parts_of_an_object_are_not_objects(voc: VocFolder) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    voc.add("a", xml([CAT]).replace("<object>", f"<object>{part}"))
    read = voc.read()
    assert read.classes == ("cat",) and read.boxes.tolist() == [[10, 5, 30, 25]]


# What is left out, one image or one box at a time

BROKEN_ANNOTATIONS = {
    "another root": ("<html><body/></html>", "<html>"),
    "no XML": ("This is a note.", "not usable XML"),
    "empty": (" \n", "is empty"),
    "cut off": (xml([CAT])[:-30], "not usable XML"),
    "unknown encoding": ('<?xml version="1.0" encoding="klingon"?><annotation/>', "not usable XML"),
    "billion laughs": (LAUGHS, "not usable XML"),
    "external entity": (EXTERNAL, "not usable XML"),
    "another size": (xml([CAT], "<size><width>62</width><height>40</height></size>"), "62×40 pixels"),
    "turned size": (xml([CAT], "<size><width>40</width><height>60</height></size>"), "40×60 pixels"),
    "size in words": (xml([CAT], "<size><width>big</width><height>40</height></size>"), "not a number"),
    "infinite size": (xml([CAT], "<size><width>inf</width><height>40</height></size>"), "not a number"),
}


@pytest.mark.parametrize("annotation, word", BROKEN_ANNOTATIONS.values(), ids=BROKEN_ANNOTATIONS)
def test_a_broken_annotation_is_left_out_and_counted(
    voc: VocFolder, annotation: str, word: str, assert_sentence: Callable[..., None]
) -> None:
    voc.add("first")
    voc.add("bad", annotation)
    voc.add("last")
    read = voc.read()
    assert ids(read) == ["first", "last"] and read.boxes.tolist() == [[10, 5, 30, 25]] * 2
    assert len(read.skipped) == 1 and read.left_out[0] == 1
    assert_sentence(read.skipped[0], voc.root / "Annotations/bad.xml", word)


BROKEN_OBJECTS = {
    "text": (("cat", 0, ("left", 1, 9, 9)), "'cat' without a bndbox of four numbers"),
    "nan": (("cat", 0, (1, "nan", 9, 9)), "'cat' without a bndbox of four numbers"),
    "inf": (("cat", 0, (1, 1, "inf", 9)), "'cat' without a bndbox of four numbers"),
    "beyond float": (("cat", 0, ("-1e999", 1, 9, 9)), "'cat' without a bndbox of four numbers"),
    "blank": (("cat", 0, (1, 1, "", 9)), "'cat' without a bndbox of four numbers"),
    "no name": (("", 0, (1, 1, 9, 9)), "object 2 has no name"),
}


@pytest.mark.parametrize("broken, word", BROKEN_OBJECTS.values(), ids=BROKEN_OBJECTS)
def test_a_broken_object_is_left_out_and_counted(
    voc: VocFolder, broken: tuple, word: str, assert_sentence: Callable[..., None]
) -> None:
    """The image keeps its other objects."""
    voc.add("a", xml([("dog", 1, (1, 1, 9, 9)), broken, CAT]))
    read = voc.read()
    assert read.boxes.tolist() == [[0, 0, 9, 9], [10, 5, 30, 25]] and read.difficult.tolist() == [True, False]
    assert len(read.skipped) == 1 and read.left_out == (0, 1)
    assert_sentence(read.skipped[0], voc.root / "Annotations/a.xml", word)


def test_an_object_without_a_box_is_left_out(voc: VocFolder) -> None:
    nothing = "<annotation><object><name>cat</name></object></annotation>"
    voc.add("a", nothing)
    voc.add("b", nothing.replace("</name>", "</name><bndbox/>"))
    voc.add("c")
    read = voc.read()
    assert ids(read) == ["a", "b", "c"] and len(read.boxes) == 1 and read.left_out == (0, 2)


BROKEN_IMAGES = {
    "truncated": (picture()[:-200], "truncated"),
    "empty": (b"", "is empty"),
    "text": (b"GIF me a break", "not an image"),
    "truncated PNG": (picture(".png")[:60], "truncated"),
    "another size": (picture(width=WIDTH + 2), f"{WIDTH + 2}×{HEIGHT}"),
}


@pytest.mark.parametrize("image, word", BROKEN_IMAGES.values(), ids=BROKEN_IMAGES)
def test_a_broken_image_is_left_out_and_counted(
    voc: VocFolder, image: bytes, word: str, assert_sentence: Callable[..., None]
) -> None:
    voc.add("good")
    voc.add("bad", image=image)
    read = voc.read()
    assert ids(read) == ["good"] and len(read.skipped) == 1 and read.left_out == (1, 1)
    assert_sentence(read.skipped[0], voc.root, "bad", word, "its 1 objects")


@pytest.mark.parametrize("missing", ["Annotations/bad.xml", "JPEGImages/bad.jpg"])
@pytest.mark.parametrize("folder_instead", [False, True])
def test_a_missing_file_is_left_out_and_counted(
    voc: VocFolder, missing: str, folder_instead: bool, assert_sentence: Callable[..., None]
) -> None:
    voc.add("bad")
    voc.add("good")
    (voc.root / missing).unlink()
    if folder_instead:
        (voc.root / missing).mkdir()
    read = voc.read()
    assert ids(read) == ["good"] and len(read.skipped) == 1
    assert_sentence(read.skipped[0], voc.root / missing)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_annotation_is_left_out(voc: VocFolder) -> None:
    voc.add("bad")
    voc.add("good")
    (voc.root / "Annotations/bad.xml").chmod(0)
    assert ids(voc.read()) == ["good"]


@pytest.mark.parametrize(
    "box",
    [(10, 10, 9, 20), (10, 10, 20, 9), (30, 5, 20, 25), (61, 1, 80, 20), (1, 41, 9, 60), (-9, 1, 0, 9)],
    ids=["no width", "no height", "turned round", "right of the image", "below it", "left of it"],
)
def test_a_box_without_area_in_the_image_is_left_out_and_counted(
    voc: VocFolder, box: tuple[int, ...], assert_sentence: Callable[..., None]
) -> None:
    voc.add("a", xml([("cat", 0, (1, 1, 9, 9)), ("cat", 1, box), CAT]))
    read = voc.read()
    assert read.boxes.tolist() == [[0, 0, 9, 9], [10, 5, 30, 25]] and read.difficult.tolist() == [False, False]
    assert len(read.skipped) == 1
    assert_sentence(read.skipped[0], voc.root / "Annotations/a.xml", "'cat'", "no area")


def test_a_box_of_one_pixel_is_kept(voc: VocFolder) -> None:
    voc.add("a", xml([("cat", 0, (60, 40, 60, 40))]))
    assert voc.read().boxes.tolist() == [[59, 39, 60, 40]]


# What is refused


def test_no_usable_image(voc: VocFolder, refuses: Callable[..., object]) -> None:
    voc.add("a", image=b"")
    voc.add("b", annotation="")
    with refuses(voc.root, "train", "a.jpg"):
        voc.read()


def test_no_object_and_no_classes(voc: VocFolder, refuses: Callable[..., object]) -> None:
    voc.add("a", xml([]))
    with refuses(voc.root, "train", "data.classes"):
        voc.read()
    assert len(voc.read(("cat",))) == 1


@pytest.mark.parametrize("split, folder", [("train", ""), ("2007_train", "VOC2007")])
def test_a_missing_data_set_says_where_it_comes_from(
    tmp_path: Path, split: str, folder: str, refuses: Callable[..., object]
) -> None:
    with refuses(tmp_path / "nowhere" / folder, "unpack the tar from example.org"):
        read_voc(tmp_path / "nowhere", split, source="unpack the tar from example.org")
    with refuses("datasets/README.md"):
        read_voc(tmp_path / "nowhere", split)


def test_a_missing_year_says_where_it_comes_from(tmp_path: Path, refuses: Callable[..., object]) -> None:
    VocFolder(tmp_path / "VOC2007").add("a")
    with refuses(tmp_path / "VOC2012", "example.org"):
        read_voc(tmp_path, "2007_train+2012_train", source="example.org")


def test_a_missing_list_names_those_there(voc: VocFolder, refuses: Callable[..., object]) -> None:
    voc.add("a")
    (voc.root / "ImageSets/Main/val.txt").write_text("a\n")
    with refuses(voc.root / "ImageSets/Main/test.txt", "'test'", "train, val"):
        read_voc(voc.root, "test")
    for splits in ("", "train+"):
        with refuses("''", "train, val"):
            read_voc(voc.root, splits)


def test_a_folder_of_another_kind_has_no_lists(tmp_path: Path, refuses: Callable[..., object]) -> None:
    with refuses(tmp_path, "'train'", "none"):
        read_voc(tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"\n  \n"])
def test_an_empty_list(voc: VocFolder, content: bytes, refuses: Callable[..., object]) -> None:
    path = voc.root / "ImageSets/Main/train.txt"
    path.write_bytes(content)
    with refuses(path, "one image name on each line"):
        voc.read()


def test_a_list_that_is_no_text(voc: VocFolder, refuses: Callable[..., object]) -> None:
    path = voc.root / "ImageSets/Main/train.txt"
    path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00")
    with refuses(path, "UTF-8"):
        voc.read()


def test_an_unknown_class_names_file_class_and_remedy(voc: VocFolder, refuses: Callable[..., object]) -> None:
    voc.add("a")
    voc.add("b", xml([CAT, ("unicorn", 0, (1, 1, 9, 9))]))
    with refuses("Annotations/b.xml", "'unicorn'", "cat, dog", "data.classes", "--data.other-classes ignore"):
        voc.read(("cat", "dog"))


def test_other_classes_can_be_ignored(voc: VocFolder) -> None:
    voc.add("a", xml([("unicorn", 1, (1, 1, 9, 9)), CAT, ("unicorn", 1, (2, 2, 9, 9))]))
    voc.add("b", xml([("unicorn", 0, (1, 1, 9, 9))]))
    read = voc.read(("dog", "cat"), other_classes="ignore")
    assert ids(read) == ["a", "b"], "an image without objects stays"
    assert read.labels.tolist() == [1] and read.boxes.tolist() == [[10, 5, 30, 25]]
    assert read.difficult.tolist() == [False] and read.offsets.tolist() == [0, 1, 1]


def test_a_class_named_twice_is_refused(voc: VocFolder, refuses: Callable[..., object]) -> None:
    voc.add("a")
    with refuses("data.classes", "cat, dog, cat"):
        voc.read(("cat", "dog", "cat"))
