"""Weights files as training programs write them: every container, wrapper and prefix, and what is none of them."""

from __future__ import annotations

import argparse
import gzip
import io
import pickle
import shutil
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from resdet.config import ClsConfig, DetConfig, ModelConfig, SolverConfig
from resdet.models.build import build_detector
from resdet.models.weights.classifier_file import read_classifier
from resdet.models.weights.foreign import read_tensors
from resdet.models.weights.initial import start_detector
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import ModelFile, save_model

State = dict[str, Tensor]

WRAPPERS: dict[str, Callable[[State], Any]] = {
    "none": lambda state: state,
    "state_dict": lambda state: {
        "epoch": 90,
        "arch": "resnet18",
        "best_acc1": torch.tensor(69.0),
        "state_dict": state,
    },
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": np.float64(0.5), "epoch": np.int64(3)},
    "net": lambda state: {"net": state, "acc": 95.1},
    "model_ema": lambda state: {"model": {name: 0 * t for name, t in state.items()}, "model_ema": state},
    "averaged": lambda state: {
        "ema": {"n_averaged": torch.tensor(7), **{f"module.{n}": t for n, t in state.items()}}
    },
    "nested": lambda state: {"state_dict": {"model": OrderedDict(state)}, "args": argparse.Namespace(lr=0.1)},
    "an unknown key": lambda state: {"my_resnet": state, "epoch": 3},
}
PREFIXES = ("", "module.", "_orig_mod.", "backbone.", "model.", "module._orig_mod.model.backbone.", "encoder.net.")
CONTAINERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "half": lambda content, path: torch.save(halved(content), path),
}
ENDINGS = (".pth", ".pth.tar", ".pt", ".bin", ".ckpt", ".safetensors", ".model", "")


def halved(content: Any) -> Any:
    """The same in half precision."""
    if isinstance(content, Tensor):
        return content.half() if content.is_floating_point() else content
    return {key: halved(value) for key, value in content.items()} if isinstance(content, dict) else content


@pytest.fixture(scope="module")
def resnet() -> State:
    """torchvision's names; of each tensor only a few numbers, which half precision holds."""
    state = torchvision.models.resnet18(num_classes=3).state_dict()
    return {name: torch.full((2,), float(number)).to(t.dtype) for number, (name, t) in enumerate(state.items())}


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(tensor, expected[name]) and tensor.dtype == torch.float32 for name, tensor in found.items()
    )


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_prefix_and_container_gives_the_same_weights(
    tmp_path: Path, resnet: State, wrapper: str, container: str
) -> None:
    torch.save(resnet, tmp_path / "plain.pth")
    expected = read_classifier(tmp_path / "plain.pth")
    assert expected.tensors["backbone.conv1.conv.weight"].tolist() == [0, 0] and len(expected.tensors) == 102
    for prefix, ending in zip((*PREFIXES, ""), ENDINGS, strict=True):
        path = tmp_path / f"net{ending}"
        state = {f"{prefix}{name}": tensor for name, tensor in resnet.items()}
        CONTAINERS[container](WRAPPERS[wrapper](state), path)
        found = read_classifier(path)
        assert found.style == "torchvision"
        assert_same(found.tensors, expected.tensors)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_safetensors_of_any_name(tmp_path: Path, resnet: State, prefix: str) -> None:
    torch.save(resnet, tmp_path / "plain.pth")
    for dtype, ending in product(
        (torch.float32, torch.float16, torch.bfloat16, torch.float64), (".safetensors", ".bin")
    ):
        path = tmp_path / f"net{ending}"
        state = {f"{prefix}{n}": t.to(dtype) if t.is_floating_point() else t for n, t in resnet.items()}
        safetensors.torch.save_file(state, path, {"format": "pt"})
        assert_same(read_classifier(path).tensors, read_classifier(tmp_path / "plain.pth").tensors)


def test_a_last_layer_may_stand_beside_a_prefix(tmp_path: Path, resnet: State) -> None:
    state = {f"backbone.{name}": tensor for name, tensor in resnet.items() if not name.startswith("fc.")}
    torch.save({"state_dict": state | {"head.fc.weight": torch.zeros(1)}}, tmp_path / "mm.pth")
    torch.save(resnet, tmp_path / "plain.pth")
    found = read_classifier(tmp_path / "mm.pth").tensors
    expected = read_classifier(tmp_path / "plain.pth").tensors
    assert_same(found, {name: tensor for name, tensor in expected.items() if not name.startswith("fc.")})


def test_training_starts_from_such_a_file(tmp_path: Path) -> None:
    network = torchvision.models.resnet18()
    path = tmp_path / "model_best.pth.tar"
    torch.save({"state_dict": {f"module.{n}": t for n, t in network.state_dict().items()}}, path)
    config = DetConfig(
        model=ModelConfig(depth=18, rpn_channels=8), solver=SolverConfig(milestones=(3, 5)), init_weights=str(path)
    )
    model = build_detector(config, 3)
    assert str(path) in start_detector(model, config, ("a", "b", "c"))
    assert torch.equal(model.state_dict()["backbone.conv1.conv.weight"], network.conv1.weight)


def test_half_precision_of_msra_keeps_the_statistics(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"res4_5_branch2a_bn_s": np.ones(1, np.float16)}}))
    assert read_tensors(path)["res4_5_branch2a_bn_s"].dtype == torch.float32


# What is none


def whole_module(path: Path) -> None:
    torch.save({"model": torchvision.models.resnet18()}, path)


def scripted(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("net/data.pkl", "net/code/__torch__.py", "net/constants.pkl"):
            archive.writestr(name, "")


def archive(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("net.pth"), io.BytesIO())


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net.pth", "")


def cut(path: Path) -> None:
    torch.save({"a": torch.zeros(9999)}, path)
    path.write_bytes(path.read_bytes()[:5000])


def cut_legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(9999)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:5000])


def cut_safetensors(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(9999)}, path)
    path.write_bytes(path.read_bytes()[:5000])


def state_dicts(*names: str, wrapper: str = "") -> Callable[[Path], None]:
    """A file with tensors of these names."""
    state = {name: torch.zeros(1) for name in names}
    return lambda path: torch.save({wrapper: state} if wrapper else state, path)


R = "layer1.0.conv1.weight"
NONE: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "nothing": (lambda path: path.write_bytes(b""), ("is empty",)),
    "web page": (
        lambda path: path.write_text("<!DOCTYPE html><html>404</html>"),
        ("web page", "download it again"),
    ),
    "LFS": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        ("git lfs",),
    ),
    "JSON": (lambda path: path.write_text('{"depth": 18}'), ("JSON",)),
    "text": (lambda path: path.write_text("hello"), ("not a weights file",)),
    "zeros": (lambda path: path.write_bytes(bytes(999)), ("not a weights file",)),
    "one byte": (lambda path: path.write_bytes(b"\x80"), ()),
    "Keras": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), ("HDF5",)),
    "tar": (archive, ("archive", "unpack")),
    "zip": (zipped, ("archive", "unpack")),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x")), ("archive", "unpack")),
    "whole module": (whole_module, ("torchvision.models.resnet.ResNet", "state_dict()")),
    "TorchScript": (scripted, ("TorchScript", "state_dict()")),
    "cut": (cut, ("damaged", "copy it again")),
    "cut, legacy": (cut_legacy, ("damaged", "copy it again")),
    "cut safetensors": (cut_safetensors, ("damaged", "copy it again")),
    "a list": (lambda path: torch.save([torch.zeros(1)], path), ("state_dict()",)),
    "a number": (lambda path: torch.save(5, path), ("state_dict()",)),
    "an empty dictionary": (lambda path: torch.save({}, path), ("state_dict()",)),
    "settings": (lambda path: torch.save({"lr": 0.1, "epoch": 3}, path), ("lr, epoch", "state_dict()")),
    "other names": (state_dicts("blocks.0.attn.qkv.weight"), ("blocks.0.attn.qkv.weight", "torchvision")),
    "several networks": (
        state_dicts(f"encoder_q.{R}", f"encoder_k.{R}"),
        ("encoder_k., encoder_q.", "one of them"),
    ),
    "torchvision's detector": (
        state_dicts(f"backbone.body.{R}", "backbone.fpn.x", "rpn.head.x", "roi_heads.x"),
        ("detector", "classifier"),
    ),
    "mmdetection's detector": (
        state_dicts(f"module.backbone.{R}", "module.neck.x", "module.rpn_head.x", wrapper="state_dict"),
        ("detector", "classifier"),
    ),
    "detectron2's detector": (
        state_dicts("backbone.res2.0.conv1.weight", "proposal_generator.x", wrapper="model"),
        ("detector", "resdet convert-weights"),
    ),
    "Detectron's detector": (state_dicts("res2_0_branch2a_w", "conv1_w", "rpn_cls_logits_w"), ("detector",)),
}


@pytest.mark.parametrize("make, words", NONE.values(), ids=NONE)
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_what_is_not_a_classifier_gets_a_sentence(
    tmp_path: Path,
    make: Callable[[Path], None],
    words: tuple[str, ...],
    ending: str,
    refuses: Callable[..., Any],
    recwarn: pytest.WarningsRecorder,
) -> None:
    path = tmp_path / f"weights{ending}"
    make(path)
    with refuses(path, *words):
        read_classifier(path)
    with refuses(path):
        load_model(path)
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]


def test_a_missing_file_is_named(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    with refuses(tmp_path / "none.pth", "not found"):
        read_classifier(tmp_path / "none.pth")


# Files of resdet


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_model(path, ModelFile({"a": torch.zeros(3)}, ("cat",), DetConfig(), 1))
    return path


@pytest.mark.parametrize("name", ["model.pth", "model.bin", "model", "model.pth.tar"])
def test_a_detector_is_known_by_its_content(detector_file: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(detector_file, tmp_path / name)
    assert load_model(tmp_path / name).classes == ("cat",)


def test_the_state_of_a_training_run_names_the_run(finished: Path, refuses: Callable[..., Any]) -> None:
    for read in (load_model, lambda path: load_model(path, ClsConfig)):
        with refuses(finished / "state.pt", "training run", f"run folder {finished} instead"):
            read(finished / "state.pt")


def test_a_run_that_stopped_before_its_first_evaluation(
    tmp_path: Path, detector_file: Path, refuses: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with refuses(tmp_path / "model.safetensors", "train first"):
        load_model(tmp_path)
    (tmp_path / "state.pt").touch()
    with refuses(tmp_path / "model.safetensors", "before its first evaluation", "--resume"):
        load_model(tmp_path)
    shutil.copy(detector_file, tmp_path / "last.safetensors")
    assert load_model(tmp_path).weights.keys() == load_model(detector_file).weights.keys()
    (record,) = caplog.records
    assert "no evaluation yet" in record.getMessage() and f"{tmp_path}/last.safetensors" in record.getMessage()


def test_a_classifier_where_a_detector_is_expected(
    tmp_path: Path, detector_file: Path, refuses: Callable[..., Any]
) -> None:
    save_model(tmp_path / "model.safetensors", ModelFile({"a": torch.zeros(3)}, ("cat",), ClsConfig(), 1))
    with refuses(tmp_path, "is a classifier", "detector"):
        load_model(tmp_path)
    with refuses(detector_file, "is a detector", "classifier"):
        load_model(detector_file, ClsConfig)


def test_torchvision_s_file_where_a_detector_is_expected(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "resnet.pth")
    safetensors.torch.save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    for name in ("resnet.pth", "a.safetensors"):
        with refuses(tmp_path / name, "not written by resdet", "run folder"):
            load_model(tmp_path / name)
