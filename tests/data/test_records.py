"""Images one by one on their way into arrays: their order, what is left out, and classes that are not asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from resdet.data.records import BadRecordError, ImageRecord, flatten, inside, label_names, read_records


def record(name: str, *objects: tuple[str, bool], dropped: tuple[str, ...] = ()) -> ImageRecord:
    """An image whose k-th object is a box of (k + 1) × 2 (k + 1) pixels."""
    sides = np.arange(1.0, len(objects) + 1)[:, None] * [1, 2]
    boxes = np.concatenate([np.full((len(objects), 2), 3.0), 3 + sides], 1)
    names, flags = [text for text, _ in objects], [flag for _, flag in objects]
    return ImageRecord(name, f"d/{name}.jpg", (40, 60), boxes, names, flags, list(dropped))


CAT, DOG, CROWD = ("cat", False), ("dog", False), ("cat", True)


def test_records_keep_their_order_though_several_are_read_at_once() -> None:
    def read(number: int) -> ImageRecord | BadRecordError:
        time.sleep(0.002 * (3 - number % 4))
        if number % 4 == 1:
            return BadRecordError(f"{number} is broken.")
        return record(str(number), CAT, dropped=(f"{number} a.", f"{number} b.") if number % 4 == 2 else ())

    records, skipped = read_records(read, range(8), "here")
    assert [item.id for item in records] == ["0", "2", "3", "4", "6", "7"]
    assert skipped == ["1 is broken.", "2 a.", "2 b.", "5 is broken.", "6 a.", "6 b."]


def test_no_good_record_is_refused_with_the_first_trouble(refuses: Callable[..., Any]) -> None:
    with refuses("No image of here can be used", "0 is broken."):
        read_records(lambda number: BadRecordError(f"{number} is broken."), range(3), "here")


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
    ],
)
def test_what_lies_inside_an_image_of_40_by_60_pixels(box: tuple[float, ...], expected: bool) -> None:
    assert inside(box, (40, 60)) is expected


def test_the_arrays_hold_what_the_records_say() -> None:
    joined = flatten([record("a", DOG, CROWD), record("é"), record("c", CAT)], ("cat", "dog"), ["one."], "error")
    assert joined.classes == ("cat", "dog") and joined.skipped == ("one.",)
    assert joined.category_ids.tolist() == [1, 2]
    assert [joined.id(k) for k in range(3)] == ["a", "é", "c"] and joined.file(1) == "d/é.jpg"
    assert joined.offsets.tolist() == [0, 2, 2, 3] and joined.offsets.dtype == np.int64
    assert joined.labels.tolist() == [1, 0, 0] and joined.labels.dtype == np.int64
    assert joined.difficult.tolist() == [False, True, False] and joined.difficult.dtype == bool
    assert joined.boxes.tolist() == [[3, 3, 4, 5], [3, 3, 5, 7], [3, 3, 4, 5]]
    assert joined.areas.tolist() == [2, 8, 2] and joined.boxes.dtype == joined.areas.dtype == np.float64
    assert joined.sizes.tolist() == [[40, 60]] * 3 and joined.sizes.dtype == np.int32


def test_records_without_objects_make_empty_arrays() -> None:
    joined = flatten([record("a")], ("cat",), (), "error")
    assert joined.boxes.shape == (0, 4) and joined.areas.shape == joined.labels.shape == (0,)
    assert joined.labels.dtype == np.int64 and joined.difficult.dtype == bool and len(joined) == 1


def test_other_classes_are_refused_or_left_out(refuses: Callable[..., Any]) -> None:
    records = [record("a", DOG, CROWD, DOG, CAT), record("b", DOG)]
    with refuses("d/a.jpg", "'dog'", "(cat, hen)", "--data.other-classes ignore"):
        flatten(records, ("cat", "hen"), (), "error")
    joined = flatten(records, ("hen", "cat"), (), "ignore")
    assert joined.labels.tolist() == [1, 1] and joined.difficult.tolist() == [True, False]
    assert joined.boxes[:, 2].tolist() == [5, 7] and joined.offsets.tolist() == [0, 2, 2]


def test_labels_are_counted_from_zero_and_no_class_is_named_twice(refuses: Callable[..., Any]) -> None:
    assert label_names(("b", "a")) == {"b": 0, "a": 1} and label_names(()) == {}
    with refuses("data.classes", "a, b, a"):
        label_names(("a", "b", "a"))
