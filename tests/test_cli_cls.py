"""train-cls and eval-cls as a user gives them, and a detector that starts from what they train."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from resdet import cli as command_line
from resdet.config import ClsConfig
from resdet.engine import loop
from resdet.experiments.studies import STUDIES, Row, Study
from resdet.models.weights.load import load_model

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (210, 50, 40)}
RECIPE = """
from resdet.config import ClsConfig, ClsDataConfig, ClsModelConfig, ClsTestConfig, SolverConfig

config = ClsConfig(
    device="cpu",
    runs={runs!r},
    data=ClsDataConfig({data}),
    model=ClsModelConfig({model}),
    solver=SolverConfig(
        lr=0.05, steps=6, milestones=(4,), batch_size=8, precision="fp32", eval_every=3, save_every=2, log_every=1
    ),
    test=ClsTestConfig(batch_size=5),
)
"""
CIFAR = "format='cifar10', root={root!r}, size=32"
FOLDER = "root={root!r}, size=32, short_sides=(36, 48), test_short_side=36, workers=0"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy images of three colours, 32×32 pixels, in train, test and val."""
    root = tmp_path_factory.mktemp("colors")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, color in COLORS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = np.clip(generator.normal(color[::-1], 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / split / name / f"{number}.png"), image)
    (root / "val").symlink_to(root / "test")
    return root


@pytest.fixture
def cifar(tmp_path: Path, root: Path) -> Path:
    """A recipe for a CIFAR network of 8 layers."""
    model = "family='cifar', depth=8, shortcut='A', pixel_mean='pixel'"
    path = tmp_path / "colors.py"
    path.write_text(RECIPE.format(runs=str(tmp_path / "runs"), data=CIFAR.format(root=str(root)), model=model))
    return path


@pytest.fixture
def imagenet(tmp_path: Path, root: Path) -> Path:
    """A recipe for ResNet-18 on a folder of images."""
    path = tmp_path / "folder.py"
    path.write_text(
        RECIPE.format(runs=str(tmp_path / "runs"), data=FOLDER.format(root=str(root)), model="depth=18")
    )
    return path


def test_a_training_learns_and_leaves_its_run_folder(cifar: Path, cli: Callable[..., Any]) -> None:
    status, out, err = cli("train-cls", cifar, "--solver.steps", 30, "--solver.eval-every", 15)
    assert (status, err) == (0, "") and "training: 36 images of 3 classes" in out
    run = cifar.parent / "runs/colors"
    assert {path.name for path in run.iterdir()} == {
        *("config.json", "model.safetensors", "last.safetensors", "state.pt"),
        *("metrics.jsonl", "metrics.json", "curves.png", "tensorboard"),
    }
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["top1"] >= 0.9 and figures["top5"] == 1.0
    assert cv2.imread(str(run / "curves.png")).std() > 1
    file = load_model(run, ClsConfig)
    assert file.classes == tuple(COLORS) and file.weights["mean"].shape == (3, 32, 32)

    status, out, err = cli("eval-cls", cifar, "--weights", run, run / "last.safetensors")
    assert (status, err) == (0, "")
    report = json.loads((run / "eval_cls/metrics.json").read_text())["models"]
    assert set(report) == {str(run), str(run / "last.safetensors"), "ensemble"}
    assert report[str(run)] == {"top1_error": 1 - figures["top1"], "top5_error": 0.0, "images": 12}


@pytest.mark.parametrize(
    "settings", [(), ("--solver.ema", 0.8), ("--loss.mixup", 0.3, "--solver.schedule", "cosine")]
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    settings: Sequence[object],
    cifar: Path,
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    assert_same_training: Callable[[Path, Path], None],
) -> None:
    assert cli("train-cls", cifar, "--name", "whole", *settings)[0] == 0
    step, real = iter(range(9)), loop.train_step

    def crashing(*arguments: Any) -> dict[str, float]:
        if next(step) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", crashing)
    assert cli("train-cls", cifar, "--name", "parts", *settings)[0] == 130
    monkeypatch.undo()
    runs = cifar.parent / "runs"
    assert cli("train-cls", "--resume", runs / "parts")[0] == 0
    assert_same_training(runs / "whole", runs / "parts")
    a, b = (load_model(runs / name / "last.safetensors", ClsConfig).weights for name in ("whole", "parts"))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    state = torch.load(runs / "whole/state.pt", weights_only=True)
    name = "network.conv2_x.0.conv1.weight"
    assert torch.equal(a[name], state["model"][name]) != ("--solver.ema" in settings), "the average is saved"


def train_as(rank: int, world: int, port: int, arguments: Sequence[str]) -> None:
    """One process of several under torchrun's variables."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    command_line.main(["train-cls", *arguments])


def test_two_processes_train_as_one_does(
    cifar: Path, cli: Callable[..., Any], free_port: int, forkserver: ForkServerContext, logged: Callable[..., Any]
) -> None:
    """Two steps: further on, rounding grows from step to step."""
    assert cli("train-cls", cifar, "--name", "one", "--solver.steps", 2)[0] == 0
    arguments = [str(cifar), "--name", "two", "--solver.steps", "2"]
    processes = [forkserver.Process(target=train_as, args=(rank, 2, free_port, arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    runs = cifar.parent / "runs"
    for one, two in zip(logged(runs / "one"), logged(runs / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)
    a, b = (load_model(runs / name / "last.safetensors", ClsConfig).weights for name in ("one", "two"))
    for name, tensor in a.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(
                b[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_held_out_images_validate(cifar: Path, cli: Callable[..., Any]) -> None:
    status, out, _ = cli("train-cls", cifar, "--solver.steps", 1, "--data.held-out", 10)
    assert status == 0 and "training: 26 images" in out and "validation: 10 images" in out


def test_a_folder_trains_an_imagenet_network_that_a_detector_takes_over(
    imagenet: Path, recipe: Path, cli: Callable[..., Any]
) -> None:
    """recipe is the tiny detector's; its norms are frozen here, so that the classifier's statistics count."""
    status, out, err = cli("train-cls", imagenet, "--solver.steps", 2, "--test.recalibrate", 16)
    assert (status, err) == (0, ""), err
    run = imagenet.parent / "runs/folder"
    recalibrated, last = (load_model(run / f"{n}.safetensors", ClsConfig).weights for n in ("model", "last"))
    mean = "network.conv5_x.1.norm2.running_mean"
    assert not torch.allclose(recalibrated[mean], last[mean])
    figures = json.loads((run / "metrics.json").read_text())
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert figures["val_loss"] not in [row.get("val_loss") for row in logged], "of the weights before"

    for views in ("1-crop", "10-crop", "dense"):
        arguments = ("--test.views", views, "--test.scales", 36, 64)
        status, out, err = cli("eval-cls", imagenet, "--weights", run, *arguments)
        assert (status, err) == (0, "") and "validation: 12 images" in out

    changes = ("--model.norm", "frozen", "--model.freeze", "conv1", "--solver.steps", 1)
    status, out, err = cli("train-det", recipe, "--init-weights", run, *changes)
    assert (status, err) == (0, "") and f"backbone and conv5_x from {run}" in out
    detector = load_model(recipe.parent / "runs/tiny").weights
    for name in ("running_mean", "running_var"):
        kept = {n: t for n, t in detector.items() if n.endswith(name)}
        assert len(kept) == 20
        for own, tensor in kept.items():
            theirs = own.replace("roi_heads.box_head.conv5_x", "conv5_x")
            assert torch.equal(tensor, recalibrated[f"network.{theirs}"])
    assert torch.equal(detector["backbone.conv1.conv.weight"], recalibrated["network.backbone.conv1.conv.weight"])


def test_networks_and_data_that_do_not_fit(
    cifar: Path,
    imagenet: Path,
    recipe: Path,
    finished: Path,
    cli: Callable[..., Any],
    complains: Callable[..., None],
) -> None:
    assert cli("train-cls", cifar, "--solver.steps", 1)[0] == 0
    run = cifar.parent / "runs/colors"
    complains(["train-det", recipe, "--init-weights", run], run, "model.family cifar", "imagenet")
    complains(["eval-det", recipe, "--weights", run], run, "is a classifier")
    complains(["eval-cls", cifar, "--weights", finished], finished, "is a detector")
    complains(["eval-cls", cifar, "--weights", run, "--test.views", "dense"], "test.views dense", "folder")
    complains(["train-cls", recipe], recipe, "`config = ClsConfig(...)`")
    complains(["train-det", cifar], cifar, "`config = DetConfig(...)`")
    complains(["train-cls", cifar, "--data.held-out", 36, "--name", "x"], "held_out 36", "36 images")
    complains(["train-cls"], "Recipe missing")
    complains(["train-cls", imagenet, "--data.val", "gone"], "gone", "not found")


def test_a_study_trains_its_networks_and_goes_on_where_it_stopped(
    cifar: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {
        "plain-8": Row(str(cifar), {"model.shortcut": "none"}, panel="plain"),
        "ResNet 8": Row(str(cifar), panel="residual"),
    }
    monkeypatch.setitem(STUDIES, "tiny", Study(ClsConfig, rows))
    runs = cifar.parent / "studies"
    assert cli("study", "tiny", "--runs", runs, "--solver.steps", 3)[0] == 0
    first = (runs / "tiny/ResNet-8/metrics.jsonl").read_text()
    status, out, err = cli("study", "tiny", "--runs", runs, "--solver.steps", 6)
    assert (status, err) == (0, "")
    log = (runs / "tiny/ResNet-8/metrics.jsonl").read_text()
    assert log.startswith(first) and json.loads(log.splitlines()[-1])["step"] == 6
    table = (runs / "tiny/table.md").read_text().splitlines()
    assert len(table) == 4 and table[2].startswith("| plain-8 | 0.07 M | 6 |") and "| ResNet 8 |" in table[3]
    last = json.loads(log.splitlines()[-1])
    assert table[3].endswith(f"| {100 - 100 * last['top1']:.2f} |") and table[3] in out
    for name in ("errors.png", "responses.png"):
        assert cv2.imread(str(runs / "tiny" / name)).std() > 1


def test_a_study_names_the_studies_and_checks_its_settings_first(
    cifar: Path, cli: Callable[..., Any], complains: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    complains(["study"], "degradation, depth, shortcuts, activations")
    complains(["study", "deg"], "degradation")
    monkeypatch.setitem(STUDIES, "tiny", Study(ClsConfig, {"a": Row(str(cifar)), "b": Row(str(cifar))}))
    assert cli("study", "tiny", "--solver.stpes", 3)[0] == 2
    assert not (cifar.parent / "runs").exists()
