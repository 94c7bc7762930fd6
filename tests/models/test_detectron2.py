"""detectron2's weights in and out, against its definitions, written out here on tensors under its names."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference_detectron2 import (
    BOX,
    PROPOSALS,
    RPN,
    backbone,
    find_objects,
    find_proposals,
    random_state,
    tensors_without_content,
)
from torch import Tensor

from resdet.config import (
    COCO_CLASSES,
    VOC_CLASSES,
    DetConfig,
    ModelConfig,
    detectron2_c4,
    detectron2_dc5,
    detectron2_fpn,
)
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
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import ModelFile, save_model

HEIGHT, WIDTH = 64, 90


# Files


@pytest.fixture(scope="module", params=["C4", "DC5", "FPN", "X"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def state(kind: str) -> dict[str, Tensor]:
    """A detector of VOC's classes."""
    torch.manual_seed(5)
    return random_state(kind, 101 if kind == "X" else 50, 20)


@pytest.fixture(scope="module")
def folder(kind: str, state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Holds theirs.pkl, as detectron2's model zoo has it."""
    folder = tmp_path_factory.mktemp("detectron2")
    extra = {
        "pixel_mean": torch.tensor([103.53, 116.28, 123.675])[:, None, None],
        "pixel_std": torch.tensor([57.375, 57.12, 58.395] if kind == "X" else [1.0, 1, 1])[:, None, None],
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(15, 4),
    }
    arrays = {name: tensor.numpy() for name, tensor in (state | extra).items()}
    (folder / "theirs.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    yield folder
    for file in folder.iterdir():
        file.unlink()


FACTS = {
    "C4": ("ResNet-50 C4", "1×1", "32, 64, 128", "RoI align 14×14"),
    "DC5": ("ResNet-50 DC5", "1×1", "32, 64, 128", "RoI align 7×7"),
    "FPN": ("ResNet-50 FPN", "1×1", "32, 64, 128", "RoI align 7×7"),
    "X": ("ResNeXt-101 32×8d FPN", "3×3", "32, 64, 128", "RoI align 7×7"),
}


def test_a_converted_detector_finds_what_detectron2_does(
    kind: str, folder: Path, state: dict[str, Tensor], cli: Callable[..., Any]
) -> None:
    status, out, err = cli("convert-weights", folder / "theirs.pkl", folder / "ours.safetensors")
    assert (status, err) == (0, "")
    for fact in (*FACTS[kind], "20 classes", "BGR", "103.53", "corner", "1000 proposals"):
        assert fact in out
    file = load_model(folder / "ours.safetensors")
    assert file.classes == VOC_CLASSES and file.config.test.post_nms_topk == 1000
    file = replace(file, config=replace(file.config, test=replace(file.config.test, post_nms_topk=PROPOSALS)))
    model = restore(file, "here")
    image = torch.randint(0, 256, (3, HEIGHT // 8, WIDTH // 8 + 1), dtype=torch.uint8)
    image = F.interpolate(image[None], scale_factor=8)[0, :, :, :WIDTH]
    images, sizes = image[None], torch.tensor([[HEIGHT, WIDTH]])
    with torch.no_grad():
        levels = backbone(kind, state, image)
        ours = model.features(images, sizes)
        torch.testing.assert_close(
            ours.maps, [map_ for _, map_ in levels], rtol=1e-4, atol=1e-3 if kind == "X" else 1e-4
        )
        assert ours.strides == [stride for stride, _ in levels]
        proposals = find_proposals(kind, state, levels, (HEIGHT, WIDTH))
        (found,) = model.propose(model.score_anchors(ours), sizes)
        assert len(proposals) == PROPOSALS
        torch.testing.assert_close(found, proposals, rtol=1e-4, atol=1e-3)
        objects = find_objects(kind, state, levels, proposals, (HEIGHT, WIDTH))
        assert 5 < len(objects) <= 100 and len({label for _, label, _ in objects}) > (3 if kind == "C4" else 2)
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


CONFIGS = {
    "C4": detectron2_c4,
    "DC5": detectron2_dc5,
    "FPN": detectron2_fpn,
    "X": lambda depth, classes: detectron2_fpn(depth, classes, resnext=True),
}


@pytest.mark.parametrize("depth, classes", [(50, VOC_CLASSES), (101, COCO_CLASSES), (101, ("cat", "dog", "bird"))])
@pytest.mark.parametrize("kind", CONFIGS)
def test_every_tensor_of_detectron2_has_one_of_ours(kind: str, depth: int, classes: tuple[str, ...]) -> None:
    theirs = tensors_without_content(kind, depth, len(classes))
    named = classes if len(classes) == 3 else ()
    weights, config = from_detectron2_detector(theirs, named, "model.pkl")
    assert config == CONFIGS[kind](depth, classes)
    assert config.model.depth == depth and config.data.classes == classes
    with torch.device("meta"):
        own = build_detector(config, len(classes)).state_dict()
    assert {name: tensor.shape for name, tensor in own.items()} == {n: t.shape for n, t in weights.items()}
    assert sorted(detector_name(name, config.model.features) for name in own) == sorted(theirs)


def test_the_facts_of_detectron2_s_pyramids() -> None:
    """Base-RCNN-FPN.yaml, Base-RCNN-DilatedC5.yaml and faster_rcnn_X_101_32x8d_FPN_3x.yaml."""
    fpn, dc5, x = (CONFIGS[kind](101, COCO_CLASSES) for kind in ("FPN", "DC5", "X"))
    assert (fpn.rpn.pre_nms_topk, fpn.rpn.post_nms_topk) == (2000, 1000)
    assert (fpn.test.pre_nms_topk, fpn.test.post_nms_topk) == (1000, 1000)
    assert (dc5.rpn.pre_nms_topk, dc5.test.pre_nms_topk, dc5.test.post_nms_topk) == (12000, 6000, 1000)
    common = {"MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7, "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0}
    common |= {"MODEL.ROI_BOX_HEAD.NUM_FC": 2, "MODEL.ROI_BOX_HEAD.FC_DIM": 1024, "MODEL.ROI_BOX_HEAD.NUM_CONV": 0}
    pyramid = {"MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]], "MODEL.FPN.OUT_CHANNELS": 256}
    grouped = {"MODEL.RESNETS.NUM_GROUPS": 32, "MODEL.RESNETS.WIDTH_PER_GROUP": 8}
    grouped |= {"MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.PIXEL_STD": [57.375, 57.12, 58.395]}
    for config, facts in ((fpn, common | pyramid), (dc5, common), (x, common | pyramid | grouped)):
        settings = detectron2_settings(config, COCO_CLASSES)
        assert {name: settings[name] for name in facts} == facts


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
    theirs = tensors_without_content("C4", 50, 20)
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
        from_detectron2_detector(tensors_without_content("C4", 50, 20) | change, (), "model.pkl")


def test_classes_of_another_number(refuses: Callable[..., Any]) -> None:
    with refuses("model.pkl", "20 classes", "--classes has 2"):
        from_detectron2_detector(tensors_without_content("C4", 50, 20), ("cat", "dog"), "model.pkl")


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
    complains(["convert-weights", tmp_path / "resnet.pth", there], "not a Faster R-CNN", "--init-weights")
    complains(["convert-weights", here, tmp_path / "model.pt"], "model.pt", ".safetensors")
    save_model(mine, ModelFile({"a": torch.zeros(1)}, ("cat",), DetConfig(model=ModelConfig(depth=18)), 0))
    complains(["convert-weights", mine, there], mine, "--to")
    complains(["convert-weights", mine, there, "--to", "detectron2"], there, ".pth or .pkl")
    complains(["convert-weights", mine, tmp_path / "a.pth", "--to", "detectron2"], mine, "model.depth 18")
    assert not there.exists()
