"""Several processes do what one does: gradients, normalisation, evaluation, and whole trainings under torchrun."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.run
from test_loop import (
    ALONE,
    assert_same_gradients,
    detector_losses,
    fresh_detector,
    joint_batch,
    share,
    step_of,
    unsampled_detector,
)
from torch import Tensor, nn

from resdet.config import DetConfig, load_config
from resdet.data.annotations import Annotations
from resdet.data.build import read_annotations, validation_batches
from resdet.data.detection import DetectionDataset
from resdet.data.loader import Draw
from resdet.data.transforms import TestTransform as ResizeOnly
from resdet.engine.runtime import Runtime, from_main, gather, mean
from resdet.errors import UserError
from resdet.evaluation import report
from resdet.evaluation.predict import in_order, predict, predict_with_losses
from resdet.experiments.evaluate import score
from resdet.inference.detector import restore
from resdet.models.layers.norm import BatchNorm2d, SyncBatchNorm2d
from resdet.models.weights.load import load_model
from resdet.types import Batch, Detections

WORLD = 2
TOOLS = Path(__file__).parents[2] / "tools"


# What each of the two processes computes, and the test's own process alone


def gradients(config: DetConfig, norm: str, runtime: Runtime, parts: Sequence[Batch]) -> dict[str, Tensor]:
    """Of one training step of a fresh detector, by parameter."""
    return step_of(unsampled_detector(config, norm), parts, detector_losses, runtime=runtime).gradients


def norm_inputs() -> tuple[Tensor, Tensor]:
    """Five images far from the identity, and what their outputs are weighted with."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, 6, 4, 3, generator=generator) * torch.arange(1, 7)[:, None, None] + 5
    return x, torch.randn(5, 6, 4, 3, generator=generator)


def normalise(layer: nn.BatchNorm2d, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Output, gradients and statistics of a training pass, and the output of a later pass for evaluation."""
    x = x.clone().requires_grad_()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, 6))
        layer.bias.copy_(torch.linspace(-1, 1, 6))
    out = layer(x)
    (out * weights).sum().backward()
    assert x.grad is not None and layer.weight.grad is not None and layer.bias.grad is not None
    found = {"out": out.detach(), "input": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad}
    found |= {"mean": layer.running_mean, "var": layer.running_var}
    return found | {"later": layer.eval()(x).detach()}


class Oracle(nn.Module):
    """Stands for a trained detector: finds what is annotated, every third box as a wrong class."""

    def __init__(self, annotations: Annotations, side: int, longest: int) -> None:
        super().__init__()
        dataset = DetectionDataset(annotations, ResizeOnly(side, longest), difficult=True, unreadable="refuse")
        samples = [dataset[Draw(index, 0)] for index in range(len(dataset))]
        self.targets = {sample.image.tobytes(): sample.target for sample in samples}

    def forward(
        self, images: Tensor, sizes: Tensor, targets: None = None, proposals: None = None
    ) -> list[Detections]:
        found = []
        for image, (height, width) in zip(images, sizes.tolist(), strict=True):
            target = self.targets[image[:, :height, :width].permute(1, 2, 0).contiguous().numpy().tobytes()]
            rank = torch.arange(len(target.labels))
            labels = torch.where(rank % 3 == 1, (target.labels + 1) % 6, target.labels)
            found.append(Detections(target.boxes, 1 / (2.0 + rank + height % 7), labels))
        return found


def evaluation(config: DetConfig, runtime: Runtime) -> dict[str, Any]:
    """Figures and AP of each class of the oracle, the detections, and the validation loss of a fresh detector."""
    annotations = read_annotations(config.data, "val", config.data.classes)
    oracle = Oracle(annotations, config.data.test_short_side, config.data.max_side)
    figures = score(oracle, annotations, config, runtime)  # type: ignore[arg-type]
    found = predict(oracle, validation_batches(annotations, config, runtime), runtime)  # type: ignore[arg-type]
    detections = in_order(found)
    losses, _ = predict_with_losses(
        fresh_detector(config), validation_batches(annotations, config, runtime), runtime
    )
    return {
        "figures": figures,
        "ap": torch.tensor(report.score(detections, annotations).voc.ap),
        "detections": [tuple(found) for found in detections],
        "losses": tuple(losses),
    }


def refusal() -> str:
    """What a process hears when the main process finds an error."""

    def refuse() -> None:
        raise UserError("The main process found no file.")

    try:
        from_main(refuse)
    except UserError as error:
        return str(error)
    return ""


def work(rank: int, folder: str, recipe: str) -> None:
    """One of the two processes: all results go into a file of its own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    runtime, config, batch = replace(ALONE, rank=rank, world=WORLD), load_config(recipe), joint_batch()
    own = share(batch, rank, WORLD)
    x, weights = norm_inputs()
    slices = (slice(0, 3), slice(3, 5))[rank]  # three images here, two there
    results = {
        "group": gradients(config, "group", runtime, [own]),
        "frozen": gradients(config, "frozen", runtime, [share(own, part, 2) for part in range(2)]),
        "norm": normalise(SyncBatchNorm2d(6), x[slices], weights[slices]),
        "own norm": normalise(BatchNorm2d(6), x[slices], weights[slices]),
        "evaluation": evaluation(config, runtime),
        "gathered": gather(rank * 10),
        "from_main": from_main(lambda: f"made by {rank}"),
        "mean": mean({"a": rank, "b": 3 * rank - 1.0}),
        "refused": refusal(),
    }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def tiny(finished: Path) -> Path:
    """The recipe, for more than one test."""
    return finished.parents[1] / "tiny.py"


@pytest.fixture(scope="module")
def of_two(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, forkserver: ForkServerContext
) -> list[dict[str, Any]]:
    """The results of two processes."""
    folder = tmp_path_factory.mktemp("two")
    processes = [forkserver.Process(target=work, args=(rank, str(folder), str(tiny))) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_the_gradient_of_two_processes_is_that_of_the_joint_batch(
    norm: str, of_two: list[dict[str, Any]], tiny: Path
) -> None:
    """With frozen normalisation each process also cuts its share in two parts."""
    first, second = (results[norm] for results in of_two)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert_same_gradients(first, gradients(load_config(tiny), norm, ALONE, [joint_batch()]))


def test_sync_batch_norm_is_batch_norm_on_the_joint_batch(of_two: list[dict[str, Any]]) -> None:
    joint = normalise(nn.BatchNorm2d(6), *norm_inputs())
    first, second = (results["norm"] for results in of_two)
    for name in ("out", "input", "later"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), joint[name], msg=name)
    for name in ("weight", "bias"):  # each process has found its part of the sum
        torch.testing.assert_close(first[name] + second[name], joint[name], msg=name)
    for name in ("mean", "var"):
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], joint[name], msg=name)


def test_batch_norm_is_each_process_s_own(of_two: list[dict[str, Any]]) -> None:
    x, weights = norm_inputs()
    for results, own in zip(of_two, (slice(0, 3), slice(3, 5)), strict=True):
        expected = normalise(nn.BatchNorm2d(6), x[own], weights[own])
        torch.testing.assert_close(results["own norm"], expected, rtol=1e-4, atol=1e-5)


def test_sync_batch_norm_is_batch_norm_in_one_process() -> None:
    found, expected = (normalise(layer(6), *norm_inputs()) for layer in (SyncBatchNorm2d, nn.BatchNorm2d))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_evaluation_on_two_processes_has_the_figures_of_one(of_two: list[dict[str, Any]], tiny: Path) -> None:
    alone = evaluation(load_config(tiny), ALONE)
    assert 0.05 < float(alone["ap"].nan_to_num().mean()) < 0.95
    for results in of_two:
        found = results["evaluation"]
        assert found["figures"] == pytest.approx(alone["figures"], rel=0, abs=0, nan_ok=True)
        torch.testing.assert_close(found["ap"], alone["ap"], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(found["detections"], alone["detections"], rtol=0, atol=0)
        torch.testing.assert_close(found["losses"], alone["losses"])


def test_every_process_hears_of_the_others(of_two: list[dict[str, Any]]) -> None:
    assert [results["gathered"] for results in of_two] == [[0, 10]] * 2
    assert [results["from_main"] for results in of_two] == ["made by 0"] * 2
    assert [results["refused"] for results in of_two] == ["The main process found no file."] * 2
    assert [results["mean"] for results in of_two] == [{"a": 0.5, "b": 0.5}] * 2


# torchrun


def run_torchrun(folder: Path, options: Sequence[str], script: Path, arguments: Sequence[str]) -> None:
    """``torchrun OPTIONS SCRIPT ARGUMENTS``: its entry point, in a process that has torch already."""
    os.environ["OMP_NUM_THREADS"] = "1"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    torch.distributed.run.main([*options, str(script), *arguments])


def test_torchrun_trains_on_one_machine_and_on_two(
    recipe: Path,
    free_port: int,
    forkserver: ForkServerContext,
    assert_same_training: Callable[[Path, Path], None],
) -> None:
    """Two agents, each with a folder and a process of its own, stand for two machines without a shared disk.

    One machine trains two steps; two machines train one and resume for another. The run folders agree.
    """
    settings = (str(recipe), "--solver.batch-size", "4", "--solver.accumulate", "2", "--runs", "runs")
    settings += ("--model.norm", "sync_batch", "--solver.eval-every", "1", "--solver.steps")
    meeting = ("--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port}", "--rdzv-id=test")
    one, two = [("--standalone", "--nproc-per-node=2")], [("--nnodes=2", "--nproc-per-node=1", *meeting)] * 2
    runs = recipe.parent / "runs"
    for number, (options, arguments) in enumerate(
        (
            (one, (*settings, "2", "--name", "one")),
            (two, (*settings, "1", "--name", "two")),
            (two, ("--resume", "runs/two", "--solver.steps", "2")),
        )
    ):
        logs = recipe.parent / f"logs of {number}"
        talk = ("--redirects=3", f"--log-dir={logs}")
        processes = [
            forkserver.Process(
                target=run_torchrun, args=(folder, (*option, *talk), TOOLS / "train_det.py", arguments)
            )
            for option, folder in zip(options, (recipe.parent, recipe.parent / "elsewhere"), strict=False)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(200)
            process.terminate()  # and its workers, if it hangs
        printed = {path: path.read_text() for path in logs.rglob("std*.log")}
        assert [process.exitcode for process in processes] == [0] * len(options), printed
        assert "".join(printed.values()).count("Training finished") == 1, "each process talks"
    assert len(list((runs / "one/tensorboard").iterdir())) == 1, "each process writes"
    assert sorted(path.name for path in runs.iterdir()) == ["one", "two"]
    assert not list((recipe.parent / "elsewhere").rglob("*.*")), "each machine writes"
    assert_same_training(runs / "one", runs / "two")

    config, file = load_config(recipe), load_model(runs / "one/last.safetensors")
    annotations = read_annotations(config.data, "val", file.classes)
    losses, _ = predict_with_losses(restore(file, "one"), validation_batches(annotations, config, ALONE), ALONE)
    figures = json.loads((runs / "one/metrics.jsonl").read_text().splitlines()[-1])
    assert figures["step"] == 2 and figures["val_loss"] == pytest.approx(float(sum(losses)), rel=1e-4)
