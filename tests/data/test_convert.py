"""Data sets on their way from one format to another, with their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from annotated import Picture, annotated

from resdet.data.annotations import Annotations
from resdet.data.convert import convert, writable
from resdet.data.formats import FORMATS, find_format

CLASSES = ("cat", "big dog & co")


def pictures(root: Path, whole_numbers: bool) -> Annotations:
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


@pytest.mark.parametrize(("kind", "other"), permutations(writable(), 2))
@pytest.mark.parametrize("whole_numbers", [True, False])
def test_round_trips_lose_nothing(tmp_path: Path, kind: Any, other: Any, whole_numbers: bool) -> None:
    original = current = pictures(tmp_path / "original", whole_numbers)
    for number, format in enumerate((kind, other, kind)):
        folder = tmp_path / f"{number}"
        assert convert({"train": current}, format, folder, link=number % 2 == 0) == {"train": []}
        assert find_format(folder) == (format, ["train"])
        current = FORMATS[format].read(folder, "train", CLASSES)
        assert_same(current, original)


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    original = pictures(tmp_path / "original", True)
    difficult, areas = original.difficult.copy(), original.areas.copy()
    difficult[[0, 4]], areas[5] = True, 1.5
    rich = replace(original, difficult=difficult, areas=areas, category_ids=np.array([5, 90]))
    given = replace(rich, ids=np.array([b"a", b"b", b"c", b"d", b"e"]))
    areas_lost, numbers_lost = "the areas of 1 masks", "the categories' numbers"
    ids_lost = "the images' identifiers"
    flags_lost = "2 objects marked difficult or as a crowd, which are left out"
    for kind, lost in (
        ("voc", [areas_lost, numbers_lost, ids_lost]),
        ("labelme", [areas_lost, numbers_lost, ids_lost]),
        ("coco", [ids_lost]),
        ("yolo", [flags_lost, areas_lost, numbers_lost, ids_lost]),
    ):
        assert convert({"train": given}, kind, tmp_path / kind, link=True) == {"train": lost}  # type: ignore[arg-type]

    coco = FORMATS["coco"].read(tmp_path / "coco", "train")
    assert_same(coco, rich)
    voc = FORMATS["voc"].read(tmp_path / "voc", "train", CLASSES)
    assert_same(replace(voc, areas=rich.areas, category_ids=rich.category_ids), rich)
    labelme = FORMATS["labelme"].read(tmp_path / "labelme", "train", CLASSES)
    assert labelme.difficult.sum() == 2 and len(labelme.boxes) == 10
    yolo = FORMATS["yolo"].read(tmp_path / "yolo", "train", CLASSES)
    assert len(yolo.boxes) == 8 and not yolo.difficult.any()


def test_formats_that_are_only_read(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    for kind in FORMATS.keys() - set(writable()):
        with refuses(f"{kind} can be read, but not written", "voc or coco"):
            convert({"train": pictures(tmp_path / kind, True)}, kind, tmp_path / "new", False)


# Images in their places


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Annotations]:
    """A split of two images with files, each with an object."""
    (tmp_path / "d").mkdir()
    for name, text in (("a", "first"), ("b", "second")):
        (tmp_path / f"d/{name}.jpg").write_text(text)
    return {"train": in_files(tmp_path / "d/a.jpg", tmp_path / "d/b.jpg")}


def in_files(*files: Path) -> Annotations:
    """Images of these files, each with an object of one class."""
    whole = annotated([Picture(file.stem, (100, 100), [[5, 5, 15, 25]]) for file in files])
    return replace(whole, files=np.array([str(file).encode() for file in files]))


def test_images_are_copied_or_linked(
    source: dict[str, Annotations], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, "voc", tmp_path / "copies", link=False)
    convert(source, "voc", tmp_path / "links", link=True)
    copy, link = (tmp_path / f"{kind}/JPEGImages/b.jpg" for kind in ("copies", "links"))
    assert copy.read_text() == link.read_text() == "second"
    assert not copy.is_symlink() and link.is_symlink() and link.readlink() == tmp_path / "d/b.jpg"
    monkeypatch.chdir(tmp_path)
    convert({"train": in_files(Path("d/a.jpg"), Path("d/b.jpg"))}, "coco", tmp_path / "absolute", link=True)
    assert (tmp_path / "absolute/train/a.jpg").readlink() == tmp_path / "d/a.jpg"


def test_a_conversion_may_be_repeated_and_may_end_where_it_began(
    source: dict[str, Annotations], tmp_path: Path
) -> None:
    for _ in range(2):
        convert(source, "coco", tmp_path / "new", link=False)
    assert (tmp_path / "new/train/a.jpg").read_text() == "first"
    own = in_files(*(tmp_path / f"new/train/{name}.jpg" for name in "ab"))
    convert({"train": own}, "coco", tmp_path / "new", link=True)
    assert (tmp_path / "new/train/a.jpg").read_text() == "first" and not (tmp_path / "new/train/a.jpg").is_symlink()


@pytest.mark.parametrize("text", ["longer than second", "Second"])
def test_another_image_in_the_way_is_refused(
    source: dict[str, Annotations], tmp_path: Path, refuses: Callable, text: str
) -> None:
    """Of whatever size it is."""
    there = tmp_path / "new/train/b.jpg"
    there.parent.mkdir(parents=True)
    there.write_text(text)
    with refuses(there, "differs", "empty folder"):
        convert(source, "coco", tmp_path / "new", link=False)
    assert there.read_text() == text


def test_one_image_twice_is_no_conflict(source: dict[str, Annotations], tmp_path: Path) -> None:
    convert({"train": source["train"].select(np.array([0, 1, 0]))}, "voc", tmp_path / "new", link=False)
    assert (tmp_path / "new/ImageSets/Main/train.txt").read_text() == "a\nb\na\n"


@pytest.mark.parametrize("kind", writable())
def test_images_of_one_name_keep_their_boxes(tmp_path: Path, kind: Any) -> None:
    """In two folders, in two splits, of two endings; and none takes the name of another."""
    names = ["train/1.bmp", "train/deep/1.bmp", "val/1.bmp", "val/1.png", "val/train_1.bmp"]
    files = [tmp_path / "old" / name for name in names]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(cv2.imencode(file.suffix, np.full((100, 100), number, np.uint8))[1].tobytes())
    parts = {"train": in_files(*files[:2]), "val": in_files(*files[2:])}
    parts = {
        split: replace(
            part,
            boxes=np.array(
                [
                    [part.sizes[0, 0] - 90, 0, 90, 20 + 10 * names.index(name)]
                    for name in names
                    if name.startswith(split)
                ],
                float,
            ),
        )
        for split, part in parts.items()
    }
    convert(parts, kind, tmp_path / "new", link=False)
    seen = {}
    for split in parts:
        read = FORMATS[kind].read(tmp_path / "new", split, ("x",))  # type: ignore[index]
        for index in range(len(read)):
            seen[int(cv2.imread(read.file(index))[0, 0, 0])] = read.boxes[index].round(9).tolist()
    assert seen == {number: [10, 0, 90, 20 + 10 * number] for number in range(5)}


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
    (tmp_path / "empty").mkdir()
    complains(
        ["convert-data", tmp_path / "empty", tmp_path / "new", "--to", "voc"], tmp_path / "empty", "not a data set"
    )
