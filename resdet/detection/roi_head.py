"""The head: pooled features of each region through conv5_x to a class and a box (He et al. 2015, appendix A).

Letters: R regions, C foreground classes, S the pooled size, D detections of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet import boxes, ops
from resdet.nn.blocks import Bottleneck, Projection
from resdet.types import Detections

Pool = Callable[..., Tensor]


class RoIHead(nn.Module):
    """RoI pooling, conv5_x, global average, two sibling layers: "networks on conv feature maps".

    Args:
        pool: (N, channels, h, w), (R, 4), (R,), optionally a `stride` → (R, channels, S, S), as in `ops`
        conv5_x: (R, …, S, S) → (R, channels, …)
        channels: that conv5_x gives
        num_classes: C
    """

    def __init__(self, pool: Pool, conv5_x: nn.Sequential, channels: int, num_classes: int) -> None:
        super().__init__()
        self.pool = pool
        self.num_classes = num_classes
        self.conv5_x = conv5_x
        self.classify = nn.Linear(channels, num_classes + 1)
        self.regress = nn.Linear(channels, num_classes * 4)
        nn.init.normal_(self.classify.weight, std=0.01)  # Fast R-CNN §2.3
        nn.init.normal_(self.regress.weight, std=0.001)
        nn.init.zeros_(self.classify.bias)
        nn.init.zeros_(self.regress.bias)

    def forward(self, features: Tensor, rois: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """(N, channels, h, w), (R, 4), (R,) → class logits (R, C + 1), background last, and deltas (R, C, 4)"""
        pool = partial(self.pool, rois=rois, image_index=image_index)
        if torch.is_grad_enabled() and self.commutes() and _fewer(features, rois, self.pool):
            y = convolve_and_pool(self.conv5_x[0], features, pool)
        else:
            y = self.conv5_x[0](pool(features).contiguous(memory_format=torch.channels_last))
        vectors = self.conv5_x[1:](y).mean((2, 3))  # (R, channels)
        deltas = self.regress(vectors).float()
        return self.classify(vectors).float(), deltas.reshape(len(rois), self.num_classes, 4)

    def commutes(self) -> bool:
        """Whether pooling is linear and all that reads its result are 1×1 convolutions without bias."""
        first = self.conv5_x[0]
        linear = isinstance(self.pool, partial) and self.pool.func is ops.roi_align
        return linear and isinstance(first, Bottleneck) and first.projects and first.order == "original"


def _fewer(features: Tensor, rois: Tensor, pool: Any) -> bool:
    """Whether the feature maps have fewer cells than the regions have bins."""
    return features.shape[0] * features.shape[2] * features.shape[3] < len(rois) * pool.keywords["size"] ** 2


def convolve_and_pool(unit: Any, features: Tensor, pool: Callable[..., Tensor]) -> Tensor:
    """A bottleneck of the pooled features: its 1×1 convolutions and RoI align, which commute, change places.

    Most cells lie in many regions, and are convolved once. (N, inputs, h, w) → (R, outputs, …).
    """
    shortcut: Projection = unit.shortcut
    y, added = (
        pool(F.conv2d(features, conv.weight), stride=conv.stride[0]).contiguous(memory_format=torch.channels_last)
        for conv in (unit.conv1, shortcut.conv)
    )
    y = unit.norm2(unit.conv2(unit.norm1(y, relu=True)), relu=True)
    return unit.norm3(unit.conv3(y), added=shortcut.norm(added), relu=True)


class Predictions(NamedTuple):
    """What the head says of the regions of one image."""

    scores: Tensor
    """(R, C) probabilities of the foreground classes"""
    boxes: Tensor
    """(R, C, 4) a box for each class, clipped to the image"""


@torch.no_grad()
def predict(
    class_logits: Tensor,
    box_deltas: Tensor,
    proposals: Sequence[Tensor],
    sizes: Tensor,
    *,
    box_stds: tuple[float, float, float, float],
) -> list[Predictions]:
    """Outputs of the head → scores and boxes of the regions of each image.

    Args:
        class_logits: (R, C + 1), the regions of all images one after the other
        box_deltas: (R, C, 4)
        proposals: (P, 4) for each image; R is the sum of the P
        sizes: (N, 2) heights and widths of the images
        box_stds: units of the deltas
    """
    counts = [len(rois) for rois in proposals]
    all_scores = class_logits.softmax(1)[:, :-1].split(counts)
    all_deltas = (box_deltas * box_deltas.new_tensor(box_stds)).split(counts)
    return [
        Predictions(scores, boxes.clip(boxes.decode(deltas, rois[:, None]), height, width))
        for rois, scores, deltas, (height, width) in zip(
            proposals, all_scores, all_deltas, sizes.tolist(), strict=True
        )
    ]


@torch.no_grad()
def select(
    predictions: Predictions,
    *,
    min_score: float,
    nms_iou: float,
    max_detections: int,
    vote_iou: float = 0.0,
    soft_nms: float = 0.0,
) -> Detections:
    """The detections of an image (Fast R-CNN §2.4).

    Args:
        min_score: lower scores are dropped
        nms_iou: overlap above which the worse of two boxes of a class goes
        max_detections: kept
        vote_iou: overlap from which boxes of a class have a vote in those that are kept (`vote`); 0 has none
        soft_nms: σ with which scores decay instead of boxes being suppressed (`soften`); 0 suppresses
    """
    region, label = (predictions.scores >= min_score).nonzero().unbind(1)  # (D,), (D,)
    found, score = predictions.boxes[region, label], predictions.scores[region, label]
    solid = (found[:, 2:] > found[:, :2]).all(1)  # a box pushed out of the image has no area
    found, score, label = found[solid], score[solid], label[solid]
    if soft_nms:
        keep, kept_scores = soften(found, score, label, soft_nms, min_score, max_detections)
    else:
        keep = ops.batched_nms(found, score, label, nms_iou, max_detections)
        kept_scores = score[keep]
    kept = vote(found[keep], label[keep], found, score, label, vote_iou) if vote_iou else found[keep]
    return Detections(kept, kept_scores, label[keep])


def vote(kept: Tensor, kept_labels: Tensor, found: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """Each kept box becomes the mean, by score, of the boxes of its class that overlap it by `iou` or more.

    Box voting (Gidaris and Komodakis 2015, §4; He et al. 2015, appendix B). (K, 4), (K,), (D, 4), (D,), (D,) →
    (K, 4).
    """
    votes = (boxes.iou(kept, found) >= iou) & (kept_labels[:, None] == labels)  # (K, D)
    weights = votes * scores
    return weights @ found / weights.sum(1, keepdim=True)


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
