"""detectron2's weights in and out, against its definitions, written out here on tensors under its names."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor

from resdet.config import COCO_CLASSES, VOC_CLASSES, DetConfig, ModelConfig, detectron2_c4
from resdet.engine.runtime import start
from resdet.inference.detector import restore
from resdet.inference.optimize import OptimizedRCNN
from resdet.models.build import build_detector
from resdet.models.weights.detectron2 import (
    detector_name,
    detectron2_settings,
    from_detectron2_detector,
    to_detectron2_detector,
)
from resdet.models.weights.resdet import ModelFile, load_model, save_model

HEIGHT, WIDTH = 64, 96
PROPOSALS = 20  # so that a test takes seconds; detectron2 has 1000
RPN, BOX = "proposal_generator.rpn_head", "roi_heads.box_predictor"


def layout(depth: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a model file of detectron2's faster_rcnn_R_{depth}_C4."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{part}"] = (outputs,)

    convolution("backbone.stem.conv1", 64, 3, 7)
    blocks = {
        "backbone.res2": 3,
        "backbone.res3": 4,
        "backbone.res4": 23 if depth == 101 else 6,
        "roi_heads.res5": 3,
    }
    inputs, width = 64, 64
    for stage, count in blocks.items():
        for block in range(count):
            if block == 0:
                convolution(f"{stage}.0.shortcut", 4 * width, inputs, 1)
            convolution(f"{stage}.{block}.conv1", width, inputs, 1)
            convolution(f"{stage}.{block}.conv2", width, width, 3)
            convolution(f"{stage}.{block}.conv3", 4 * width, width, 1)
            inputs = 4 * width
        width *= 2
    for name, outputs, kernel in (("conv", 1024, 3), ("objectness_logits", 15, 1), ("anchor_deltas", 60, 1)):
        shapes[f"{RPN}.{name}.weight"] = (outputs, 1024, kernel, kernel)
        shapes[f"{RPN}.{name}.bias"] = (outputs,)
    for name, outputs in (("cls_score", classes + 1), ("bbox_pred", 4 * classes)):
        shapes[f"{BOX}.{name}.weight"] = (outputs, 2048)
        shapes[f"{BOX}.{name}.bias"] = (outputs,)
    return shapes


def random_state(depth: int, classes: int) -> dict[str, Tensor]:
    """Weights with which activations stay near 1, and boxes and scores are of all kinds."""
    state = {}
    for name, shape in layout(depth, classes).items():
        if ".norm." in name:
            low, high = {
                "weight": (0.2, 0.4) if ".conv3." in name else (0.8, 1.2),
                "bias": (-0.2, 0.2),
                "running_mean": (-0.2, 0.2),
                "running_var": (0.5, 1.5),
            }[name.rsplit(".", 1)[1]]
            state[name] = torch.empty(shape).uniform_(low, high)
        else:
            spread = math.sqrt(2 / math.prod(shape[1:])) if name.endswith("weight") else 0.1
            state[name] = torch.randn(shape) * spread
    state["backbone.stem.conv1.weight"] /= 60  # pixels are in the hundreds
    state[f"{RPN}.anchor_deltas.weight"] *= 0.3
    state[f"{BOX}.cls_score.weight"] *= 0.1
    state[f"{BOX}.bbox_pred.weight"] *= 0.5
    return state


def tensors_without_content(depth: int, classes: int) -> dict[str, Tensor]:
    return {name: torch.zeros(1).expand(shape) for name, shape in layout(depth, classes).items()}


# detectron2's detector, as its files modeling/… define it


def frozen_convolution(state: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    y = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
    gamma, beta, mean, var = (
        state[f"{name}.norm.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (y - mean) / (var + 1e-5).sqrt() * gamma + beta


def stage(state: dict[str, Tensor], name: str, x: Tensor, first_stride: int) -> Tensor:
    block = 0
    while f"{name}.{block}.conv1.weight" in state:
        stride = first_stride if block == 0 else 1
        y = frozen_convolution(state, f"{name}.{block}.conv1", x, stride).clamp(min=0)
        y = frozen_convolution(state, f"{name}.{block}.conv2", y).clamp(min=0)
        y = frozen_convolution(state, f"{name}.{block}.conv3", y)
        shortcut = frozen_convolution(state, f"{name}.0.shortcut", x, stride) if block == 0 else x
        x = (y + shortcut).clamp(min=0)
        block += 1
    return x


def backbone(state: dict[str, Tensor], rgb: Tensor) -> Tensor:
    """(3, H, W) pixels → (1, 1024, H/16, W/16)"""
    bgr = rgb.flip(0).float() - torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    x = frozen_convolution(state, "backbone.stem.conv1", bgr[None], 2).clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1)
    for number, stride in ((2, 1), (3, 2), (4, 2)):
        x = stage(state, f"backbone.res{number}", x, stride)
    return x


def apply_deltas(box: list[float], deltas: list[float], weights: tuple[int, ...]) -> list[float]:
    """The box moved and scaled by deltas, and clipped to the image."""
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas, weights, strict=True))
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + width / 2 + dx * width, box[1] + height / 2 + dy * height
    limit = math.log(1000 / 16)
    width, height = width * math.exp(min(dw, limit)), height * math.exp(min(dh, limit))
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return [min(max(corner, 0.0), WIDTH if i % 2 == 0 else HEIGHT) for i, corner in enumerate(corners)]


def find_proposals(state: dict[str, Tensor], features: Tensor) -> Tensor:
    """(P, 4), best first: anchors at the cells' corners, ordered row, column, size, ratio."""
    weights = {name.removeprefix(f"{RPN}."): tensor for name, tensor in state.items() if name.startswith(RPN)}
    hidden = F.conv2d(features, weights["conv.weight"], weights["conv.bias"], padding=1).clamp(min=0)
    logits = F.conv2d(hidden, weights["objectness_logits.weight"], weights["objectness_logits.bias"])[0]
    deltas = F.conv2d(hidden, weights["anchor_deltas.weight"], weights["anchor_deltas.bias"])[0]
    found = []
    for row, column in product(range(features.shape[2]), range(features.shape[3])):
        for index, (size, ratio) in enumerate(product((32, 64, 128, 256, 512), (0.5, 1.0, 2.0))):
            width = math.sqrt(size * size / ratio)
            height = ratio * width
            x, y = column * 16, row * 16
            anchor = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            of_anchor = deltas[4 * index : 4 * index + 4, row, column].tolist()
            box = apply_deltas(anchor, of_anchor, (1, 1, 1, 1))
            if box[2] > box[0] and box[3] > box[1]:
                found.append((logits[index, row, column].item(), box))
    found.sort(key=lambda pair: -pair[0])  # all fit into the 6000 that detectron2 keeps before suppression
    scores, boxes = torch.tensor([score for score, _ in found]), torch.tensor([box for _, box in found])
    return boxes[torchvision.ops.nms(boxes, scores, 0.7)][:PROPOSALS]


def find_objects(
    state: dict[str, Tensor], features: Tensor, proposals: Tensor
) -> list[tuple[float, int, list[float]]]:
    """(score, class, box), best first."""
    pooled = torchvision.ops.roi_align(features, [proposals], (14, 14), 1 / 16, sampling_ratio=0, aligned=True)
    vectors = stage(state, "roi_heads.res5", pooled, 2).mean((2, 3))
    scores = F.linear(vectors, state[f"{BOX}.cls_score.weight"], state[f"{BOX}.cls_score.bias"]).softmax(1)
    deltas = F.linear(vectors, state[f"{BOX}.bbox_pred.weight"], state[f"{BOX}.bbox_pred.bias"])
    found = []
    for label in range(scores.shape[1] - 1):  # the background is last
        of_class = [
            (scores[r, label].item(), label, apply_deltas(box, deltas[r, 4 * label :][:4].tolist(), (10, 10, 5, 5)))
            for r, box in enumerate(proposals.tolist())
            if scores[r, label] > 0.05
        ]
        if of_class:
            boxes = torch.tensor([box for _, _, box in of_class])
            keep = torchvision.ops.nms(boxes, torch.tensor([score for score, _, _ in of_class]), 0.5)
            found += [of_class[index] for index in keep.tolist()]
    best = sorted(found, key=lambda one: -one[0])[:100]
    return [one for one in best if one[2][2] > one[2][0] and one[2][3] > one[2][1]]


# Files


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A detector of VOC's classes."""
    torch.manual_seed(5)
    return random_state(50, 20)


@pytest.fixture(scope="module")
def folder(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Holds theirs.pkl, as detectron2's model zoo has it."""
    folder = tmp_path_factory.mktemp("detectron2")
    extra = {
        "pixel_mean": torch.tensor([103.53, 116.28, 123.675])[:, None, None],
        "pixel_std": torch.ones(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(15, 4),
    }
    arrays = {name: tensor.numpy() for name, tensor in (state | extra).items()}
    (folder / "theirs.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    yield folder
    for file in folder.iterdir():
        file.unlink()


def test_a_converted_detector_finds_what_detectron2_does(
    folder: Path, state: dict[str, Tensor], cli: Callable[..., Any]
) -> None:
    status, out, err = cli("convert-weights", folder / "theirs.pkl", folder / "ours.safetensors")
    assert (status, err) == (0, "")
    for fact in ("ResNet-50 C4", "20 classes", "BGR", "103.53", "1×1", "32, 64, 128", "corner", "1000 proposals"):
        assert fact in out
    file = load_model(folder / "ours.safetensors")
    assert file.classes == VOC_CLASSES and file.config.test.post_nms_topk == 1000
    file = replace(file, config=replace(file.config, test=replace(file.config.test, post_nms_topk=PROPOSALS)))
    model = restore(file, "here")
    image = torch.randint(0, 256, (3, HEIGHT // 8, WIDTH // 8), dtype=torch.uint8)
    image = F.interpolate(image[None], scale_factor=8)[0]
    images, sizes = image[None], torch.tensor([[HEIGHT, WIDTH]])
    with torch.no_grad():
        features = backbone(state, image)
        ours = model.features(images, sizes)
        torch.testing.assert_close(ours.maps, [features], rtol=1e-4, atol=1e-4)
        proposals = find_proposals(state, features)
        (found,) = model.propose(model.score_anchors(ours), sizes)
        assert len(proposals) == PROPOSALS
        torch.testing.assert_close(found, proposals, rtol=1e-4, atol=1e-3)
        objects = find_objects(state, features, proposals)
        assert 5 < len(objects) <= 100 and len({label for _, label, _ in objects}) > 3
        for network in (model, OptimizedRCNN(model, start("cpu", "fp32"))):
            (detections,) = network(images, sizes)
            assert len(detections.boxes) == len(objects)
            for score, label, box in objects:  # whatever the order of scores that rounding makes equal
                same = (detections.labels == label) & ((detections.scores - score).abs() < 1e-4)
                assert ((detections.boxes[same] - torch.tensor(box)).abs().amax(1) < 0.02).sum() == 1


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_there_and_back_is_the_same_to_the_bit(
    folder: Path, state: dict[str, Tensor], suffix: str, cli: Callable[..., Any]
) -> None:
    ours, theirs, again = folder / "ours.safetensors", folder / f"again{suffix}", folder / "again.safetensors"
    if not ours.exists():
        assert cli("convert-weights", folder / "theirs.pkl", ours)[0] == 0
    status, out, _ = cli("convert-weights", ours, theirs, "--to", "detectron2")
    assert status == 0 and 'MODEL.ANCHOR_GENERATOR.OFFSET "0.0"' in out
    if suffix == ".pkl":
        content = pickle.loads(theirs.read_bytes())
        written = {name: torch.from_numpy(array) for name, array in content["model"].items()}
    else:
        content = torch.load(theirs, weights_only=True)
        written = content["model"]
    assert (content["__author__"], content["matching_heuristics"]) == ("resdet", False)
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in state.items())
    assert cli("convert-weights", theirs, again)[0] == 0
    first, second = load_model(ours), load_model(again)
    assert first.weights.keys() == second.weights.keys() and first.classes == second.classes
    assert all(torch.equal(second.weights[name], tensor) for name, tensor in first.weights.items())
    assert replace(second.config, name="") == replace(first.config, name="")


# Names and facts


@pytest.mark.parametrize("depth, classes", [(50, VOC_CLASSES), (101, COCO_CLASSES), (101, ("cat", "dog", "bird"))])
def test_every_tensor_of_detectron2_has_one_of_ours(depth: int, classes: tuple[str, ...]) -> None:
    theirs = tensors_without_content(depth, len(classes))
    named = classes if len(classes) == 3 else ()
    weights, config = from_detectron2_detector(theirs, named, "model.pkl")
    assert config == detectron2_c4(depth, classes)
    assert config.model.depth == depth and config.data.classes == classes
    with torch.device("meta"):
        own = build_detector(config, len(classes)).state_dict()
    assert {name: tensor.shape for name, tensor in own.items()} == {n: t.shape for n, t in weights.items()}
    assert sorted(detector_name(name) for name in own) == sorted(theirs)


def test_the_facts_of_detectron2() -> None:
    """config/defaults.py, Base-RCNN-C4.yaml and PascalVOC-Detection/faster_rcnn_R_50_C4.yaml."""
    voc, coco = detectron2_c4(50, VOC_CLASSES), detectron2_c4(101, COCO_CLASSES)
    assert voc.data.short_sides == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert coco.data.short_sides == (640, 672, 704, 736, 768, 800)
    assert (coco.data.test_short_side, coco.data.max_side) == (800, 1333)
    assert (coco.rpn.pre_nms_topk, coco.rpn.post_nms_topk, coco.rpn.nms_iou) == (12000, 2000, 0.7)
    assert (coco.rpn.batch_size_per_image, coco.rpn.foreground_iou, coco.rpn.background_iou) == (256, 0.7, 0.3)
    assert (coco.roi.batch_size_per_image, coco.roi.foreground_fraction, coco.roi.background_iou) == (
        512,
        0.25,
        (0, 0.5),
    )
    assert coco.rpn.cross_boundary and coco.rpn.beta == coco.roi.beta == 0
    settings = detectron2_settings(coco, COCO_CLASSES)
    assert settings == {
        "INPUT.FORMAT": "BGR",
        "INPUT.MIN_SIZE_TEST": 800,
        "INPUT.MAX_SIZE_TEST": 1333,
        "MODEL.MASK_ON": False,
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [1, 1, 1],
        "MODEL.RESNETS.DEPTH": 101,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1, 2]],
        "MODEL.ANCHOR_GENERATOR.OFFSET": 0,
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 0,
        "MODEL.RPN.CONV_DIMS": [1024],
        "MODEL.RPN.NMS_THRESH": 0.7,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
        "MODEL.ROI_HEADS.NUM_CLASSES": 80,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [10, 10, 5, 5],
        "TEST.DETECTIONS_PER_IMAGE": 100,
    }


def test_the_names_of_coco_s_classes() -> None:
    assert len(set(COCO_CLASSES)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[15], COCO_CLASSES[39], COCO_CLASSES[79]) == (
        *("person", "cat", "bottle", "toothbrush"),
    )


# What is refused


def test_missing_extra_and_misshapen_tensors_are_listed(refuses: Callable[..., Any]) -> None:
    theirs = tensors_without_content(50, 20)
    del theirs["backbone.res3.1.conv2.norm.running_var"]
    theirs["roi_heads.mask_head.deconv.weight"] = torch.zeros(1)
    theirs[f"{RPN}.anchor_deltas.bias"] = torch.zeros(36)
    with refuses(
        *("model.pkl", "missing backbone.res3.1.conv2.norm.running_var", "unexpected roi_heads.mask_head.deconv"),
        "of another shape proposal_generator.rpn_head.anchor_deltas.bias (36,) instead of (60,)",
    ):
        from_detectron2_detector(theirs, (), "model.pkl")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"pixel_mean": torch.tensor([123.675, 116.28, 103.53])}, ("pixel_mean 123.675", "103.53", "MSRA")),
        ({"pixel_std": torch.tensor([57.375, 57.12, 58.395])}, ("pixel_std 57.375",)),
        ({"backbone.res4.6.conv1.weight": torch.zeros(1)}, ("7 units in res4", "50, 101, 152")),
        ({f"{BOX}.cls_score.weight": torch.zeros(4, 2048)}, ("3 classes", "--classes")),
    ],
)
def test_a_detector_of_another_kind(
    change: dict[str, Tensor], words: tuple[str, ...], refuses: Callable[..., Any]
) -> None:
    with refuses("model.pkl", *words):
        from_detectron2_detector(tensors_without_content(50, 20) | change, (), "model.pkl")


def test_classes_of_another_number(refuses: Callable[..., Any]) -> None:
    with refuses("model.pkl", "20 classes", "--classes has 2"):
        from_detectron2_detector(tensors_without_content(50, 20), ("cat", "dog"), "model.pkl")


@pytest.mark.parametrize(
    "change", [{"depth": 18}, {"norm": "group"}, {"pooling": "pool"}, {"conv5_stride": 1}], ids=str
)
def test_a_network_that_detectron2_cannot_hold(change: dict[str, Any], refuses: Callable[..., Any]) -> None:
    model = replace(detectron2_c4(50, VOC_CLASSES).model, **change)
    (setting,) = change
    with refuses("runs/mine", f"model.{setting} {change[setting]}", "cannot be converted"):
        to_detectron2_detector({}, model, "runs/mine")


def test_what_the_command_refuses(tmp_path: Path, complains: Callable[..., None]) -> None:
    here, there, mine = (tmp_path / name for name in ("model.pkl", "model.safetensors", "mine.safetensors"))
    complains(["convert-weights", here, there], here, "not found")
    here.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    complains(["convert-weights", here, there], here, "os.system", "do not trust it")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    complains(["convert-weights", tmp_path / "resnet.pth", there], "not a Faster R-CNN", "train-det")
    complains(["convert-weights", here, tmp_path / "model.pt"], "model.pt", ".safetensors")
    save_model(mine, ModelFile({"a": torch.zeros(1)}, ("cat",), DetConfig(model=ModelConfig(depth=18)), 0))
    complains(["convert-weights", mine, there], mine, "--to")
    complains(["convert-weights", mine, there, "--to", "detectron2"], there, ".pth or .pkl")
    complains(["convert-weights", mine, tmp_path / "a.pth", "--to", "detectron2"], mine, "model.depth 18")
    assert not there.exists()
