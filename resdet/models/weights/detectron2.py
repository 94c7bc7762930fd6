"""detectron2's C4 detectors (faster_rcnn_R_50_C4 and its like): their tensors, and the facts that come with them.

detectron2 orders a cell's anchors by scale, then ratio, we by ratio, then scale: the outputs of the RPN's two last
layers change places. All other tensors only change their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from resdet.config import COCO_CLASSES, VOC_CLASSES, DetConfig, ModelConfig, detectron2_c4
from resdet.errors import UserError
from resdet.models.anchors import ANCHOR_OFFSETS
from resdet.models.build import build_detector
from resdet.models.layers.pixel_norm import STYLES
from resdet.models.weights.msra import bottleneck_depth, detectron2_name
from resdet.models.weights.strict import check_names

# Ours → detectron2's; below backbone and conv5_x the names are those of `detectron2_name`.
PARTS = {
    "backbone.": "backbone.",
    "roi_heads.box_head.conv5_x.": "roi_heads.",
    "roi_heads.box_predictor.": "roi_heads.box_predictor.",
    "rpn.head.": "proposal_generator.rpn_head.",
}
LOGITS = "roi_heads.box_predictor.cls_score.weight"
ANCHOR_LAYERS = ("rpn.head.objectness_logits.", "rpn.head.anchor_deltas.")
# What old versions wrote too, and follows from the settings.
IGNORED = r"proposal_generator\.anchor_generator\.cell_anchors\.\d+|.*\.num_batches_tracked"


def detector_name(name: str) -> str:
    """detectron2's name of a tensor of `FasterRCNN`: rpn.head.conv.bias → proposal_generator.rpn_head.conv.bias"""
    part = next(part for part in PARTS if name.startswith(part))
    if part in ("backbone.", "roi_heads.box_head.conv5_x."):
        return PARTS[part] + detectron2_name(name.removeprefix("roi_heads.box_head."))
    return PARTS[part] + name.removeprefix(part)


def from_detectron2_detector(
    state: Mapping[str, Tensor], classes: Sequence[str], source: str
) -> tuple[dict[str, Tensor], DetConfig]:
    """The tensors of a `FasterRCNN`, and the config that makes it find what detectron2 finds.

    Args:
        state: detectron2's tensors by its names
        classes: their names; with none, 80 classes are COCO's and 20 are VOC's
        source: named in messages

    Raises UserError unless names, shapes and pixel statistics are those of detectron2's C4 detector.
    """
    if LOGITS not in state:
        raise UserError(
            f"{source} is not a Faster R-CNN of detectron2, since it has no {LOGITS}: "
            "a ResNet needs no conversion, pass it to train-det as --init-weights."
        )
    try:
        depth = bottleneck_depth(state)
    except UserError as error:
        raise UserError(f"{source} cannot be used: {error}") from error
    config = detectron2_c4(depth, _classes(state[LOGITS].shape[:1].numel() - 1, tuple(classes), source))
    _check_pixels(state, source)
    state = {
        name: tensor
        for name, tensor in state.items()
        if name not in ("pixel_mean", "pixel_std") and not re.fullmatch(IGNORED, name)
    }
    with torch.device("meta"):
        own = build_detector(config, len(config.data.classes)).state_dict()
    check_names({detector_name(name): tensor for name, tensor in own.items()}, state, source)
    weights = {name: state[detector_name(name)].float() for name in own}
    scales, ratios = len(config.model.anchor_scales), len(config.model.anchor_ratios)
    return _transpose_anchors(weights, scales, ratios), config


def to_detectron2_detector(weights: Mapping[str, Tensor], model: ModelConfig, source: str) -> dict[str, Tensor]:
    """The tensors of a `FasterRCNN` under detectron2's names and in its order.

    Raises UserError for a network that detectron2's C4 detector has no place for; `source` is named then.
    """
    for setting, found, possible in (
        ("depth", model.depth, (50, 101, 152)),
        ("norm", model.norm, ("frozen", "sync_batch")),
        ("pooling", model.pooling, ("align_v2",)),
        ("conv5_stride", model.conv5_stride, (2,)),
        ("context", model.context, (False,)),
        ("backbone", model.backbone, ("resnet",)),
        ("body", model.box_head, ("conv5",)),
        ("proposals", model.proposals, ("rpn",)),
        ("maxout", model.maxout, ((),)),
    ):
        if found not in possible:
            raise UserError(
                f"{source} has model.{setting} {found}, detectron2's C4 detector supports only "
                f"{' and '.join(map(str, possible))}: it cannot be converted."
            )
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    weights = _transpose_anchors(weights, len(model.anchor_ratios), len(model.anchor_scales))
    return {detector_name(name): tensor for name, tensor in weights.items()}


def detectron2_settings(config: DetConfig, classes: Sequence[str]) -> dict[str, object]:
    """What detectron2's config must say, beside Base-RCNN-C4.yaml, to find what our detector finds."""
    model, test, style = config.model, config.test, STYLES[config.model.style]
    return {
        "INPUT.FORMAT": style.channels.upper(),
        "INPUT.MIN_SIZE_TEST": config.data.test_short_side,
        "INPUT.MAX_SIZE_TEST": config.data.max_side,
        "MODEL.MASK_ON": False,
        "MODEL.PIXEL_MEAN": list(style.mean),
        "MODEL.PIXEL_STD": list(style.std),
        "MODEL.RESNETS.DEPTH": model.depth,
        "MODEL.RESNETS.STRIDE_IN_1X1": style.stride_in_1x1,
        "MODEL.RESNETS.NORM": {"frozen": "FrozenBN", "sync_batch": "SyncBN"}[model.norm],
        "MODEL.ANCHOR_GENERATOR.SIZES": [list(model.anchor_scales)],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(model.anchor_ratios)],
        "MODEL.ANCHOR_GENERATOR.OFFSET": ANCHOR_OFFSETS[model.anchor_center],
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": config.rpn.min_size,
        "MODEL.RPN.CONV_DIMS": [model.rpn_channels],
        "MODEL.RPN.NMS_THRESH": config.rpn.nms_iou,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": test.pre_nms_topk,
        "MODEL.RPN.POST_NMS_TOPK_TEST": test.post_nms_topk,
        "MODEL.ROI_HEADS.NUM_CLASSES": len(classes),
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": test.min_score,
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": test.nms_iou,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": model.pool_size,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [round(1 / std, 6) for std in config.roi.box_stds],
        "TEST.DETECTIONS_PER_IMAGE": test.max_detections,
    }


def _classes(count: int, named: tuple[str, ...], source: str) -> tuple[str, ...]:
    """Names for `count` classes."""
    known = {len(COCO_CLASSES): COCO_CLASSES, len(VOC_CLASSES): VOC_CLASSES}
    if len(named or known.get(count, ())) == count:
        return named or known[count]
    given = f"--classes has {len(named)}" if named else "whose names are not known"
    raise UserError(f"{source} detects {count} classes, {given}: pass all of them, in order, with --classes.")


def _check_pixels(state: Mapping[str, Tensor], source: str) -> None:
    """Old files say how their images were normalised; it must be as MSRA's backbone has it."""
    for name, expected in (("pixel_mean", STYLES["msra"].mean), ("pixel_std", STYLES["msra"].std)):
        found = state[name].flatten().tolist() if name in state else expected
        if len(found) != 3 or any(abs(a - b) > 1e-3 for a, b in zip(found, expected, strict=True)):
            raise UserError(
                f"{source} has {name} {', '.join(f'{value:g}' for value in found)} instead of "
                f"{', '.join(f'{value:g}' for value in expected)}: it was not trained from MSRA's weights, "
                "and only detectors that were can be read."
            )


def _transpose_anchors(weights: Mapping[str, Tensor], rows: int, columns: int) -> dict[str, Tensor]:
    """The outputs of the RPN for anchors in the order (row, column) → in the order (column, row)."""
    return {
        name: tensor.reshape(rows, columns, -1).transpose(0, 1).reshape(tensor.shape)
        if name.startswith(ANCHOR_LAYERS)
        else tensor
        for name, tensor in weights.items()
    }
