"""What may change at a resume takes effect, and what may not is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import ALONE, SOLVER, ToyConfig, toy_batches, toy_losses, toy_network, train_toy

from resdet.cli import read
from resdet.config import ClsConfig, DetConfig, SolverConfig, to_dict, with_settings
from resdet.config.check import settings
from resdet.config.resume import CHANGEABLE, FIXED, MEASURED_BY
from resdet.engine.checkpoint import load_state, save_state
from resdet.engine.solver import lr_at
from resdet.engine.state import TrainState
from resdet.experiments import train as experiment
from resdet.seeds import Purpose, seed_everything

KINDS: tuple[type[Any], ...] = (DetConfig, ClsConfig)

# The two lists


def test_every_setting_is_either_fixed_or_changeable() -> None:
    """A new setting fails here until it is put in one of the lists of resdet/config/resume.py."""
    names = {name for kind in KINDS for name, _, _ in settings(kind())}
    assert names == FIXED | CHANGEABLE
    assert not FIXED & CHANGEABLE
    assert MEASURED_BY <= CHANGEABLE


def another(name: str, hint: Any, value: Any) -> list[str]:
    """Arguments that give a setting a value that it has not, and may have."""
    text = str(hint)
    if name == "model.features":  # which the default box head contradicts
        return ["--model.features", "dc5", "--model.box-head", "conv_fc"]
    if "Literal" in text:
        choices = [choice for choice in hint.__args__ if choice != value]
        return [f"--{name}", str(choices[0])]
    if isinstance(value, bool):
        section, _, last = name.rpartition(".")
        dotted = f"{section}." if section else ""
        return [f"--{dotted}no-{last}" if value else f"--{name}"]
    if isinstance(value, tuple):
        words = [str(item) for item in value]
        changed = {
            "model.maxout": ["0.5", "1"],
            "roi.background_iou": ["0.1", "0.5"],
            "roi.box_stds": ["0.2", "0.1", "0.2", "0.2"],
            "data.short_sides": [*words[:-1], "500"],
        }
        return [f"--{name}", *changed.get(name, [*words[1:], "64"])]
    if isinstance(value, str):
        return [f"--{name}", "other"]
    number = (0.3 if value == 0.25 else 0.25) if "float" in text else 2 * value + 1
    others = {"model.depth": 34, "model.norm_eps": 0.001, "rpn.foreground_iou": 0.8, "roi.foreground_iou": 0.8}
    return [f"--{name}", str(others.get(name, number))]


@pytest.mark.parametrize("kind", KINDS)
def test_each_setting_is_refused_or_taken_over(kind: type, tmp_path: Path, refuses: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(to_dict(kind())))
    command = "train-det" if kind is DetConfig else "train-cls"
    before = {name: value for name, _, value in settings(kind())} | {"name": "run", "runs": str(tmp_path)}
    for name, hint, value in settings(kind()):
        arguments = ["--resume", str(run), *another(name, hint, value)]
        if name in FIXED:
            with refuses(f"--resume cannot change {name}, which {run} was trained with", f"--init-weights {run}"):
                read(command, arguments)
        else:
            arguments_read = read(command, arguments)
            after = {name: value for name, _, value in settings(arguments_read.config)}
            assert arguments_read.resume == run and [other for other in after if after[other] != before[other]] == [
                name
            ]


@pytest.mark.parametrize("text", ["{", "5", '{"seed": -1}', '{"colour": 1}', "\xff"])
def test_a_damaged_config_is_refused(text: str, tmp_path: Path, refuses: Callable[..., Any]) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with refuses(tmp_path / "config.json", "cannot be used", f"--init-weights {tmp_path}"):
        read("train-det", ["--resume", str(tmp_path)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_a_larger_experiment_is_started_and_then_resumed(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: Callable[..., Any]
) -> None:
    """Also from another directory; with other settings as far as they may change."""
    calls: list[tuple[Any, bool]] = []
    monkeypatch.setattr(experiment, "train", lambda config, resume: calls.append((config, resume)))
    config = with_settings(kind(), {"init_weights": "own", "runs": str(tmp_path / "runs"), "name": "run"})
    experiment.train_or_resume(config)
    run = tmp_path / "runs/run"
    run.mkdir(parents=True)
    (run / "state.pt").touch()
    (run / "config.json").write_text(json.dumps(to_dict(config)))
    monkeypatch.chdir(tmp_path)
    longer = with_settings(config, {"solver.steps": 7, "runs": "runs/../runs"})
    experiment.train_or_resume(longer)
    assert calls == [(config, False), (longer, True)]
    with refuses(f"cannot change init_weights, which {longer.runs}/run was trained with"):
        experiment.train_or_resume(with_settings(longer, {"init_weights": "theirs"}))


# The optimizer


def resumed(
    folder: Path, before: SolverConfig, **changes: Any
) -> tuple[dict[str, Any], dict[str, Any], SolverConfig]:
    """Three steps, a resume with changed settings, one step more → the states before and after it, the settings."""
    train_toy(folder, replace(before, steps=3))
    old, solver = load_state(folder / "state.pt"), replace(before, steps=4, **changes)
    train_toy(folder, solver, resume=True)
    return old, load_state(folder / "state.pt"), solver


def gradients_of_next_step(state: dict[str, Any]) -> dict[str, Tensor]:
    """By name, of the toy network as it was saved."""
    network = toy_network()
    network.load_state_dict(state["model"])
    network.to(memory_format=torch.channels_last).train()  # the layout of a map is the order of its dropout
    step = state["progress"]["step"]
    batch = next(toy_batches(step))
    seed_everything(3, Purpose.STEP, step, 0)
    toy_losses(network, batch).loss.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def momenta(state: dict[str, Any], solver: SolverConfig, key: str = "momentum_buffer") -> dict[str, Any]:
    """By the parameters' names; the optimizer counts those that decay first."""
    network = toy_network()
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = TrainState(network, solver, ALONE).optimizer.param_groups
    order = [names[parameter] for group in groups for parameter in group["params"]]
    return {order[index]: own[key] for index, own in state["optimizer"]["state"].items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_decay": 0.3},
        {"momentum": 0.2},
        {"momentum": 0.0},
        {"lr": 0.03},
        {"clip_norm": 0.01},
        {"weight_decay": 0.3, "momentum": 0.2, "lr": 0.03, "clip_norm": 0.01},
    ],
)
def test_changed_settings_of_sgd_take_effect(changes: dict[str, float], tmp_path: Path) -> None:
    """Against torch's update rule by hand: v ← μ v + g + λ w, w ← w − lr v."""
    old, new, solver = resumed(tmp_path, SOLVER, **changes)
    gradients, buffers = gradients_of_next_step(old), momenta(old, solver)
    norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
    shrink = min(1.0, float(solver.clip_norm / norm)) if solver.clip_norm else 1.0
    for name, gradient in gradients.items():
        weight = old["model"][name]
        decay = solver.weight_decay if weight.ndim > 1 else 0.0
        velocity = solver.momentum * buffers[name] + shrink * gradient + decay * weight
        expected = weight - lr_at(3, solver) * velocity
        torch.testing.assert_close(new["model"][name], expected, rtol=1e-5, atol=1e-7, msg=name)
    for group in new["optimizer"]["param_groups"]:
        assert group["momentum"] == solver.momentum and group["weight_decay"] in (solver.weight_decay, 0.0)


@pytest.mark.parametrize("changes", [{}, {"weight_decay": 0.3}, {"lr": 0.03}])
def test_changed_settings_of_adamw_take_effect(changes: dict[str, float], tmp_path: Path) -> None:
    """Against Loshchilov and Hutter 2019, algorithm 2, by hand."""
    old, new, solver = resumed(tmp_path, replace(SOLVER, optimizer="adamw", lr=0.01), **changes)
    first, second = momenta(old, solver, "exp_avg"), momenta(old, solver, "exp_avg_sq")
    lr = lr_at(3, solver)
    for name, gradient in gradients_of_next_step(old).items():
        weight = old["model"][name]
        decay = solver.weight_decay if weight.ndim > 1 else 0.0
        mean = 0.9 * first[name] + 0.1 * gradient
        square = 0.999 * second[name] + 0.001 * gradient.square()
        step = (mean / (1 - 0.9**4)) / ((square / (1 - 0.999**4)).sqrt() + 1e-8)
        expected = weight * (1 - lr * decay) - lr * step
        torch.testing.assert_close(new["model"][name], expected, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.9), (0.0, 0.9), (0.5, 0.0)])
def test_a_changed_average_takes_effect(before: float, after: float, tmp_path: Path) -> None:
    """It begins with the weights after the first step that it sees, and may end."""
    old, new, _ = resumed(tmp_path, replace(SOLVER, ema=before), ema=after)
    if not after:
        assert new["average"] == {}
        return
    for name, _ in toy_network().named_parameters():
        expected = new["model"][name]
        if before:
            expected = after * old["average"][f"module.{name}"] + (1 - after) * expected
        torch.testing.assert_close(new["average"][f"module.{name}"], expected, msg=name)


# States that do not fit


def without(key: str) -> Callable[[dict[str, Any]], object]:
    """Removes an entry of a state."""
    return lambda state: state.pop(key)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        *((without(key), key) for key in ("classes", "progress", "model", "optimizer", "scaler")),
        (lambda state: state["progress"].update(colour=1), "colour"),
        (lambda state: state.update(progress=5), "TypeError"),
        (lambda state: state["optimizer"].pop("state"), "state"),
        (lambda state: state["optimizer"]["param_groups"].pop(), "other groups of parameters"),
        (lambda state: state["model"].pop("0.weight"), "0.weight"),
        (lambda state: state["model"].update({"0.weight": torch.zeros(3)}), "0.weight"),
        (lambda state: state.update(classes=("a", "c")), "classes differ"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    damage: Callable[[dict[str, Any]], object], words: str, tmp_path: Path, refuses: Callable[..., Any]
) -> None:
    """And the config that it was trained with is kept."""
    train_toy(tmp_path, replace(SOLVER, steps=1))
    state = load_state(tmp_path / "state.pt")
    damage(state)
    save_state(tmp_path / "state.pt", state)
    with refuses(tmp_path, words):
        train_toy(tmp_path, SOLVER, config=ToyConfig("blue"), resume=True)
    assert json.loads((tmp_path / "config.json").read_text()) == {"colour": "red"}


def test_other_groups_of_the_optimizer_do_not_fit(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    train_toy(tmp_path, replace(SOLVER, steps=1))
    with refuses(tmp_path / "state.pt", "other groups of parameters"):
        train_toy(tmp_path, replace(SOLVER, decay_all=True), resume=True)
