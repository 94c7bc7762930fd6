"""detectron2's recipes, for the recipe files and for detectors that are converted from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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


Depth = Literal[50, 101, 152]
Schedule = Literal["1x", "3x"]
# Steps of 16 images, and those after which the rate falls.
STEPS = {"1x": (90_000, (60_000, 80_000)), "3x": (270_000, (210_000, 250_000)), "voc": (18_000, (12_000, 16_000))}


def data_of(classes: Sequence[str], short_sides: tuple[int, ...]) -> DataConfig:
    """The data set that has these classes, in images of 800 pixels at test time."""
    classes = tuple(classes)
    where = DATA.get(classes, {"root": "", "train": "", "val": ""})
    return DataConfig(**where, classes=classes, short_sides=short_sides, test_short_side=800, max_side=1333)


def detectron2_c4(depth: Depth, classes: Sequence[str], schedule: Schedule = "1x") -> DetConfig:
    """faster_rcnn_R_{50,101}_C4 of detectron2: its defaults, Base-RCNN-C4.yaml, and for VOC's classes VOC's recipe.

    Args:
        depth: of the ResNet
        classes: their names; other ones than VOC's get the image sizes and the schedule of COCO
        schedule: of COCO: 12 epochs or 37
    """
    voc = tuple(classes) == VOC_CLASSES
    steps, milestones = STEPS["voc" if voc else schedule]
    return DetConfig(
        data=data_of(classes, tuple(range(480 if voc else 640, 801, 32))),
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
            steps=steps,
            milestones=milestones,
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


# The box head of DC5 and FPN.
TWO_LAYERS: dict[str, Any] = {"box_head": "conv_fc", "fc_dims": (1024, 1024), "dropout": 0.0, "pool_size": 7}


def detectron2_dc5(depth: Depth, classes: Sequence[str], schedule: Schedule = "1x") -> DetConfig:
    """faster_rcnn_R_{50,101}_DC5 of detectron2 (Base-RCNN-DilatedC5.yaml); arguments as of `detectron2_c4`."""
    config = detectron2_c4(depth, classes, schedule)
    return replace(
        config, model=replace(config.model, features="dc5", rpn_channels=2048, conv5_stride=1, **TWO_LAYERS)
    )


def detectron2_fpn(
    depth: Depth, classes: Sequence[str], schedule: Schedule = "1x", resnext: bool = False
) -> DetConfig:
    """faster_rcnn_R_{50,101}_FPN of detectron2 (Base-RCNN-FPN.yaml).

    Args:
        depth, classes, schedule: as of `detectron2_c4`
        resnext: faster_rcnn_X_101_32x8d_FPN, on a ResNeXt that Caffe2 trained
    """
    config = detectron2_c4(depth, classes, schedule)
    aggregated: dict[str, Any] = {"groups": 32, "width_per_group": 8, "style": "caffe2"} if resnext else {}
    return replace(
        config,
        model=replace(config.model, features="fpn", rpn_channels=256, conv5_stride=1, **TWO_LAYERS, **aggregated),
        rpn=replace(config.rpn, pre_nms_topk=2000, post_nms_topk=1000),
        test=replace(config.test, pre_nms_topk=1000),
    )
