"""The training loop: a step, a checkpoint, a resume, an early end. On a toy network, and on the detector itself."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from toy import (
    ALONE,
    SOLVER,
    CrashError,
    ToyBatch,
    ToyLosses,
    interrupt_before,
    toy_batches,
    toy_losses,
    toy_network,
    train_toy,
)

from resdet.config import DetConfig, SolverConfig, load_config, with_settings
from resdet.data.build import read_annotations, validation_batches
from resdet.engine import log as log_module
from resdet.engine import loop
from resdet.engine.checkpoint import load_state
from resdet.engine.log import read_metrics
from resdet.engine.loop import train_step
from resdet.engine.runtime import Runtime
from resdet.engine.solver import lr_at
from resdet.errors import UserError
from resdet.evaluation.predict import predict_with_losses, to_device
from resdet.experiments.runs import check_start
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.weights.initial import start_detector
from resdet.models.weights.load import load_model
from resdet.seeds import Purpose, seed_everything
from resdet.types import Batch, Losses, Target


def recorded_gradients(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Filled with the gradients that the next step of `optimizer` sees."""
    gradients: dict[str, Tensor] = {}
    optimizer.register_step_pre_hook(
        lambda *_: gradients.update({name: p.grad.clone() for name, p in network.named_parameters()})
    )
    return gradients


class Step(NamedTuple):
    """What a `train_step` reports, and the gradients of the parameters in it."""

    terms: dict[str, float]
    gradients: dict[str, Tensor]


def step_of(
    network: nn.Module,
    parts: Sequence[Any],
    losses: Callable[..., Any] | None = None,
    clip_norm: float = 0.0,
    runtime: Runtime = ALONE,
) -> Step:
    """One `train_step` of a network, with several processes if there are more."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    gradients = recorded_gradients(network, optimizer)
    wrapped = DistributedDataParallel(network) if runtime.world > 1 else network
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    terms = train_step(wrapped, parts, losses or toy_losses, optimizer, scaler, runtime, clip_norm)
    assert all(p.grad is None for p in network.parameters()), "gradients are left for the next step"
    return Step(terms, gradients)


def norm_of(gradients: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))


# The resume


@pytest.mark.parametrize(
    ("crash", "optimizer"), [(2, "sgd"), (3, "sgd"), (4, "sgd"), (5, "sgd"), (6, "sgd"), (5, "adamw")]
)
def test_a_resumed_toy_training_equals_an_uninterrupted_one(
    crash: int,
    optimizer: Literal["sgd", "adamw"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same_training: Callable[[Path, Path], None],
) -> None:
    solver = replace(SOLVER, optimizer=optimizer)
    train_toy(tmp_path / "whole", solver)
    interrupt_before(crash, monkeypatch)
    with pytest.raises(CrashError):
        train_toy(tmp_path / "parts", solver)
    monkeypatch.undo()
    train_toy(tmp_path / "parts", solver, resume=True)
    assert_same_training(tmp_path / "whole", tmp_path / "parts")
    for name in ("model.safetensors", "last.safetensors", "metrics.json"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_resumed_detector_equals_an_uninterrupted_one(
    recipe: Path,
    finished: Path,
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    assert_same_training: Callable[[Path, Path], None],
) -> None:
    """With two workers that read ahead, against none; test_kill.py resumes without workers."""
    interrupt_before(5, monkeypatch)
    with pytest.raises(CrashError):  # after step 5, of which state.pt is two steps behind
        cli("train-det", recipe, "--data.workers", 2, "--solver.save-every", 0)
    monkeypatch.undo()
    run = recipe.parent / "runs/tiny"
    assert load_state(run / "state.pt")["progress"]["step"] == 3
    assert cli("train-det", "--resume", run)[0] == 0
    assert_same_training(run, finished)
    for name in ("model.safetensors", "last.safetensors"):
        torch.testing.assert_close(
            load_model(run / name).weights, load_model(finished / name).weights, rtol=0, atol=0
        )


def test_a_run_folder_that_was_moved_goes_on_where_it_is(
    recipe: Path, finished: Path, cli: Callable[..., Any], logged: Callable[..., list]
) -> None:
    moved, before = recipe.parent / "runs/moved", logged(finished)
    shutil.copytree(finished, moved)
    status, out, err = cli("train-det", "--resume", moved, "--solver.steps", 7)
    assert (status, err) == (0, "") and str(moved) in out
    assert logged(moved)[:-2] == before == logged(finished)
    assert load_state(moved / "state.pt")["progress"]["step"] == 7


@pytest.mark.parametrize(("patience", "why"), [(0, "7 of 7 steps"), (1, "1 evaluations without improvement")])
def test_resuming_a_training_that_is_over_changes_nothing_and_says_why(
    patience: int, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solver = replace(SOLVER, patience=patience)
    train_toy(tmp_path, solver, evaluate=lambda net: {"map": 0.5})
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    capsys.readouterr()
    train_toy(tmp_path, solver, resume=True)
    assert why in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    train_toy(tmp_path, replace(SOLVER, steps=9), resume=True)
    assert load_state(tmp_path / "state.pt")["progress"]["step"] == 9


def test_lines_beyond_the_checkpoint_and_a_cut_off_line_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[..., list]
) -> None:
    train_toy(tmp_path / "whole")
    interrupt_before(5, monkeypatch)
    with pytest.raises(CrashError):
        train_toy(tmp_path / "parts")
    monkeypatch.undo()
    with (tmp_path / "parts/metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 99.0}\n{"step": 6, "lo')
    train_toy(tmp_path / "parts", resume=True)
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")


def test_an_existing_run_is_not_overwritten(
    recipe: Path, finished: Path, cli: Callable[..., Any], assert_sentence: Callable[..., None]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    status, _, err = cli("train-det", recipe, "--runs", finished.parent)
    assert status == 1
    assert_sentence(err.strip(), finished, "--resume", "--name")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(("world", "accumulate", "multiple"), [(2, 1, 2), (1, 4, 4), (3, 2, 6)])
def test_a_batch_must_be_shared_equally(
    world: int, accumulate: int, multiple: int, tmp_path: Path, refuses: Callable[..., Any]
) -> None:
    runtime = replace(ALONE, world=world)
    solver = SolverConfig(batch_size=2 * multiple + 1, accumulate=accumulate)
    config = DetConfig(runs=str(tmp_path), name="run", solver=solver)
    with refuses(f"batch_size {2 * multiple + 1}", f"{world} process", f"a multiple of {multiple}"):
        check_start(config, runtime, resume=False)
    check_start(with_settings(config, {"solver.batch_size": 2 * multiple}), runtime, resume=False)


# One step


def first_batch(parts: int = 1) -> list[ToyBatch]:
    """The images of the first step."""
    return list(islice(toy_batches(0, parts), parts))


def test_an_accumulated_step_equals_a_whole_one() -> None:
    """In its gradients and in the losses that it reports."""
    whole, *others = (step_of(toy_network().eval(), first_batch(parts)) for parts in (1, 2, 4))
    for step in others:
        torch.testing.assert_close(step.gradients, whole.gradients)
        assert step.terms == pytest.approx(whole.terms)


def joint_batch(images: int = 4) -> Batch:
    """Images of one size with three objects each."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (images, 3, 48, 64), generator=generator, dtype=torch.uint8)
    corners = torch.rand(images, 3, 2, generator=generator) * 22
    sides = 8 + torch.rand(images, 3, 2, generator=generator) * 18
    boxes = torch.cat([corners, corners + sides], dim=2)
    labels = torch.randint(0, 6, (images, 3), generator=generator)
    targets = [Target(b, c, torch.zeros(3, dtype=torch.bool)) for b, c in zip(boxes, labels, strict=True)]
    sizes = torch.tensor([[48, 64]] * images)
    return Batch(pixels, sizes, targets, sizes, [f"{i}.jpg" for i in range(images)], list(range(images)))


def share(batch: Batch, part: int, parts: int) -> Batch:
    """The images part, part + parts, … of `batch`."""
    images, sizes, targets, originals, names, indices, _ = batch
    fields = (field[part::parts] for field in (images, sizes, targets, originals, names, indices))
    return Batch(*fields)


def detector_losses(network: nn.Module, batch: Batch) -> Losses:
    return network(*to_device(batch, torch.device("cpu")))


def fresh_detector(config: DetConfig) -> FasterRCNN:
    seed_everything(0, Purpose.WEIGHTS)
    return build_detector(config, 6)


def unsampled_detector(config: DetConfig, norm: str = "group") -> FasterRCNN:
    """A fresh detector in which nothing is drawn: its mini-batches are larger than what there is to draw from.

    In double precision and with fixed proposals: in float32 a rounding error now and then tips a maximum, a ReLU
    or the cells of a proposal, which is no error of the training but hides one.
    """
    config = replace(
        config,
        model=replace(config.model, norm=norm),
        rpn=replace(config.rpn, batch_size_per_image=4096, foreground_fraction=1.0),
        roi=replace(config.roi, batch_size_per_image=128, foreground_fraction=0.5),
    )
    model = fresh_detector(config).double()
    steps = torch.arange(0, 36, 12)
    x, y = (corner.flatten() for corner in torch.meshgrid(steps, steps, indexing="ij"))
    fixed = torch.stack([x, y, x + 28, y + 21], dim=1).float()  # (9, 4)
    model.propose = lambda scored, *_, **__: [fixed] * len(scored.logits[0])
    return model


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal but for the last digits of a double; none of them zero."""
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        assert scale > 0, f"{name} is not trained"
        torch.testing.assert_close(actual[name], gradient, rtol=0, atol=1e-10 * scale, msg=name)


def test_an_accumulated_step_of_the_detector_equals_a_whole_one(recipe: Path) -> None:
    config, batch = load_config(recipe), joint_batch()
    whole, accumulated = (
        step_of(unsampled_detector(config), [share(batch, i, parts) for i in range(parts)], detector_losses)
        for parts in (1, 2)
    )
    assert_same_gradients(accumulated.gradients, whole.gradients)
    assert accumulated.terms == pytest.approx(whole.terms)


def test_a_long_gradient_is_clipped_and_a_short_one_is_not() -> None:
    plain = step_of(toy_network().eval(), first_batch()).gradients
    norm = norm_of(plain)
    clipped = step_of(toy_network().eval(), first_batch(), clip_norm=norm / 4).gradients
    assert norm_of(clipped) == pytest.approx(norm / 4, rel=1e-4)
    torch.testing.assert_close(clipped, {name: gradient / 4 for name, gradient in plain.items()})
    generous = step_of(toy_network().eval(), first_batch(), clip_norm=norm * 4).gradients
    torch.testing.assert_close(generous, plain, rtol=0, atol=0)


def diverging(kind: str, after: int) -> Callable[..., ToyLosses]:
    """Loss terms of which, from the 0-based step `after` on, a value or only its gradient is not finite."""
    steps = count()

    def losses(network: nn.Module, batch: ToyBatch) -> ToyLosses:
        terms = toy_losses(network, batch)
        if next(steps) < after:
            return terms
        if kind == "gradient":  # 0, with an infinite slope
            return terms._replace(fit=terms.fit + (terms.fit - terms.fit).sqrt())
        return terms._replace(fit=terms.fit * float(kind))

    return losses


@pytest.mark.parametrize("clip_norm", [0.0, 10.0])
@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_a_divergence_names_the_images_and_leaves_the_checkpoint(
    kind: str, clip_norm: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: Callable[..., Any]
) -> None:
    network, solver = toy_network(), replace(SOLVER, clip_norm=clip_norm)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    with pytest.raises(UserError, match=r"diverged.* image 0\.0: .*solver\.lr.*checkpoint is good"):
        train_step(network, first_batch(), diverging(kind, 0), optimizer, scaler, ALONE, clip_norm)
    torch.testing.assert_close(dict(network.named_parameters()), before, rtol=0, atol=0)

    with pytest.raises(UserError, match=r"diverged.* image 4\.0: "):
        train_toy(tmp_path / "run", solver, losses=diverging(kind, 4))
    assert load_state(tmp_path / "run/state.pt")["progress"]["step"] == 4
    assert [row["step"] for row in read_metrics(tmp_path / "run/metrics.jsonl")][-1] == 4


# The end


def figures(*values: float) -> Callable[[nn.Module], dict[str, float]]:
    """An evaluation that finds these, one after the other."""
    stream = iter(values)
    return lambda network: {"map": next(stream)}


def test_the_best_and_the_last_model_are_kept_apart(tmp_path: Path) -> None:
    solver = replace(SOLVER, steps=5, eval_every=1)
    train_toy(tmp_path, solver, evaluate=figures(0.1, 0.3, 0.3, 0.2, 0.1))
    assert (tmp_path / "model.safetensors").read_text() == "2", "a tie is not better"
    assert (tmp_path / "last.safetensors").read_text() == "5"
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"step": 2, "map": 0.3}


def test_the_best_is_remembered_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = replace(SOLVER, steps=5, eval_every=1, patience=3)
    interrupt_before(3, monkeypatch)
    with pytest.raises(CrashError):
        train_toy(tmp_path, solver, evaluate=figures(0.1, 0.5, 0.2))
    monkeypatch.undo()
    train_toy(tmp_path, solver, evaluate=figures(0.3, 0.4), resume=True)
    assert (tmp_path / "model.safetensors").read_text() == "2"
    assert load_state(tmp_path / "state.pt")["progress"] == {
        **{"step": 5, "best": 0.5, "stale": 3, "plateaus": 0, "evaluated": 5},
        "measure": {"test.metric": "map"},
    }


@pytest.mark.parametrize(("patience", "steps"), [(0, 6), (1, 3), (2, 4), (3, 6)])
def test_a_training_stops_when_its_patience_is_over(tmp_path: Path, patience: int, steps: int) -> None:
    solver = replace(SOLVER, steps=6, eval_every=1, patience=patience)
    train_toy(tmp_path, solver, evaluate=figures(0.1, 0.3, 0.2, 0.2, 0.4, 0.1))
    assert load_state(tmp_path / "state.pt")["progress"]["step"] == steps
    assert (tmp_path / "last.safetensors").read_text() == str(steps)


def test_an_undefined_figure_does_not_stay_the_best(tmp_path: Path) -> None:
    solver = replace(SOLVER, steps=3, eval_every=1)
    train_toy(tmp_path, solver, evaluate=figures(math.nan, 0.0, -1.0))
    assert (tmp_path / "model.safetensors").read_text() == "2"


# What is recorded


def test_every_step_has_the_learning_rate_of_the_schedule(tmp_path: Path, logged: Callable[..., list]) -> None:
    train_toy(tmp_path)
    rates = [row["lr"] for row in logged(tmp_path) if "lr" in row]
    assert rates == pytest.approx([lr_at(step, SOLVER) for step in range(7)])


def test_evaluations_and_checkpoints_come_when_they_are_due(tmp_path: Path) -> None:
    train_toy(tmp_path, replace(SOLVER, log_every=2, save_every=0))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [2, 3, 4, 6, 7]
    assert [row["step"] for row in rows if "map" in row] == [3, 6, 7]


def test_speed_waiting_and_time_left_are_those_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part takes 2 seconds to fetch and 3 to train on; an evaluation takes 1000."""
    clock = SimpleNamespace(now=0.0)

    def batches(start: int) -> Iterator[ToyBatch]:
        for batch in toy_batches(start, 2):
            clock.now += 2
            yield batch

    def losses(network: nn.Module, batch: ToyBatch) -> ToyLosses:
        clock.now += 3
        return toy_losses(network, batch)

    def evaluate(network: nn.Module) -> dict[str, float]:
        clock.now += 1000
        return {"map": 0.5}

    fake = SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(loop, "time", fake)
    monkeypatch.setattr(log_module, "time", fake)
    solver = replace(SOLVER, accumulate=2, log_every=2, steps=6, eval_every=4)
    train_toy(tmp_path, solver, batches=batches, losses=losses, evaluate=evaluate)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row]
    assert [row["images_per_second"] for row in rows] == [4 / 10] * 3
    assert [row["data_wait"] for row in rows] == [0.4] * 3
    assert [row["seconds_left"] for row in rows[:2]] == [40, 20]
    assert rows[2]["seconds_left"] == 0


# Mixed precision


def test_fp16_skips_a_step_whose_scaled_gradient_overflows(tmp_path: Path) -> None:
    """The scale starts at 65536 and is halved until the gradient fits into 16 bits."""
    network = toy_network().eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    gradients = recorded_gradients(network, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    runtime = replace(ALONE, dtype=torch.float16)
    before = [p.clone() for p in network.parameters()]
    batch = first_batch()[0]._replace(y=torch.full((4,), 50.0))
    for tries in count(1):
        train_step(network, [batch], toy_losses, optimizer, scaler, runtime, 0.0)
        assert all(p.isfinite().all() for p in network.parameters())
        if gradients:
            break
        torch.testing.assert_close(list(network.parameters()), before, rtol=0, atol=0)
        assert scaler.get_scale() == 65536 / 2**tries and tries < 10
    assert tries > 1, "nothing overflowed"
    exact = step_of(toy_network().eval(), [batch]).gradients
    for name, gradient in exact.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0.05, atol=0.02 * float(gradient.abs().max()))


def test_an_fp16_training_resumes_with_its_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_same_training: Callable[[Path, Path], None]
) -> None:
    half = replace(ALONE, dtype=torch.float16)
    train_toy(tmp_path / "whole", runtime=half)
    interrupt_before(5, monkeypatch)
    with pytest.raises(CrashError):
        train_toy(tmp_path / "parts", runtime=half)
    monkeypatch.undo()
    train_toy(tmp_path / "parts", runtime=half, resume=True)
    assert_same_training(tmp_path / "whole", tmp_path / "parts")
    assert load_state(tmp_path / "parts/state.pt")["scaler"]["scale"] > 0


@pytest.mark.parametrize(("before", "after"), [(torch.float32, torch.float16), (torch.float16, torch.float32)])
def test_the_precision_may_change_at_a_resume(before: torch.dtype, after: torch.dtype, tmp_path: Path) -> None:
    train_toy(tmp_path, runtime=replace(ALONE, dtype=before))
    train_toy(tmp_path, replace(SOLVER, steps=8), runtime=replace(ALONE, dtype=after), resume=True)
    assert load_state(tmp_path / "state.pt")["progress"]["step"] == 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_detector_has_about_the_same_losses_in_16_bits(recipe: Path, dtype: torch.dtype) -> None:
    batch, terms = joint_batch(2), {}
    for number_type in (torch.float32, dtype):
        model = unsampled_detector(load_config(recipe)).float()
        with torch.no_grad(), replace(ALONE, dtype=number_type).autocast():
            terms[number_type] = detector_losses(model, batch)
    for name, value, expected in zip(Losses._fields, terms[dtype], terms[torch.float32], strict=True):
        assert float(value) == pytest.approx(float(expected), rel=0.1, abs=0.01), name


def test_the_detector_trains_in_bf16(recipe: Path, cli: Callable[..., Any]) -> None:
    """In fp16 a backward pass of its convolutions takes most of a minute on a CPU."""
    steps = ("--solver.steps", 1, "--solver.precision", "bf16", "--solver.batch-size", 1)
    assert cli("train-det", recipe, *steps)[0] == 0
    file = load_model(recipe.parent / "runs/tiny/last.safetensors")
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in file.weights.values())


# Around the loop


def test_fine_tuning_on_other_classes_keeps_all_but_the_last_layers(
    recipe: Path, finished: Path, cli: Callable[..., Any]
) -> None:
    classes = ("--data.classes", "square", "star", "--data.other-classes", "ignore")
    still = ("--solver.steps", 1, "--solver.lr", 0.0, "--solver.eval-every", 0)
    status, out, err = cli("train-det", recipe, "--init-weights", finished, *classes, *still)
    assert (status, err) == (0, "")
    assert f"{finished} has different classes (circle, square, triangle, star, ring, cross)" in out
    assert "roi_heads.box_predictor" in out and "start at random" in out
    old, new = load_model(finished), load_model(recipe.parent / "runs/tiny")
    assert new.classes == ("square", "star")
    layers = ("cls_score", "bbox_pred")
    last = {f"roi_heads.box_predictor.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert {name for name in old.weights if old.weights[name].shape != new.weights[name].shape} == last
    for name in set(old.weights) - last:
        torch.testing.assert_close(new.weights[name], old.weights[name], rtol=0, atol=0, msg=name)


def test_fine_tuning_on_the_same_classes_keeps_everything(recipe: Path, finished: Path) -> None:
    file = load_model(finished / "last.safetensors")
    config = load_config(recipe, ["--init-weights", str(finished / "last.safetensors")])
    model = fresh_detector(config)
    assert f"all weights from {finished}/last.safetensors" in start_detector(model, config, file.classes).lower()
    torch.testing.assert_close(dict(model.state_dict()), file.weights, rtol=0, atol=0)


def test_the_validation_loss_does_not_depend_on_earlier_randomness(recipe: Path) -> None:
    config = load_config(recipe)
    annotations = read_annotations(config.data, "val", config.data.classes)
    model, found = fresh_detector(config), []
    for seed in (5, 6):
        torch.manual_seed(seed)
        model.train()
        found.append(predict_with_losses(model, validation_batches(annotations, config, ALONE), ALONE)[0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
