"""Weights files of other toolkits where a detector is expected: read as they are, or called what they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_detectron2 import tensors_without_content
from torch import Tensor
from torchvision.models import detection as torchvision_detection
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

from resdet.config import VOC_CLASSES, DetConfig, detectron2_fpn, torchvision_fpn
from resdet.inference.detector import Detector
from resdet.models.build import build_detector
from resdet.models.weights.initial import start_detector
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import ModelFile, save_model

Refuses = Callable[..., Any]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """torchvision's detector of VOC's classes on a ResNet-18."""
    torch.manual_seed(1)
    body = _resnet_fpn_extractor(resnet18(), 5)
    return FasterRCNN(body, len(VOC_CLASSES) + 1).state_dict()


WRAPPED = {
    "none": lambda state: state,
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 25},
    "module.": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "_orig_mod.": lambda state: {"state_dict": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}},
    "old names": lambda state: {
        re.sub(r"(_blocks\.\d|head\.conv)(\.0)+\.", r"\1.", name): tensor for name, tensor in state.items()
    },
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_torchvision_s_file_is_read_as_it_is(state: dict[str, Tensor], wrapped: str, tmp_path: Path) -> None:
    torch.save(WRAPPED[wrapped](state), tmp_path / "any.pth")
    file = load_model(tmp_path / "any.pth")
    assert file.classes == VOC_CLASSES and file.config.model == torchvision_fpn("v1", VOC_CLASSES, 18).model
    name = "backbone.outputs.1.conv.weight"
    assert torch.equal(file.weights[name], state["backbone.fpn.layer_blocks.1.0.weight"])
    found = Detector.load(tmp_path / "any.pth", device="cpu")(torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert found.boxes.shape[1] == 4


def test_detectron2_s_file_is_read_as_it_is(tmp_path: Path) -> None:
    theirs = {name: tensor.clone() for name, tensor in tensors_without_content("FPN", 50, 20).items()}
    torch.save({"model": theirs, "iteration": 89_999}, tmp_path / "model_final.pth")
    file = load_model(tmp_path / "model_final.pth")
    assert file.config == replace(detectron2_fpn(50, VOC_CLASSES), name="model_final")


def test_names_of_other_classes_are_asked_for(tmp_path: Path, refuses: Refuses) -> None:
    body = _resnet_fpn_extractor(resnet18(), 5)
    torch.save(FasterRCNN(body, 4).state_dict(), tmp_path / "mine.pth")
    with refuses(tmp_path / "mine.pth", "3 classes", "--classes", "convert-weights"):
        load_model(tmp_path / "mine.pth")


def test_training_starts_from_another_toolkit_s_detector(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "theirs.pth")
    config = torchvision_fpn("v1", ("cat", "dog"), 18)
    model = build_detector(config, 2)
    said = start_detector(model, replace(config, init_weights=str(tmp_path / "theirs.pth")), ("cat", "dog"))
    assert "different classes" in said and "box_predictor" in said
    assert torch.equal(model.backbone.bottom_up.conv1.conv.weight, state["backbone.body.conv1.weight"])
    assert torch.equal(model.rpn.head.anchor_deltas.bias, state["rpn.head.bbox_pred.bias"])


# What is none


def names_of(build: Callable[..., Any]) -> dict[str, Tensor]:
    """Names and shapes of a network of torchvision, without its content."""
    with torch.device("meta"):
        network = build(weights=None, weights_backbone=None)
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in network.state_dict().items()}


OTHERS: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "maskrcnn": (lambda: names_of(torchvision_detection.maskrcnn_resnet50_fpn), "a Mask R-CNN"),
    "keypointrcnn": (lambda: names_of(torchvision_detection.keypointrcnn_resnet50_fpn), "a Keypoint R-CNN"),
    "retinanet": (lambda: names_of(torchvision_detection.retinanet_resnet50_fpn), "a RetinaNet"),
    "ssd": (lambda: names_of(torchvision_detection.ssd300_vgg16), "a RetinaNet, an FCOS or an SSD"),
    "detectron2's mask": (
        lambda: tensors_without_content("FPN", 50, 20) | {"roi_heads.mask_head.deconv.weight": torch.zeros(1)},
        "a Mask R-CNN",
    ),
    "detectron2's retinanet": (lambda: {"head.cls_subnet.0.weight": torch.zeros(1)}, "a RetinaNet"),
    "mmdetection": (lambda: {"bbox_head.conv_cls.weight": torch.zeros(1)}, "a detector of MMDetection"),
    "yolo": (lambda: {"model.22.cv2.0.0.conv.weight": torch.zeros(1)}, "a YOLO"),
    "detr": (lambda: {"transformer.encoder.layers.0.linear1.weight": torch.zeros(1)}, "a DETR"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_detector_of_another_kind_is_called_what_it_is(kind: str, tmp_path: Path, refuses: Refuses) -> None:
    make, what = OTHERS[kind]
    torch.save(make(), tmp_path / "file.pth")
    with refuses(tmp_path / "file.pth", f"is {what}", "Faster R-CNN"):
        load_model(tmp_path / "file.pth")
    config = torchvision_fpn("v1", VOC_CLASSES, 18)
    model = build_detector(config, len(VOC_CLASSES))
    with refuses(tmp_path / "file.pth", f"is {what}"):
        start_detector(model, replace(config, init_weights=str(tmp_path / "file.pth")), VOC_CLASSES)


def test_missing_and_extra_names_are_listed(state: dict[str, Tensor], tmp_path: Path, refuses: Refuses) -> None:
    damaged = {name: tensor for name, tensor in state.items() if name != "rpn.head.cls_logits.bias"}
    torch.save(damaged | {"roi_heads.extra.weight": torch.zeros(1)}, tmp_path / "file.pth")
    with refuses(tmp_path / "file.pth", "missing rpn.head.cls_logits.bias", "unexpected roi_heads.extra.weight"):
        load_model(tmp_path / "file.pth")


# There and back by the command


def test_the_command_converts_both_ways(state: dict[str, Tensor], tmp_path: Path, cli: Callable[..., Any]) -> None:
    theirs, ours, again = tmp_path / "theirs.pth", tmp_path / "ours.safetensors", tmp_path / "again.pth"
    torch.save(state, theirs)
    status, out, err = cli("convert-weights", theirs, ours)
    assert (status, err) == (0, "")
    for fact in ("torchvision's Faster R-CNN, ResNet-18 FPN, 20 classes", "RGB", "3×3", "--model.norm-eps 0"):
        assert fact in out
    file = load_model(ours)
    fifty = replace(file.config, model=replace(file.config.model, depth=50))
    status, _, err = cli("convert-weights", ours, again, "--to", "torchvision")
    assert status == 1 and "model.depth 18" in err
    network = build_detector(fifty, 20)
    save_model(ours, ModelFile(network.state_dict(), VOC_CLASSES, fifty, 7))
    status, out, err = cli("convert-weights", ours, again, "--to", "torchvision")
    assert (status, err) == (0, "")
    call = next(line.strip() for line in out.splitlines() if "fasterrcnn_resnet50_fpn(" in line)
    import torchvision  # noqa: F401  (of the call)

    detector = eval(call)
    missing, unexpected = detector.load_state_dict(torch.load(again, weights_only=True), strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)


def test_a_network_that_torchvision_cannot_hold(tmp_path: Path, cli: Callable[..., Any]) -> None:
    save_model(tmp_path / "a.safetensors", ModelFile({"a": torch.zeros(1)}, ("cat",), DetConfig(), 0))
    status, _, err = cli("convert-weights", tmp_path / "a.safetensors", tmp_path / "b.pth", "--to", "torchvision")
    assert status == 1 and "model.features c4" in err and "fpn" in err
    status, _, err = cli("convert-weights", tmp_path / "a.safetensors", tmp_path / "b.pkl", "--to", "torchvision")
    assert status == 1 and "must end in .pth" in err
