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
        vote_iou: overlap from which boxes of a class have a vote in those that are kept (`vote`); 0 has none
        soft_nms_sigma: σ with which scores decay instead of boxes being suppressed (`soften`); 0 suppresses
    """
    region, label = (predictions.scores >= min_score).nonzero().unbind(1)  # (D,), (D,)
    found, score = predictions.boxes[region, label], predictions.scores[region, label]
    solid = (found[:, 2:] > found[:, :2]).all(1)  # a box pushed out of the image has no area
    found, score, label = found[solid], score[solid], label[solid]
    if soft_nms_sigma:
        keep, kept_scores = soften(found, score, label, soft_nms_sigma, min_score, max_detections)
    else:
        keep = ops.batched_nms(found, score, label, nms_iou, max_detections)
        kept_scores = score[keep]
    kept = vote(found[keep], label[keep], found, score, label, vote_iou) if vote_iou else found[keep]
    return Detections(kept, kept_scores, label[keep])


@full_precision
def vote(kept: Tensor, kept_labels: Tensor, found: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """Each kept box becomes the mean, by score, of the boxes of its class that overlap it by `iou` or more.

    Box voting (Gidaris and Komodakis 2015, §4; He et al. 2015, appendix B). Where all of them score 0, the kept box
    stays as it is. (K, 4), (K,), (D, 4), (D,), (D,) → (K, 4).
    """
    votes = (boxes.iou(kept, found) >= iou) & (kept_labels[:, None] == labels)  # (K, D)
    weights = (votes * scores).double()  # on GPUs, TF32 would shorten the coordinates in a float32 product
    total = weights.sum(1, keepdim=True)  # (K, 1)
    return torch.where(total > 0, weights @ found.double() / total, kept).to(found.dtype)


@full_precision
def soften(
    found: Tensor, scores: Tensor, labels: Tensor, sigma: float, min_score: float, most: int
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al. 2017, eq. 3): a better box of the class multiplies a score by exp(−IoU²/σ).

    (D, 4), (D,), (D,) → positions and decayed scores of the at most `most` boxes that keep `min_score`, best first.
    """
    left = scores.clone()
    kept: list[int] = []
    values: list[float] = []
    while len(kept) < min(most, len(found)):
        best = int(left.argmax())
        if left[best] < min_score:
            break
        kept.append(best)
        values.append(float(left[best]))
        overlap = boxes.iou(found[best, None], found)[0]
        left *= torch.where(labels == labels[best], (-overlap.square() / sigma).exp(), 1.0)
        left[best] = -1
    return torch.tensor(kept, dtype=torch.int64, device=found.device), scores.new_tensor(values)
