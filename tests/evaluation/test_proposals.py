"""resdet.evaluation.proposals by hand and against a literal loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_cases import random_boxes, random_case
from reference_evaluation import proposal_overlaps_literal

from resdet.evaluation.proposals import average_recall, proposal_overlaps, recall
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


@pytest.mark.filterwarnings("error")
def test_nothing() -> None:
    none = Target(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).bool())
    assert proposal_overlaps([], []).shape == proposal_overlaps([torch.zeros(5, 4)], [none]).shape == (3, 0)
    assert np.isnan(average_recall(proposal_overlaps([], []))).all()
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
