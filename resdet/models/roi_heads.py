"""The RoI heads: each region is pooled from the feature maps, and gets a class and a box (Fast R-CNN §2.1).

Shapes: N images, R regions of the batch, C foreground classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from resdet.config import RoIConfig, TestConfig
from resdet.models.box_coder import BoxCoder
from resdet.models.box_heads import Conv5Head, ConvFCHead
from resdet.models.losses import head_loss, region_losses
from resdet.models.ohem import hard_examples
from resdet.models.poolers import RoIPooler
from resdet.models.postprocess import Predictions, predict, select
from resdet.models.targets import RoITargets, sample_rois
from resdet.types import Detections, FeatureMaps, Target

EVERY_REGION = 1 << 30  # a mini-batch that all candidates of an image fit in


class BoxPredictor(nn.Module):
    """The two sibling layers: class scores, and a box for each class (Fast R-CNN §2.1)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, num_classes * 4)
        nn.init.normal_(self.cls_score.weight, std=0.01)  # Fast R-CNN §2.3
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(R, channels) → class logits (R, C + 1), background last, and box deltas (R, C, 4), float32"""
        deltas = self.bbox_pred(vectors).float()
        return self.cls_score(vectors).float(), deltas.reshape(len(vectors), self.num_classes, 4)


class RoIHeads(nn.Module):
    """All that happens to regions, in training and at test time.

    Args:
        pooler: cuts regions out of the feature maps
        box_head: regions → vectors
        box_predictor: vectors → class logits and box deltas
        box_coder: what the deltas mean
        settings: sampling and loss
        test: post-processing
        context: the vector of the whole image joins that of each region (He et al. 2015, appendix B)
        nms_iou: overlap above which the easier of two hard examples is left out
    """

    def __init__(
        self,
        pooler: RoIPooler,
        box_head: Conv5Head | ConvFCHead,
        box_predictor: BoxPredictor,
        box_coder: BoxCoder,
        settings: RoIConfig,
        test: TestConfig,
        *,
        context: bool = False,
        nms_iou: float = 0.7,
    ) -> None:
        super().__init__()
        self.pooler, self.box_head, self.box_predictor = pooler, box_head, box_predictor
        self.box_coder, self.settings, self.test = box_coder, settings, test
        self.context, self.nms_iou = context, nms_iou

    def forward(self, features: FeatureMaps, proposals: Sequence[Tensor], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (R, C + 1) and box deltas (R, C, 4) of the regions of all images, one image after the other.

        Args:
            features: the levels
            proposals: (P, 4) pixels, of each image
            sizes: (N, 2) heights and widths of the images
        """
        rois, image_index = concatenate(proposals)
        if not self.context:
            return self.box_predictor(self.box_head(self.pooler, features, rois, image_index))
        whole = torch.arange(len(sizes), device=image_index.device)
        regions = torch.cat([rois, whole_images(sizes).to(rois)]), torch.cat([image_index, whole])
        own, of_images = self.box_head(self.pooler, features, *regions).split([len(rois), len(sizes)])
        return self.box_predictor(torch.cat([own, of_images[image_index]], 1))

    # Training

    def losses(
        self, features: FeatureMaps, proposals: Sequence[Tensor], sizes: Tensor, targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor]:
        """Classification and box loss of a mini-batch of each image's regions (Fast R-CNN §2.3)."""
        sampled = [self.sample(own, target) for own, target in zip(proposals, targets, strict=True)]
        if self.settings.ohem:
            sampled = self._hard_examples(features, sampled, sizes)
        class_logits, box_deltas = self(features, [regions.rois for regions in sampled], sizes)
        classes, box_targets = _joined(sampled)
        own = self.settings
        return head_loss(
            class_logits,
            box_deltas,
            classes,
            box_targets,
            len(targets),
            batch=own.batch_size_per_image,
            beta=own.beta,
        )

    def sample(self, proposals: Tensor, target: Target) -> RoITargets:
        """The mini-batch of an image; of hard example mining, all that may be chosen from."""
        own = self.settings
        return sample_rois(
            proposals,
            target,
            self.box_predictor.num_classes,
            batch=EVERY_REGION if own.ohem else own.batch_size_per_image,
            foreground_fraction=1 if own.ohem else own.foreground_fraction,
            foreground_iou=own.foreground_iou,
            background_iou=own.background_iou,
            box_coder=self.box_coder,
        )

    @torch.no_grad()
    def _hard_examples(
        self, features: FeatureMaps, sampled: Sequence[RoITargets], sizes: Tensor
    ) -> list[RoITargets]:
        """Online hard example mining: of each image the regions of the highest loss now (`hard_examples`)."""
        class_logits, box_deltas = self(features, [regions.rois for regions in sampled], sizes)
        classes, box_targets = _joined(sampled)
        losses = region_losses(class_logits, box_deltas, classes, box_targets, beta=self.settings.beta)
        parts = losses.split([len(regions.rois) for regions in sampled])
        return [
            hard_examples(regions, part, self.settings.batch_size_per_image, self.nms_iou)
            for regions, part in zip(sampled, parts, strict=True)
        ]

    # Test time

    def detect(self, features: FeatureMaps, proposals: Sequence[Tensor], sizes: Tensor) -> list[Detections]:
        """The detections of each image."""
        return [self.select(predictions) for predictions in self.predict(features, proposals, sizes)]

    def predict(self, features: FeatureMaps, proposals: Sequence[Tensor], sizes: Tensor) -> list[Predictions]:
        """Scores and boxes of all regions of each image."""
        class_logits, box_deltas = self(features, proposals, sizes)
        return predict(class_logits, box_deltas, proposals, sizes, self.box_coder)

    def select(self, predictions: Predictions) -> Detections:
        """The detections among the predictions for an image (`postprocess.select`)."""
        test = self.test
        return select(
            predictions,
            min_score=test.min_score,
            nms_iou=test.nms_iou,
            max_detections=test.max_detections,
            vote_iou=test.vote_iou,
            soft_nms_sigma=test.soft_nms_sigma,
        )


def _joined(sampled: Sequence[RoITargets]) -> tuple[Tensor, Tensor]:
    """Classes (R,) and box targets (R, 4) of all regions."""
    return torch.cat([own.classes for own in sampled]), torch.cat([own.deltas for own in sampled])


def concatenate(rois_per_image: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A list of (R_i, 4) → (R, 4) and (R,) int64, the image of each region."""
    counts = torch.tensor([len(rois) for rois in rois_per_image])
    image_index = torch.arange(len(rois_per_image)).repeat_interleave(counts)
    return torch.cat(list(rois_per_image)), image_index.to(rois_per_image[0].device)


def whole_images(sizes: Tensor) -> Tensor:
    """(N, 2) heights and widths → (N, 4): each image as one region."""
    return torch.cat([torch.zeros_like(sizes), sizes.flip(1)], 1)
