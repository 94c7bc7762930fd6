"""A training that is killed without a warning, at any moment, goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from resdet import cli as command_line
from resdet.engine.checkpoint import load_state
from resdet.models.weights.load import load_model

PATIENCE = 120  # seconds to wait for another process, which may share its core with many
LOSSES = (1, 4)  # lines of loss in the log when the kill falls due


def train(arguments: list[str]) -> None:
    """``resdet train-det ARGUMENTS``, in a process of its own."""
    torch.set_num_threads(1)
    command_line.main(["train-det", *arguments])


def train_until_write(arguments: list[str], name: str, number: int) -> None:
    """`train` that halts for ever in the middle of the `number`-th write of the file `name`."""
    writes = {"count": 0}

    def halting(real: Callable[..., Any]) -> Callable[..., Any]:
        def write(content: Any, path: Path, *rest: Any) -> None:
            real(content, path, *rest)
            writes["count"] += f".{name}." in str(path)
            if writes["count"] == number:
                os.truncate(path, os.path.getsize(path) // 2)
                (path.parent / "halted").touch()
                time.sleep(PATIENCE)

        return write

    torch.save = halting(torch.save)
    safetensors.torch.save_file = halting(safetensors.torch.save_file)
    train(arguments)


def wait_for(condition: Callable[[], bool], process: ForkServerProcess) -> None:
    """Until `condition` holds, or the process has ended."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and process.is_alive():
        assert time.monotonic() < deadline, "the training does not get there"
        time.sleep(0.005)


def kill(process: ForkServerProcess) -> None:
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the training ended before it was killed"


def count_losses(run: Path) -> int:
    """Lines of loss that a training has logged so far."""
    log = run / "metrics.jsonl"
    return log.read_text().count('"loss"') if log.is_file() else 0


def test_kills_at_any_moment_change_nothing(
    recipe: Path, finished: Path, forkserver: ForkServerContext, assert_same_training: Callable[[Path, Path], None]
) -> None:
    """Two kills, each a random time after a step: in a later step, in an evaluation or in a checkpoint."""
    run, delays = recipe.parent / "runs/tiny", np.random.default_rng(0).uniform(0, 0.3, len(LOSSES))
    arguments = [str(recipe)]
    for losses, delay in zip(LOSSES, delays, strict=True):
        process = forkserver.Process(target=train, args=(arguments,))
        process.start()
        wait_for(lambda: count_losses(run) >= losses and (run / "state.pt").exists(), process)  # noqa: B023
        time.sleep(delay)
        kill(process)
        arguments = ["--resume", str(run)]
    last = forkserver.Process(target=train, args=(arguments,))
    last.start()
    last.join(PATIENCE)
    assert last.exitcode == 0
    assert_same_training(run, finished)
    for name in ("model.safetensors", "last.safetensors"):
        torch.testing.assert_close(
            load_model(run / name).weights, load_model(finished / name).weights, rtol=0, atol=0
        )
    assert not list(run.glob(".*")), "temporary files are left"


def kill_in_write(recipe: Path, name: str, number: int, forkserver: ForkServerContext) -> Path:
    """Start a training and kill it in the middle of the `number`-th write of the file `name` → its run folder."""
    run = recipe.parent / "runs/tiny"
    process = forkserver.Process(target=train_until_write, args=([str(recipe)], name, number))
    process.start()
    wait_for((run / "halted").exists, process)
    kill(process)
    assert (run / f".{name}.tmp").stat().st_size > 0, "it was not writing"
    return run


@pytest.mark.parametrize(
    ("name", "number", "step"), [("state.pt", 2, 0), ("state.pt", 6, 4), ("last.safetensors", 6, 5)]
)
def test_a_kill_in_the_middle_of_a_write_leaves_the_earlier_checkpoint(
    name: str,
    number: int,
    step: int,
    recipe: Path,
    finished: Path,
    forkserver: ForkServerContext,
    cli: Callable[..., Any],
    assert_same_training: Callable[[Path, Path], None],
) -> None:
    run = kill_in_write(recipe, name, number, forkserver)
    assert load_state(run / "state.pt")["progress"]["step"] == step
    assert load_model(run / "last.safetensors").step == (step if name == "last.safetensors" else step + 1)
    assert cli("train-det", "--resume", run)[0] == 0
    assert_same_training(run, finished)
    torch.testing.assert_close(load_model(run).weights, load_model(finished).weights, rtol=0, atol=0)
    assert not list(run.glob(".*")), "the half file is left"


def test_half_a_first_checkpoint_is_no_checkpoint(
    recipe: Path,
    finished: Path,
    forkserver: ForkServerContext,
    cli: Callable[..., Any],
    assert_sentence: Callable[..., None],
    assert_same_training: Callable[[Path, Path], None],
) -> None:
    """There is nothing to resume, and nothing that a new start would destroy."""
    run = kill_in_write(recipe, "state.pt", 1, forkserver)
    status, _, err = cli("train-det", "--resume", run)
    assert status == 1
    assert_sentence(err.strip(), "Nothing to resume", run)
    assert cli("train-det", recipe)[0] == 0
    assert_same_training(run, finished)
