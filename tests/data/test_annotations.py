"""The annotations of a data set as arrays: parts of them, and what one image holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resdet.data.annotations import Annotations

WHOLE = Annotations(
    classes=("cat", "dog"),
    category_ids=np.array([3, 7]),
    ids=np.array(["é".encode(), b"b", b"c", b"d"]),
    files=np.array(["d/é.jpg".encode(), b"d/b.jpg", b"d/c.jpg", b"d/d.jpg"]),
    sizes=np.array([[10, 11], [20, 21], [30, 31], [40, 41]], np.int32),
    offsets=np.array([0, 2, 2, 3, 5]),
    boxes=np.arange(20, dtype=np.float64).reshape(5, 4) + 0.5,
    labels=np.array([0, 1, 0, 1, 1]),
    difficult=np.array([False, True, True, True, False]),
    areas=np.array([1.0, 2, 3, 4, 5]),
    skipped=("one sentence.",),
)


def content(annotations: Annotations) -> list[tuple[str, str, list[int], list[float], list[int], list[bool], list]]:
    """Image by image: identifier, file, size, first corners, labels, flags, areas."""
    rows = []
    for index in range(len(annotations)):
        own = slice(annotations.offsets[index], annotations.offsets[index + 1])
        columns = (annotations.labels, annotations.difficult, annotations.areas)
        first = annotations.boxes[own, 0].tolist()
        size = annotations.sizes[index].tolist()
        texts = annotations.id(index), annotations.file(index)
        rows.append((*texts, size, first, *(column[own].tolist() for column in columns)))
    return rows


IMAGES = [
    ("é", "d/é.jpg", [10, 11], [0.5, 4.5], [0, 1], [False, True], [1, 2]),
    ("b", "d/b.jpg", [20, 21], [], [], [], []),
    ("c", "d/c.jpg", [30, 31], [8.5], [0], [True], [3]),
    ("d", "d/d.jpg", [40, 41], [12.5, 16.5], [1, 1], [True, False], [4, 5]),
]


@pytest.mark.parametrize("images", [[0, 1, 2, 3], [3, 1, 0], [2], [1], [0, 3, 0], []])
def test_chosen_images_keep_their_boxes_in_the_order_asked_for(images: list[int]) -> None:
    part = WHOLE.select(np.array(images, np.int64))
    assert content(part) == [IMAGES[index] for index in images]
    assert part.offsets[0] == 0 and part.offsets[-1] == len(part.boxes) == len(part.labels)
    assert (part.classes, part.skipped) == (WHOLE.classes, WHOLE.skipped)
    assert part.category_ids is WHOLE.category_ids and len(part) == len(images)


def test_images_of_nothing_or_only_difficult_objects_look_empty() -> None:
    assert content(WHOLE.without_empty()) == [IMAGES[0], IMAGES[3]]
    nothing = WHOLE.select(np.array([1, 2]))
    assert len(nothing.without_empty()) == len(nothing.without_empty().boxes) == 0


def test_the_image_of_each_box() -> None:
    assert WHOLE.owners.tolist() == [0, 0, 2, 3, 3]
    assert WHOLE.select(np.array([1, 3, 2])).owners.tolist() == [1, 1, 2]


def test_a_target_holds_the_boxes_of_its_image() -> None:
    boxes, labels, difficult = WHOLE.target(3)
    assert boxes.tolist() == WHOLE.boxes[3:].tolist() and boxes.dtype == torch.float32
    assert labels.tolist() == [1, 1] and labels.dtype == torch.int64
    assert difficult.tolist() == [True, False] and difficult.dtype == torch.bool
    assert [tuple(part.shape) for part in WHOLE.target(1)] == [(0, 4), (0,), (0,)]
    assert WHOLE.target(2).boxes.tolist() == [[8.5, 9.5, 10.5, 11.5]]


def test_what_is_done_to_a_target_leaves_the_annotations_as_they_are() -> None:
    boxes, labels, difficult = WHOLE.target(0)
    for part in (boxes, labels, difficult):
        part.zero_()
    assert WHOLE.target(0).boxes[1].tolist() == [4.5, 5.5, 6.5, 7.5]
    assert WHOLE.target(0).labels.tolist() == [0, 1] and WHOLE.target(0).difficult.tolist() == [False, True]
