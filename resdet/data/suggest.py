"""Settings for a data set that nobody has trained on: classes, image size, anchors, schedule, and their reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from resdet.config import DataConfig, DetConfig, ModelConfig, RoIConfig, RPNConfig, SolverConfig, TestConfig
from resdet.data.annotations import Annotations
from resdet.data.check import best_overlap, objects_per_image, resized_boxes
from resdet.models.anchors import AnchorGenerator
from resdet.models.backbones.fpn import FPN
from resdet.models.backbones.resnet import ResNetBackbone

CELL = ResNetBackbone.strides[0]
SMALLEST = 1.5 * CELL  # pixels; objects of fewer cells are hardly found
SMALL = 4 * CELL  # pixels; smaller objects gain from a feature pyramid (docs/studies.md)
LARGEST_SIDE, ENLARGE = 800, 1.5  # pixels of a shorter side; and no image is enlarged more than this
EPOCHS, FEWEST_STEPS, MOST_STEPS = 20, 500, 20_000
ANCHOR_CENTER: Literal["corner"] = "corner"  # small objects: where a cell looks (CONVENTIONS.md)
Features = Literal["c4", "fpn"]
RATIOS: tuple[float, ...] = (0.5, 1, 2)
MORE_RATIOS: tuple[float, ...] = (0.25, 0.5, 1, 2, 4)


class Suggestion(NamedTuple):
    """A recipe and why it is so."""

    config: DetConfig
    reasons: list[str]
    """sentences"""


def suggest(training: Annotations, data: DataConfig, gpu: bool, pretrained: bool) -> Suggestion:
    """A recipe for these annotations.

    Args:
        training: the images of data.train
        data: format, folder and splits; what else the recipe says of the data is added
        gpu: for a GPU, or for a CPU
        pretrained: from torchvision's ImageNet weights, or from scratch
    """
    short_side, max_side, why_size = suggest_size(training)
    boxes, sizes = resized_boxes(training, short_side, max_side)
    features, why_features = suggest_features(boxes, training.labels, gpu)
    scales, ratios, why_anchors = suggest_anchors(boxes, sizes, features)
    batch, depth = 8 if gpu else 4, suggest_depth(gpu)
    steps = int(np.clip(EPOCHS * len(training) // batch, FEWEST_STEPS, MOST_STEPS)) // 10 * 10
    data = replace(
        data,
        classes=training.classes,
        short_sides=(short_side,),
        test_short_side=short_side,
        max_side=max_side,
        workers=4 if gpu else 0,
        source=f"the folder {data.root}",
    )
    model = ModelConfig(
        depth=depth,
        norm="frozen" if pretrained else "sync_batch",
        freeze=("conv1", "conv2_x") if pretrained else (),
        anchor_scales=scales,
        anchor_ratios=ratios,
        anchor_center=ANCHOR_CENTER,
        pooling="align",
        **settings_of(features, gpu, pretrained),
    )
    config = DetConfig(
        init_weights="torchvision" if pretrained else "",
        data=data,
        model=model,
        rpn=RPNConfig(cross_boundary=True, pre_nms_topk=1000, post_nms_topk=300),
        roi=RoIConfig(batch_size_per_image=64 if gpu else 32, foreground_fraction=0.5),
        solver=suggest_solver(steps, batch, pretrained),
        test=TestConfig(pre_nms_topk=1000, post_nms_topk=300 if gpu else 150, batch_size=batch, metric="ap50"),
    )
    most = int(objects_per_image(training).max(initial=0))
    if most > min(config.test.max_detections, config.test.coco_max_dets):
        config = replace(config, test=for_crowds(config.test, most))
    start = "from torchvision's ImageNet weights, with conv1 and conv2_x frozen" if pretrained else "from scratch"
    passes = f"{steps * batch / len(training):.0f} times"
    reasons = [
        f"ResNet-{depth} {start}{'' if gpu else ', for a CPU'}.",
        why_size,
        why_features,
        why_anchors,
        f"{steps} steps of {batch} images pass over the {len(training)} images {passes}.",
    ]
    reasons.append(
        "Images are mirrored at random; more augmentation (data.augmentation) made short training runs no better "
        "(docs/studies.md)."
    )
    if config.test.coco_max_dets > TestConfig.coco_max_dets:
        reasons.append(f"An image has up to {most:,} objects: the limits of `test` let the detector find them all.")
    if data.val == data.train:
        reasons.append(f"There is only the split {data.train}: the metrics will show how well it is memorized.")
    return Suggestion(config, reasons)


def settings_of(features: Features, gpu: bool, pretrained: bool) -> dict[str, Any]:
    """What `ModelConfig` says of these feature maps; for a CPU, half of what the papers have."""
    if features == "c4":
        return {"rpn_channels": 512 if gpu else 256, "pool_size": 7 if gpu else 4}
    channels = 256 if gpu else 128
    return {
        "features": "fpn",
        "fpn_channels": channels,
        "head_norm": "none" if pretrained else "sync_batch",
        "rpn_channels": channels,
        "sampling_ratio": 2,
        "box_head": "conv_fc",
        "fc_dims": (4 * channels, 4 * channels),
        "dropout": 0.0,
    }


def for_crowds(test: TestConfig, most: int) -> TestConfig:
    """`test` with limits of detections that images with up to `most` objects do not reach."""
    limit = -(-3 * most // 200) * 100  # half as many again, in hundreds
    regions = max(test.post_nms_topk, limit)
    return replace(
        test,
        pre_nms_topk=max(test.pre_nms_topk, 3 * regions),
        post_nms_topk=regions,
        max_detections=limit,
        coco_max_dets=limit,
    )


def suggest_depth(gpu: bool) -> Literal[18, 50]:
    """Layers of the ResNet: what a GPU, or a CPU, trains in minutes."""
    return 50 if gpu else 18


def suggest_solver(steps: int, batch: int, pretrained: bool) -> SolverConfig:
    """The optimizer for so many steps of `batch` images."""
    # bccd_r18's settings from scratch, the papers' scaled to the batch from trained weights.
    return SolverConfig(
        optimizer="sgd" if pretrained else "adamw",
        lr=1e-3 * batch if pretrained else 1e-3,
        steps=steps,
        milestones=(steps * 7 // 10, steps * 9 // 10),
        warmup_steps=steps // 10,
        batch_size=batch,
        weight_decay=5e-4 if pretrained else 0.05,
        clip_norm=10,
        eval_every=steps // 5,
        save_every=100,
    )


def suggest_size(annotations: Annotations) -> tuple[int, int, str]:
    """Shorter and longer side of the resized images, and the reason."""
    short = np.median(annotations.sizes.min(1))
    roots = np.sqrt((annotations.boxes[:, 2:] - annotations.boxes[:, :2]).prod(1))
    small = np.percentile(roots / annotations.sizes[annotations.owners].min(1), 10)  # in shares of the shorter side
    wanted = np.clip(SMALLEST / small, 256, min(LARGEST_SIDE, ENLARGE * short))
    short_side = max(32, int(np.ceil(wanted / 16)) * 16)
    aspect = np.percentile(annotations.sizes.max(1) / annotations.sizes.min(1), 95)
    max_side = int(np.ceil(short_side * min(aspect, 2) / 16)) * 16
    reason = (
        f"Images get a shorter side of {short_side} pixels (their median is {short:.0f}): nine objects in ten are "
        f"then {small * short_side:.0f} pixels or larger (square root of the area)."
    )
    return short_side, max_side, reason


def suggest_features(boxes: np.ndarray, labels: np.ndarray, gpu: bool) -> tuple[Features, str]:
    """The feature maps for (B, 4) boxes of the resized images, whose (B,) classes count alike, and the reason."""
    roots = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    small = min(np.percentile(roots[labels == label], 10) for label in np.unique(labels))
    if gpu:
        return "fpn", "A feature pyramid finds small objects better than one map (C4), and on a GPU it is faster."
    cost = "a training step takes about 1.5 times as long, and detection half as long (docs/studies.md)"
    if small < SMALL:
        return "fpn", (
            f"A feature pyramid, with cells of {FPN.strides[0]} pixels and more: one object in ten of the smallest "
            f"class is below {small:.0f} pixels, and one map with cells of {CELL} (C4) finds fewer of them. With a "
            f"pyramid {cost}."
        )
    return "c4", (
        f"One feature map with cells of {CELL} pixels (C4): nine objects in ten of every class have {small:.0f} "
        f"pixels or more. A feature pyramid finds smaller ones better; with it {cost}."
    )


def suggest_anchors(
    boxes: np.ndarray, sizes: np.ndarray, features: Features
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Scales, ratios and the reason, for (B, 4) boxes in images of (B, 2) heights and widths."""
    strides, counts = (FPN.strides, (5,)) if features == "fpn" else (ResNetBackbone.strides, (3, 4, 5))

    def reach(scales: Sequence[float], ratios: Sequence[float]) -> float:
        anchors = AnchorGenerator(scales, ratios, ANCHOR_CENTER, len(strides))
        return float((best_overlap(boxes, sizes, anchors, strides) >= 0.5).mean())

    powers = [8.0 * 2**n for n in range(7)]  # 8 to 512
    runs = [tuple(powers[a : a + count]) for count in counts for a in range(len(powers) - count + 1)]
    reached = {run: reach(run, RATIOS) for run in runs}
    best = max(reached.values())
    scales = next(
        run for run in sorted(runs, key=lambda run: (len(run), -reached[run])) if reached[run] >= best - 0.01
    )
    share, ratios = reached[scales], RATIOS
    more = reach(scales, MORE_RATIOS)
    if more > share + 0.05:
        share, ratios = more, MORE_RATIOS
    named, shapes = (", ".join(f"{value:g}" for value in values) for values in (scales, ratios))
    reason = (
        f"Anchors of {named} pixels and ratios {shapes} overlap {100 * share:.0f} % of the objects with an IoU of "
        f"0.5 or more; {'more scales' if len(scales) < max(counts) else 'other ones'} would add less than 1 %."
    )
    return scales, ratios, reason


def to_source(config: DetConfig) -> str:
    """A recipe's Python: what differs from the defaults."""
    used: list[str] = []
    body = _call(config, used, "")
    return f"from resdet.config import {', '.join(sorted(set(used)))}\n\nconfig = {body}\n"


def _call(value: Any, used: list[str], indent: str) -> str:
    used.append(type(value).__name__)
    default, inner = type(value)(), indent + "    "
    lines = []
    for field in fields(value):
        own = getattr(value, field.name)
        if own != getattr(default, field.name):
            text = _call(own, used, inner) if is_dataclass(own) else _literal(own)
            lines.append(f"{inner}{field.name}={text},\n")
    return f"{type(value).__name__}(\n{''.join(lines)}{indent})"


def _literal(value: object) -> str:
    text = repr(value)
    return text if '"' in text else text.replace("'", '"')
