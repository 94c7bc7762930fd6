"""A trained detector, rearranged to run fast: the same function, another order of its steps.

`optimize_layers` and `optimize_heads` say what is done to each part.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from resdet.engine.runtime import Runtime
from resdet.inference.int8 import quantize_layers
from resdet.inference.optimize_heads import optimize_head
from resdet.inference.optimize_layers import optimize
from resdet.inference.pool_quantized import Int8Pooler
from resdet.inference.stem import fast_pixel_norm
from resdet.models.backbones.fpn import CELLS, FPN, WholeResNet
from resdet.models.backbones.resnet import ResNetBackbone
from resdet.models.faster_rcnn import FasterRCNN
from resdet.types import Detections, FeatureMaps


class OptimizedRCNN(nn.Module):
    """What `model` computes at test time.

    Args:
        model: the network, wherever it is
        runtime: device and number type
        grids: with a runtime of int8, those of the layers; without, the network computes in floats and observes
            them (`int8`). Raises KeyError if one has none
        keep: rearrange a copy, and leave `model` as it is; otherwise it is taken apart, which saves its memory
    """

    def __init__(
        self,
        model: FasterRCNN,
        runtime: Runtime,
        grids: Mapping[str, Tensor] | None = None,
        *,
        keep: bool = True,
    ) -> None:
        super().__init__()
        self.runtime = runtime
        own = copy.deepcopy(model) if keep else model
        self.model = optimize_detector(own.eval().to(runtime.device), runtime)
        if grids is not None:
            quantize_layers(self.model, grids)

    @torch.no_grad()
    def forward(
        self, images: Tensor, sizes: Tensor, targets: None = None, proposals: Sequence[Tensor] | None = None
    ) -> list[Detections]:
        """As `FasterRCNN`, without losses: (N, 3, H, W) uint8 and (N, 2) sizes → detections of each image."""
        with torch.autocast(self.runtime.device.type, enabled=False):
            return self.model(images, sizes, None, proposals)

    @torch.no_grad()
    def detect_and_propose(
        self, images: Tensor, sizes: Tensor, most: int, proposals: Sequence[Tensor] | None = None
    ) -> tuple[list[Detections], Sequence[Tensor]]:
        """As `FasterRCNN.detect_and_propose`."""
        with torch.autocast(self.runtime.device.type, enabled=False):
            return self.model.detect_and_propose(images, sizes, most, proposals)

    # The parts of `forward`, one after the other

    def see(self, images: Tensor, sizes: Tensor) -> FeatureMaps:
        """(N, 3, H, W) uint8 and (N, 2) → the feature maps."""
        return self.model.features(images, sizes)

    def propose(self, images: Tensor, sizes: Tensor, seen: FeatureMaps) -> list[Tensor]:
        """What `see` returned → proposals (R, 4) of each image."""
        return self.model.propose(self.model.score_anchors(seen), sizes)

    def detect(self, seen: FeatureMaps, rois: Sequence[Tensor], sizes: Tensor) -> list[Detections]:
        """What `see` and `propose` returned → detections of each image."""
        return self.model.roi_heads.detect(seen, rois, sizes)


def optimize_detector(detector: FasterRCNN, runtime: Runtime) -> FasterRCNN:
    """Rearrange `detector` itself; its box predictor computes scores and boxes in float32, as it is."""
    if runtime.device.type == "cpu" and isinstance(detector.backbone, ResNetBackbone | WholeResNet):
        multiple = CELLS if isinstance(detector.backbone, FPN) else 1
        detector.pixel_norm = fast_pixel_norm(detector.pixel_norm, runtime, multiple)  # type: ignore[assignment]
    detector.backbone = optimize(detector.backbone, runtime)
    detector.rpn = None if detector.rpn is None else optimize(detector.rpn, runtime)
    heads = detector.roi_heads
    linear = heads.pooler.is_linear(len(detector.scales))
    heads.box_head = optimize_head(heads.box_head, linear, runtime)
    if runtime.int8:
        heads.pooler = Int8Pooler(heads.pooler, runtime)  # type: ignore[assignment]
    return detector
