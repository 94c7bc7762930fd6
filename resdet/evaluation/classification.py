"""Accuracies of a classifier, and the probabilities that they come from.

Shapes: M images of a data set, N of a batch, V views of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from resdet.engine.runtime import Runtime, gather
from resdet.models.classifier import Classifier
from resdet.types import ClsBatch


class Probabilities(NamedTuple):
    """What a classifier says of M images; those that could not be read are not among them."""

    indices: np.ndarray
    """(M,) int64, position of each image in its data set, ascending"""
    labels: np.ndarray
    """(M,) int64, the true classes"""
    values: np.ndarray
    """(M, K) float32"""


class Accuracies(NamedTuple):
    """Shares of the images whose class is among the most probable ones."""

    top1: float
    top5: float


@torch.no_grad()
def predict_probabilities(
    model: Classifier, batches: Iterable[ClsBatch], runtime: Runtime, dense: bool = False
) -> Probabilities:
    """Class probabilities of each image, averaged over its views; every process receives those of all.

    `dense` averages over all places of an image too.
    """
    model.eval()
    own: list[tuple[int, int, np.ndarray]] = []
    for batch in batches:
        images = batch.images.to(runtime.device, non_blocking=True)
        with runtime.autocast():
            logits = model.dense(images) if dense else model(images)
        views = logits.softmax(1).reshape(len(batch.labels), -1, logits.shape[1])  # (N, V, K)
        own += zip(batch.indices, batch.labels.tolist(), views.mean(1).cpu().numpy(), strict=True)
    rows = sorted((row for part in gather(own) for row in part), key=lambda row: row[0])
    indices, labels, values = zip(*rows, strict=True)
    return Probabilities(np.array(indices), np.array(labels), np.stack(values))


def accuracies(probabilities: np.ndarray, labels: np.ndarray) -> Accuracies:
    """(M, K) probabilities, (M,) labels → accuracies; of equal probabilities the true class's counts as least."""
    own = np.take_along_axis(probabilities, labels[:, None], 1)  # (M, 1)
    rank = (~(probabilities < own)).sum(1)  # 1 is the best; what is not a number is last
    return Accuracies(float((rank <= 1).mean()), float((rank <= 5).mean()))


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """(M, K) probabilities and (M,) labels → the mean of −log p of the true class."""
    own = np.take_along_axis(probabilities, labels[:, None], 1)
    return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean())


def mean_probabilities(parts: list[Probabilities]) -> Probabilities:
    """The average over models or scales, of the images that all of them could read."""
    common = set.intersection(*(set(part.indices.tolist()) for part in parts))
    kept = [np.array([index in common for index in part.indices.tolist()]) for part in parts]
    values = np.mean([part.values[keep] for part, keep in zip(parts, kept, strict=True)], axis=0)
    return Probabilities(parts[0].indices[kept[0]], parts[0].labels[kept[0]], values)
