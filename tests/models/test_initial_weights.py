"""Where a training starts from: torchvision's weights, a classifier or another detector, all strictly by name."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from resdet.config import DetConfig, ModelConfig, SolverConfig
from resdet.errors import UserError
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.weights import initial
from resdet.models.weights.classifier_file import read_classifier
from resdet.models.weights.initial import start_detector
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import ModelFile, save_model
from resdet.models.weights.torchvision import from_torchvision_vgg16

CONFIG = DetConfig(model=ModelConfig(depth=18, rpn_channels=8), solver=SolverConfig(milestones=(3, 5)))
CLASSES = ("cat", "dog", "猫")
PREDICTOR = ("cls_score", "bbox_pred")


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        other = b[name]
        assert tensor.dtype == other.dtype and tensor.shape == other.shape
        flat = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (tensor, other)]
        assert torch.equal(*flat), name


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run folder with a detector of three classes, none of whose weights is what a fresh one has."""
    folder = tmp_path_factory.mktemp("detector")
    state = build_detector(CONFIG, 3).state_dict()
    torch.manual_seed(1)
    save_model(
        folder / "model.safetensors",
        ModelFile({name: torch.rand_like(tensor) for name, tensor in state.items()}, CLASSES, CONFIG, 7),
    )
    yield folder
    (folder / "model.safetensors").unlink()


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A torchvision ResNet-18 with random weights and statistics, as its users save it."""
    path = tmp_path_factory.mktemp("torchvision") / "resnet18.pth"
    network = torchvision.models.resnet18()
    torch.manual_seed(2)
    for name, buffer in network.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 2)
    torch.save(network.state_dict(), path)
    yield path
    path.unlink()


def fresh(config: DetConfig = CONFIG, classes: int = 3) -> FasterRCNN:
    """A detector as the training makes it."""
    torch.manual_seed(3)
    return build_detector(config, classes)


def test_a_detector_of_the_same_classes_is_taken_whole(
    detector_file: Path, assert_sentence: Callable[..., None]
) -> None:
    model = fresh()
    story = start_detector(model, replace(CONFIG, init_weights=str(detector_file)), CLASSES)
    assert_same(model.state_dict(), load_model(detector_file).weights)
    assert_sentence(story, detector_file)


@pytest.mark.parametrize("classes", [("a", "b"), ("cat", "dog", "bird"), ("dog", "cat", "猫")])
def test_a_detector_of_other_classes_gives_all_but_its_last_layers(
    detector_file: Path, classes: tuple[str, ...], assert_sentence: Callable[..., None]
) -> None:
    """Other names or another order is enough, even if the shapes would fit."""
    model = fresh(classes=len(classes))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    story = start_detector(model, replace(CONFIG, init_weights=str(detector_file)), classes)
    source = load_model(detector_file).weights
    last = {f"roi_heads.box_predictor.{layer}.{kind}" for layer in PREDICTOR for kind in ("weight", "bias")}
    assert last < before.keys()
    assert_same(model.state_dict(), {name: before[name] if name in last else source[name] for name in before})
    assert_sentence(story, detector_file, "different classes", "cat, dog, 猫", "roi_heads.box_predictor", "random")


def test_a_torchvision_file_becomes_backbone_and_conv5(
    torchvision_file: Path, assert_sentence: Callable[..., None]
) -> None:
    model = fresh()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    story = start_detector(model, replace(CONFIG, init_weights=str(torchvision_file)), CLASSES)
    after, source = model.state_dict(), torch.load(torchvision_file, weights_only=True)
    pairs = {
        "backbone.conv1.conv.weight": "conv1.weight",
        "backbone.conv1.norm.running_var": "bn1.running_var",
        "roi_heads.box_head.conv5_x.1.norm2.running_mean": "layer4.1.bn2.running_mean",
    }
    assert_same({ours: after[ours] for ours in pairs}, {ours: source[theirs] for ours, theirs in pairs.items()})
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {name for name in before if "running" in name}
    convolutions = {name for name in before if "conv" in name and before[name].ndim == 4 and "rpn" not in name}
    assert changed == statistics | convolutions, "torchvision's fresh scales are ones, as ours are"
    assert_sentence(story, torchvision_file, "backbone and conv5_x", "random")


def test_the_network_computes_what_torchvision_does(torchvision_file: Path) -> None:
    """The backbone and conv5_x on a whole image are torchvision's layers 1 to 4; stride 2 in conv5_x, as there."""
    config = replace(CONFIG, model=replace(CONFIG.model, conv5_stride=2), init_weights=str(torchvision_file))
    model = fresh(config).eval()
    start_detector(model, config, CLASSES)
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(torch.load(torchvision_file, weights_only=True))
    theirs.fc = nn.Identity()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        ours = model.roi_heads.box_head.conv5_x(model.backbone(images)[0]).mean((2, 3))
        torch.testing.assert_close(ours, theirs.eval()(images), rtol=1e-4, atol=1e-4)


def test_the_word_torchvision_asks_for_the_depth(
    torchvision_file: Path, monkeypatch: pytest.MonkeyPatch, assert_sentence: Callable[..., None]
) -> None:
    asked = []

    def downloaded(name: str, version: str) -> dict[str, Tensor]:
        asked.append((name, version))
        return read_classifier(torchvision_file).tensors

    monkeypatch.setattr(initial, "torchvision_weights", downloaded)
    for word in ("torchvision", "torchvision-v2"):
        assert_sentence(start_detector(fresh(), replace(CONFIG, init_weights=word), CLASSES), word)
    assert asked == [("resnet18", "V1"), ("resnet18", "V2")]


@pytest.fixture(scope="module")
def msra_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ResNet-50 in Caffe2's names, as detectron2 passes it on: a pickle of arrays, here of one number each."""
    layers = {"conv1": (64, 3, 7), "fc1000": (1000, 2048, 1)}
    for stage, units in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        width = 16 * 2**stage
        for unit in range(units):
            inputs = width * 4 if unit else width * 2 if stage > 2 else 64
            name = f"res{stage}_{unit}_branch"
            layers |= {f"{name}2a": (width, inputs, 1), f"{name}2b": (width, width, 3)}
            layers |= {f"{name}2c": (width * 4, width, 1)} | ({} if unit else {f"{name}1": (width * 4, inputs, 1)})
    blobs = {}
    for name, (outputs, inputs, kernel) in layers.items():
        shape = (outputs, inputs) if name == "fc1000" else (outputs, inputs, kernel, kernel)
        blobs[f"{name}_w"] = np.full(shape, 0.5, np.float16)
        norm = "res_conv1_bn" if name == "conv1" else f"{name}_bn"
        parts = ["fc1000_b"] if name == "fc1000" else [f"{norm}_{part}" for part in ("s", "b")]
        blobs |= {part: np.full(outputs, 2, np.float16) for part in parts}
    path = tmp_path_factory.mktemp("msra") / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs | {"conv1_w_momentum": np.zeros(1)}}))
    yield path
    path.unlink()


MSRA = replace(CONFIG, model=replace(CONFIG.model, depth=50, style="msra"))


def test_an_msra_pickle_becomes_backbone_and_conv5(msra_file: Path, assert_sentence: Callable[..., None]) -> None:
    model = fresh(MSRA)
    story = start_detector(model, replace(MSRA, init_weights=str(msra_file)), CLASSES)
    for name, tensor in model.state_dict().items():
        if name.startswith(("backbone.", "roi_heads.box_head.conv5_x.")):
            expected = {"weight": 0.5 if tensor.ndim == 4 else 2, "bias": 2, "running_mean": 0, "running_var": 1}
            assert (tensor - expected[name.rsplit(".", 1)[1]]).abs().max() < 2e-5, name
    assert_sentence(story, msra_file, "backbone and conv5_x", "random")


@pytest.mark.parametrize(
    ("fc_dims", "parts"), [((4096, 4096), "backbone and fcs from"), ((16, 16), "backbone from")]
)
def test_vgg16_gives_its_fully_connected_layers_too(
    fc_dims: tuple[int, ...], parts: str, monkeypatch: pytest.MonkeyPatch, assert_sentence: Callable[..., None]
) -> None:
    """Convolutions are the backbone, fc6 and fc7 the box head, if it has their sizes; every name and shape fits."""
    with torch.device("meta"):  # half a gigabyte
        source = torchvision.models.vgg16().state_dict()
        monkeypatch.setattr(initial, "torchvision_weights", lambda name, version: from_torchvision_vgg16(source))
        network = replace(CONFIG.model, backbone="vgg16", box_head="conv_fc", fc_dims=fc_dims, freeze=())
        config = replace(CONFIG, model=network, init_weights="torchvision")
        assert_sentence(start_detector(fresh(config), config, CLASSES), parts, "random")


def test_vgg16_s_names() -> None:
    """In the order of the network, and nothing of another."""
    state = {
        f"features.{place}.bias": torch.tensor(place) for place in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    }
    found = from_torchvision_vgg16(state | {"classifier.3.bias": torch.tensor(99)})
    assert [found[f"backbone.conv{layer}.bias"].item() for layer in ("1_1", "2_2", "5_3")] == [0, 7, 28]
    assert found["fcs.1.bias"] == 99 and len(found) == 14
    for wrong in (dict(list(state.items())[1:]), state | {"layer1.bias": torch.zeros(1)}):
        with pytest.raises(UserError, match="VGG-16"):
            from_torchvision_vgg16(wrong)


def test_rcnn_takes_the_whole_classifier_for_its_head(torchvision_file: Path) -> None:
    model_config = replace(CONFIG.model, proposals="given", pooling="warp", pool_size=32)
    config = replace(CONFIG, model=model_config, init_weights=str(torchvision_file))
    model = fresh(config)
    start_detector(model, config, CLASSES)
    after, source = model.state_dict(), torch.load(torchvision_file, weights_only=True)
    assert torch.equal(after["roi_heads.box_head.backbone.conv1.conv.weight"], source["conv1.weight"])
    assert torch.equal(
        after["roi_heads.box_head.conv5_x.1.norm2.running_mean"], source["layer4.1.bn2.running_mean"]
    )


def test_other_layers_take_the_backbone_alone(torchvision_file: Path, assert_sentence: Callable[..., None]) -> None:
    config = replace(
        CONFIG, model=replace(CONFIG.model, box_head="conv_fc", fc_dims=(8,)), init_weights=str(torchvision_file)
    )
    model = fresh(config)
    assert_sentence(start_detector(model, config, CLASSES), "backbone from", torchvision_file)
    source = torch.load(torchvision_file, weights_only=True)
    assert torch.equal(model.state_dict()["backbone.conv1.conv.weight"], source["conv1.weight"])


def test_a_detector_without_an_rpn_and_one_with(
    detector_file: Path, tmp_path: Path, assert_sentence: Callable[..., None]
) -> None:
    """Each takes from the other all but the RPN."""
    given = replace(CONFIG, model=replace(CONFIG.model, proposals="given"))
    model = fresh(given)
    story = start_detector(model, replace(given, init_weights=str(detector_file)), CLASSES)
    source = load_model(detector_file).weights
    assert_same(model.state_dict(), {name: t for name, t in source.items() if not name.startswith("rpn.")})
    assert_sentence(story, "all but the RPN", detector_file)
    path = tmp_path / "given.safetensors"
    save_model(path, ModelFile(model.state_dict(), CLASSES, given, 1))
    other = fresh()
    rpn = {name: t.clone() for name, t in other.state_dict().items() if name.startswith("rpn.")}
    story = start_detector(other, replace(CONFIG, init_weights=str(path)), CLASSES)
    assert_same(other.state_dict(), {name: rpn.get(name, source[name]) for name in source})
    assert_sentence(story, "all but the RPN", "random")


def test_backbones_that_have_no_weights(refuses: Callable[..., object]) -> None:
    config = replace(
        CONFIG, model=replace(CONFIG.model, backbone="zf", box_head="conv_fc", fc_dims=(8,), freeze=())
    )
    with refuses("zf"):
        start_detector(fresh(config), replace(config, init_weights="torchvision"), CLASSES)
    assert "random" in start_detector(fresh(config), config, CLASSES), "nothing is frozen that needs statistics"


def test_weights_of_another_style(
    msra_file: Path, torchvision_file: Path, refuses: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision_style = replace(MSRA, model=replace(MSRA.model, style="torchvision"), init_weights=str(msra_file))
    with refuses(msra_file, "--model.style msra"):
        start_detector(fresh(torchvision_style), torchvision_style, CLASSES)
    monkeypatch.setattr(initial, "torchvision_weights", lambda *_: {})
    msra_style = replace(CONFIG, model=replace(CONFIG.model, style="msra"))
    for source in (str(torchvision_file), "torchvision"):
        with refuses(source, "--model.style torchvision"):
            start_detector(fresh(msra_style), replace(msra_style, init_weights=source), CLASSES)


def test_a_detector_of_another_toolkit(tmp_path: Path, refuses: Callable[..., object]) -> None:
    names = ("backbone.stem.conv1.weight", "proposal_generator.rpn_head.conv.weight")
    torch.save({"model": {name: torch.zeros(1) for name in names}}, tmp_path / "model_final.pth")
    config = replace(MSRA, init_weights=str(tmp_path / "model_final.pth"))
    with refuses(tmp_path / "model_final.pth", "resdet convert-weights"):
        start_detector(fresh(MSRA), config, CLASSES)


def test_from_scratch(refuses: Callable[..., object], assert_sentence: Callable[..., None]) -> None:
    with refuses("--init-weights", "--model.norm group"):
        start_detector(fresh(), CONFIG, CLASSES)
    config = replace(CONFIG, model=replace(CONFIG.model, norm="group", freeze=()))
    model = fresh(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert_sentence(start_detector(model, config, CLASSES), "random")
    assert_same(before, model.state_dict())


def test_weights_of_another_depth(
    detector_file: Path, torchvision_file: Path, refuses: Callable[..., object]
) -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, depth=34))
    for source in (detector_file, torchvision_file):
        model = fresh(config)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with refuses(source, "missing", "conv2_x.2.conv1.weight", "more"):
            start_detector(model, replace(config, init_weights=str(source)), CLASSES)
        assert_same(before, model.state_dict())


def test_weights_of_another_width(detector_file: Path, refuses: Callable[..., object]) -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, rpn_channels=9), init_weights=str(detector_file))
    with refuses(detector_file, "another shape", "rpn", "(8,)", "(9,)"):
        start_detector(fresh(config), config, CLASSES)


@pytest.mark.parametrize("name", ["nope.pth", "nope.safetensors", "nope"])
def test_missing_weights(tmp_path: Path, name: str, refuses: Callable[..., object]) -> None:
    with refuses(tmp_path / name, "run folder"):
        start_detector(fresh(), replace(CONFIG, init_weights=str(tmp_path / name)), CLASSES)
