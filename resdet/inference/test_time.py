"""The papers' test-time methods, alone and together: several scales, flips, ensembles, box refinement.

He et al. 2015, appendix B. Every region is seen in several views: by each network of an ensemble, in the image and
in its mirror image, pooled from two adjacent scales. Scores and boxes are averaged over the views. Refinement pools
again from the boxes that were found, and joins both predictions.

Letters: N images, R regions of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.boxes import rescale
from resdet.detection.faster_rcnn import FasterRCNN, concatenate
from resdet.detection.select import Predictions
from resdet.engine.runtime import Runtime
from resdet.inference.fast import FastRCNN
from resdet.types import Detections

CANONICAL = 224.0  # pixels; the side at which the trunk saw objects in its pre-training (SPPnet §4.1)


# Several scales


@dataclass(frozen=True)
class Pyramid:
    """The feature maps of N images at several scales, from the smallest to the largest."""

    maps: Sequence[Tensor]
    """(N, channels, h, w) at each scale"""
    factors: Sequence[float]
    """by how much the images were resized for each map"""


class MaxoutPool:
    """Pooling from the two adjacent scales at which a region is nearest to 224², the larger feature of both.

    He et al. 2015, appendix B; networks on conv feature maps, §3.3.

    Args:
        pool: of one map
    """

    def __init__(self, pool: Callable[..., Tensor]) -> None:
        self.pool = pool

    def __call__(self, features: Pyramid, rois: Tensor, image_index: Tensor, **options: Any) -> Tensor:
        """Pyramid, (R, 4), (R,) → (R, channels, S, S)"""
        first = lower_scale(rois, features.factors)
        pooled: Tensor | None = None
        for scale, (map_, factor) in enumerate(zip(features.maps, features.factors, strict=True)):
            own = ((first == scale) | (first + 1 == scale)).nonzero()[:, 0]
            values = self.pool(map_, rois[own] * factor, image_index[own], **options)
            if pooled is None:
                pooled = values.new_full((len(rois), *values.shape[1:]), -torch.inf)
            pooled[own] = torch.maximum(pooled[own], values)
        assert pooled is not None
        return pooled.contiguous(memory_format=torch.channels_last)


def lower_scale(rois: Tensor, factors: Sequence[float]) -> Tensor:
    """(R, 4) → (R,): the position of the lower of the two adjacent scales that bring a region nearest to 224².

    Nearest is the pair of the smallest sum of |log(side / 224)|, the lower one in a tie.
    """
    sides = (rois[:, 2:] - rois[:, :2]).clamp(min=1e-3).prod(1).sqrt()  # (R,)
    distance = (sides[:, None] * rois.new_tensor(factors) / CANONICAL).log().abs()  # (R, scales)
    return (distance[:, :-1] + distance[:, 1:]).argmin(1)


def resize_images(images: Tensor, sizes: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) uint8 and (N, 2) → the same, resized by `factor`; bilinear, antialiased, as they are for 1."""
    if factor == 1:
        return images, sizes
    smaller = (sizes * factor).round().long().clamp(min=1)
    canvas = images.new_zeros((len(images), 3, *smaller.amax(0).tolist()))
    for image, (height, width), target, (h, w) in zip(
        images, sizes.tolist(), canvas, smaller.tolist(), strict=True
    ):
        own = image[None, :, :height, :width].float()
        resized = F.interpolate(own, (h, w), mode="bilinear", antialias=True)
        target[:, :h, :w] = resized[0].round().clamp(0, 255).to(torch.uint8)
    return canvas, smaller


# Mirror images


def flip_images(images: Tensor, sizes: Tensor) -> Tensor:
    """(N, 3, H, W) → each image mirrored, its padding where it was."""
    flipped = images.clone()
    for image, (height, width) in zip(flipped, sizes.tolist(), strict=True):
        image[:, :height, :width] = image[:, :height, :width].flip(-1)
    return flipped


def flip_boxes(boxes: Tensor, width: float) -> Tensor:
    """(…, 4) boxes of an image of this width → the same in its mirror image."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], -1)


# All together


@dataclass
class View:
    """One look at a batch: what a network makes of the images, or of their mirror images."""

    model: FasterRCNN
    features: Tensor | Pyramid
    flipped: bool


class TestTimeRCNN(nn.Module):
    """Detectors of the same classes, and the methods that `FasterRCNN` itself does not know.

    Args:
        models: the ensemble, which is taken apart; one is none
        runtime: device and number type
        short_side: pixels; of the images in which proposals are sought
        scales: pixels; shorter sides of the images that regions are pooled from; empty has `short_side` alone
        flip: look at mirror images too
        refine: pool again from the boxes that were found

    The images that it is given have the largest of `scales` for their shorter side.
    """

    __test__ = False  # for pytest

    def __init__(
        self,
        models: Sequence[FasterRCNN],
        runtime: Runtime,
        *,
        short_side: int,
        scales: Sequence[int] = (),
        flip: bool = False,
        refine: bool = False,
    ) -> None:
        super().__init__()
        self.runtime, self.flip, self.refine = runtime, flip, refine
        sides = sorted(set(scales)) or [short_side]
        self.factors = [side / sides[-1] for side in sides]
        self.base = short_side / sides[-1]
        if len(sides) > 1:
            for model in models:
                model.head.body.pool = MaxoutPool(model.head.body.pool)
        self.models: Any = nn.ModuleList(FastRCNN(model, runtime).model for model in models)

    @torch.no_grad()
    def forward(
        self, images: Tensor, sizes: Tensor, targets: None = None, proposals: Sequence[Tensor] | None = None
    ) -> list[Detections]:
        """As `FasterRCNN`, without losses: (N, 3, H, W) uint8 and (N, 2) sizes → detections of each image."""
        with torch.autocast(self.runtime.device.type, enabled=False):
            rois = self.propose(images, sizes) if proposals is None else proposals
            views = [
                view for flipped in (False, True)[: 1 + self.flip] for view in self.views(images, sizes, flipped)
            ]
            found = self.predict(views, rois, sizes)
            if self.refine:
                again = self.predict(views, [best_boxes(predictions) for predictions in found], sizes)
                found = [join(*pair) for pair in zip(found, again, strict=True)]
            return [self.models[0].select(predictions) for predictions in found]

    @torch.no_grad()
    def detect_and_propose(
        self, images: Tensor, sizes: Tensor, most: int, proposals: Sequence[Tensor] | None = None
    ) -> tuple[list[Detections], Sequence[Tensor]]:
        """The detections of `forward`, and up to `most` proposals (P, 4) of each network for each image."""
        detections = self(images, sizes, None, proposals)
        if proposals is not None:
            return detections, [own[:most] for own in proposals]
        with torch.autocast(self.runtime.device.type, enabled=False):
            return detections, self.propose(images, sizes, after_nms=most)

    def propose(self, images: Tensor, sizes: Tensor, **rules: int) -> list[Tensor]:
        """The proposals (R, 4) of all networks for each image, one network's after another's; `rules` as of rpn."""
        small, small_sizes = resize_images(images, sizes, self.base)
        per_model = []
        for model in self.models:
            scored = model.score_anchors(model.trunk(model.pixels(small, small_sizes)))
            per_model.append(model.propose_for_test(*scored, small_sizes, **rules))
        grow = (sizes / small_sizes).tolist()  # (N, 2) height, width
        return [
            rescale(torch.cat(own), x_scale, y_scale)
            for own, (y_scale, x_scale) in zip(zip(*per_model, strict=True), grow, strict=True)
        ]

    def views(self, images: Tensor, sizes: Tensor, flipped: bool) -> list[View]:
        """The feature maps of all networks."""
        images = flip_images(images, sizes) if flipped else images
        views = []
        for model in self.models:
            maps = [model.trunk(model.pixels(*resize_images(images, sizes, factor))) for factor in self.factors]
            features = maps[0] if len(maps) == 1 else Pyramid(maps, self.factors)
            views.append(View(model, features, flipped))
        return views

    def predict(self, views: Sequence[View], rois: Sequence[Tensor], sizes: Tensor) -> list[Predictions]:
        """The mean of scores and boxes over the views, for the regions (R, 4) of each image."""
        widths = sizes[:, 1].tolist()
        per_view = []
        for view in views:
            seen = [
                flip_boxes(own, width) if view.flipped else own for own, width in zip(rois, widths, strict=True)
            ]
            outputs = view.model.head(view.features, *concatenate(seen), sizes)
            found = view.model.predict(*outputs, seen, sizes)
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
