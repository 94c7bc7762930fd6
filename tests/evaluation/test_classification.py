"""Accuracies against their definition, and probabilities over views, scales, models and processes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from resdet.engine.runtime import Runtime
from resdet.evaluation.classification import (
    Probabilities,
    accuracies,
    cross_entropy,
    mean_probabilities,
    predict_probabilities,
)
from resdet.models.classifier import Classifier
from resdet.types import ClsBatch

ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)


def test_accuracies_by_hand() -> None:
    probabilities = np.array(
        [
            [0.4, 0.3, 0.1, 0.1, 0.05, 0.05],
            [0.4, 0.3, 0.1, 0.1, 0.05, 0.05],
            [0.30, 0.25, 0.2, 0.15, 0.08, 0.02],
            [0.5, 0.1, 0.1, 0.1, 0.1, 0.1],
        ]
    )
    assert accuracies(probabilities, np.array([0, 1, 5, 0])) == (0.5, 0.75)
    assert accuracies(probabilities, np.array([0, 1, 5, 3])) == (0.25, 0.5), "a tie for the fifth place is lost"


def test_what_is_no_number_is_wrong() -> None:
    assert accuracies(np.full((2, 6), np.nan), np.array([0, 1])) == (0, 0)


def test_cross_entropy_by_hand() -> None:
    values = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]], np.float32)
    assert cross_entropy(values[:2], np.array([0, 1])) == pytest.approx((math.log(2) - math.log(0.75)) / 2)
    assert 80 < cross_entropy(values[2:], np.array([1])) < 100


class Brightness(nn.Module):
    """Logits are the mean colours."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x.mean((2, 3))


@pytest.mark.parametrize("dense", [False, True])
def test_probabilities_are_averaged_over_the_views(dense: bool) -> None:
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    batch = ClsBatch(images, torch.tensor([2, 0]), ["a", "b"], [7, 3])
    model = Classifier(Brightness(), torch.zeros(3, 1, 1), torch.full((3, 1, 1), 50.0))
    found = predict_probabilities(model, [batch], ALONE, dense)
    assert found.indices.tolist() == [3, 7] and found.labels.tolist() == [0, 2], "ascending"
    for row, views in ((1, images[:3]), (0, images[3:])):
        expected = np.zeros(3)
        for view in views:
            logits = [view[c].float().mean().item() / 50 * (2 if dense else 1) for c in range(3)]
            total = sum(math.exp(value) for value in logits)
            expected += [math.exp(value) / total / 3 for value in logits]
        np.testing.assert_allclose(found.values[row], expected, rtol=1e-5)


def test_an_ensemble_averages_over_the_images_that_all_have_read() -> None:
    a = Probabilities(np.array([0, 1, 3]), np.array([0, 1, 0]), np.array([[1, 0], [0.5, 0.5], [0.2, 0.8]]))
    b = Probabilities(np.array([0, 2, 3]), np.array([0, 1, 0]), np.array([[0, 1], [0.5, 0.5], [0.4, 0.6]]))
    joint = mean_probabilities([a, b])
    assert joint.indices.tolist() == [0, 3] and joint.labels.tolist() == [0, 0]
    np.testing.assert_allclose(joint.values, [[0.5, 0.5], [0.3, 0.7]])
