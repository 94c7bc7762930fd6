"""From what files state of images and objects to arrays: what is kept, turned, left out, and reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from resdet.data.annotations import Annotations
from resdet.data.images import read_image
from resdet.data.records import Found, ImageRecord, assemble, label_names, turn
from resdet.data.tree import Tree

HEIGHT, WIDTH = 40, 60
CAT, DOG, CROWD = ("cat", False), ("dog", False), ("cat", True)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A folder with images a, b, c of 60×40 pixels."""
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(
            cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes()
        )
    return Tree(tmp_path)


def record(tree: Tree, name: str, *objects: tuple[str, bool], **more: Any) -> ImageRecord:
    """An image whose k-th object is a box of (k + 1) × 2 (k + 1) pixels."""
    made = ImageRecord(tree.root / f"{name}.png", f"{name}.txt", name, **more)
    for k, (label, difficult) in enumerate(objects, 1):
        made.add((3, 3, 3 + k, 3 + 2 * k), label, difficult)
    return made


def read(tree: Tree, *records: ImageRecord, classes: tuple[str, ...] = (), **options: Any) -> Annotations:
    """The arrays of one part."""
    return assemble([Found(list(records))], tree, "train", classes, **options)


# Arrays


def test_the_arrays_hold_what_the_records_say(tree: Tree) -> None:
    joined = read(tree, record(tree, "c", DOG, CROWD), record(tree, "a"), record(tree, "b", CAT))
    assert joined.classes == ("cat", "dog") and joined.skipped == () and joined.left_out == (0, 0)
    assert joined.category_ids.tolist() == [1, 2]
    assert [joined.id(k) for k in range(3)] == ["c", "a", "b"] and joined.file(1) == str(tree.root / "a.png")
    assert joined.offsets.tolist() == [0, 2, 2, 3] and joined.offsets.dtype == np.int64
    assert joined.labels.tolist() == [1, 0, 0] and joined.labels.dtype == np.int64
    assert joined.difficult.tolist() == [False, True, False] and joined.difficult.dtype == bool
    assert joined.boxes.tolist() == [[3, 3, 4, 5], [3, 3, 5, 7], [3, 3, 4, 5]]
    assert joined.areas.tolist() == [2, 8, 2] and joined.boxes.dtype == joined.areas.dtype == np.float64
    assert joined.sizes.tolist() == [[HEIGHT, WIDTH]] * 3 and joined.sizes.dtype == np.int32


def test_records_without_objects_make_empty_arrays(tree: Tree) -> None:
    joined = read(tree, record(tree, "a"), classes=("cat",))
    assert joined.boxes.shape == (0, 4) and joined.areas.shape == joined.labels.shape == (0,)
    assert joined.labels.dtype == np.int64 and joined.difficult.dtype == bool and len(joined) == 1


def test_names_that_are_not_utf_8_and_names_with_marks(tmp_path: Path) -> None:
    names = ["é.png", "\udce9t\udce9.png"]
    for name in names:
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes())
    joined = read(Tree(tmp_path), *(ImageRecord(tmp_path / name, "x.txt") for name in names), classes=("cat",))
    assert [joined.id(k) for k in range(2)] == ["é", "\\xe9t\\xe9"]
    assert [joined.file(k) for k in range(2)] == [str(tmp_path / name) for name in names]


# Classes


def test_other_classes_are_refused_or_left_out(tree: Tree, refuses: Callable[..., Any]) -> None:
    records = [record(tree, "a", DOG, CROWD, DOG, CAT), record(tree, "b", DOG)]
    with refuses("a.txt", "'dog'", "(cat, hen)", "--data.other-classes ignore"):
        read(tree, *records, classes=("cat", "hen"))
    joined = read(tree, *records, classes=("hen", "cat"), other_classes="ignore")
    assert joined.labels.tolist() == [1, 1] and joined.difficult.tolist() == [True, False]
    assert joined.boxes[:, 2].tolist() == [5, 7] and joined.offsets.tolist() == [0, 2, 2]
    assert joined.left_out == (0, 3) and joined.notes == ("3 objects of other classes are ignored: dog (3).",)


def test_labels_are_counted_from_zero_and_no_class_is_named_twice(refuses: Callable[..., Any]) -> None:
    assert label_names(("b", "a")) == {"b": 0, "a": 1} and label_names(()) == {}
    with refuses("data.classes", "a, b, a"):
        label_names(("a", "b", "a"))


def test_a_class_of_nothing_but_unusable_objects_is_none(tree: Tree, refuses: Callable[..., Any]) -> None:
    other = record(tree, "b")
    other.add((9, 9, 9, 9), "ghost")
    assert read(tree, record(tree, "a", CAT), other, ImageRecord(None, "x", "x", names=["gone"])).classes == (
        "cat",
    )
    with refuses("No objects are annotated", "data.classes"):
        read(tree, record(tree, "a"))


def test_classes_keep_the_numbers_of_the_data_set(tree: Tree, refuses: Callable[..., Any]) -> None:
    parts = [
        Found([record(tree, "a", CAT)], {"dog": 7, "cat": 3}),
        Found([record(tree, "b", ("hen", False))], {"hen": 5}),
    ]
    joined = assemble(parts, tree, "train+val")
    assert joined.classes == ("cat", "hen", "dog") and joined.category_ids.tolist() == [3, 5, 7]
    chosen = assemble(parts, tree, "train+val", ("hen", "cat"))
    assert chosen.category_ids.tolist() == [5, 3] and chosen.labels.tolist() == [1, 0]
    with refuses("'cat'", "3", "4"):
        assemble([*parts, Found([], {"cat": 4})], tree, "train+val")
    joined = assemble([Found([record(tree, "a", CAT)], {"cat": 10**22})], tree, "train")
    assert joined.category_ids.tolist() == [1], "no number of 64 bits"


# What is left out


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 60, 40), True),
        ((59, 39, 60, 40), True),
        ((59.9, 39.9, 99, 99), True),
        ((-5, -5, 0.1, 0.1), True),
        ((-5, -5, 99, 99), True),
        ((60, 0, 70, 40), False),  # right of the image
        ((0, 40, 60, 50), False),  # below
        ((-9, 0, 0, 40), False),  # left
        ((0, -9, 60, 0), False),  # above
        ((5, 5, 5, 9), False),
        ((5, 5, 9, 5), False),
        ((9, 5, 5, 9), False),
        ((5, 9, 9, 5), False),
        ((45, 5, 50, 9), True),  # beyond the height, within the width
        ((5, 45, 9, 50), False),
        ((float("nan"), 5, 9, 9), False),
        ((-float("inf"), 5, 9, 9), False),
        ((-1e9, -9e8, 9e8, 1e8), False),
        ((-1e8, -9e8, 9e8, 1e8), True),
        ((5, 5, 1e300, 9), False),
    ],
)
def test_what_lies_inside_an_image_of_40_by_60_pixels(tree: Tree, box: tuple[float, ...], expected: bool) -> None:
    made = record(tree, "a", CAT)
    made.add(box, "dog")
    joined = read(tree, made)
    assert len(joined.boxes) == 1 + expected and joined.left_out == (0, 1 - expected)
    assert expected or joined.skipped == ("a.txt: object 2, a box of 'dog' with no area inside the image a.",)


def test_sentences_are_of_images_first_and_then_of_objects(tree: Tree) -> None:
    lost = ImageRecord(None, "x.txt", "x.png", boxes=[(1, 1, 2, 2)], dropped=["x.txt, line 1."])
    bad = record(tree, "b", error="b.txt is broken.")
    good = record(tree, "a", CAT)
    good.dropped.append("a.txt, line 2.")
    good.add((9, 9, 9, 9), "cat", place=7)
    joined = assemble([Found([lost, bad]), Found([good], stray=["c.txt, line 1: no image."])], tree, "train")
    assert joined.skipped == (
        "The image x.png of x.txt is missing; its 2 objects are left out too.",
        "b.txt is broken.",
        "a.txt, line 2.",
        "a.txt: object 7, a box of 'cat' with no area inside the image a.",
        "c.txt, line 1: no image.",
    )
    assert joined.left_out == (2, 5) and len(joined) == 1


def test_nothing_at_all_is_refused_with_the_first_error(tree: Tree, refuses: Callable[..., Any]) -> None:
    with refuses("No image of", tree.root, "train", "it lists none"):
        read(tree)
    with refuses("No image of", "first error: b.txt is broken."):
        read(tree, record(tree, "b", error="b.txt is broken."), record(tree, "c", error="Another."))
    good = record(tree, "a")
    good.dropped.append("a.txt, line 2.")
    with refuses("No object of", "first error: a.txt, line 2."):
        read(tree, good, classes=("cat",))


def test_notes_are_of_parts_hidden_images_and_images_listed_twice(tree: Tree) -> None:
    (tree.root / ".ipynb_checkpoints").mkdir()
    (tree.root / ".ipynb_checkpoints/a-checkpoint.png").touch()
    assert len(tree.files) == 3
    joined = assemble([Found([record(tree, "a", CAT)], notes=["A note."]), Found([record(tree, "a")])], tree, "t")
    assert joined.notes == (
        "A note.",
        f"1 hidden images in {tree.root} are not part of the data set.",
        f"1 images are listed more than once: {tree.root / 'a.png'}.",
    )
    assert len(joined) == 2


# Identifiers


def test_identifiers_are_the_format_s_if_they_are_its_own(tree: Tree) -> None:
    for given, expected in (
        ("172", ["1", "7", "2"]),
        (["1", "1", "2"], ["a", "b", "c"]),
        (["", "1", "2"], ["a", "b", "c"]),
    ):
        records = [record(tree, name, CAT, id=own) for name, own in zip("abc", given, strict=True)]
        joined = read(tree, *records)
        assert [joined.id(index) for index in range(3)] == expected


# Photographs on their side


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What EXIF says is to be done with the rows and columns as they are stored."""
    return {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).T,
        8: np.rot90,
    }[orientation](stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_as_the_pixels_in_them_do(orientation: int) -> None:
    random = np.random.default_rng(orientation)
    for _ in range(20):
        height, width = random.integers(5, 30, 2).tolist()
        x1, y1 = random.integers(0, [width - 1, height - 1]).tolist()
        x2, y2 = random.integers([x1 + 1, y1 + 1], [width + 1, height + 1]).tolist()
        stored = np.zeros((height, width), bool)
        stored[y1:y2, x1:x2] = True
        rows, columns = np.nonzero(upright(stored, orientation))
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        turned = turn(np.array([[x1, y1, x2, y2]], float), np.array([[height, width]]), orientation)
        assert turned.tolist() == [expected]


def photograph(path: Path, orientation: int, box: Sequence[int], size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """A dark picture with a bright box, in pixels as stored, and an EXIF orientation."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("exif", "stated"), [("auto", "stored"), ("auto", "upright"), ("stored", None), ("upright", None)]
)
def test_a_turned_photograph_and_its_boxes_belong_together(
    tmp_path: Path, orientation: int, exif: Any, stated: str | None
) -> None:
    """Whether the boxes are those of the pixels as stored or of the upright image."""
    box = [10, 5, 30, 25]
    photograph(tmp_path / "a.png", orientation, box)
    image = read_image(tmp_path / "a.png")
    rows, columns = np.nonzero(image[:, :, 0])
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    if orientation >= 5:
        as_stored = "stored" in (exif, stated)
        sizes = {"stored": (HEIGHT, WIDTH), "upright": (WIDTH, HEIGHT), None: None}
    else:  # the size is the same, and says nothing
        as_stored, sizes = exif == "stored", dict.fromkeys(("stored", "upright", None), (HEIGHT, WIDTH))
    made = ImageRecord(tmp_path / "a.png", "a.txt", "a", size=sizes[stated])
    made.add(box if as_stored else seen, "cat")
    joined = read(Tree(tmp_path), made, exif=exif)
    assert (
        joined.boxes.tolist() == [seen] and joined.sizes.tolist() == [list(image.shape[:2])] and not joined.skipped
    )
    assert bool(joined.notes) == (as_stored and orientation > 1)


def test_a_size_that_says_nothing_follows_those_that_do(tmp_path: Path) -> None:
    """Turned by half a round, or without a stated size: as the others of the data set."""
    for name, orientation in (("a", 6), ("b", 3), ("c", 6), ("d", 1)):
        photograph(tmp_path / f"{name}.png", orientation, [10, 5, 30, 25])
    sizes = {"a": (HEIGHT, WIDTH), "b": (HEIGHT, WIDTH), "c": None, "d": (HEIGHT, WIDTH)}
    records = [ImageRecord(tmp_path / f"{name}.png", "x", name, size=size) for name, size in sizes.items()]
    for made in records:
        made.add([10, 5, 30, 25], "cat")
    joined = read(Tree(tmp_path), *records)
    for index in range(4):
        rows, columns = np.nonzero(read_image(joined.file(index))[:, :, 0])
        assert joined.boxes[index].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert "3 photographs are stored on their side" in joined.notes[0]
    records[0].size = (WIDTH, HEIGHT)
    assert read(Tree(tmp_path), *records).boxes.tolist() == [[10, 5, 30, 25]] * 4


# All rules at once


@pytest.mark.parametrize("seed", range(40))
def test_random_records_against_a_loop(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    classes = ("cat", "dog")
    rows, parts, images, objects = [], [], 0, 0
    for part in range(random.integers(1, 3)):
        fractions = bool(random.integers(2))
        found = Found([], {"cat": 3, "dog": 9}, fractions)
        for number in range(random.integers(1, 5)):
            file, size = tmp_path / f"{part}_{number}.png", tuple(random.integers(20, 50, 2).tolist())
            photograph(file, 1, (0, 0, 1, 1), size)
            damage = random.choice(["", "missing", "broken", "size", "error"], p=[0.6, 0.1, 0.1, 0.1, 0.1])
            made = ImageRecord(None if damage == "missing" else file, "x.txt", file.name)
            made.size = {"size": (size[0] + 2, size[1])}.get(
                damage, (size[0] - 1, size[1] + 1) if number % 2 else None
            )
            made.error = "An error." if damage == "error" else ""
            if damage == "broken":
                file.write_bytes(b"no picture")
            own = []
            for _ in range(random.integers(0, 5)):
                if random.random() < 0.2:
                    made.dropped.append("An object.")
                    continue
                corner, sides = random.uniform(-20, 50, 2), random.choice([0, 5, 30], 2)
                box, name = [*corner, *(corner + sides)], str(random.choice(["cat", "dog", "hen"]))
                difficult, area = bool(random.integers(2)), float(random.choice([np.nan, 0, -2, 12.5]))
                made.add(
                    [a / b for a, b in zip(box, size[::-1] * 2, strict=True)] if fractions else box,
                    name,
                    difficult,
                    area,
                )
                x1, y1, x2, y2 = box
                if name != "hen" and min(x2, size[1]) > max(x1, 0) and min(y2, size[0]) > max(y1, 0):
                    own.append((box, name, difficult, area if area > 0 else (x2 - x1) * (y2 - y1)))
            images, objects = images + 1, objects + made.objects
            found.records.append(made)
            if not damage:
                rows.append((str(file), size, own))
        found.stray = ["A stray one."] * random.integers(0, 3)
        objects += len(found.stray)
        parts.append(found)
    if not any(own for _, _, own in rows):
        return
    joined = assemble(parts, Tree(tmp_path), "train", classes, other_classes="ignore")
    assert [joined.file(index) for index in range(len(joined))] == [file for file, _, _ in rows]
    for index, (_, size, own) in enumerate(rows):
        mine = slice(*joined.offsets[index : index + 2])
        assert joined.sizes[index].tolist() == list(size)
        np.testing.assert_allclose(joined.boxes[mine], np.reshape([box for box, *_ in own], (-1, 4)), atol=1e-9)
        assert [classes[label] for label in joined.labels[mine]] == [name for _, name, *_ in own]
        assert joined.difficult[mine].tolist() == [difficult for _, _, difficult, _ in own]
        np.testing.assert_allclose(joined.areas[mine], [area for *_, area in own])
    assert joined.left_out == (images - len(joined), objects - len(joined.boxes))
    assert joined.category_ids.tolist() == [3, 9]
