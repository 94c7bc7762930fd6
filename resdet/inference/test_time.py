"""The papers' test-time methods, alone and together: several scales, flips, ensembles, box refinement.

He et al. 2015, appendix B. Every region is seen in several views: by each network of an ensemble, in the image and
in its mirror image, pooled from two adjacent scales. Scores and boxes are averaged over the views. Refinement pools
again from the boxes that were found, and joins both predictions.

Shapes: N images, R regions of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resdet.boxes import resize
from resdet.engine.runtime import Runtime
from resdet.inference.optimize import OptimizedRCNN
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.image_scales import resize_images
from resdet.models.postprocess import Predictions
from resdet.precision import full_precision
from resdet.types import Detections, FeatureMaps

# Mirror images


def flip_images(images: Tensor, sizes: Tensor) -> Tensor:
    """(N, 3, H, W) → each image mirrored, its padding where it was."""
    flipped = images.clone()
    for image, (height, width) in zip(flipped, sizes.tolist(), strict=True):
        image[:, :height, :width] = image[:, :height, :width].flip(-1)
    return flipped


@full_precision
def flip_boxes(boxes: Tensor, width: float) -> Tensor:
    """(…, 4) boxes of an image of this width → the same in its mirror image."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], -1)


# All together


@dataclass
class View:
    """One look at a batch: what a network makes of the images, or of their mirror images."""

    model: FasterRCNN
    features: FeatureMaps
    flipped: bool


class TestTimeRCNN(nn.Module):
    """Detectors of the same classes, and the methods that `FasterRCNN` itself does not know.

    Args:
        models: the ensemble, which is taken apart; one is none
        runtime: device and number type
        grids: of each model, as `OptimizedRCNN` takes them
        short_side: pixels; of the images in which proposals are sought
        scales: pixels; shorter sides of the images that regions are pooled from; empty leaves that to the models
        flip: look at mirror images too
        refine: pool again from the boxes that were found

    The images that it is given have the largest of `scales`, or `short_side`, for their shorter side.
    """

    __test__ = False  # for pytest

    def __init__(
        self,
        models: Sequence[FasterRCNN],
        runtime: Runtime,
        grids: Sequence[Mapping[str, Tensor] | None] | None = None,
        *,
        short_side: int,
        scales: Sequence[int] = (),
        flip: bool = False,
        refine: bool = False,
    ) -> None:
        super().__init__()
        self.runtime, self.flip, self.refine = runtime, flip, refine
        self.base = short_side / max(scales, default=short_side)
        for model in models:
            if scales:
                model.scales = tuple(side / max(scales) for side in sorted(set(scales)))
        self.models: Any = nn.ModuleList(
            OptimizedRCNN(model, runtime, own, keep=False).model
            for model, own in zip(models, grids or [None] * len(models), strict=True)
        )

    @torch.no_grad()
    def forward(
        self, images: Tensor, sizes: Tensor, targets: None = None, proposals: Sequence[Tensor] | None = None
    ) -> list[Detections]:
        """As `FasterRCNN`, without losses: (N, 3, H, W) uint8 and (N, 2) sizes → detections of each image."""
        with torch.autocast(self.runtime.device.type, enabled=False):
            views = self.see(images, sizes)
            return self.detect(views, self.propose(images, sizes, views) if proposals is None else proposals, sizes)

    @torch.no_grad()
    def detect_and_propose(
        self, images: Tensor, sizes: Tensor, most: int, proposals: Sequence[Tensor] | None = None
    ) -> tuple[list[Detections], Sequence[Tensor]]:
        """The detections of `forward`, and up to `most` proposals (P, 4) of each network for each image."""
        with torch.autocast(self.runtime.device.type, enabled=False):
            views = self.see(images, sizes)
            if proposals is not None:
                return self.detect(views, proposals, sizes), [own[:most] for own in proposals]
            detections = self.detect(views, self.propose(images, sizes, views), sizes)
            return detections, self.propose(images, sizes, views, post_nms_topk=most)

    def detect(self, views: Sequence[View], rois: Sequence[Tensor], sizes: Tensor) -> list[Detections]:
        """What the views make of the regions (R, 4) of each image."""
        found = self.predict(views, rois, sizes)
        if self.refine:
            again = self.predict(views, [best_boxes(predictions) for predictions in found], sizes)
            found = [join(*pair) for pair in zip(found, again, strict=True)]
        return [self.models[0].roi_heads.select(predictions) for predictions in found]

    def propose(
        self, images: Tensor, sizes: Tensor, views: Sequence[View], post_nms_topk: int | None = None
    ) -> list[Tensor]:
        """The proposals (R, 4) of all networks for each image, one network's after another's."""
        small, small_sizes = resize_images(images, sizes, self.base)
        per_model = []
        for model, view in zip(self.models, views, strict=False):  # the first views are not flipped
            features = view.features if self.base == 1 else model.features(small, small_sizes, (1.0,))
            per_model.append(model.propose(model.score_anchors(features), small_sizes, post_nms_topk=post_nms_topk))
        return [
            resize(torch.cat(own), sought, given)
            for own, sought, given in zip(
                zip(*per_model, strict=True), small_sizes.tolist(), sizes.tolist(), strict=True
            )
        ]

    def see(self, images: Tensor, sizes: Tensor) -> list[View]:
        """The feature maps of all networks; after them, those of the mirror images."""
        views = [View(model, model.features(images, sizes), False) for model in self.models]
        if self.flip:
            mirrored = flip_images(images, sizes)
            views += [View(model, model.features(mirrored, sizes), True) for model in self.models]
        return views

    def predict(self, views: Sequence[View], rois: Sequence[Tensor], sizes: Tensor) -> list[Predictions]:
        """The mean of scores and boxes over the views, for the regions (R, 4) of each image."""
        widths = sizes[:, 1].tolist()
        per_view = []
        for view in views:
            seen = [
                flip_boxes(own, width) if view.flipped else own for own, width in zip(rois, widths, strict=True)
            ]
            found = view.model.roi_heads.predict(view.features, seen, sizes)
            if view.flipped:
                found = [p._replace(boxes=flip_boxes(p.boxes, w)) for p, w in zip(found, widths, strict=True)]
            per_view.append(found)
        return [
            Predictions(*(torch.stack(values).mean(0) for values in zip(*own, strict=True)))
            for own in zip(*per_view, strict=True)
        ]


def best_boxes(predictions: Predictions) -> Tensor:
    """(R, 4): the box of each region's most probable class."""
    best = predictions.scores.argmax(1)  # (R,)
    return predictions.boxes[torch.arange(len(best), device=best.device), best]


def join(a: Predictions, b: Predictions) -> Predictions:
    """The predictions of both."""
    return Predictions(*(torch.cat(values) for values in zip(a, b, strict=True)))
