"""The region proposal network (Faster R-CNN §3.1) and its proposals.

Shapes: N images, (h, w) a feature map, A anchors at a cell, K = h·w·A, P proposals of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from resdet import boxes, ops
from resdet.config import RPNConfig, TestConfig
from resdet.models.anchors import AnchorGenerator
from resdet.models.layers.conv import Conv2d
from resdet.models.losses import rpn_loss
from resdet.models.targets import label_anchors
from resdet.precision import full_precision
from resdet.types import FeatureMaps, Target


class RPNHead(nn.Module):
    """3×3 convolutions with ReLU, of which the paper has one, and two sibling 1×1 convolutions: objectness and box.

    Args:
        channels: of the feature maps
        hidden: of what the 3×3 convolutions give
        num_anchors: at a cell
        depth: of the 3×3 convolutions
    """

    def __init__(self, channels: int, hidden: int, num_anchors: int, depth: int = 1) -> None:
        super().__init__()
        inputs = (channels, *[hidden] * (depth - 1))
        self.convs = nn.ModuleList(Conv2d(wide, hidden, 3, bias=True) for wide in inputs)
        self.objectness_logits = nn.Conv2d(hidden, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(hidden, num_anchors * 4, 1)
        layers: tuple[Any, ...] = (*self.convs, self.objectness_logits, self.anchor_deltas)
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, channels, h, w) → objectness logits (N, K) and deltas (N, K, 4), float32, ordered as the anchors"""
        hidden = features
        for conv in self.convs:
            hidden = conv(hidden).relu_()
        logits = self.objectness_logits(hidden).permute(0, 2, 3, 1)  # (N, h, w, A)
        deltas = self.anchor_deltas(hidden).permute(0, 2, 3, 1)  # (N, h, w, 4A)
        return logits.flatten(1).float(), deltas.reshape(len(features), -1, 4).float()


class ScoredAnchors(NamedTuple):
    """What the RPN says of the anchors of N images, level by level."""

    logits: list[Tensor]
    """(N, K) objectness"""
    deltas: list[Tensor]
    """(N, K, 4)"""
    anchors: list[Tensor]
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
        """Score the anchors of all levels; of several image scales, on the maps of the largest images."""
        levels = self.anchor_generator.levels
        maps, strides = features.maps[-levels:], features.strides[-levels:]
        anchors = self.anchor_generator([(map_.shape[2], map_.shape[3]) for map_ in maps], strides)
        logits, deltas = zip(*(self.head(map_) for map_ in maps), strict=True)
        return ScoredAnchors(list(logits), list(deltas), anchors)

    def losses(self, scored: ScoredAnchors, sizes: Tensor, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        """Objectness and box loss of a mini-batch of each image's anchors (Faster R-CNN §3.1.2).

        Args:
            scored: what `forward` returned
            sizes: (N, 2) heights and widths of the images
            targets: one for each image
        """
        own = self.settings
        anchors = torch.cat(scored.anchors)
        sampled = [
            label_anchors(
                anchors,
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
            torch.cat(scored.logits, 1),
            torch.cat(scored.deltas, 1),
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
            *scored,
            sizes,
            pre_nms_topk=limits.pre_nms_topk,
            post_nms_topk=limits.post_nms_topk if post_nms_topk is None else post_nms_topk,
            nms_iou=self.settings.nms_iou,
            min_size=self.settings.min_size,
        )


@torch.no_grad()
@full_precision
def propose(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    sizes: Tensor,
    *,
    pre_nms_topk: int,
    post_nms_topk: int,
    nms_iou: float,
    min_size: float,
) -> list[Tensor]:
    """The best boxes of each image, best first (Faster R-CNN §3.1.3 and §3.3; of a pyramid, Lin et al. 2017, §4.1).

    Args:
        logits: (N, K) of each level
        deltas: (N, K, 4) of each level
        anchors: (K, 4) of each level
        sizes: (N, 2) heights and widths of the images; boxes are clipped to them
        pre_nms_topk: boxes of each level kept by score before non-maximum suppression
        post_nms_topk: boxes of an image kept after it
        nms_iou: overlap above which the worse of two boxes of a level goes
        min_size: boxes with a shorter side (pixels) or without area are dropped

    Returns:
        a list of (P, 4) proposals
    """
    best = [own.topk(min(pre_nms_topk, own.shape[1]), 1) for own in logits]  # each (N, k) twice
    scores = torch.cat([values for values, _ in best], 1)  # (N, M)
    moves = torch.cat(
        [own.take_along_dim(order[:, :, None], 1) for own, (_, order) in zip(deltas, best, strict=True)], 1
    )
    places = torch.cat([own[order] for own, (_, order) in zip(anchors, best, strict=True)], 1)  # (N, M, 4)
    level = torch.cat([order.new_full(order.shape[1:], n) for n, (_, order) in enumerate(best)])  # (M,)
    proposals = []
    for candidates, own_scores, (height, width) in zip(
        boxes.decode(moves, places), scores, sizes.tolist(), strict=True
    ):
        candidates = boxes.clip(candidates, height, width)
        sides = (candidates[:, 2:] - candidates[:, :2]).amin(1)
        keep = (sides >= min_size) & (sides > 0)
        candidates, own_scores = candidates[keep], own_scores[keep]
        chosen = ops.batched_nms(candidates, own_scores, level[keep], nms_iou, post_nms_topk)
        proposals.append(candidates[chosen])
    return proposals
