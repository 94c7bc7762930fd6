"""resdet.evaluation.flat by hand: joining boxes, their checks, overlaps, and pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resdet.evaluation.flat import flatten, flatten_both, overlap, pair
from resdet.types import Detections, Target


def found(count: int, start: float = 0.0, label: int = 0) -> Detections:
    """So many detections with scores start, start + 1, …"""
    boxes = torch.arange(4.0 * count).reshape(count, 4) + start
    return Detections(boxes, start + torch.arange(count, dtype=torch.float32), torch.full((count,), label))


def test_the_boxes_of_all_images_come_one_after_another() -> None:
    flat = flatten([found(2, 5.0), found(0), found(1, 0.5, label=2)], "scores", 3, "detection")
    assert flat.images.tolist() == [0, 0, 2]
    assert flat.boxes.tolist() == [[5, 6, 7, 8], [9, 10, 11, 12], [0.5, 1.5, 2.5, 3.5]]
    assert flat.values.tolist() == [5, 6, 0.5] and flat.labels.tolist() == [0, 0, 2]
    assert flat.boxes.dtype == flat.values.dtype == np.float64
    assert flat.images.dtype.kind == flat.labels.dtype.kind == "i"


def test_the_boxes_of_no_image() -> None:
    for given in ([], [found(0)]):
        flat = flatten(given, "scores", 1, "detection")
        assert (flat.images.shape, flat.boxes.shape, flat.labels.shape, flat.values.shape) == (
            (0,),
            (0, 4),
            (0,),
            (0,),
        )
        assert flat.labels.dtype == np.int64 and flat.boxes.dtype == flat.values.dtype == np.float64


def test_arrays_without_boxes_need_no_second_dimension() -> None:
    none = Target(np.zeros(0), np.zeros(0), np.zeros(0))
    assert flatten([none], "difficult", 1, "ground-truth box").boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 3])}, "has a detection outside the 3 classes"),
        ({"labels": torch.tensor([-1, 0])}, "has a detection outside the 3 classes"),
        ({"scores": torch.tensor([0, float("nan")])}, "has a detection whose score is not a finite number"),
        ({"scores": torch.tensor([float("inf"), 1])}, "has a detection whose score is not a finite number"),
        ({"labels": torch.tensor([0])}, "must have as many labels and scores as boxes"),
        ({"scores": torch.tensor([0.5])}, "must have as many labels and scores as boxes"),
        ({"boxes": torch.zeros(1, 4)}, "must have as many labels and scores as boxes"),
    ],
)
def test_what_is_refused_names_the_image(change: dict[str, torch.Tensor], message: str) -> None:
    good = found(2)
    with pytest.raises(ValueError, match=rf"^Image number 2 \(counted from 0\) {message}\.$"):
        flatten([good, found(0), good._replace(**change), good._replace(**change)], "scores", 3, "detection")


@pytest.mark.parametrize("corner", range(4))
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_corner_that_is_not_finite_is_refused(corner: int, value: float) -> None:
    bad = found(2)
    bad.boxes[1, corner] = value
    with pytest.raises(ValueError, match=r"^Image number 1 .* has a box whose corners are not finite numbers\.$"):
        flatten([found(1), bad], "scores", 1, "box")


def test_ground_truth_is_checked_and_joined_beside_the_detections() -> None:
    target = Target(torch.ones(2, 4), torch.tensor([0, 1]), torch.tensor([True, False]))
    detections, truth = flatten_both([found(1), found(2)], [target, target], 2)
    assert detections.values.tolist() == [0, 0, 1] and truth.values.tolist() == [1, 0, 1, 0]
    assert detections.images.tolist() == [0, 1, 1] and truth.labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="detections for 2 images but ground truth for 1"):
        flatten_both([found(1), found(2)], [target], 2)
    with pytest.raises(ValueError, match=r"Image number 0 .* has a ground-truth box outside the 1 classes"):
        flatten_both([found(1)], [target], 1)


def test_overlaps_by_hand() -> None:
    a = np.array([0.0, 0, 10, 10])
    # itself, the right half, a quarter inside, 25 common of 175, touching at a side and at a corner, apart
    b = np.array(
        [
            [0, 0, 10, 10],
            [5, 0, 10, 10],
            [2, 2, 7, 7],
            [5, 5, 15, 15],
            [10, 0, 20, 10],
            [10, 10, 20, 20],
            [30, 40, 50, 60],
        ]
    )
    assert overlap(a, b.astype(float)).tolist() == pytest.approx([1, 1 / 2, 1 / 4, 1 / 7, 0, 0, 0])
    assert overlap(b.astype(float), a).tolist() == pytest.approx([1, 1 / 2, 1 / 4, 1 / 7, 0, 0, 0])


def test_overlaps_with_a_crowd_are_shares_of_the_first_box() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [2, 2, 7, 7], [5, 5, 15, 25], [30, 40, 50, 60]])
    crowd = np.array([[0.0, 0, 10, 10], [0, 0, 40, 50]])
    expected = [[1, 1], [1, 1], [25 / 200, 1], [0, 100 / 400]]
    np.testing.assert_allclose(overlap(boxes[:, None], crowd, crowd=True), expected)


@pytest.mark.filterwarnings("error")
def test_boxes_without_area_overlap_nothing() -> None:
    boxes = np.array([[3.0, 3, 3, 3], [0, 0, 10, 0], [0, 0, 0, 10]])
    assert not overlap(boxes[:, None], np.array([[0.0, 0, 10, 10], *boxes])).any()
    assert not overlap(boxes[:, None], boxes, crowd=True).any()


def test_pairs_take_the_highest_overlap_first() -> None:
    overlaps = np.array([[0.8, 0.9], [0.1, 0.7], [0.2, 0.0]])
    given = overlaps.copy()
    assert pair(overlaps) == [(0, 1), (2, 0)]
    assert pair(overlaps.T) == [(1, 0), (0, 2)]
    assert np.array_equal(overlaps, given)
    assert pair(overlaps, 0.2) == [(0, 1), (2, 0)] and pair(overlaps, 0.21) == [(0, 1)]


def test_pairs_that_are_equal_take_the_first_row_and_its_first_column() -> None:
    assert pair(np.full((2, 3), 0.5)) == [(0, 0), (1, 1)]
    assert pair(np.array([[0.25, 0.5, 0.5], [0.5, 0.5, 0.5]])) == [(0, 1), (1, 0)]


def test_what_does_not_overlap_is_no_pair() -> None:
    assert pair(np.zeros((2, 2))) == [] and pair(np.zeros((0, 3))) == [] and pair(np.zeros((3, 0))) == []
    assert pair(np.diag([0.5, 0.0, 0.75])) == [(2, 2), (0, 0)]
    assert pair(np.array([[0.05]])) == [(0, 0)]
