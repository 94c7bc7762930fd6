"""Small detectors with random weights, and images for them."""

from __future__ import annotations

from dataclasses import replace

import torch

from resdet.config import DetConfig
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN

KINDS = [  # depth, style, pooling, pool_size, conv5_stride, norm
    (18, "torchvision", "pool", 4, 1, "frozen"),
    (18, "torchvision", "align", 4, 2, "group"),
    (34, "torchvision", "align", 4, 1, "sync_batch"),
    (50, "torchvision", "pool", 4, 1, "frozen"),
    (50, "torchvision", "align", 6, 2, "frozen"),
    (50, "torchvision", "align_v2", 4, 1, "group"),
    (50, "msra", "pool", 7, 2, "frozen"),
    (50, "msra", "align_v2", 6, 2, "sync_batch"),
]
PYRAMIDS = [
    {},
    {"norm": "batch", "head_norm": "batch", "conv_dims": (32, 32), "rpn_depth": 2, "style": "msra"},
    {"norm": "group", "head_norm": "group", "pooling": "align_v2", "sampling_ratio": 2},
    {"depth": 18, "pooling": "pool", "backbone": "plain"},
    {"depth": 18, "backbone": "preact"},
    {"backbone": "preact", "style": "msra", "norm": "sync_batch"},
    {"groups": 32, "width_per_group": 8, "style": "caffe2"},
    {"features": "dc5", "style": "msra"},
    {"features": "dc5", "depth": 34, "norm": "sync_batch"},
]


def plain(depth, style, pooling, pool_size, conv5_stride, norm) -> FasterRCNN:
    """A detector with random weights whose normalisations do something."""
    torch.manual_seed(0)
    config = DetConfig()
    model = replace(config.model, depth=depth, style=style, pooling=pooling, pool_size=pool_size, norm=norm)
    model = replace(model, conv5_stride=conv5_stride, rpn_channels=32, anchor_scales=(16, 32, 64))
    test = replace(config.test, pre_nms_topk=200, post_nms_topk=40)
    network = build_detector(replace(config, model=model, test=test), 3)
    return lively(network)


def plain_pyramid(**model) -> FasterRCNN:
    """A detector on a feature pyramid, or with `features` "dc5", with random weights."""
    torch.manual_seed(0)
    config = DetConfig()
    settings = {
        "depth": 50,
        "features": "fpn",
        "fpn_channels": 64,
        "anchor_scales": (16, 32, 64, 128, 256),
        "rpn_channels": 64,
        "pooling": "align",
        "pool_size": 4,
        "box_head": "conv_fc",
        "fc_dims": (64,),
        "dropout": 0.0,
    }
    test = replace(config.test, pre_nms_topk=100, post_nms_topk=40)
    network = build_detector(replace(config, model=replace(config.model, **settings | model), test=test), 3)
    return lively(network)


def network(kind) -> FasterRCNN:
    """One of `KINDS` or `PYRAMIDS`."""
    return plain_pyramid(**kind) if isinstance(kind, dict) else plain(*kind)


def lively(network: FasterRCNN) -> FasterRCNN:
    """The same network, whose normalisations do something, and which finds something."""
    for module in network.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.data.uniform_(0.3, 0.7)
            module.bias.data.normal_(0, 0.1)
    torch.nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.3)
    torch.nn.init.normal_(network.rpn.head.objectness_logits.weight, std=0.1)
    return network.eval().to(memory_format=torch.channels_last)


def pictures():
    """Two images in one batch, one of them padded."""
    images = torch.randint(0, 256, (2, 3, 101, 131), dtype=torch.uint8)
    images[1, :, 90:] = 0
    return images, torch.tensor([[101, 131], [90, 131]])
