"""detectron2's C4 recipe, for the recipe files and for detectors that are converted from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from resdet.config.classes import COCO_CLASSES, VOC_CLASSES
from resdet.config.detection import (
    DataConfig,
    DetConfig,
    ModelConfig,
    RoIConfig,
    RPNConfig,
    TestConfig,
)
from resdet.config.solver import SolverConfig

# Where the images of these classes are; of others, who trained on them knows.
DATA: dict[tuple[str, ...], dict[str, Any]] = {
    VOC_CLASSES: {"train": "2007_trainval+2012_trainval", "difficult": True},
    COCO_CLASSES: {
        "format": "coco",
        "root": "datasets/coco",
        "train": "train2017",
        "val": "val2017",
        "empty_images": False,
        "source": "https://cocodataset.org: 2017 train and val images, and their annotations",
    },
}


def detectron2_c4(depth: Literal[50, 101, 152], classes: Sequence[str]) -> DetConfig:
    """faster_rcnn_R_{50,101}_C4 of detectron2: its defaults, Base-RCNN-C4.yaml, and for VOC's classes VOC's recipe.

    Other classes than VOC's get the image sizes and the schedule (1x) of COCO.
    """
    classes = tuple(classes)
    voc = classes == VOC_CLASSES
    return DetConfig(
        data=DataConfig(
            **DATA.get(classes, {"root": "", "train": "", "val": ""}),
            classes=classes,
            short_sides=tuple(range(480 if voc else 640, 801, 32)),
            test_short_side=800,
            max_side=1333,
        ),
        model=ModelConfig(
            depth=depth,
            style="msra",
            anchor_scales=(32, 64, 128, 256, 512),
            anchor_ratios=(0.5, 1, 2),
            anchor_center="corner",
            rpn_channels=1024,
            pooling="align_v2",
            pool_size=14,
            conv5_stride=2,
        ),
        rpn=RPNConfig(cross_boundary=True, pre_nms_topk=12000, post_nms_topk=2000, beta=0),
        roi=RoIConfig(batch_size_per_image=512, beta=0),
        solver=SolverConfig(
            lr=0.02,
            batch_size=16,
            steps=18_000 if voc else 90_000,
            milestones=(12_000, 16_000) if voc else (60_000, 80_000),
            warmup_steps=100 if voc else 1000,
            warmup_factor=1e-3,
            weight_decay=1e-4,
        ),
        test=TestConfig(
            pre_nms_topk=6000,
            post_nms_topk=1000,
            min_score=0.05,
            nms_iou=0.5,
            max_detections=100,
            metric="map07" if voc else "ap",
        ),
    )
