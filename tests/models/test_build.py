"""Detectors of every kind that a config can describe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision

from resdet.config import DetConfig, ModelConfig
from resdet.engine.runtime import Runtime
from resdet.inference.optimize import OptimizedRCNN
from resdet.models.backbones.vgg import VGG16, VGG16Backbone
from resdet.models.build import build_detector
from resdet.models.poolers import warp
from resdet.types import Target

ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
GIVEN = {"proposals": "given"}
LAYERS = {"box_head": "conv_fc", "fc_dims": (24, 16)}
PYRAMID = {**LAYERS, "features": "fpn", "fpn_channels": 32, "pooling": "align"}
PYRAMID |= {"anchor_scales": (8, 16, 32, 64, 128)}
KINDS = {
    "plain": {"backbone": "plain"},
    "preact": {"backbone": "preact"},
    "vgg16": {"backbone": "vgg16", **LAYERS},
    "zf": {"backbone": "zf", "pool_size": 6, **LAYERS},
    "noc": {**LAYERS, "conv_dims": (16, 8)},
    "context": {"context": True},
    "maxout": {"maxout": (0.5, 0.75, 1.0)},
    "noc without fc": {"box_head": "conv_fc", "fc_dims": (), "conv_dims": (8,)},
    "noc maxout": {**LAYERS, "maxout": (0.5, 1.0), "conv_dims": (16, 8)},
    "timm": {"backbone": "timm", "timm": "resnet10t", "norm": "sync_batch", "pool_size": 6},
    "sppnet": {**GIVEN, **LAYERS, "pooling": "pyramid", "freeze": ("conv1", "conv2_x", "conv3_x", "conv4_x")},
    "rcnn": {**GIVEN, "pooling": "warp", "pool_size": 32},
    "fast": GIVEN,
    "fpn": PYRAMID,
    "fpn in bn": {**PYRAMID, "norm": "batch", "head_norm": "sync_batch", "conv_dims": (8, 8), "rpn_depth": 2},
    "fpn pool": {**PYRAMID, "pooling": "pool", "backbone": "plain", "context": True},
    "fpn given": {**PYRAMID, **GIVEN},
    "dc5": {**LAYERS, "features": "dc5", "pooling": "align_v2"},
    "resnext": {"depth": 50, "norm": "batch", "groups": 32, "width_per_group": 4},
}


def make(kind, train_only=""):
    """A small one."""
    torch.manual_seed(0)
    config = DetConfig(train_only=train_only)
    model = replace(config.model, depth=18, norm="group", freeze=(), pool_size=4, anchor_scales=(16, 32))
    model = replace(model, rpn_channels=32, **KINDS.get(kind, {}))
    test = replace(config.test, pre_nms_topk=100, post_nms_topk=20, min_score=0)
    rpn, roi = (
        replace(config.rpn, cross_boundary=True, post_nms_topk=30),
        replace(config.roi, batch_size_per_image=8),
    )
    network = build_detector(replace(config, model=model, test=test, rpn=rpn, roi=roi), 3)
    torch.nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.3)
    return network.to(memory_format=torch.channels_last)


@pytest.fixture
def batch(random_boxes):
    """Images, sizes, targets, and proposals where a kind is given them."""
    images, sizes = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8), torch.tensor([[64, 96], [60, 80]])
    targets = [
        Target(random_boxes(3, 60, 80, 12), torch.tensor([0, 1, 2]), torch.zeros(3).bool()) for _ in range(2)
    ]
    proposals = [random_boxes(12, 60, 80, 12), random_boxes(9, 60, 80, 12)]
    return images, sizes, targets, proposals


def given(kind, proposals):
    return proposals if KINDS.get(kind, {}).get("proposals") == "given" else None


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns(kind, batch):
    network = make(kind)
    images, sizes, targets, proposals = batch
    losses = network(images, sizes, targets, given(kind, proposals))
    assert losses.loss.isfinite() and losses.roi_cls > 0
    losses.loss.backward()
    without = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert (losses.rpn_cls == 0) == (network.rpn is None)
    backbone = network.classifier_parts()["backbone"]
    frozen = {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == set(KINDS[kind].get("freeze", ()))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"maxout": (1.0,)}, ("model.maxout", "ascend")),
        ({"maxout": (1.0, 0.5)}, ("model.maxout", "ascend")),
        ({"backbone": "vgg16"}, ("vgg16", "--model.box-head conv_fc")),
        ({"backbone": "zf", "pooling": "warp", **GIVEN}, ("zf", "--model.box-head conv_fc")),
        ({"pooling": "warp"}, ("--model.proposals given",)),
        ({"pooling": "pyramid"}, ("pyramid", "--model.box-head conv_fc")),
        ({"pooling": "pyramid", **LAYERS, "conv_dims": (8,)}, ("pyramid", "without conv_dims")),
        ({"freeze": ("conv9",)}, ("'conv9'", "conv4_x")),
    ],
)
def test_settings_that_contradict_each_other(settings, words, refuses):
    config = DetConfig(model=ModelConfig(**{"depth": 18, "freeze": (), **settings}))
    with refuses(*words):
        build_detector(config, 3)


def test_a_frozen_stage_keeps_its_statistics(batch):
    """Also of norms that are trained elsewhere: the steps of alternating training share what they freeze."""
    config = DetConfig(model=ModelConfig(depth=18, norm="sync_batch", freeze=("conv1", "conv2_x"), rpn_channels=8))
    network = build_detector(config, 3).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers() if "running" in name}
    network(*batch[:3])
    frozen = ("backbone.conv1.", "backbone.conv2_x.")
    for name, buffer in network.named_buffers():
        if "running" in name:
            assert torch.equal(buffer, before[name]) == name.startswith(frozen), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_one_finds_the_same(kind, batch):
    network = make(kind).eval()
    images, sizes, _, proposals = batch
    with torch.no_grad():
        expected = network(images, sizes, None, given(kind, proposals))
    found = OptimizedRCNN(network, ALONE)(images, sizes, None, given(kind, proposals))
    assert sum(len(detections.scores) for detections in expected) > 20
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(a.boxes, b.boxes, rtol=1e-3, atol=1e-2)


def test_an_rpn_learns_beside_given_proposals(batch):
    """Where all is to be learnt; a head that learns alone does not ask it."""
    together = make("resnet")(*batch)
    assert together.rpn_cls > 0 and together.roi_cls > 0
    assert make("resnet", "roi_heads")(*batch).rpn_cls == 0


@pytest.mark.parametrize(
    ("train_only", "zero", "still"), [("rpn", "roi", "roi_heads."), ("roi_heads", "rpn", "rpn.")]
)
def test_the_steps_of_alternating_training_learn_their_part(train_only, zero, still, batch):
    network = make("resnet", train_only)
    losses = network(*batch[:3])
    for name, term in losses._asdict().items():
        assert (term == 0) == name.startswith(zero), name
    losses.loss.backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith(still), name


def test_one_region_of_rcnn_is_one_image_through_the_network(batch):
    """The head's vector is what the whole ResNet makes of the warped crop."""
    network = make("rcnn").eval()
    images, sizes, _, proposals = batch
    pixels = network.features(images, sizes)
    rois, index = torch.cat(proposals), torch.tensor([0] * 12 + [1] * 9)
    with torch.no_grad():
        heads = network.roi_heads
        vectors = heads.box_head(heads.pooler, pixels, rois, index)
        crop = warp(pixels.maps[0], rois[15:16], index[15:16], size=heads.pooler.size)
        whole = heads.box_head.conv5_x(heads.box_head.backbone(crop)[0]).mean((2, 3))
        torch.testing.assert_close(vectors[15], whole[0], rtol=1e-4, atol=1e-5)


def test_vgg16_is_torchvisions():
    backbone, theirs = VGG16Backbone(), torchvision.models.vgg16(weights=None).features
    ours = [f"conv{stage}_{n}" for stage, widths in enumerate(VGG16, 1) for n in range(1, len(widths) + 1)]
    convs = [module for module in theirs if isinstance(module, torch.nn.Conv2d)]
    for name, conv in zip(ours, convs, strict=True):
        getattr(backbone, name).load_state_dict(conv.state_dict())
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), [theirs[:-1](images)])
    assert backbone(images)[0].shape == (1, backbone.channels, 4, 5)
