"""resdet.evaluation.confusion by hand and against a literal loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_cases import random_case
from reference_evaluation import confusion_literal

from resdet.evaluation.confusion import confusion_matrix
from resdet.types import Detections, Target


def test_by_hand() -> None:
    left, right, away = [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0], [90.0, 0.0, 95.0, 5.0]
    boxes = torch.tensor([left, left, right, away, away])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.2]), torch.tensor([0, 1, 1, 0, 1]))
    objects = torch.tensor([left, right, [0.0, 50.0, 9.0, 59.0]])
    target = Target(objects, torch.tensor([0, 0, 1]), torch.tensor([False, False, False]))
    # Annotated 0: one found as 0, one as 1. Annotated 1: missed. Nothing there: the second on the left, one away.
    assert confusion_matrix([found], [target], 2).tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert confusion_matrix([found], [target], 2, min_score=0.1).tolist() == [[1, 1, 0], [0, 0, 1], [1, 2, 0]]
    # The objects of class 0 are difficult now: what lies on them is not counted.
    difficult = target._replace(difficult=torch.tensor([True, True, False]))
    assert confusion_matrix([found], [difficult], 2).tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0]]


def test_the_usual_thresholds() -> None:
    """A score of 0.25 and an overlap of 0.5 are enough."""
    target = Target(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0]), torch.tensor([False]))
    for height, score, expected in (
        (5.0, 0.25, [[0, 1, 0], [0, 0, 0], [0, 0, 0]]),
        (4.9, 0.25, [[0, 0, 1], [0, 0, 0], [0, 1, 0]]),
        (5.0, 0.24, [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),
    ):
        found = Detections(torch.tensor([[0.0, 0, 10, height]]), torch.tensor([score]), torch.tensor([1]))
        assert confusion_matrix([found], [target], 2).tolist() == expected
    matrix = confusion_matrix([], [], 2)
    assert matrix.dtype == np.int64 and matrix.shape == (3, 3)


def test_the_nearest_pair_comes_before_the_better_score() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 6], [0, 0, 10, 9]])
    found = Detections(boxes, torch.tensor([0.9, 0.5]), torch.tensor([0, 1]))
    target = Target(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0]), torch.tensor([False]))
    assert confusion_matrix([found], [target], 2).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    tie = found._replace(boxes=boxes[[1, 1]], scores=torch.tensor([0.5, 0.9]))
    assert confusion_matrix([tie], [target], 2).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_a_detection_on_a_difficult_object_is_left_out_from_the_same_overlap_on() -> None:
    target = Target(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0]), torch.tensor([True]))
    for height, spurious in ((5.0, 0), (4.9, 1)):
        found = Detections(torch.tensor([[0.0, 0, 10, height]]), torch.tensor([0.9]), torch.tensor([1]))
        assert confusion_matrix([found], [target], 2).tolist() == [[0, 0, 0], [0, 0, 0], [0, spurious, 0]]


def test_a_detection_equal_to_its_object_overlaps_all_of_it() -> None:
    """Exactly so, wherever it lies: overlaps are computed in float64."""
    boxes = torch.tensor([[0.1, 0.2, 1000.3, 999.7], [333.3, 77.7, 1234.5, 987.6]])
    found = Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))
    target = Target(boxes, torch.tensor([1, 1]), torch.tensor([False, False]))
    assert confusion_matrix([found], [target], 2, min_iou=1.0).tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_of_equal_detections_the_first_is_paired() -> None:
    count = 50
    boxes, labels = torch.tensor([[0.0, 0, 10, 10]]).repeat(count, 1), torch.zeros(count, dtype=torch.int64)
    labels[0] = 1
    target = Target(boxes[:1], labels[1:2], torch.tensor([False]))
    matrix = confusion_matrix([Detections(boxes, torch.full((count,), 0.5), labels)], [target], 2)
    assert matrix.tolist() == [[0, 1, 0], [0, 0, 0], [count - 1, 0, 0]]


def test_nothing() -> None:
    assert not confusion_matrix([], [], 2).any()
    with pytest.raises(ValueError, match="detections for 0 images but ground truth for 1"):
        confusion_matrix([], [Target(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).bool())], 2)


def test_random_data_sets_agree_with_the_literal_loop() -> None:
    total = np.zeros((4, 4), int)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        detections, targets = random_case(rng)
        thresholds = float(rng.choice([0.0, 0.25, 0.5])), float(rng.choice([0.3, 0.5]))
        matrix = confusion_matrix(detections, targets, 3, *thresholds)
        assert matrix.tolist() == confusion_literal(detections, targets, 3, *thresholds), seed
        total += matrix
    assert (total + np.diag([0, 0, 0, 10]) >= 10).all()
