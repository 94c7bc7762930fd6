"""`resdet quantize`, and detectors in int8."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resdet import Detector
from resdet.models.weights.resdet import Calibration, digest, read_model, save_model

int8 = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()),
    reason="this processor has no int8 products",
)


@pytest.fixture(scope="module")
def quantized(finished: Path, shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the trained run, with int8 scales. Only to be read."""
    from resdet.experiments.quantize import quantize

    run = tmp_path_factory.mktemp("quantized") / "run"
    shutil.copytree(finished, run)
    assert quantize(str(run), [shapes_root / "JPEGImages"]) == run / "model.safetensors"
    yield run
    shutil.rmtree(run)


@pytest.fixture
def files(shapes_root: Path) -> list[Path]:
    """Its images."""
    return sorted((shapes_root / "JPEGImages").iterdir())


@int8
def test_int8_finds_what_floats_find(quantized: Path, files: list[Path]) -> None:
    exact, quick = Detector.load(quantized, precision="fp32"), Detector.load(quantized, precision="int8")
    assert quick.runtime.int8 and not exact.runtime.int8
    for theirs, ours in zip(exact(files), quick(files), strict=True):
        best = min(10, len(theirs.scores))
        assert best and (ours.scores[:best] - theirs.scores[:best]).abs().max() < 0.05


@int8
def test_in_other_precisions_the_file_is_what_it_was(finished: Path, quantized: Path, files: list[Path]) -> None:
    before, after = read_model(finished), read_model(quantized)
    assert before.calibration is None and after.calibration is not None
    assert digest(before.weights) == digest(after.weights) == after.calibration.weights
    assert before.config == after.config and before.step == after.step
    for theirs, ours in zip(Detector.load(finished)(files), Detector.load(quantized)(files), strict=True):
        assert torch.equal(theirs.boxes, ours.boxes) and torch.equal(theirs.scores, ours.scores)


@int8
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda detector: pickle.loads(pickle.dumps(detector))])
def test_copies_compute_in_int8_too(quantized: Path, files: list[Path], copied: Callable[[Any], Any]) -> None:
    detector = Detector.load(quantized, precision="int8")
    other = copied(detector)
    assert other.runtime == detector.runtime
    assert torch.equal(other(files[0]).scores, detector(files[0]).scores)


@int8
def test_the_commands_take_int8(
    quantized: Path, recipe: Path, files: list[Path], cli: Callable[..., Any], tmp_path: Path
) -> None:
    output = tmp_path / "found"
    status, out, err = cli("detect", files[0], "--weights", quantized, "--precision", "int8", "--output", output)
    assert status == 0 and (output / "detections.json").is_file(), out + err
    given = ("--weights", quantized, "--solver.precision", "int8")
    status, out, err = cli("eval-det", recipe, *given, "--runs", tmp_path, "--name", "int8")
    assert status == 0 and json.loads((tmp_path / "int8/eval/metrics.json").read_text())["map"] >= 0, out + err


@int8
def test_other_images_and_another_file(
    finished: Path, files: list[Path], cli: Callable[..., Any], tmp_path: Path
) -> None:
    output = tmp_path / "mine.safetensors"
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    arguments = ("--data", *files, tmp_path / "broken.jpg", "--output", output, "--ranges", "percentile")
    status, out, err = cli("quantize", finished, *arguments)
    assert status == 0, err
    assert "skipped: " in out and "broken.jpg" in out and f"from {len(files)} images" in out
    assert read_model(output).calibration is not None and read_model(finished).calibration is None
    status, out, _ = cli("quantize", finished, "--data", *files, "--output", output, "--max-images", 9)
    assert status == 0 and "from 9 images" in out


@int8
def test_what_cannot_be_calibrated_is_refused(
    finished: Path, files: list[Path], complains: Callable[..., None], tmp_path: Path
) -> None:
    quantize = ["quantize", finished, "--output", tmp_path / "x.safetensors"]
    complains(quantize, "6 images could be read", "at least 8", "--data")
    complains([*quantize, "--data", *files[:7]], "7 images", "at least 8")
    complains([*quantize, "--data", tmp_path / "nowhere"], "0 images could be read", "--data")
    for name in map(str, range(9)):
        (tmp_path / f"{name}.jpg").write_bytes(b"no image")
    complains([*quantize, "--data", tmp_path], "0 images could be read", "--data")
    complains([*quantize, "--data", *files, "--max-images", 3], "--max-images 3", "at least 8")
    complains(["quantize", "torchvision/fasterrcnn_resnet50_fpn", "--data", *files], "--output")
    complains(["quantize", finished, "--data", *files, "--output", tmp_path / "x.pth"], "x.pth", ".safetensors")
    assert not (tmp_path / "x.safetensors").exists() and not (tmp_path / "x.pth").exists()
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    file = read_model(moved)
    data = replace(file.config.data, root=str(tmp_path / "gone"))
    save_model(moved / "model.safetensors", replace(file, config=replace(file.config, data=data)))
    complains(["quantize", moved], "training images", "gone", "--data")


@int8
def test_a_detector_that_proposes_nothing_is_refused(
    finished: Path, complains: Callable[..., None], tmp_path: Path
) -> None:
    from resdet.visualize import save_image

    for n in range(8):
        save_image(tmp_path / f"{n}.png", np.zeros((1, 1, 3), np.uint8))
    file = read_model(finished)
    rpn = replace(file.config.rpn, min_size=10_000.0)
    source = tmp_path / "none.safetensors"
    save_model(source, replace(file, config=replace(file.config, rpn=rpn)))
    complains(["quantize", source, "--data", tmp_path / "*.png"], "proposes no region")


def test_int8_without_scales_or_with_those_of_other_weights(
    finished: Path, files: list[Path], complains: Callable[..., None], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("resdet.engine.runtime.check_int8", lambda device: None)
    detect = ["detect", files[0], "--precision", "int8", "--weights"]
    complains([*detect, finished], "no int8 scales", "resdet quantize")
    file, other = read_model(finished), tmp_path / "other.safetensors"
    grids = {"a": torch.zeros(2, 2)}
    save_model(other, replace(file, calibration=Calibration(grids, "of other weights")))
    complains([*detect, other], "scales of other weights", "resdet quantize")
    save_model(other, replace(file, calibration=Calibration(grids, digest(file.weights))))
    complains([*detect, other], "no int8 scales for its layer", "resdet quantize")


def test_where_int8_does_not_run(
    finished: Path, recipe: Path, files: list[Path], complains: Callable[..., None], monkeypatch: Any
) -> None:
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: False)
    detect = ["detect", files[0], "--weights", finished, "--precision", "int8"]
    complains(detect, "int8", "this processor", "choose auto")
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: True)
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: True)
    complains(["train-det", recipe, "--solver.precision", "int8"], "int8", "detect and eval-det alone")
    monkeypatch.setattr("resdet.engine.device.torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("resdet.engine.device.torch.cuda.device_count", lambda: 1)
    complains([*detect, "--device", "cuda"], "int8 is for CPUs", "bf16")
