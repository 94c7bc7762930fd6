"""What the network should have said: targets for anchors and for regions, as pure functions.

Shapes: K anchors, P proposals, G ground-truth boxes, R regions, of one image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from resdet import boxes
from resdet.models.box_coder import BoxCoder
from resdet.precision import full_precision
from resdet.types import Target


class AnchorTargets(NamedTuple):
    """The RPN's mini-batch of one image."""

    positive: Tensor
    """(A,) int64 indices of the anchors sampled as objects"""
    negative: Tensor
    """(B,) int64 indices of the anchors sampled as background"""
    deltas: Tensor
    """(A, 4) box targets of the positive anchors"""


class RoITargets(NamedTuple):
    """The RoI heads' mini-batch of one image, foreground first."""

    rois: Tensor
    """(R, 4) pixels"""
    classes: Tensor
    """(R,) int64 in [0, C]; C is background"""
    deltas: Tensor
    """(R, 4) box targets as the box coder gives them; zero for background"""


@full_precision
def match_anchors(iou: Tensor, foreground_iou: float, background_iou: float) -> Tensor:
    """(K, G) IoU → (K,) int8: 1 object, 0 background, −1 neither (Faster R-CNN §3.1.2).

    Positive: (i) the anchors with the highest IoU with a ground-truth box, all of them in a tie, and
    (ii) anchors with an IoU of at least `foreground_iou` with any box. Negative: below `background_iou` with all.
    """
    labels = torch.full((iou.shape[0],), -1, dtype=torch.int8, device=iou.device)
    if iou.shape[1] == 0:
        return labels.zero_()
    best = iou.amax(1)  # (K,)
    labels[best < background_iou] = 0
    labels[best >= foreground_iou] = 1
    best_of_box = iou.amax(0) if len(iou) else iou.new_zeros(iou.shape[1])  # (G,)
    labels[((iou == best_of_box) & (best_of_box > 0)).any(1)] = 1
    return labels


def random_subset(indices: Tensor, size: int) -> Tensor:
    """At most `size` of the (M,) indices, drawn without replacement."""
    if len(indices) <= size:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:size]]


@full_precision
def label_anchors(
    anchors: Tensor,
    target: Target,
    height: float,
    width: float,
    *,
    batch: int,
    foreground_fraction: float,
    foreground_iou: float,
    background_iou: float,
    cross_boundary: bool,
) -> AnchorTargets:
    """Sample the RPN's mini-batch of an image (Faster R-CNN §3.1.2 and §3.1.3).

    Args:
        anchors: (K, 4)
        target: of the image of size `height` × `width`
        batch: anchors to sample, 256 in the paper
        foreground_fraction: at most this share of them is positive; negatives fill up
        cross_boundary: also train on anchors that leave the image (the paper leaves them out)
    """
    iou = boxes.iou(anchors, target.boxes)  # (K, G)
    if not cross_boundary:
        inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)
        iou = torch.where(inside[:, None], iou, iou.new_zeros(()))
    labels = match_anchors(iou, foreground_iou, background_iou)
    if not cross_boundary:
        labels[~inside] = -1
    positive = random_subset((labels == 1).nonzero()[:, 0], int(batch * foreground_fraction))
    negative = random_subset((labels == 0).nonzero()[:, 0], batch - len(positive))
    deltas = anchors.new_zeros((0, 4))
    if len(positive):
        deltas = boxes.encode(target.boxes[iou[positive].argmax(1)], anchors[positive])
    return AnchorTargets(positive, negative, deltas)


@full_precision
def sample_rois(
    proposals: Tensor,
    target: Target,
    num_classes: int,
    *,
    batch: int,
    foreground_fraction: float,
    foreground_iou: float,
    background_iou: tuple[float, float],
    box_coder: BoxCoder,
) -> RoITargets:
    """Sample the RoI heads' mini-batch of an image (Fast R-CNN §2.3); the ground truth joins the proposals.

    Args:
        proposals: (P, 4) pixels
        batch: regions to sample, 128 in the paper
        foreground_fraction: at most this share overlaps an object by `foreground_iou`; background fills up
        background_iou: background overlaps its best object by this much: [low, high)
        box_coder: makes the box targets
    """
    candidates = torch.cat([proposals, target.boxes])
    iou = boxes.iou(candidates, target.boxes)  # (P + G, G)
    overlap, matched = iou.max(1) if len(target.boxes) else (iou.new_zeros(len(candidates)), None)
    foreground = random_subset((overlap >= foreground_iou).nonzero()[:, 0], int(batch * foreground_fraction))
    low, high = background_iou
    background = ((overlap >= low) & (overlap < high)).nonzero()[:, 0]
    background = random_subset(background, batch - len(foreground))

    rois = candidates[torch.cat([foreground, background])]
    classes = torch.full((len(rois),), num_classes, dtype=torch.int64, device=rois.device)
    deltas = torch.zeros_like(rois)
    if matched is not None:
        objects = matched[foreground]
        classes[: len(foreground)] = target.labels[objects]
        deltas[: len(foreground)] = box_coder.encode(target.boxes[objects], candidates[foreground])
    return RoITargets(rois, classes, deltas)
