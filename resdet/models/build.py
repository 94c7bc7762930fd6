"""From a config to a detector: its tree of parts."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from resdet.config import DetConfig, ModelConfig
from resdet.errors import UserError
from resdet.models.anchors import AnchorGenerator
from resdet.models.backbones import Backbone, Pixels
from resdet.models.backbones.fpn import FPN, DilatedC5
from resdet.models.backbones.resnet import ResNet, ResNetBackbone
from resdet.models.backbones.timm import timm_parts
from resdet.models.backbones.vgg import VGG16Backbone, ZFBackbone
from resdet.models.box_coder import BoxCoder
from resdet.models.box_heads import Conv5Head, ConvFCHead, WarpedHead
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.layers.norm import Norm, freeze, norm_of
from resdet.models.layers.pixel_norm import STYLES, PixelNorm, PixelStyle
from resdet.models.poolers import RoIPooler
from resdet.models.roi_heads import BoxPredictor, RoIHeads
from resdet.models.rpn import RPN, RPNHead

# What makes a ResNet plain, or that of 2016.
RESNETS: dict[str, dict[str, Any]] = {
    "resnet": {},
    "plain": {"shortcut": "none"},
    "preact": {"order": "full_preactivation"},
}


# conv5_x, where it is part of the backbone.
CONV5: dict[str, dict[str, Any]] = {
    "dc5": {"conv5_stride": 1, "conv5_dilation": 2},
    "fpn": {"conv5_stride": 2},
}


def build_detector(config: DetConfig, num_classes: int) -> FasterRCNN:
    """The network that a config describes, with fresh weights. Raises UserError for settings that contradict."""
    model = config.model
    refuse_contradictions(model)
    network = build_network(model)
    freeze(network.backbone.classifier_parts()["backbone"], model.freeze)
    backbone = Pixels() if model.pooling == "warp" else network.backbone
    # The last level of a pyramid is for the RPN alone.
    levels = len(backbone.strides)
    pooler = RoIPooler(
        model.pooling,
        model.pool_size,
        model.pyramid,
        sampling_ratio=model.sampling_ratio,
        levels=levels - 1,
    )
    box_head = build_box_head(model, network, pooler)
    anchors = build_anchors(model)
    detector = FasterRCNN(
        PixelNorm(network.style),
        backbone,
        RPN(
            anchors,
            RPNHead(backbone.channels, model.rpn_channels, len(anchors), model.rpn_depth),
            config.rpn,
            config.test,
        )
        if model.proposals == "rpn"
        else None,
        RoIHeads(
            pooler,
            box_head,
            BoxPredictor(box_head.channels * (2 if model.context else 1), num_classes),
            BoxCoder(config.roi.box_stds),
            config.roi,
            config.test,
            context=model.context,
            nms_iou=config.rpn.nms_iou,
        ),
        scales=model.maxout or (1.0,),
        train_only=config.train_only,
    )
    # What has no loss has no gradient either, which processes that train together would wait for.
    for part, others in ((detector.rpn, "roi_heads"), (detector.roi_heads, "rpn")):
        if part is not None and config.train_only == others:
            part.requires_grad_(False)
    return detector


def build_anchors(model: ModelConfig) -> AnchorGenerator:
    """The anchors of a detector."""
    levels = len(strides_of(model))
    return AnchorGenerator(
        model.anchor_scales, model.anchor_ratios, model.anchor_center, levels, model.anchor_rounding
    )


def strides_of(model: ModelConfig) -> tuple[int, ...]:
    """Pixels from cell to cell of each level that has anchors."""
    return FPN.strides if model.features == "fpn" else ResNetBackbone.strides


class Network(NamedTuple):
    """A network that was made to classify, in two parts."""

    backbone: Backbone
    """up to the map of stride 16, or of a ResNet all of it"""
    rest: nn.Sequential | None
    """what follows, without the classifier; where there is nothing but that, None"""
    channels: int
    """that `rest` gives"""
    style: PixelStyle


def build_network(model: ModelConfig) -> Network:
    """The network that is to become a backbone, and perhaps a box head."""
    style = STYLES[model.style]
    if model.backbone == "timm":
        return Network(*timm_parts(model.timm, model.norm))
    if model.backbone not in RESNETS:
        return Network({"vgg16": VGG16Backbone, "zf": ZFBackbone}[model.backbone](), None, 0, style)
    resnet = ResNet(
        model.depth,
        norm=norm_of(model.norm, model.norm_eps),
        stride_in_1x1=style.stride_in_1x1,
        groups=model.groups,
        width_per_group=model.width_per_group,
        **CONV5.get(model.features, {"conv5_stride": model.conv5_stride}),
        **RESNETS[model.backbone],
    )
    if model.features == "c4":
        return Network(resnet.backbone, resnet.conv5_x, resnet.channels, style)
    whole = DilatedC5(resnet) if model.features == "dc5" else FPN(resnet, model.fpn_channels, head_norm(model))
    return Network(whole, None, 0, style)


def head_norm(model: ModelConfig) -> Norm | None:
    """What makes the normalisations of the feature pyramid and of the box head."""
    return None if model.head_norm == "none" else norm_of(model.head_norm, model.norm_eps)


def build_box_head(model: ModelConfig, network: Network, pooler: RoIPooler) -> Conv5Head | ConvFCHead:
    """What a pooled region goes through. Raises UserError if the network has nothing for it."""
    if model.pooling != "warp" and model.box_head == "conv_fc":
        return ConvFCHead(
            network.backbone.channels,
            pooler.bins,
            conv_dims=model.conv_dims,
            fc_dims=model.fc_dims,
            dropout=model.dropout,
            norm=head_norm(model),
            after_vgg16=isinstance(network.backbone, VGG16Backbone),
        )
    if not network.rest:
        raise UserError(
            f"{model.timm or model.backbone} has no layers after stride 16: set --model.box-head conv_fc."
        )
    if model.pooling == "warp":
        return WarpedHead(network.backbone, network.rest, network.channels)
    return Conv5Head(network.rest, network.channels)


def refuse_contradictions(model: ModelConfig) -> None:
    """Raise UserError for settings of which each is possible, but not all together."""
    if model.pooling == "warp" and model.proposals == "rpn":
        raise UserError(
            "Warped regions are cropped from the image and leave no feature map for an RPN: set "
            "--model.proposals given."
        )
    if model.pooling == "pyramid" and (model.box_head == "conv5" or model.conv_dims):
        raise UserError("A spatial pyramid is not a feature map: set --model.box-head conv_fc, without conv_dims.")
    ascends = sorted(set(model.maxout)) == list(model.maxout)
    if model.maxout and (len(model.maxout) < 2 or not ascends or model.maxout[-1] != 1):
        raise UserError(f"model.maxout must be ascending and end with 1, for example 0.5 1, not {model.maxout}.")
