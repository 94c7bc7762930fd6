"""From the box predictor's outputs to detections: decoding, non-maximum suppression, voting (Fast R-CNN §2.4).

Shapes: N images, R regions, C foreground classes, D candidates and K detections of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from resdet import boxes, ops
from resdet.models.box_coder import BoxCoder
from resdet.models.box_voting import box_voting
from resdet.models.soft_nms import soft_nms
from resdet.precision import full_precision
from resdet.types import Detections


class Predictions(NamedTuple):
    """What is predicted for the regions of one image."""

    scores: Tensor
    """(R, C) probabilities of the foreground classes"""
    boxes: Tensor
    """(R, C, 4) a box for each class, clipped to the image"""


@torch.no_grad()
@full_precision
def predict(
    class_logits: Tensor,
    box_deltas: Tensor,
    proposals: Sequence[Tensor],
    sizes: Tensor,
    box_coder: BoxCoder,
) -> list[Predictions]:
    """Outputs of the box predictor → scores and boxes of the regions of each image.

    Args:
        class_logits: (R, C + 1), the regions of all images one after the other
        box_deltas: (R, C, 4)
        proposals: (P, 4) for each image; R is the sum of the P
        sizes: (N, 2) heights and widths of the images
        box_coder: decodes the deltas
    """
    counts = [len(rois) for rois in proposals]
    all_scores = class_logits.softmax(1)[:, :-1].split(counts)
    all_deltas = box_deltas.split(counts)
    return [
        Predictions(scores, boxes.clip(box_coder.decode(deltas, rois[:, None]), height, width))
        for rois, scores, deltas, (height, width) in zip(
            proposals, all_scores, all_deltas, sizes.tolist(), strict=True
        )
    ]


@torch.no_grad()
@full_precision
def select(
    predictions: Predictions,
    *,
    min_score: float,
    nms_iou: float,
    max_detections: int,
    vote_iou: float = 0.0,
    soft_nms_sigma: float = 0.0,
) -> Detections:
    """The detections of an image (Fast R-CNN §2.4).

    Args:
        min_score: lower scores are dropped
        nms_iou: overlap above which the worse of two boxes of a class goes
        max_detections: kept
        vote_iou: overlap from which boxes of a class have a vote in those that are kept (`box_voting`); 0 has none
        soft_nms_sigma: σ with which scores decay instead of boxes being suppressed (`soft_nms`); 0 suppresses
    """
    region, label = (predictions.scores >= min_score).nonzero().unbind(1)  # (D,), (D,)
    found, score = predictions.boxes[region, label], predictions.scores[region, label]
    solid = (found[:, 2:] > found[:, :2]).all(1)  # a box pushed out of the image has no area
    found, score, label = found[solid], score[solid], label[solid]
    if soft_nms_sigma:
        keep, kept_scores = soft_nms(found, score, label, soft_nms_sigma, min_score, max_detections)
    else:
        keep = ops.batched_nms(found, score, label, nms_iou, max_detections)
        kept_scores = score[keep]
    kept = box_voting(found[keep], label[keep], found, score, label, vote_iou) if vote_iou else found[keep]
    return Detections(kept, kept_scores, label[keep])
