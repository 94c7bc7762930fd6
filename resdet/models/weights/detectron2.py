"""detectron2's Faster R-CNNs (C4, DC5 and FPN): their tensors, and the facts that come with them.

detectron2 orders a cell's anchors by scale, then ratio, we by ratio, then scale: the outputs of the RPN's two last
layers change places. All other tensors only change their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from resdet.config import COCO_CLASSES, VOC_CLASSES, DetConfig, ModelConfig, detectron2_c4, detectron2_dc5
from resdet.config import detectron2_fpn as fpn_config
from resdet.errors import UserError
from resdet.models.anchors import ANCHOR_OFFSETS
from resdet.models.build import build_detector, strides_of
from resdet.models.layers.pixel_norm import STYLES
from resdet.models.weights.msra import bottleneck_depth, detectron2_name
from resdet.models.weights.strict import check_names

LOGITS = "roi_heads.box_predictor.cls_score.weight"
ANCHOR_LAYERS = ("rpn.head.objectness_logits.", "rpn.head.anchor_deltas.")
# What old versions wrote too, and follows from the settings.
IGNORED = r"proposal_generator\.anchor_generator\.cell_anchors\.\d+|.*\.num_batches_tracked"
# Of our names → detectron2's; the first rule that fits is applied.
Rule = tuple[str, Callable[[re.Match[str]], str]]
RULES: tuple[Rule, ...] = (
    (r"backbone\.bottom_up\.(.+)", lambda m: f"backbone.bottom_up.{detectron2_name('backbone.' + m[1])}"),
    (r"backbone\.(conv5_x\..+)", lambda m: f"backbone.bottom_up.{detectron2_name(m[1])}"),
    (r"backbone\.laterals\.(\d)\.(?:conv\.)?(.+)", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}.{m[2]}"),
    (r"backbone\.outputs\.(\d)\.(?:conv\.)?(.+)", lambda m: f"backbone.fpn_output{int(m[1]) + 2}.{m[2]}"),
    (r"(backbone\..+)", lambda m: f"backbone.{detectron2_name(m[1])}"),
    (r"roi_heads\.box_head\.(conv5_x\..+)", lambda m: f"roi_heads.{detectron2_name(m[1])}"),
    (
        r"roi_heads\.box_head\.convs\.(\d+)\.(?:conv\.)?(.+)",
        lambda m: f"roi_heads.box_head.conv{int(m[1]) + 1}.{m[2]}",
    ),
    (r"roi_heads\.box_head\.fcs\.(\d+)\.(.+)", lambda m: f"roi_heads.box_head.fc{int(m[1]) + 1}.{m[2]}"),
    (r"rpn\.head\.convs\.0\.(.+)", lambda m: f"proposal_generator.rpn_head.conv.{m[1]}"),
    (r"rpn\.head\.(.+)", lambda m: f"proposal_generator.rpn_head.{m[1]}"),
    (r"(roi_heads\.box_predictor\..+)", lambda m: m[1]),
)


def detector_name(name: str, features: str = "c4") -> str:
    """detectron2's name of a tensor of ours: rpn.head.convs.0.bias → proposal_generator.rpn_head.conv.bias"""
    rule, match = next((rule, match) for pattern, rule in RULES if (match := re.fullmatch(pattern, name)))
    # The whole ResNet is the backbone there, of which a pyramid's bottom-up path is a part.
    return rule(match).replace("backbone.bottom_up.", "backbone.") if features == "dc5" else rule(match)


def from_detectron2_detector(
    state: Mapping[str, Tensor], classes: Sequence[str], source: str
) -> tuple[dict[str, Tensor], DetConfig]:
    """The tensors of a `FasterRCNN`, and the config that makes it find what detectron2 finds.

    Args:
        state: detectron2's tensors by its names
        classes: their names; with none, 80 classes are COCO's and 20 are VOC's
        source: named in messages

    Raises UserError unless names, shapes and pixel statistics are those of one of detectron2's Faster R-CNNs.
    """
    if LOGITS not in state:
        raise UserError(
            f"{source} is not a Faster R-CNN of detectron2, since it has no {LOGITS}: "
            "a ResNet needs no conversion, pass it to train-det as --init-weights."
        )
    named = class_names(state[LOGITS].shape[:1].numel() - 1, tuple(classes), source)
    try:
        config = _config(state, named)
    except UserError as error:
        raise UserError(f"{source} cannot be used: {error}") from error
    _check_pixels(state, config.model.style, source)
    state = {
        name: tensor
        for name, tensor in state.items()
        if name not in ("pixel_mean", "pixel_std") and not re.fullmatch(IGNORED, name)
    }
    with torch.device("meta"):
        own = build_detector(config, len(config.data.classes)).state_dict()
    theirs = {name: detector_name(name, config.model.features) for name in own}
    check_names({theirs[name]: tensor for name, tensor in own.items()}, state, source)
    weights = {name: state[theirs[name]].float() for name in own if not name.endswith("num_batches_tracked")}
    return _transpose_anchors(weights, *_anchor_grid(config.model)), config


def _config(state: Mapping[str, Tensor], classes: Sequence[str]) -> DetConfig:
    """Of the detector that has these tensors. Raises UserError for a ResNet of an unknown depth."""
    depth = bottleneck_depth(state)
    if "backbone.fpn_lateral2.weight" in state:
        grouped = state.get("backbone.bottom_up.res2.0.conv2.weight", torch.empty(1, 1))
        return fpn_config(depth, classes, resnext=grouped.shape[1] == 8)
    return (detectron2_dc5 if "roi_heads.box_head.fc1.weight" in state else detectron2_c4)(depth, classes)


def to_detectron2_detector(weights: Mapping[str, Tensor], model: ModelConfig, source: str) -> dict[str, Tensor]:
    """The tensors of a `FasterRCNN` under detectron2's names and in its order.

    Raises UserError for a network that detectron2 has no place for; `source` is named then.
    """
    c4 = model.features == "c4"
    for setting, found, possible in (
        ("depth", model.depth, (50, 101, 152)),
        ("norm", model.norm, ("frozen", "batch", "sync_batch")),
        ("norm_eps", model.norm_eps, (1e-5,)),
        ("pooling", model.pooling, ("align_v2",)),
        ("conv5_stride", model.conv5_stride if c4 else 2, (2,)),
        ("context", model.context, (False,)),
        ("backbone", model.backbone, ("resnet",)),
        ("box_head", model.box_head, ("conv5",) if c4 else ("conv_fc",)),
        ("rpn_depth", model.rpn_depth, (1,)),
        ("anchor_rounding", model.anchor_rounding, (False,)),
        ("proposals", model.proposals, ("rpn",)),
        ("maxout", model.maxout, ((),)),
    ):
        if found not in possible:
            raise UserError(
                f"{source} has model.{setting} {found}, detectron2's detector supports only "
                f"{' and '.join(map(str, possible))}: it cannot be converted."
            )
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    levels, scales, ratios = _anchor_grid(model)
    weights = _transpose_anchors(weights, levels, ratios, scales)
    return {detector_name(name, model.features): tensor for name, tensor in weights.items()}


BASES = {"c4": "Base-RCNN-C4.yaml", "dc5": "Base-RCNN-DilatedC5.yaml", "fpn": "Base-RCNN-FPN.yaml"}
"""detectron2's files with the settings of these detectors."""
NORM_NAMES = {"frozen": "FrozenBN", "batch": "BN", "sync_batch": "SyncBN", "group": "GN", "none": ""}


def detectron2_settings(config: DetConfig, classes: Sequence[str]) -> dict[str, object]:
    """What detectron2's config must say, beside one of `BASES`, to find what our detector finds."""
    model, test, style = config.model, config.test, STYLES[config.model.style]
    levels, scales, _ = _anchor_grid(model)
    sizes = [list(model.anchor_scales[n * scales : (n + 1) * scales]) for n in range(levels)]
    settings: dict[str, object] = {
        "INPUT.FORMAT": style.channels.upper(),
        "INPUT.MIN_SIZE_TEST": config.data.test_short_side,
        "INPUT.MAX_SIZE_TEST": config.data.max_side,
        "MODEL.MASK_ON": False,
        "MODEL.PIXEL_MEAN": list(style.mean),
        "MODEL.PIXEL_STD": list(style.std),
        "MODEL.RESNETS.DEPTH": model.depth,
        "MODEL.RESNETS.STRIDE_IN_1X1": style.stride_in_1x1,
        "MODEL.RESNETS.NORM": NORM_NAMES[model.norm],
        "MODEL.ANCHOR_GENERATOR.SIZES": sizes,
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
    if model.groups > 1 or model.width_per_group != 64:
        settings |= {
            "MODEL.RESNETS.NUM_GROUPS": model.groups,
            "MODEL.RESNETS.WIDTH_PER_GROUP": model.width_per_group,
        }
    if model.features != "c4":
        settings |= {
            "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": model.sampling_ratio,
            "MODEL.ROI_BOX_HEAD.NORM": NORM_NAMES[model.head_norm],
            "MODEL.ROI_BOX_HEAD.NUM_CONV": len(model.conv_dims),
            "MODEL.ROI_BOX_HEAD.NUM_FC": len(model.fc_dims),
            "MODEL.ROI_BOX_HEAD.FC_DIM": max(model.fc_dims, default=0),
        }
    if model.features == "fpn":
        settings |= {"MODEL.FPN.OUT_CHANNELS": model.fpn_channels, "MODEL.FPN.NORM": NORM_NAMES[model.head_norm]}
    return settings


def class_names(count: int, named: tuple[str, ...], source: str) -> tuple[str, ...]:
    """Names for `count` classes: those given, or COCO's or VOC's. Raises UserError if there are none for them."""
    known = {len(COCO_CLASSES): COCO_CLASSES, len(VOC_CLASSES): VOC_CLASSES}
    if len(named or known.get(count, ())) == count:
        return named or known[count]
    given = f"--classes has {len(named)}" if named else "whose names are not known"
    raise UserError(
        f"{source} detects {count} classes, {given}: pass all of them, in order, as --classes of convert-weights."
    )


def _check_pixels(state: Mapping[str, Tensor], style: str, source: str) -> None:
    """Old files say how their images were normalised; it must be as the backbone's first weights had it."""
    for name, expected in (("pixel_mean", STYLES[style].mean), ("pixel_std", STYLES[style].std)):
        found = state[name].flatten().tolist() if name in state else expected
        if len(found) != 3 or any(abs(a - b) > 1e-3 for a, b in zip(found, expected, strict=True)):
            raise UserError(
                f"{source} has {name} {', '.join(f'{value:g}' for value in found)} instead of "
                f"{', '.join(f'{value:g}' for value in expected)}: it was not trained from MSRA's weights, "
                "and only detectors that were can be read."
            )


def _anchor_grid(model: ModelConfig) -> tuple[int, int, int]:
    """Levels, and scales and ratios of the anchors of each."""
    levels = len(strides_of(model))
    return levels, len(model.anchor_scales) // levels, len(model.anchor_ratios)


def _transpose_anchors(weights: Mapping[str, Tensor], levels: int, rows: int, columns: int) -> dict[str, Tensor]:
    """The outputs of the RPN for anchors in the order (row, column) → in the order (column, row)."""
    return {
        name: tensor.reshape(rows, columns, -1).transpose(0, 1).reshape(tensor.shape)
        if name.startswith(ANCHOR_LAYERS)
        else tensor
        for name, tensor in weights.items()
    }
