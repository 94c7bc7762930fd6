"""Faster R-CNN on a shared ResNet trunk: the parts put together.

Letters: N images, K anchors of an image, R regions of the batch, C foreground classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import overload

import torch
from torch import Tensor, nn

from resdet import ops
from resdet.config import DetConfig
from resdet.detection.anchors import ANCHOR_OFFSETS, base_anchors, grid_anchors
from resdet.detection.bodies import Conv5
from resdet.detection.losses import head_loss, region_losses, rpn_loss
from resdet.detection.roi_head import RoIHead
from resdet.detection.rpn import RPN, propose
from resdet.detection.select import Predictions, predict, select
from resdet.detection.targets import AnchorTargets, RoITargets, hardest, label_anchors, sample_rois
from resdet.nn.norm import NORMS, freeze
from resdet.nn.pixels import STYLES, PixelNorm
from resdet.nn.resnet import ResNet, Trunk
from resdet.types import Detections, Losses, Target

EVERY_REGION = 1 << 30  # a batch that all candidates of an image fit in


class FasterRCNN(nn.Module):
    """The detector; every rule of it is a pure function that the constructor is given.

    Args:
        pixels: uint8 images → normalised images
        trunk: normalised images → features shared by the RPN and the head
        rpn: features → objectness logits and box deltas of the anchors
        head: features and regions → class logits and box deltas
        anchors: (A, 4) base anchors
        grid_anchors: base anchors, height, width of the feature map → anchors
        label_anchors: anchors, target, height, width → the RPN's mini-batch
        propose: logits, deltas, anchors, sizes → proposals, in training
        propose_for_test: the same at test time; takes another `after_nms` too
        sample_rois: proposals, target, C → the head's mini-batch
        rpn_loss, head_loss: as in `losses`
        mine: regions of each image, class logits, deltas, classes, box targets → those to train on; or nothing
        predict: class logits, deltas, proposals, sizes → scores and boxes of the regions of each image
        select: those of an image → its detections
    """

    anchors: Tensor

    def __init__(
        self,
        *,
        pixels: PixelNorm,
        trunk: Trunk,
        rpn: RPN,
        head: RoIHead,
        anchors: Tensor,
        grid_anchors: Callable[..., Tensor],
        label_anchors: Callable[..., AnchorTargets],
        propose: Callable[..., list[Tensor]],
        propose_for_test: Callable[..., list[Tensor]],
        sample_rois: Callable[..., RoITargets],
        rpn_loss: Callable[..., tuple[Tensor, Tensor]],
        head_loss: Callable[..., tuple[Tensor, Tensor]],
        mine: Callable[..., list[RoITargets]] | None,
        predict: Callable[..., list[Predictions]],
        select: Callable[..., Detections],
    ) -> None:
        super().__init__()
        self.pixels, self.trunk, self.rpn, self.head = pixels, trunk, rpn, head
        self.register_buffer("anchors", anchors, persistent=False)
        self.grid_anchors, self.label_anchors, self.sample_rois = grid_anchors, label_anchors, sample_rois
        self.propose, self.propose_for_test = propose, propose_for_test
        self.rpn_loss, self.head_loss, self.mine = rpn_loss, head_loss, mine
        self.predict, self.select = predict, select

    @overload
    def forward(self, images: Tensor, sizes: Tensor, targets: None = None) -> list[Detections]: ...
    @overload
    def forward(self, images: Tensor, sizes: Tensor, targets: Sequence[Target]) -> Losses: ...

    def forward(
        self, images: Tensor, sizes: Tensor, targets: Sequence[Target] | None = None
    ) -> Losses | list[Detections]:
        """Losses with `targets`, detections without, whatever the module's mode.

        Args:
            images: (N, 3, H, W) uint8 RGB, padded at the right and at the bottom
            sizes: (N, 2) heights and widths without padding
            targets: boxes in pixels of `images`, one for each image
        """
        features, logits, deltas, anchors = self.score_anchors(images, sizes)
        if targets is None:
            proposals = self.propose_for_test(logits, deltas, anchors, sizes)
            return self.detect(features, proposals, sizes)
        proposals = self.propose(logits.detach(), deltas.detach(), anchors, sizes)
        return self.losses(features, logits, deltas, anchors, proposals, sizes, targets)

    def detect_and_propose(self, images: Tensor, sizes: Tensor, most: int) -> tuple[list[Detections], list[Tensor]]:
        """The detections of `forward`, and from the same pass up to `most` proposals (P, 4) of each image."""
        features, logits, deltas, anchors = self.score_anchors(images, sizes)
        proposals = self.propose_for_test(logits, deltas, anchors, sizes)
        detections = self.detect(features, proposals, sizes)
        return detections, self.propose_for_test(logits, deltas, anchors, sizes, after_nms=most)

    def detect(self, features: Tensor, proposals: list[Tensor], sizes: Tensor) -> list[Detections]:
        """What the head makes of the proposals (R, 4) of each image."""
        outputs = self.head(features, *concatenate(proposals), sizes)
        return [self.select(predictions) for predictions in self.predict(*outputs, proposals, sizes)]

    def score_anchors(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Trunk and RPN: features (N, channels, h, w), logits (N, K), deltas (N, K, 4) and anchors (K, 4)."""
        features = self.trunk(self.pixels(images, sizes))
        logits, deltas = self.rpn(features)
        anchors = self.grid_anchors(self.anchors, features.shape[2], features.shape[3])
        return features, logits, deltas, anchors

    def losses(
        self,
        features: Tensor,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        proposals: list[Tensor],
        sizes: Tensor,
        targets: Sequence[Target],
    ) -> Losses:
        """The four terms, from the outputs of trunk and RPN; shapes as in `forward`."""
        anchor_targets = [
            self.label_anchors(anchors, target, height, width)
            for target, (height, width) in zip(targets, sizes.tolist(), strict=True)
        ]
        regions = [
            self.sample_rois(rois, target, self.head.num_classes)
            for rois, target in zip(proposals, targets, strict=True)
        ]
        if self.mine:
            with torch.no_grad():
                regions = self.mine(regions, *self.head_outputs(features, regions, sizes))
        return Losses(
            *self.rpn_loss(logits, deltas, anchor_targets),
            *self.head_loss(*self.head_outputs(features, regions, sizes), len(targets)),
        )

    def head_outputs(
        self, features: Tensor, regions: Sequence[RoITargets], sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class logits and deltas of all regions, and what they should be: classes (R,) and deltas (R, 4)."""
        outputs = self.head(features, *concatenate([region.rois for region in regions]), sizes)
        classes, deltas = (torch.cat(field) for field in list(zip(*regions, strict=True))[1:])
        return *outputs, classes, deltas


def concatenate(rois_per_image: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A list of (R_i, 4) → (R, 4) and (R,) int64, the image of each region."""
    counts = torch.tensor([len(rois) for rois in rois_per_image])
    image_index = torch.arange(len(rois_per_image)).repeat_interleave(counts)
    return torch.cat(list(rois_per_image)), image_index.to(rois_per_image[0].device)


def mine(
    regions: Sequence[RoITargets],
    class_logits: Tensor,
    box_deltas: Tensor,
    classes: Tensor,
    box_targets: Tensor,
    *,
    batch: int,
    beta: float,
    nms_iou: float,
) -> list[RoITargets]:
    """The hardest regions of each image (`hardest`), by what the head says of all of them now."""
    losses = region_losses(class_logits, box_deltas, classes, box_targets, beta=beta)
    parts = losses.split([len(own.rois) for own in regions])
    return [hardest(own, part, batch, nms_iou) for own, part in zip(regions, parts, strict=True)]


def build_faster_rcnn(config: DetConfig, num_classes: int) -> FasterRCNN:
    """The network that a config describes, with fresh weights."""
    model, rpn, roi, test = config.model, config.rpn, config.roi, config.test
    style = STYLES[model.style]
    resnet = ResNet(
        model.depth,
        norm=NORMS[model.norm],
        stride_in_1x1=style.stride_in_1x1,
        conv5_stride=model.conv5_stride,
    )
    freeze(resnet.trunk, model.freeze)
    anchors = base_anchors(model.anchor_scales, model.anchor_ratios)
    pool = ops.roi_pool if model.pooling == "pool" else ops.roi_align
    body = Conv5(
        partial(pool, size=model.pool_size, scale=1 / resnet.trunk.stride), resnet.conv5_x, resnet.channels
    )
    propose_with = partial(propose, nms_iou=rpn.nms_iou, min_size=rpn.min_size)
    return FasterRCNN(
        pixels=PixelNorm(style),
        trunk=resnet.trunk,
        rpn=RPN(resnet.trunk.channels, model.rpn_channels, len(anchors)),
        head=RoIHead(body, num_classes, model.context),
        anchors=anchors,
        grid_anchors=partial(grid_anchors, stride=resnet.trunk.stride, offset=ANCHOR_OFFSETS[model.anchor_center]),
        label_anchors=partial(
            label_anchors,
            batch=rpn.batch,
            foreground_fraction=rpn.foreground_fraction,
            foreground_iou=rpn.foreground_iou,
            background_iou=rpn.background_iou,
            cross_boundary=rpn.cross_boundary,
        ),
        propose=partial(propose_with, before_nms=rpn.before_nms, after_nms=rpn.after_nms),
        propose_for_test=partial(propose_with, before_nms=test.before_nms, after_nms=test.after_nms),
        sample_rois=partial(
            sample_rois,
            batch=EVERY_REGION if roi.mining else roi.batch,
            foreground_fraction=1 if roi.mining else roi.foreground_fraction,
            foreground_iou=roi.foreground_iou,
            background_iou=roi.background_iou,
            box_stds=roi.box_stds,
        ),
        rpn_loss=partial(rpn_loss, batch=rpn.batch, beta=rpn.beta),
        head_loss=partial(head_loss, batch=roi.batch, beta=roi.beta),
        mine=partial(mine, batch=roi.batch, beta=roi.beta, nms_iou=rpn.nms_iou) if roi.mining else None,
        predict=partial(predict, box_stds=roi.box_stds),
        select=partial(
            select,
            min_score=test.min_score,
            nms_iou=test.nms_iou,
            max_detections=test.max_detections,
            vote_iou=test.vote_iou,
            soft_nms=test.soft_nms,
        ),
    )
