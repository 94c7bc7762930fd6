"""A ResNet with detectron2's C4 head: the network as it trains, and as it detects."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from resdet.config import VOC_CLASSES, Depth, DetConfig
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN
from resdet.ops import library
from resdet.types import Detections
from sides import Comparison, Sides, data_of, has_int8, make_lively, resdet_run


def c4(depth: Depth, proposals: int, size: tuple[int, int]) -> Comparison:
    """The network as it trains, and as it detects."""
    config = DetConfig()
    model = replace(config.model, depth=depth, style="msra", pooling="align_v2", pool_size=14, conv5_stride=2)
    config = replace(config, model=model, test=replace(config.test, post_nms_topk=proposals), data=data_of(size))

    @cache
    def network() -> FasterRCNN:
        torch.manual_seed(0)
        made = build_detector(config, len(VOC_CLASSES))
        assert made.rpn is not None
        make_lively(made, made.rpn.head.objectness_logits, made.roi_heads.box_predictor.cls_score)
        return made.eval().to(memory_format=torch.channels_last)

    sides: Sides = {
        "plain": lambda: partial(plain, network()),
        "fast": lambda: resdet_run(network(), "fp32", size),
        "fast bf16": lambda: resdet_run(network(), "bf16", size),
    }
    if has_int8():
        sides["fast int8"] = lambda: resdet_run(network(), "int8", size)
    return Comparison(sides, network, VOC_CLASSES, config)


@torch.no_grad()
def plain(network: FasterRCNN, images: Tensor, sizes: Tensor) -> list[Detections]:
    """The network as it trains, with torchvision's operators."""
    own = set(library.DEVICES)
    library.DEVICES.clear()
    try:
        return network(images, sizes)
    finally:
        library.DEVICES.update(own)
