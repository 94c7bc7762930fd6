"""resdet.evaluation.proposals by hand and against a literal loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_cases import random_boxes, random_case
from reference_evaluation import proposal_overlaps_literal

from resdet.evaluation.proposals import THRESHOLDS, average_recall, proposal_overlaps, recall
from resdet.types import Target


def test_by_hand() -> None:
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]])
    target = Target(objects, torch.tensor([0, 1, 1]), torch.tensor([False, False, True]))
    proposals = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])]
    # One proposal is nearest to both objects and covers the first; the second gets the other one, IoU 5/8.
    overlaps = proposal_overlaps(proposals, [target], numbers=(1, 2, 10))
    np.testing.assert_allclose(overlaps, [[1, 0], [1, 5 / 8], [1, 5 / 8]])
    np.testing.assert_allclose(
        recall(overlaps, [0.5, 0.625, 0.7, 1]), [[0.5] * 4, [1, 1, 0.5, 0.5], [1, 1, 0.5, 0.5]]
    )
    # Of .5, .55, … .95 both are covered at .5, .55 and .6.
    assert average_recall(overlaps).tolist() == pytest.approx([0.5, 0.65, 0.65])


def test_the_usual_numbers_and_thresholds() -> None:
    """The objects' proposals are the 100th, 101st, 300th, 301st, 1000th and 1001st of their images."""
    assert THRESHOLDS.tolist() == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    box, away = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[50.0, 50, 60, 60]])
    target = Target(box, torch.tensor([0]), torch.tensor([False]))
    proposals = [torch.cat([away.repeat(n - 1, 1), box]) for n in (100, 101, 300, 301, 1000, 1001)]
    overlaps = proposal_overlaps(proposals, [target] * 6)
    assert overlaps.tolist() == [[1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]
    np.testing.assert_allclose(average_recall(overlaps), [1 / 6, 1 / 2, 5 / 6])


def test_an_overlap_counts_from_the_threshold_on() -> None:
    """Of .5, .55, … .95 so many are reached; a mean over the objects, then over the thresholds."""
    overlaps = np.array([[0.5, 0.55, 0.94, 0.95], [0.49, 0.0, 1.0, 0.75]])
    np.testing.assert_allclose(average_recall(overlaps), [(1 + 2 + 9 + 10) / 40, (0 + 0 + 10 + 6) / 40])
    np.testing.assert_allclose(recall(overlaps, [0.5, 0.95]), [[1, 1 / 4], [1 / 2, 1 / 4]])


def test_a_proposal_equal_to_its_object_covers_all_of_it() -> None:
    """Exactly so, wherever it lies: overlaps are computed in float64."""
    boxes = torch.tensor([[0.1, 0.2, 1000.3, 999.7], [333.3, 77.7, 1234.5, 987.6]])
    target = Target(boxes, torch.tensor([0, 0]), torch.tensor([False, False]))
    assert proposal_overlaps([boxes], [target], (9,)).tolist() == [[1, 1]]
    assert recall(proposal_overlaps([boxes], [target], (9,)), [1.0]).tolist() == [[1]]


@pytest.mark.filterwarnings("error")
def test_nothing() -> None:
    none = Target(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).bool())
    assert proposal_overlaps([], []).shape == proposal_overlaps([torch.zeros(5, 4)], [none]).shape == (3, 0)
    assert average_recall(proposal_overlaps([], [])).shape == (3,)
    assert np.isnan(average_recall(proposal_overlaps([], []))).all()
    assert np.isnan(recall(proposal_overlaps([], []), [0.5, 0.75])).tolist() == [[True, True]] * 3
    with pytest.raises(ValueError):  # as many images as targets
        proposal_overlaps([torch.zeros(5, 4)], [none, none])
    one = Target(torch.ones(1, 4), torch.zeros(1).long(), torch.zeros(1).bool())
    assert proposal_overlaps([torch.zeros(0, 4)], [one]).tolist() == [[0]] * 3


def test_random_data_sets_agree_with_the_literal_loop() -> None:
    seen = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        _, targets = random_case(rng)
        proposals = [torch.from_numpy(random_boxes(rng, rng.integers(0, 30), 8)) for _ in targets]
        overlaps = proposal_overlaps(proposals, targets, (1, 5, 30))
        for row, number in zip(overlaps, (1, 5, 30), strict=True):
            expected = proposal_overlaps_literal(proposals, targets, number)
            np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12, err_msg=f"seed {seed}")
        seen.append(overlaps)
    assert 0.05 < (np.concatenate(seen, 1) == 0).mean() < 0.9
