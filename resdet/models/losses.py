"""The multi-task loss (Fast R-CNN §2.3, Faster R-CNN eq. 1) of the RPN and of the head, as pure functions.

Each term is a sum over the sampled anchors or regions divided by the *nominal* mini-batch (N · 256, N · 128), so
that the mean over processes is the loss of the joint batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from resdet.models.targets import AnchorTargets
from resdet.precision import full_precision


@full_precision
def smooth_l1(difference: Tensor, beta: float) -> Tensor:
    """Summed smooth L1: quadratic below `beta`, linear above. The papers' σ is 1/√β."""
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="sum", beta=beta)


@full_precision
def rpn_loss(
    logits: Tensor,
    deltas: Tensor,
    targets: Sequence[AnchorTargets],
    *,
    batch: int,
    beta: float,
    box_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Objectness and box loss of the RPN.

    Args:
        logits: (N, K)
        deltas: (N, K, 4)
        targets: one for each image
        batch: anchors in an image's mini-batch
        beta: of the smooth L1 loss
        box_weight: factor of the box loss
    """
    objectness = logits.new_zeros(())
    box = logits.new_zeros(())
    for image_logits, image_deltas, target in zip(logits, deltas, targets, strict=True):
        positive, negative = image_logits[target.positive], image_logits[target.negative]
        objectness = objectness + F.softplus(-positive).sum() + F.softplus(negative).sum()
        box = box + smooth_l1(image_deltas[target.positive] - target.deltas, beta)
    normalizer = batch * len(targets)
    return objectness / normalizer, box_weight * box / normalizer


@full_precision
def head_loss(
    class_logits: Tensor,
    box_deltas: Tensor,
    classes: Tensor,
    box_targets: Tensor,
    images: int,
    *,
    batch: int,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Classification and box loss of the head.

    Args:
        class_logits: (R, C + 1), background last
        box_deltas: (R, C, 4), one box for each class; only that of the true class is trained
        classes: (R,) in [0, C]; C is background
        box_targets: (R, 4)
        images: N
        batch: regions in an image's mini-batch
        beta: of the smooth L1 loss
    """
    normalizer = batch * images
    classification = F.cross_entropy(class_logits, classes, reduction="sum")
    foreground = (classes < box_deltas.shape[1]).nonzero()[:, 0]
    chosen = box_deltas[foreground, classes[foreground]]  # (F, 4)
    return classification / normalizer, smooth_l1(chosen - box_targets[foreground], beta) / normalizer


@full_precision
def region_losses(
    class_logits: Tensor, box_deltas: Tensor, classes: Tensor, box_targets: Tensor, *, beta: float
) -> Tensor:
    """(R,): classification and box loss of each region on its own; arguments as of `head_loss`."""
    foreground = (classes < box_deltas.shape[1]).nonzero()[:, 0]
    difference = box_deltas[foreground, classes[foreground]] - box_targets[foreground]  # (F, 4)
    box = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=beta).sum(1)
    return F.cross_entropy(class_logits, classes, reduction="none").index_add(0, foreground, box)
