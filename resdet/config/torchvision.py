"""torchvision's detectors, for the recipe files and for detectors that are converted from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from resdet.config.detection import Depth, DetConfig, ModelConfig, RoIConfig, RPNConfig, TestConfig
from resdet.config.detectron2 import data_of
from resdet.config.solver import SolverConfig


def torchvision_fpn(version: Literal["v1", "v2"], classes: Sequence[str], depth: Depth = 50) -> DetConfig:
    """fasterrcnn_resnet50_fpn (v1) and fasterrcnn_resnet50_fpn_v2 of torchvision, with its references' schedule.

    Args:
        version: v2 has batch norm everywhere, two convolutions in the RPN, and four in the box head
        classes: their names
        depth: of the ResNet
    """
    newer: dict[str, Any] = {
        "norm": "batch",
        "head_norm": "batch",
        "rpn_depth": 2,
        "conv_dims": (256, 256, 256, 256),
        "fc_dims": (1024,),
    }
    return DetConfig(
        data=data_of(classes, short_sides=(800,)),
        model=ModelConfig(
            depth=depth,
            features="fpn",
            anchor_scales=(32, 64, 128, 256, 512),
            anchor_center="corner",
            anchor_rounding=True,
            rpn_channels=256,
            pooling="align",
            sampling_ratio=2,
            box_head="conv_fc",
            dropout=0.0,
            **(newer if version == "v2" else {"fc_dims": (1024, 1024)}),
        ),
        rpn=RPNConfig(cross_boundary=True, pre_nms_topk=2000, post_nms_topk=2000, min_size=1e-3, beta=1 / 9),
        roi=RoIConfig(batch_size_per_image=512, beta=1 / 9),
        solver=SolverConfig(
            lr=0.02,
            batch_size=16,
            steps=190_000,  # 26 epochs of COCO
            milestones=(117_000, 161_000),  # 16 and 22
            warmup_steps=1000,
            warmup_factor=1e-3,
            weight_decay=1e-4,
        ),
        test=TestConfig(
            pre_nms_topk=1000, post_nms_topk=1000, min_score=0.05, nms_iou=0.5, max_detections=100, metric="ap"
        ),
    )
