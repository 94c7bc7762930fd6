"""From a config to a detector: the only code of the model that reads one."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from resdet import ops
from resdet.config import DetConfig, ModelConfig
from resdet.detection.anchors import ANCHOR_OFFSETS, base_anchors, grid_anchors
from resdet.detection.bodies import Conv5, Layers, pyramid_pool, warp
from resdet.detection.faster_rcnn import FasterRCNN, mine
from resdet.detection.losses import head_loss, rpn_loss
from resdet.detection.roi_head import RoIHead
from resdet.detection.rpn import RPN, propose
from resdet.detection.select import predict, select
from resdet.detection.targets import label_anchors, sample_rois
from resdet.nn.norm import NORMS, freeze
from resdet.nn.pixels import STYLES, PixelNorm
from resdet.nn.resnet import ResNet
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


def build_parts(model: ModelConfig) -> tuple[Any, nn.Module]:
    """The trunk, and the body of the head."""
    if model.trunk in RESNETS:
        resnet = ResNet(
            model.depth,
            norm=NORMS[model.norm],
            stride_in_1x1=STYLES[model.style].stride_in_1x1,
            conv5_stride=model.conv5_stride,
            **RESNETS[model.trunk],
        )
        trunk: Any = resnet.trunk
    else:
        trunk = {"vgg16": VGG16Trunk, "zf": ZFTrunk}[model.trunk]()
    freeze(trunk, model.freeze)
    if model.pooling == "warp":
        whole = nn.Sequential(trunk, resnet.conv5_x)
        return Pixels(), Conv5(partial(warp, size=model.pool_size), whole, resnet.channels)
    scale, cells = 1 / trunk.stride, model.pool_size**2
    pool: Any = partial(
        ops.roi_align if model.pooling == "align" else ops.roi_pool, size=model.pool_size, scale=scale
    )
    if model.pooling == "pyramid":
        pool, cells = partial(pyramid_pool, levels=model.pyramid, scale=scale), sum(n * n for n in model.pyramid)
    if model.body == "conv5":
        return trunk, Conv5(pool, resnet.conv5_x, resnet.channels)
    body = Layers(pool, trunk.channels, cells, convs=model.convs, fcs=model.fcs, dropout=model.dropout)
    return trunk, body


def build_detector(config: DetConfig, num_classes: int) -> FasterRCNN:
    """The network that a config describes, with fresh weights."""
    model, rpn, roi, test = config.model, config.rpn, config.roi, config.test
    trunk, body = build_parts(model)
    anchors = base_anchors(model.anchor_scales, model.anchor_ratios)
    propose_with = partial(propose, nms_iou=rpn.nms_iou, min_size=rpn.min_size)
    detector = FasterRCNN(
        pixels=PixelNorm(STYLES[model.style]),
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
        rpn_loss=partial(rpn_loss, batch=rpn.batch, beta=rpn.beta),
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
        learn=config.learn,
    )
    # What has no loss has no gradient either, which processes that train together would wait for.
    for part, others in ((detector.rpn, "head"), (detector.head, "rpn")):
        if part is not None:
            part.requires_grad_(config.learn != others)
    return detector
