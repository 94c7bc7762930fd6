"""Faster R-CNN on a shared ResNet trunk: the parts put together.

Letters: N images, K anchors of an image, R regions of the batch, C foreground classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, overload

import torch
from torch import Tensor, nn

from resdet.detection.losses import region_losses
from resdet.detection.pyramid import Pyramid, finest, resize_images
from resdet.detection.roi_head import RoIHead
from resdet.detection.rpn import RPN
from resdet.detection.select import Predictions
from resdet.detection.targets import AnchorTargets, RoITargets, hardest
from resdet.nn.pixels import PixelNorm
from resdet.types import Detections, Losses, Target


class FasterRCNN(nn.Module):
    """The detector; every rule of it is a pure function that the constructor is given.

    Args:
        pixels: uint8 images → normalised images
        trunk: normalised images → features shared by the RPN and the head
        rpn: features → objectness logits and box deltas of the anchors; nothing where proposals are given
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
        factors: sizes, in shares of that of the images given, from which regions are pooled; the last is 1
        learn: whose losses count: of "all", of the "rpn" or of the "head" (the steps of alternating training)
    """

    anchors: Tensor

    def __init__(
        self,
        *,
        pixels: PixelNorm,
        trunk: nn.Module,
        rpn: RPN | None,
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
        factors: Sequence[float] = (1.0,),
        learn: Literal["all", "rpn", "head"] = "all",
    ) -> None:
        super().__init__()
        self.pixels, self.trunk, self.rpn, self.head = pixels, trunk, rpn, head
        self.register_buffer("anchors", anchors, persistent=False)
        self.grid_anchors, self.label_anchors, self.sample_rois = grid_anchors, label_anchors, sample_rois
        self.propose, self.propose_for_test = propose, propose_for_test
        self.rpn_loss, self.head_loss, self.mine = rpn_loss, head_loss, mine
        self.predict, self.select = predict, select
        self.factors, self.learn = factors, learn

    @overload
    def forward(
        self, images: Tensor, sizes: Tensor, targets: None = None, proposals: Sequence[Tensor] | None = None
    ) -> list[Detections]: ...
    @overload
    def forward(
        self, images: Tensor, sizes: Tensor, targets: Sequence[Target], proposals: Sequence[Tensor] | None = None
    ) -> Losses: ...

    def forward(
        self,
        images: Tensor,
        sizes: Tensor,
        targets: Sequence[Target] | None = None,
        proposals: Sequence[Tensor] | None = None,
    ) -> Losses | list[Detections]:
        """Losses with `targets`, detections without, whatever the module's mode.

        Args:
            images: (N, 3, H, W) uint8 RGB, padded at the right and at the bottom
            sizes: (N, 2) heights and widths without padding
            targets: boxes in pixels of `images`, one for each image
            proposals: (P, 4) for each image, where they do not come from the RPN
        """
        features = self.features(images, sizes)
        learns_rpn = targets is not None and self.rpn is not None and self.learn != "head"
        scored = self.score_anchors(features) if proposals is None or learns_rpn else None
        if proposals is None:
            assert scored is not None
            propose = self.propose_for_test if targets is None else self.propose
            proposals = propose(*(output.detach() for output in scored), sizes)
        if targets is None:
            return self.detect(features, proposals, sizes)
        return self.losses(features, scored, proposals, sizes, targets)

    def losses_and_detections(
        self, images: Tensor, sizes: Tensor, targets: Sequence[Target], proposals: Sequence[Tensor] | None = None
    ) -> tuple[Losses, list[Detections]]:
        """What `forward` returns with and without targets, from one pass through the trunk and the RPN.

        Args: as of `forward`
        """
        features = self.features(images, sizes)
        learns_rpn = self.rpn is not None and self.learn != "head"
        scored = self.score_anchors(features) if proposals is None or learns_rpn else None
        sampled_from = detected_from = proposals
        if proposals is None:
            assert scored is not None
            outputs = [output.detach() for output in scored]
            sampled_from, detected_from = self.propose(*outputs, sizes), self.propose_for_test(*outputs, sizes)
        assert sampled_from is not None and detected_from is not None
        losses = self.losses(features, scored, sampled_from, sizes, targets)
        return losses, self.detect(features, detected_from, sizes)

    def detect_and_propose(
        self, images: Tensor, sizes: Tensor, most: int, proposals: Sequence[Tensor] | None = None
    ) -> tuple[list[Detections], Sequence[Tensor]]:
        """The detections of `forward`, and up to `most` proposals (P, 4) of each image, given or the RPN's."""
        features = self.features(images, sizes)
        if proposals is not None:
            return self.detect(features, proposals, sizes), [own[:most] for own in proposals]
        scored = self.score_anchors(features)
        detections = self.detect(features, self.propose_for_test(*scored, sizes), sizes)
        return detections, self.propose_for_test(*scored, sizes, after_nms=most)

    def features(self, images: Tensor, sizes: Tensor, factors: Sequence[float] | None = None) -> Tensor | Pyramid:
        """What the trunk makes of the images at each of `factors` of their size; not given, those of the model."""
        factors = self.factors if factors is None else factors
        maps = [self.trunk(self.pixels(*resize_images(images, sizes, factor))) for factor in factors]
        return maps[0] if len(maps) == 1 else Pyramid(maps, factors)

    def detect(self, features: Tensor | Pyramid, proposals: Sequence[Tensor], sizes: Tensor) -> list[Detections]:
        """What the head makes of the proposals (R, 4) of each image."""
        outputs = self.head(features, *concatenate(proposals), sizes)
        return [self.select(predictions) for predictions in self.predict(*outputs, proposals, sizes)]

    def score_anchors(self, features: Tensor | Pyramid) -> tuple[Tensor, Tensor, Tensor]:
        """What the RPN says of the finest map: logits (N, K), deltas (N, K, 4), and its anchors (K, 4)."""
        assert self.rpn is not None, "this detector needs to be given proposals"
        map_ = finest(features)
        anchors = self.grid_anchors(self.anchors, map_.shape[2], map_.shape[3])
        return *self.rpn(map_), anchors

    def losses(
        self,
        features: Tensor | Pyramid,
        scored: tuple[Tensor, Tensor, Tensor] | None,
        proposals: Sequence[Tensor],
        sizes: Tensor,
        targets: Sequence[Target],
    ) -> Losses:
        """The four terms; `scored` is what `score_anchors` returned, if it was asked. Terms not learnt are zero."""
        rpn_terms = head_terms = (finest(features).new_zeros((), dtype=torch.float32),) * 2
        if scored is not None and self.learn != "head":
            logits, deltas, anchors = scored
            anchor_targets = [
                self.label_anchors(anchors, target, height, width)
                for target, (height, width) in zip(targets, sizes.tolist(), strict=True)
            ]
            rpn_terms = self.rpn_loss(logits, deltas, anchor_targets)
        if self.learn != "rpn":
            regions = [
                self.sample_rois(rois, target, self.head.num_classes)
                for rois, target in zip(proposals, targets, strict=True)
            ]
            if self.mine:
                with torch.no_grad():
                    regions = self.mine(regions, *self.head_outputs(features, regions, sizes))
            head_terms = self.head_loss(*self.head_outputs(features, regions, sizes), len(targets))
        return Losses(*rpn_terms, *head_terms)

    def head_outputs(
        self, features: Tensor | Pyramid, regions: Sequence[RoITargets], sizes: Tensor
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
