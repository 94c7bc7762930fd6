"""How well region proposals cover the objects, whatever their classes (Faster R-CNN §4.1 and Fig. 4).

Shapes: G objects of the data set without the difficult ones, N numbers of proposals, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from resdet.evaluation.flat import overlap, pair
from resdet.types import Target

NUMBERS = (100, 300, 1000)
"""of proposals"""
THRESHOLDS = np.arange(10, 20) / 20
"""COCO's: IoU .5, .55, … .95"""


def proposal_overlaps(
    proposals: Sequence[torch.Tensor], targets: Sequence[Target], numbers: Sequence[int] = NUMBERS
) -> NDArray[np.float64]:
    """How far each object is covered by the best proposals of its image.

    One proposal covers one object: the pair of highest overlap is matched first, then the highest of what is left
    (the first object in a tie, and its best-ranked proposal).

    Args:
        proposals: of each image, (P, 4), best first; CPU tensors or arrays
        targets: of each image
        numbers: of proposals that are kept in an image

    Returns:
        (N, G) overlaps with the object's proposal; 0 where none is left for it
    """
    columns = [np.zeros((len(numbers), 0))]
    for boxes, target in zip(proposals, targets, strict=True):
        objects = np.asarray(target.boxes, dtype=np.float64)[~np.asarray(target.difficult)]
        iou = overlap(objects[:, None], np.asarray(boxes, dtype=np.float64))  # (objects, P)
        covered = np.zeros((len(numbers), len(objects)))
        for row, number in zip(covered, numbers, strict=True):
            for k, proposal in pair(iou[:, :number]):
                row[k] = iou[k, proposal]
        columns.append(covered)
    return np.concatenate(columns, 1)


def recall(overlaps: NDArray[np.float64], thresholds: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, G), (T,) → (N, T): the share of the objects that are covered at least so far; NaN without objects."""
    if not overlaps.shape[1]:
        return np.full((len(overlaps), len(thresholds)), np.nan)
    return (overlaps[:, None] >= np.asarray(thresholds)[:, None]).mean(2)


def average_recall(overlaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, G) → (N,): the mean of the recalls at IoU .5, .55, … .95 (COCO's AR)."""
    return recall(overlaps, THRESHOLDS).mean(1)
