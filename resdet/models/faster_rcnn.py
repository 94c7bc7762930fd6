"""Faster R-CNN on a ResNet: the method, as He et al. 2015, appendix A, put it together.

Shapes: N images, (H, W) their common size with padding, P proposals of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor, nn

from resdet.models.backbones import Backbone
from resdet.models.image_scales import resize_images
from resdet.models.layers.pixel_norm import PixelNorm
from resdet.models.roi_heads import RoIHeads
from resdet.models.rpn import RPN, ScoredAnchors
from resdet.types import Detections, FeatureMaps, Losses, Target


class FasterRCNN(nn.Module):
    """The detector.

    Args:
        pixel_norm: uint8 images → normalised images
        backbone: normalised images → the feature maps that the RPN and the RoI heads share
        rpn: feature maps → proposals; None where proposals are given
        roi_heads: feature maps and proposals → classes and boxes
        scales: sizes, in shares of that of the images given, at which they go through the backbone; the last is 1.
            They may be set anew at any time
        train_only: "rpn" or "roi_heads", whose losses alone count (the steps of alternating training); "" for both
    """

    def __init__(
        self,
        pixel_norm: PixelNorm,
        backbone: Backbone,
        rpn: RPN | None,
        roi_heads: RoIHeads,
        *,
        scales: Sequence[float] = (1.0,),
        train_only: Literal["", "rpn", "roi_heads"] = "",
    ) -> None:
        super().__init__()
        self.pixel_norm, self.backbone, self.rpn, self.roi_heads = pixel_norm, backbone, rpn, roi_heads
        self.scales, self.train_only = tuple(scales), train_only

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
        scored = self.score_anchors(features) if proposals is None or self._trains_rpn(targets) else None
        if proposals is None:
            proposals = self.propose(scored, sizes, training=targets is not None)
        if targets is None:
            return self.roi_heads.detect(features, proposals, sizes)
        return self.losses(features, scored, proposals, sizes, targets)

    def losses_and_detections(
        self, images: Tensor, sizes: Tensor, targets: Sequence[Target], proposals: Sequence[Tensor] | None = None
    ) -> tuple[Losses, list[Detections]]:
        """What `forward` returns with and without targets, from one pass through the backbone and the RPN.

        Args: as of `forward`
        """
        features = self.features(images, sizes)
        scored = self.score_anchors(features) if proposals is None or self._trains_rpn(targets) else None
        to_train = self.propose(scored, sizes, training=True) if proposals is None else proposals
        to_detect = self.propose(scored, sizes) if proposals is None else proposals
        losses = self.losses(features, scored, to_train, sizes, targets)
        return losses, self.roi_heads.detect(features, to_detect, sizes)

    def features(self, images: Tensor, sizes: Tensor, scales: Sequence[float] | None = None) -> FeatureMaps:
        """What the backbone makes of the images at each of `scales`, by default the network's own."""
        maps, strides = [], []
        for scale in self.scales if scales is None else scales:
            maps += self.backbone(self.pixel_norm(*resize_images(images, sizes, scale)))
            strides += [stride / scale for stride in self.backbone.strides]
        return FeatureMaps(maps, strides)

    def score_anchors(self, features: FeatureMaps) -> ScoredAnchors:
        """What the RPN says of the anchors."""
        assert self.rpn is not None, "this detector needs to be given proposals"
        return self.rpn(features)

    def propose(
        self,
        scored: ScoredAnchors | None,
        sizes: Tensor,
        *,
        training: bool = False,
        post_nms_topk: int | None = None,
    ) -> list[Tensor]:
        """The RPN's proposals, as `RPN.propose` has them."""
        assert self.rpn is not None and scored is not None
        return self.rpn.propose(scored, sizes, training=training, post_nms_topk=post_nms_topk)

    def losses(
        self,
        features: FeatureMaps,
        scored: ScoredAnchors | None,
        proposals: Sequence[Tensor],
        sizes: Tensor,
        targets: Sequence[Target],
    ) -> Losses:
        """The four terms of the loss; those of a part that is not trained are zero."""
        rpn_terms = roi_terms = (features.maps[-1].new_zeros((), dtype=torch.float32),) * 2
        if self._trains_rpn(targets):
            assert self.rpn is not None and scored is not None
            rpn_terms = self.rpn.losses(scored, sizes, targets)
        if self.train_only != "rpn":
            roi_terms = self.roi_heads.losses(features, proposals, sizes, targets)
        return Losses(*rpn_terms, *roi_terms)

    def _trains_rpn(self, targets: Sequence[Target] | None) -> bool:
        return targets is not None and self.rpn is not None and self.train_only != "roi_heads"

    def detect_and_propose(
        self, images: Tensor, sizes: Tensor, most: int, proposals: Sequence[Tensor] | None = None
    ) -> tuple[list[Detections], Sequence[Tensor]]:
        """The detections of `forward`, and up to `most` proposals (P, 4) of each image, given or the RPN's."""
        features = self.features(images, sizes)
        if proposals is not None:
            return self.roi_heads.detect(features, proposals, sizes), [own[:most] for own in proposals]
        scored = self.score_anchors(features)
        detections = self.roi_heads.detect(features, self.propose(scored, sizes), sizes)
        return detections, self.propose(scored, sizes, post_nms_topk=most)

    def classifier_parts(self) -> dict[str, nn.Module]:
        """Which part of a classifier fills which module of the detector."""
        return self.backbone.classifier_parts() | self.roi_heads.box_head.classifier_parts()
