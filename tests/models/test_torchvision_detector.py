"""torchvision's Faster R-CNNs, converted: features, proposals, detections, losses and gradients equal its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d

from resdet.config import COCO_CLASSES, VOC_CLASSES
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.weights.strict import load_strictly
from resdet.models.weights.torchvision_detector import (
    LOGITS,
    from_torchvision_detector,
    to_torchvision_detector,
)
from resdet.types import Detections, Target

CLASSES = ("cat", "dog", "bird")
SIZES = [(150, 171), (97, 200), (128, 128)]
EVERYTHING = 100_000
VERSIONS = ["v1", "v2"]


def theirs(version: str, frozen: bool, classes: int) -> TorchvisionFasterRCNN:
    """What fasterrcnn_resnet50_fpn(_v2) of torchvision builds, for images that need no resize."""
    norm = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    body = resnet50(weights=None, norm_layer=norm)
    more: dict[str, Any] = {}
    if version == "v2":
        backbone = _resnet_fpn_extractor(body, 5, norm_layer=nn.BatchNorm2d)
        more = {
            "rpn_head": RPNHead(256, 3, conv_depth=2),
            "box_head": FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024], norm_layer=nn.BatchNorm2d),
        }
    else:
        backbone = _resnet_fpn_extractor(body, 5)
    network = TorchvisionFasterRCNN(backbone, classes + 1, **more)
    network.transform.resize = lambda image, target=None: (image, target)
    return network


def pictures() -> list[Tensor]:
    """Smooth random images of several sizes, uint8."""
    made = []
    for height, width in SIZES:
        coarse = torch.rand(1, 3, height // 16 + 2, width // 16 + 2)
        made.append((F.interpolate(coarse, (height, width), mode="bilinear")[0] * 255).to(torch.uint8))
    return made


def batch(images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The images as resdet takes them."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    padded = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for canvas, image in zip(padded, images, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    return padded, torch.tensor([image.shape[1:] for image in images])


@torch.no_grad()
def calibrate(network: TorchvisionFasterRCNN) -> None:
    """Give the random network statistics of its own, and scores and boxes of all kinds."""
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            small = 0.2 if name.endswith("bn3") else 1.0  # or rounding errors would grow from unit to unit
            nn.init.uniform_(module.weight, small / 2, small)
            nn.init.normal_(module.bias, std=0.1)
            module.register_forward_pre_hook(measure)
    scale = {"rpn.head.cls_logits": 0.5, "rpn.head.bbox_pred": 0.1}
    scale |= {"roi_heads.box_predictor.cls_score": 2.0, "roi_heads.box_predictor.bbox_pred": 1.0}
    for name, std in scale.items():
        layer = network.get_submodule(name)
        nn.init.normal_(layer.weight)
        layer.register_forward_hook(partial(spread, std))
    network.eval()([image / 255 for image in pictures()])
    for module in network.modules():
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()


def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
    """Take the statistics of an input for the running ones."""
    norm.running_var.copy_(inputs[0].var((0, 2, 3)) + 1e-3)
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))


def spread(std: float, layer: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
    """Scale the weights so that the next outputs spread as far as they should, around 0."""
    channels = outputs.transpose(0, 1).flatten(1)
    factor = std / channels.std(1).mean()
    layer.bias.copy_((layer.bias - channels.mean(1)) * factor)
    layer.weight.mul_(factor)


def ours(network: TorchvisionFasterRCNN, classes: tuple[str, ...] = CLASSES, **changes: Any) -> FasterRCNN:
    """resdet's detector with the same weights; `changes` are of its config."""
    weights, config = from_torchvision_detector(network.state_dict(), classes, "theirs")
    for part, values in changes.items():
        config = replace(config, **{part: replace(getattr(config, part), **values)})
    model = build_detector(config, len(classes))
    load_strictly(model, weights, "theirs")
    return model


@pytest.fixture(scope="module", params=VERSIONS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[TorchvisionFasterRCNN, FasterRCNN]]:
    """A detector of torchvision and the converted one, in evaluation."""
    torch.manual_seed(3)
    network = theirs(request.param, request.param == "v1", len(CLASSES))
    calibrate(network)
    yield network.eval(), ours(network).eval()


@torch.no_grad()
def test_features_and_proposals_and_detections(pair: tuple[TorchvisionFasterRCNN, FasterRCNN]) -> None:
    network, model = pair
    seen: dict[str, Any] = {}
    network.backbone.register_forward_hook(lambda _, __, out: seen.update(maps=list(out.values())))
    network.rpn.register_forward_hook(lambda _, __, out: seen.update(proposals=out[0]))
    images = pictures()
    expected = network([image / 255 for image in images])
    pixels, sizes = batch(images)
    features = model.features(pixels, sizes)
    for own, wanted in zip(features.maps, seen["maps"], strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-3)
    proposals = model.propose(model.score_anchors(features), sizes)
    for own, wanted in zip(proposals, seen["proposals"], strict=True):
        # In the order of the logits, of which torchvision compares the sigmoids, more of which are equal.
        distance = torch.cdist(own, wanted, p=torch.inf)
        assert len(own) == len(wanted) > 100
        assert (distance.amin(0) < 0.01).float().mean() > 0.995 and (distance.amin(1) < 0.01).float().mean() > 0.995
    for own, wanted in zip(model(pixels, sizes), expected, strict=True):
        assert_same_detections(own, wanted)


def assert_same_detections(own: Detections, wanted: dict[str, Tensor]) -> None:
    """Each one there is here, but for a few at the end of the hundred, where scores are almost equal."""
    assert len(own.scores) == len(wanted["scores"]) > 10 and own.scores.std() > 0.01
    assert len(own.labels.unique()) > 1
    same = own.labels[:, None] == wanted["labels"] - 1
    same &= (own.scores[:, None] - wanted["scores"]).abs() < 1e-4
    same &= torch.cdist(own.boxes, wanted["boxes"], p=torch.inf) < 0.01
    assert same.any(0).sum() >= len(own.scores) - 2 and same.any(1).sum() >= len(own.scores) - 2


TARGETS = [
    ([[20.0, 30, 100, 120], [90, 10, 170, 70], [5, 5, 30, 28]], [0, 2, 1]),
    ([[40.0, 10, 150, 90]], [1]),
    ([[3.0, 70, 120, 127], [60, 20, 90, 60]], [2, 0]),
]


@pytest.mark.parametrize("version", VERSIONS)
def test_losses_and_gradients(version: str) -> None:
    """With mini-batches of everything there is, so that nothing is drawn.

    The one difference: torchvision divides by what was sampled, we by the nominal mini-batch.
    """
    torch.manual_seed(4)
    network = theirs(version, version == "v1", len(CLASSES))
    calibrate(network)
    sampling = {"batch_size_per_image": EVERYTHING, "foreground_fraction": 1.0}
    limits = {"pre_nms_topk": 40, "post_nms_topk": 30}
    model = ours(network, rpn=sampling | limits, roi=sampling, model={"freeze": ()}).train()
    network.train()
    network.rpn._pre_nms_top_n["training"], network.rpn._post_nms_top_n["training"] = limits.values()
    for sampler in (network.rpn.fg_bg_sampler, network.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image, sampler.positive_fraction = EVERYTHING, 1.0
    regions: list[int] = []
    network.roi_heads.box_predictor.register_forward_hook(lambda _, inputs, __: regions.append(len(inputs[0])))
    anchors: list[int] = []
    label = network.rpn.assign_targets_to_anchors
    network.rpn.assign_targets_to_anchors = lambda *arguments: counted(anchors, label(*arguments))

    images = pictures()
    theirs_targets = [{"boxes": torch.tensor(b), "labels": torch.tensor(n) + 1} for b, n in TARGETS]
    expected = network([image / 255 for image in images], theirs_targets)
    nominal = EVERYTHING * len(images)
    shares = (anchors[0] / nominal, anchors[0] / nominal, regions[0] / nominal, regions[0] / nominal)
    names = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    wanted = [expected[name] * share for name, share in zip(names, shares, strict=True)]
    targets = [Target(torch.tensor(b), torch.tensor(n), torch.zeros(len(n), dtype=torch.bool)) for b, n in TARGETS]
    losses = model(*batch(images), targets)
    torch.testing.assert_close(torch.stack(losses), torch.stack(wanted), rtol=1e-4, atol=0)

    sum(losses).backward()
    sum(wanted).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    own = {name: parameter.grad for name, parameter in model.named_parameters()}
    renamed, _ = from_torchvision_detector(
        {name: gradients.get(name, torch.zeros_like(tensor)) for name, tensor in network.state_dict().items()},
        CLASSES,
        "gradients",
    )
    assert own and all(gradient is not None for gradient in own.values())
    for name, gradient in own.items():
        # Rounding turns single ReLUs on or off.
        assert (gradient - renamed[name]).norm() < 0.02 * renamed[name].norm(), name


def counted(anchors: list[int], labeled: tuple[list[Tensor], Any]) -> tuple[list[Tensor], Any]:
    """Note how many anchors are sampled."""
    anchors.append(sum(int((labels >= 0).sum()) for labels in labeled[0]))
    return labeled


# Files


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("classes", [CLASSES, VOC_CLASSES, COCO_CLASSES], ids=len)
def test_there_and_back_is_the_same_to_the_bit(version: str, classes: tuple[str, ...]) -> None:
    network = theirs(version, frozen=version == "v1", classes=90 if classes == COCO_CLASSES else len(classes))
    before = network.state_dict()
    weights, config = from_torchvision_detector(before, () if classes != CLASSES else classes, "theirs")
    assert config.data.classes == classes
    after = to_torchvision_detector(weights, config, classes, "ours")
    again, same = from_torchvision_detector(after, classes, "again")
    assert same == config and again.keys() == weights.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    if classes != COCO_CLASSES:
        boxes = LOGITS.replace("cls_score", "bbox_pred")
        for name, tensor in after.items():
            first = 4 if name in (boxes, boxes.replace("weight", "bias")) else 0  # nobody reads the background's
            assert torch.equal(tensor[first:], before[name][first:]), name
    theirs(
        version, frozen=version == "v1", classes=90 if classes == COCO_CLASSES else len(classes)
    ).load_state_dict(after, strict=version == "v1")
