"""The region proposal network (Faster R-CNN §3.1) and its proposals.

Shapes: N images, (h, w) the feature map, A anchors at a cell, K = h·w·A, P proposals of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resdet import boxes, ops
from resdet.config import RPNConfig, TestConfig
from resdet.models.anchors import AnchorGenerator
from resdet.models.losses import rpn_loss
from resdet.models.targets import label_anchors
from resdet.precision import full_precision
from resdet.types import FeatureMaps, Target


class RPNHead(nn.Module):
    """A 3×3 convolution with ReLU and two sibling 1×1 convolutions: objectness and box."""

    def __init__(self, channels: int, hidden: int, num_anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1)
        self.objectness_logits = nn.Conv2d(hidden, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(hidden, num_anchors * 4, 1)
        for layer in (self.conv, self.objectness_logits, self.anchor_deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, channels, h, w) → objectness logits (N, K) and deltas (N, K, 4), float32, ordered as the anchors"""
        hidden = self.conv(features).relu_()
        logits = self.objectness_logits(hidden).permute(0, 2, 3, 1)  # (N, h, w, A)
        deltas = self.anchor_deltas(hidden).permute(0, 2, 3, 1)  # (N, h, w, 4A)
        return logits.flatten(1).float(), deltas.reshape(len(features), -1, 4).float()


class ScoredAnchors(NamedTuple):
    """What the RPN says of the anchors of N images."""

    logits: Tensor
    """(N, K) objectness"""
    deltas: Tensor
    """(N, K, 4)"""
    anchors: Tensor
    """(K, 4) pixels"""


class RPN(nn.Module):
    """The region proposal network: anchors, and all that happens to them in training and at test time.

    Args:
        anchor_generator: makes the anchors
        head: scores and moves them
        settings: sampling, loss, and proposing in training
        test: how many proposals there are at test time
    """

    def __init__(
        self, anchor_generator: AnchorGenerator, head: RPNHead, settings: RPNConfig, test: TestConfig
    ) -> None:
        super().__init__()
        self.anchor_generator, self.head = anchor_generator, head
        self.settings, self.test = settings, test

    def forward(self, features: FeatureMaps) -> ScoredAnchors:
        """Score the anchors of the last map, which is that of the largest images."""
        map_, stride = features.maps[-1], features.strides[-1]
        anchors = self.anchor_generator(map_.shape[2], map_.shape[3], stride)
        logits, deltas = self.head(map_)
        return ScoredAnchors(logits, deltas, anchors)

    def losses(self, scored: ScoredAnchors, sizes: Tensor, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        """Objectness and box loss of a mini-batch of each image's anchors (Faster R-CNN §3.1.2).

        Args:
            scored: what `forward` returned
            sizes: (N, 2) heights and widths of the images
            targets: one for each image
        """
        own = self.settings
        sampled = [
            label_anchors(
                scored.anchors,
                target,
                height,
                width,
                batch=own.batch_size_per_image,
                foreground_fraction=own.foreground_fraction,
                foreground_iou=own.foreground_iou,
                background_iou=own.background_iou,
                cross_boundary=own.cross_boundary,
            )
            for target, (height, width) in zip(targets, sizes.tolist(), strict=True)
        ]
        return rpn_loss(
            scored.logits,
            scored.deltas,
            sampled,
            batch=own.batch_size_per_image,
            beta=own.beta,
            box_weight=own.box_weight,
        )

    def propose(
        self, scored: ScoredAnchors, sizes: Tensor, *, training: bool = False, post_nms_topk: int | None = None
    ) -> list[Tensor]:
        """The proposals (P, 4) of each image, best first, without gradient.

        Args:
            scored: what `forward` returned
            sizes: (N, 2) heights and widths of the images
            training: as many as in training, not as at test time
            post_nms_topk: as many as this instead
        """
        limits = self.settings if training else self.test
        return propose(
            scored.logits.detach(),
            scored.deltas.detach(),
            scored.anchors,
            sizes,
            pre_nms_topk=limits.pre_nms_topk,
            post_nms_topk=limits.post_nms_topk if post_nms_topk is None else post_nms_topk,
            nms_iou=self.settings.nms_iou,
            min_size=self.settings.min_size,
        )


@torch.no_grad()
@full_precision
def propose(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    sizes: Tensor,
    *,
    pre_nms_topk: int,
    post_nms_topk: int,
    nms_iou: float,
    min_size: float,
) -> list[Tensor]:
    """The best boxes of each image, best first (Faster R-CNN §3.1.3 and §3.3).

    Args:
        logits: (N, K)
        deltas: (N, K, 4)
        anchors: (K, 4)
        sizes: (N, 2) heights and widths of the images; boxes are clipped to them
        pre_nms_topk: boxes kept by score before non-maximum suppression
        post_nms_topk: boxes kept after it
        nms_iou: overlap above which the worse box goes
        min_size: boxes with a shorter side (pixels) or without area are dropped

    Returns:
        a list of (P, 4) proposals
    """
    proposals = []
    for image_logits, image_deltas, (height, width) in zip(logits, deltas, sizes.tolist(), strict=True):
        scores, order = image_logits.topk(min(pre_nms_topk, len(image_logits)))
        candidates = boxes.clip(boxes.decode(image_deltas[order], anchors[order]), height, width)
        sides = (candidates[:, 2:] - candidates[:, :2]).amin(1)
        keep = (sides >= min_size) & (sides > 0)
        candidates, scores = candidates[keep], scores[keep]
        proposals.append(candidates[ops.nms(candidates, scores, nms_iou, post_nms_topk)])
    return proposals
