"""torchvision's Faster R-CNNs (fasterrcnn_resnet50_fpn and _v2): their tensors, and what comes with them.

There the background comes first, and has boxes that nobody reads; COCO's classes have their numbers in COCO's
files, 1 to 90 with ten gaps. All other tensors only change their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from resdet.config import COCO_CLASSES, Depth, DetConfig, ModelConfig, torchvision_fpn
from resdet.errors import UserError
from resdet.models.backbones.resnet import ARCHITECTURES
from resdet.models.build import build_detector
from resdet.models.layers.blocks import Bottleneck
from resdet.models.weights.detectron2 import class_names
from resdet.models.weights.strict import check_names
from resdet.models.weights.torchvision import torchvision_name

LOGITS = "roi_heads.box_predictor.cls_score.weight"
FIRST = "backbone.body.conv1.weight"
"""A tensor that torchvision's detectors have, and detectron2's have not."""
COCO_NUMBERS = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""Which outputs COCO's 80 classes have."""
NEVER = -100.0
"""Logit of a number that no class has."""
Rule = tuple[str, Callable[[re.Match[str]], str]]


def detector_name(name: str, model: ModelConfig) -> str:
    """torchvision's name of a tensor of `FasterRCNN`: rpn.head.anchor_deltas.bias → rpn.head.bbox_pred.bias"""
    convs = len(model.conv_dims)
    fcs: Callable[[int], str] = (lambda n: str(convs + 1 + 2 * n)) if convs else (lambda n: f"fc{6 + n}")
    rules: tuple[Rule, ...] = (
        (r"backbone\.bottom_up\.(.+)", lambda m: f"backbone.body.{torchvision_name('backbone.' + m[1])}"),
        (r"backbone\.(conv5_x\..+)", lambda m: f"backbone.body.{torchvision_name(m[1])}"),
        (r"backbone\.laterals\.(\d)\.(.+)", lambda m: f"backbone.fpn.inner_blocks.{m[1]}.{_of_pair(m[2])}"),
        (r"backbone\.outputs\.(\d)\.(.+)", lambda m: f"backbone.fpn.layer_blocks.{m[1]}.{_of_pair(m[2])}"),
        (r"rpn\.head\.convs\.(\d+)\.(.+)", lambda m: f"rpn.head.conv.{m[1]}.0.{m[2]}"),
        (r"rpn\.head\.objectness_logits\.(.+)", lambda m: f"rpn.head.cls_logits.{m[1]}"),
        (r"rpn\.head\.anchor_deltas\.(.+)", lambda m: f"rpn.head.bbox_pred.{m[1]}"),
        (r"roi_heads\.box_head\.convs\.(\d+)\.(.+)", lambda m: f"roi_heads.box_head.{m[1]}.{_of_pair(m[2])}"),
        (r"roi_heads\.box_head\.fcs\.(\d+)\.(.+)", lambda m: f"roi_heads.box_head.{fcs(int(m[1]))}.{m[2]}"),
        (r"(roi_heads\.box_predictor\..+)", lambda m: m[1]),
    )
    return next(rule(match) for pattern, rule in rules if (match := re.fullmatch(pattern, name)))


def _of_pair(name: str) -> str:
    """Convolution and normalisation by number: conv.weight → 0.weight, norm.bias → 1.bias"""
    return re.sub(r"^norm\.", "1.", re.sub(r"^conv\.", "0.", name))


# What torchvision named before its version 0.14, and still does in its own files → as it does now.
OLD_NAMES = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
)


def from_torchvision_detector(
    state: Mapping[str, Tensor], classes: Sequence[str], source: str
) -> tuple[dict[str, Tensor], DetConfig]:
    """The tensors of a `FasterRCNN`, and the config that makes it find what torchvision finds.

    Args:
        state: torchvision's tensors by its names
        classes: their names without the background; with none, 80 or 90 classes are COCO's and 20 are VOC's
        source: named in messages

    Raises UserError unless names and shapes are those of one of torchvision's Faster R-CNNs on a ResNet.
    """
    for pattern, replacement in OLD_NAMES:
        state = {re.sub(f"^{pattern}$", replacement, name): tensor for name, tensor in state.items()}
    if LOGITS not in state:
        raise UserError(f"{source} is not a Faster R-CNN of torchvision: it has no {LOGITS}.")
    outputs = len(state[LOGITS])
    of_coco = outputs == COCO_NUMBERS[-1] + 1 and len(classes) in (0, len(COCO_CLASSES))
    names = class_names(len(COCO_CLASSES) if of_coco else outputs - 1, tuple(classes), source)
    version: Literal["v1", "v2"] = "v1" if "roi_heads.box_head.fc6.weight" in state else "v2"
    config = torchvision_fpn(version, names, _depth(state, source))
    with torch.device("meta"):
        own = build_detector(config, outputs - 1).state_dict()
    theirs = {name: detector_name(name, config.model) for name in own}
    shapes = {theirs[name]: tensor for name, tensor in own.items()}
    for name in (LOGITS, LOGITS.replace("weight", "bias")):  # the background, which has boxes too
        shapes[name.replace("cls_score", "bbox_pred")] = shapes[name].repeat_interleave(4, 0)
    check_names(shapes, {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}, source)
    numbers = COCO_NUMBERS if of_coco else list(range(1, outputs))
    weights = {name: state[theirs[name]].float() for name in own if not name.endswith("num_batches_tracked")}
    return {name: _without_background(name, tensor, numbers) for name, tensor in weights.items()}, config


def to_torchvision_detector(
    weights: Mapping[str, Tensor], config: DetConfig, classes: Sequence[str], source: str
) -> dict[str, Tensor]:
    """The tensors of a `FasterRCNN` under torchvision's names; COCO's classes get their numbers again.

    Raises UserError for a network that torchvision's detectors have no place for; `source` is named then.
    """
    model = config.model
    wanted = torchvision_fpn("v2" if model.conv_dims else "v1", classes).model
    for setting in (
        *("features", "backbone", "depth", "style", "head_norm", "box_head", "conv_dims", "fc_dims", "context"),
        *("pooling", "pool_size", "sampling_ratio", "proposals", "fpn_channels", "rpn_channels", "rpn_depth"),
        *("anchor_scales", "anchor_ratios", "anchor_center", "anchor_rounding", "groups", "width_per_group"),
    ):
        found, possible = getattr(model, setting), getattr(wanted, setting)
        same = found == possible or {found, possible} <= {"batch", "sync_batch"}
        if not same:
            raise UserError(
                f"{source} has model.{setting} {found}, torchvision's detector supports only {possible}: it cannot "
                "be converted."
            )
    outputs = COCO_NUMBERS[-1] + 1 if tuple(classes) == COCO_CLASSES else len(classes) + 1
    numbers = COCO_NUMBERS if tuple(classes) == COCO_CLASSES else list(range(1, outputs))
    return {
        detector_name(name, model): _with_background(name, tensor, numbers, outputs)
        for name, tensor in weights.items()
    }


def torchvision_call(config: DetConfig, classes: Sequence[str]) -> str:
    """The Python that makes the detector of torchvision which `to_torchvision_detector` gives the weights of.

    The norms of a frozen backbone are told apart from others by name only, and serve in evaluation alike.
    """
    model, test = config.model, config.test
    outputs = COCO_NUMBERS[-1] + 1 if tuple(classes) == COCO_CLASSES else len(classes) + 1
    version = "_v2" if model.conv_dims else ""
    settings = {
        "weights": None,
        "weights_backbone": None,
        "num_classes": outputs,
        "min_size": config.data.test_short_side,
        "max_size": config.data.max_side,
        "rpn_pre_nms_top_n_test": test.pre_nms_topk,
        "rpn_post_nms_top_n_test": test.post_nms_topk,
        "rpn_nms_thresh": config.rpn.nms_iou,
        "box_score_thresh": test.min_score,
        "box_nms_thresh": test.nms_iou,
        "box_detections_per_img": test.max_detections,
    }
    given = ", ".join(f"{name}={value}" for name, value in settings.items())
    return f"torchvision.models.detection.fasterrcnn_resnet50_fpn{version}({given})"


def _without_background(name: str, tensor: Tensor, numbers: Sequence[int]) -> Tensor:
    """Of the two last layers: the rows of the classes, then those of the background; other tensors as they are."""
    if name.startswith("roi_heads.box_predictor.cls_score."):
        return tensor[[*numbers, 0]]
    if name.startswith("roi_heads.box_predictor.bbox_pred."):
        return tensor.unflatten(0, (-1, 4))[list(numbers)].flatten(0, 1)
    return tensor


def _with_background(name: str, tensor: Tensor, numbers: Sequence[int], outputs: int) -> Tensor:
    """The inverse of `_without_background`: the background's boxes are zero, numbers without a class unlikely."""
    if name.startswith("roi_heads.box_predictor.cls_score."):
        rows = tensor.new_full((outputs, *tensor.shape[1:]), NEVER if tensor.dim() == 1 else 0.0)
        rows[[*numbers, 0]] = tensor
        return rows
    if name.startswith("roi_heads.box_predictor.bbox_pred."):
        rows = tensor.new_zeros((outputs, 4, *tensor.shape[1:]))
        rows[list(numbers)] = tensor.unflatten(0, (-1, 4))
        return rows.flatten(0, 1)
    return tensor


def _depth(state: Mapping[str, Tensor], source: str) -> Depth:
    """Layers of the ResNet, by the units of its stages. Raises UserError for another count."""
    units = [
        len({m[1] for name in state if (m := re.match(rf"backbone\.body\.layer{n}\.(\d+)\.conv1\.", name))})
        for n in (1, 2, 3, 4)
    ]
    bottleneck = "backbone.body.layer1.0.conv3.weight" in state
    depths: tuple[Depth, ...] = (18, 34, 50, 101, 152)
    for depth in depths:
        block, counts = ARCHITECTURES[depth]
        if list(counts) == units and (block is Bottleneck) == bottleneck:
            return depth
    raise UserError(f"{source} has a backbone of {', '.join(map(str, units))} units, as no ResNet has.")
