"""The head: pooled features of each region through conv5_x to a class and a box (He et al. 2015, appendix A).

Letters: R regions, C foreground classes, S the pooled size, D detections of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

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


@torch.no_grad()
def detect(
    class_logits: Tensor,
    box_deltas: Tensor,
    proposals: Sequence[Tensor],
    sizes: Tensor,
    *,
    box_stds: tuple[float, float, float, float],
    min_score: float,
    nms_iou: float,
    max_detections: int,
) -> list[Detections]:
    """Class scores and boxes of the regions → detections of each image (Fast R-CNN §2.4).

    Args:
        class_logits: (R, C + 1), the regions of all images one after the other
        box_deltas: (R, C, 4)
        proposals: (P, 4) for each image; R is the sum of the P
        sizes: (N, 2) heights and widths of the images; boxes are clipped to them
        box_stds: units of the deltas
        min_score: lower scores are dropped
        nms_iou: overlap above which the worse of two boxes of a class goes
        max_detections: kept for an image
    """
    counts = [len(rois) for rois in proposals]
    all_scores = class_logits.softmax(1)[:, :-1].split(counts)
    all_deltas = (box_deltas * box_deltas.new_tensor(box_stds)).split(counts)
    detections = []
    for rois, scores, deltas, (height, width) in zip(
        proposals, all_scores, all_deltas, sizes.tolist(), strict=True
    ):
        region, label = (scores >= min_score).nonzero().unbind(1)  # (D,), (D,)
        found = boxes.clip(boxes.decode(deltas[region, label], rois[region]), height, width)
        score = scores[region, label]
        solid = (found[:, 2:] > found[:, :2]).all(1)  # a box pushed out of the image has no area
        found, score, label = found[solid], score[solid], label[solid]
        keep = ops.batched_nms(found, score, label, nms_iou, max_detections)
        detections.append(Detections(found[keep], score[keep], label[keep]))
    return detections
