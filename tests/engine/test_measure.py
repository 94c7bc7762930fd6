"""Evaluations are compared with those of the same measure only, also over a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy import SOLVER, train_toy

from resdet.config import DetConfig
from resdet.config.resume import MEASURED_BY
from resdet.engine.checkpoint import load_state
from resdet.experiments.runs import measure


def evaluations(*values: float) -> Callable[[nn.Module], dict[str, float]]:
    """Each finds the next of the values, and 0.99 by another metric."""
    stream = iter(values)
    return lambda network: {"map": next(stream), "other": 0.99}


AP = {"test.metric": "ap"}
EACH = replace(SOLVER, eval_every=1, patience=2, steps=2)


def test_another_measure_starts_the_search_for_the_best_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A best mAP of 0.71 is nothing that an AP of 0.40 could be worse than."""
    train_toy(tmp_path, EACH, evaluate=evaluations(0.71, 0.70))
    capsys.readouterr()
    solver = replace(EACH, steps=6)
    train_toy(tmp_path, solver, evaluate=evaluations(0.38, 0.40, 0.39, 0.41), measure=AP, resume=True)
    out = " ".join(capsys.readouterr().out.split())
    assert "measured otherwise (test.metric)" in out and f"{tmp_path}/model.safetensors" in out
    assert load_state(tmp_path / "state.pt")["progress"] == {
        **{"step": 6, "best": 0.41, "stale": 0, "plateaus": 0, "evaluated": 6},
        "measure": AP,
    }
    assert (tmp_path / "model.safetensors").read_text() == "6"


def test_a_training_that_ran_out_of_patience_goes_on_by_another_measure(tmp_path: Path) -> None:
    train_toy(tmp_path, replace(EACH, steps=9), evaluate=evaluations(0.7, 0.6, 0.5))
    assert load_state(tmp_path / "state.pt")["progress"]["step"] == 3
    train_toy(tmp_path, replace(EACH, steps=4), evaluate=evaluations(0.4), measure=AP, resume=True)
    assert load_state(tmp_path / "state.pt")["progress"]["step"] == 4


def test_plateaus_outlive_another_measure(tmp_path: Path) -> None:
    """They are what the learning rate has come down by."""
    solver = replace(EACH, schedule="plateau", plateau=1, patience=0, warmup_steps=0)
    train_toy(tmp_path, solver, evaluate=evaluations(0.7, 0.6))
    train_toy(tmp_path, replace(solver, steps=3), evaluate=evaluations(0.4), measure=AP, resume=True)
    progress = load_state(tmp_path / "state.pt")["progress"]
    assert (progress["plateaus"], progress["stale"], progress["best"]) == (1, 0, 0.4)
    rates = [json.loads(line).get("lr") for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [rate for rate in rates if rate] == pytest.approx([0.1, 0.1, 0.01])


def test_the_same_measure_goes_on_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_toy(tmp_path, EACH, evaluate=evaluations(0.71, 0.70))
    train_toy(tmp_path, replace(EACH, steps=3), evaluate=evaluations(0.6), resume=True)
    assert "otherwise" not in capsys.readouterr().out
    assert load_state(tmp_path / "state.pt")["progress"]["best"] == 0.71


def test_a_measure_is_what_an_evaluation_reads() -> None:
    """Not how fast it reads, nor where the same data lie."""
    config, data = DetConfig(), (torch.arange(6).reshape(2, 3).numpy(), torch.ones(2).numpy())
    own = measure(config, *data)
    assert own["test.metric"] == "map07" and set(own) == {*MEASURED_BY, "the validation data"}
    same = replace(
        config,
        data=replace(config.data, root="elsewhere", workers=7, short_sides=(32,)),
        test=replace(config.test, batch_size=4, ensemble=("x",)),
    )
    assert measure(same, *data) == own
    for changed in (
        replace(config, test=replace(config.test, nms_iou=0.4)),
        replace(config, data=replace(config.data, test_short_side=300)),
        replace(config, rpn=replace(config.rpn, min_size=4)),
    ):
        assert measure(changed, *data) != own
    others = ((data[0] + 1, data[1]), (data[0].T, data[1]), (data[0].astype("int32"), data[1]), data[:1])
    assert len({measure(config, *other)["the validation data"] for other in (data, *others)}) == 5


def test_a_changed_metric_and_changed_validation_images_are_told(
    recipe: Path, cli: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "runs/tiny"
    assert cli("train-det", recipe, "--solver.steps", 1)[0] == 0
    status, out, err = cli("train-det", "--resume", run, "--solver.steps", 2, "--test.metric", "ap")
    assert (status, err) == (0, "") and "measured otherwise (test.metric)" in out
    status, out, err = cli("train-det", "--resume", run, "--solver.steps", 3, "--data.val", "train")
    assert (status, err) == (0, "") and "measured otherwise (the validation data)" in out
    status, out, err = cli("train-det", "--resume", run, "--solver.steps", 4, "--data.flip", 0)
    assert (status, err) == (0, "") and "otherwise" not in out
