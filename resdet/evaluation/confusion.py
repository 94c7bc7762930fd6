"""Which classes a detector takes for which.

Shapes: C classes, D detections and G objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resdet.evaluation.flat import flatten_both, overlap, pair
from resdet.types import Detections, Target


def confusion_matrix(
    detections: Sequence[Detections],
    targets: Sequence[Target],
    num_classes: int,
    min_score: float = 0.25,
    min_iou: float = 0.5,
) -> NDArray[np.int64]:
    """Count which class was detected where which was annotated; CPU tensors or arrays, image by image.

    Detections and objects are paired whatever their classes, the pair of highest overlap first (in a tie the better
    score, then the first object). A detection left over that overlaps a difficult object is not counted.

    Args:
        min_score: detections with a lower score are left out
        min_iou: what a pair overlaps at least

    Returns:
        (C + 1, C + 1): rows annotated, columns detected; the last row holds detections of no object, the last
        column objects that no detection found
    """
    flatten_both(detections, targets, num_classes)  # for its checks
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for found, target in zip(detections, targets, strict=True):
        boxes, scores, labels = (np.asarray(field) for field in found)
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= min_score]
        gt_boxes, gt_labels, difficult = (np.asarray(field) for field in target)
        iou = overlap(boxes[order, None].astype(np.float64), gt_boxes.astype(np.float64))  # (D, G)
        detected, annotated = np.full(len(gt_labels), num_classes), np.full(len(order), num_classes)
        for row, column in pair(np.where(difficult, 0, iou), min_iou):
            detected[column], annotated[row] = labels[order[row]], gt_labels[column]
        np.add.at(matrix, (gt_labels[~difficult], detected[~difficult]), 1)
        spurious = (annotated == num_classes) & ~(iou[:, difficult] >= min_iou).any(1)
        np.add.at(matrix, (num_classes, labels[order[spurious]]), 1)
    return matrix
