"""From a config to a detector: the only code of the model that reads one."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from resdet import ops
from resdet.config import DetConfig, ModelConfig
from resdet.detection.anchors import ANCHOR_OFFSETS, base_anchors, grid_anchors
from resdet.detection.bodies import Conv5, Layers, pyramid_pool, warp
from resdet.detection.faster_rcnn import FasterRCNN, mine
from resdet.detection.losses import head_loss, rpn_loss
from resdet.detection.pyramid import MaxoutPool
from resdet.detection.roi_head import RoIHead
from resdet.detection.rpn import RPN, propose
from resdet.detection.select import predict, select
from resdet.detection.targets import label_anchors, sample_rois
from resdet.errors import UserError
from resdet.nn.norm import NORMS, freeze
from resdet.nn.pixels import STYLES, PixelNorm, TrunkStyle
from resdet.nn.resnet import ResNet
from resdet.nn.timm_trunk import timm_parts
from resdet.nn.vgg import VGG16Trunk, ZFTrunk

EVERY_REGION = 1 << 30  # a batch that all candidates of an image fit in
# What makes a ResNet plain, or that of 2016.
RESNETS: dict[str, dict[str, Any]] = {
    "resnet": {},
    "plain": {"shortcut": "none"},
    "preact": {"order": "full_preactivation"},
}


class Pixels(nn.Module):
    """The trunk of R-CNN, whose regions are cut out of the image itself."""

    stride, channels = 1, 3

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → the same"""
        return images


class Network(NamedTuple):
    """A network that was made to classify, in two parts."""

    trunk: Any
    """up to the map of stride 16"""
    rest: nn.Sequential | None
    """what follows, without the classifier; VGG-16 and ZF have nothing there but that"""
    channels: int
    """that `rest` gives"""
    style: TrunkStyle


def build_network(model: ModelConfig) -> Network:
    """The network that is to become a trunk, and perhaps the body of a head."""
    style = STYLES[model.style]
    if model.trunk == "timm":
        return Network(*timm_parts(model.timm, model.norm))
    if model.trunk not in RESNETS:
        return Network({"vgg16": VGG16Trunk, "zf": ZFTrunk}[model.trunk](), None, 0, style)
    resnet = ResNet(
        model.depth,
        norm=NORMS[model.norm],
        stride_in_1x1=style.stride_in_1x1,
        conv5_stride=model.conv5_stride,
        **RESNETS[model.trunk],
    )
    return Network(resnet.trunk, resnet.conv5_x, resnet.channels, style)


def build_body(model: ModelConfig, network: Network) -> Conv5 | Layers:
    """What a region goes through. Raises UserError for settings that contradict each other."""
    trunk, rest = network.trunk, network.rest
    if (model.body == "conv5" or model.pooling == "warp") and not rest:
        raise UserError(
            f"Nothing follows the stride-16 map of {model.timm or model.trunk}: set --model.body layers."
        )
    if model.pooling == "warp" and model.proposals == "rpn":
        raise UserError("Cut out of the image, regions leave no map to an RPN: set --model.proposals given.")
    if model.pooling == "pyramid" and (model.body == "conv5" or model.convs):
        raise UserError("The bins of a spatial pyramid are no map: set --model.body layers, without convs.")
    if model.pooling == "warp":
        whole = nn.Sequential(trunk, cast(nn.Sequential, rest))
        return Conv5(partial(warp, size=model.pool_size), whole, network.channels)
    scale, cells = 1 / trunk.stride, model.pool_size**2
    pool: Any = partial(
        ops.roi_align if model.pooling == "align" else ops.roi_pool, size=model.pool_size, scale=scale
    )
    if model.pooling == "pyramid":
        pool, cells = partial(pyramid_pool, levels=model.pyramid, scale=scale), sum(n * n for n in model.pyramid)
    if model.maxout:
        if len(model.maxout) < 2 or sorted(set(model.maxout)) != list(model.maxout) or model.maxout[-1] != 1:
            raise UserError(f"model.maxout must ascend and end with 1, as 0.5 1, not {model.maxout}.")
        pool = MaxoutPool(pool)
    if model.body == "conv5":
        return Conv5(pool, cast(nn.Sequential, rest), network.channels)
    return Layers(pool, trunk.channels, cells, convs=model.convs, fcs=model.fcs, dropout=model.dropout)


def build_detector(config: DetConfig, num_classes: int) -> FasterRCNN:
    """The network that a config describes, with fresh weights."""
    model, rpn, roi, test = config.model, config.rpn, config.roi, config.test
    network = build_network(model)
    freeze(network.trunk, model.freeze)
    body = build_body(model, network)
    trunk = Pixels() if model.pooling == "warp" else network.trunk
    anchors = base_anchors(model.anchor_scales, model.anchor_ratios)
    propose_with = partial(propose, nms_iou=rpn.nms_iou, min_size=rpn.min_size)
    detector = FasterRCNN(
        pixels=PixelNorm(network.style),
        trunk=trunk,
        rpn=RPN(trunk.channels, model.rpn_channels, len(anchors)) if model.proposals == "rpn" else None,
        head=RoIHead(body, num_classes, model.context),
        anchors=anchors,
        grid_anchors=partial(grid_anchors, stride=trunk.stride, offset=ANCHOR_OFFSETS[model.anchor_center]),
        label_anchors=partial(
            label_anchors,
            batch=rpn.batch,
            foreground_fraction=rpn.foreground_fraction,
            foreground_iou=rpn.foreground_iou,
            background_iou=rpn.background_iou,
            cross_boundary=rpn.cross_boundary,
        ),
        propose=partial(propose_with, before_nms=rpn.before_nms, after_nms=rpn.after_nms),
        propose_for_test=partial(propose_with, before_nms=test.before_nms, after_nms=test.after_nms),
        sample_rois=partial(
            sample_rois,
            batch=EVERY_REGION if roi.mining else roi.batch,
            foreground_fraction=1 if roi.mining else roi.foreground_fraction,
            foreground_iou=roi.foreground_iou,
            background_iou=roi.background_iou,
            box_stds=roi.box_stds,
        ),
        rpn_loss=partial(rpn_loss, batch=rpn.batch, beta=rpn.beta, box_weight=rpn.box_weight),
        head_loss=partial(head_loss, batch=roi.batch, beta=roi.beta),
        mine=partial(mine, batch=roi.batch, beta=roi.beta, nms_iou=rpn.nms_iou) if roi.mining else None,
        predict=partial(predict, box_stds=roi.box_stds),
        select=partial(
            select,
            min_score=test.min_score,
            nms_iou=test.nms_iou,
            max_detections=test.max_detections,
            vote_iou=test.vote_iou,
            soft_nms=test.soft_nms,
        ),
        factors=model.maxout or (1.0,),
        learn=config.learn,
    )
    # What has no loss has no gradient either, which processes that train together would wait for.
    for part, others in ((detector.rpn, "head"), (detector.head, "rpn")):
        if part is not None:
            part.requires_grad_(config.learn != others)
    return detector
