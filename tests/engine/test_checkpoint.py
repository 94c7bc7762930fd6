"""Files of a run: what is written comes back, and damage is told in a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from resdet.config import DetConfig, ModelConfig, SolverConfig, to_dict
from resdet.engine.checkpoint import load_state, save_state
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import ModelFile, save_model

CONFIG = DetConfig(model=ModelConfig(depth=18, rpn_channels=8), solver=SolverConfig(milestones=(3, 5)))
CLASSES = ("cat", "dog", "猫")


def weights() -> dict[str, Tensor]:
    """Tensors with values that a careless way through a file would change."""
    torch.manual_seed(0)
    return {
        "special": torch.tensor([math.inf, -0.0, 1e-45, math.pi, math.nan]),
        "turned": torch.randn(3, 5).t(),
        "half": torch.randn(7).bfloat16(),
        "count": torch.tensor(2**40),
        "learned": torch.randn(2, 3, requires_grad=True),
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    }


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        other = b[name]
        assert tensor.dtype == other.dtype and tensor.shape == other.shape
        flat = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (tensor, other)]
        assert torch.equal(*flat), name


# The model


def test_a_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "run" / "model.safetensors"
    save_model(path, ModelFile(weights(), CLASSES, CONFIG, 12_345))
    for source in (path, str(path), path.parent):
        file = load_model(source)
        assert_same(file.weights, weights())
        assert (file.classes, file.config, file.step) == (CLASSES, CONFIG, 12_345)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_a_model_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for step in (1, 2):
        save_model(path, ModelFile({"a": torch.full((2,), step)}, CLASSES, CONFIG, step))
    assert load_model(path).step == 2 and load_model(path).weights["a"].tolist() == [2, 2]


def test_a_missing_model(tmp_path: Path, refuses: Callable[..., object]) -> None:
    for source, named in (
        (tmp_path / "nope", tmp_path / "nope"),
        (tmp_path, tmp_path / "model.safetensors"),  # a run folder that holds nothing yet
    ):
        with refuses(named, "run folder"):
            load_model(source)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff" * 99, b"PK\x03\x04" + bytes(99)])
def test_a_model_file_of_another_kind(tmp_path: Path, data: bytes, refuses: Callable[..., object]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with refuses(path, "copy it again"):
        load_model(path)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_model(tmp_path: Path, share: float, refuses: Callable[..., object]) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, ModelFile({"a": torch.zeros(999)}, CLASSES, CONFIG, 1))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with refuses(path, "damaged"):
        load_model(path)


METADATA = {"format": "resdet-detector-5", "classes": "[]", "config": "{}", "step": "1"}


@pytest.mark.parametrize(
    "metadata, words",
    [
        (None, ["not written by resdet", "not a Faster R-CNN"]),
        ({"format": "pt"}, ["not written by resdet"]),
        (METADATA | {"format": "resdet-detector-3"}, ["another version of resdet", "resdet-detector-3"]),
        ({"format": "resdet-detector-5"}, ["cannot be used"]),
        (METADATA | {"classes": "[["}, ["cannot be used"]),
        (METADATA | {"step": "many"}, ["cannot be used"]),
        (METADATA | {"config": json.dumps(to_dict(CONFIG) | {"new": 1})}, ["no setting 'new'", "cannot be used"]),
    ],
)
def test_safetensors_of_another_program(
    tmp_path: Path, metadata: dict[str, str] | None, words: list[str], refuses: Callable[..., object]
) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path, metadata)
    with refuses(path, *words):
        load_model(path)


# The state


def test_a_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "state.pt"
    state: dict[str, Any] = {
        "progress": {"step": 3, "best": -math.inf},
        "model": weights(),
        "optimizer": {"param_groups": [{"lr": 0.1, "params": [0, 1]}], "state": {0: {"momentum_buffer": None}}},
    }
    save_state(path, state)
    loaded = load_state(path)
    assert loaded["progress"] == state["progress"] and loaded["optimizer"] == state["optimizer"]
    assert_same(loaded["model"], state["model"])


def test_a_missing_state(tmp_path: Path, refuses: Callable[..., object]) -> None:
    with refuses(tmp_path, "state.pt", "Nothing to resume"):
        load_state(tmp_path / "state.pt")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_state(tmp_path: Path, share: float, refuses: Callable[..., object]) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"model": weights()})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with refuses(path, "damaged", f"--init-weights {tmp_path}"):
        load_state(path)


class Code:
    """Something that a weights file has no business to hold."""


@pytest.mark.parametrize("content", ["text", "code"])
def test_a_state_of_another_kind_runs_no_code(tmp_path: Path, content: str, refuses: Callable[..., object]) -> None:
    path = tmp_path / "state.pt"
    if content == "text":
        path.write_text("hello world")
    else:
        torch.save({"model": Code()}, path)
    with refuses(path, "damaged"):
        load_state(path)
