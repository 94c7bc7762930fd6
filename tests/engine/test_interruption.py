"""A training run that a signal or a failure ends is saved where it is, and goes on as if nothing had happened."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy import SOLVER, ToyBatch, toy_batches, toy_figures, toy_losses, train_toy

from resdet.engine.checkpoint import load_state
from resdet.engine.interruption import SIGNALS, Interruption
from resdet.engine.runtime import Runtime
from resdet.errors import Stopped, UserError

RARE = replace(SOLVER, save_every=0, eval_every=3)  # no checkpoint but those after 3, 6 and 7 steps


@pytest.fixture(autouse=True)
def no_signal_is_ignored() -> Iterator[None]:
    """As in a terminal, though the tests may run under nohup or in the background of a shell."""
    defaults = [signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL for number in SIGNALS]
    before = [signal.signal(number, handler) for number, handler in zip(SIGNALS, defaults, strict=True)]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


class Once:
    """Call `act` before the call number `number`, counted from 1, of the function that it wraps."""

    def __init__(self, function: Callable[..., Any], number: int, act: Callable[[], object]) -> None:
        self.function, self.left, self.act = function, number, act

    def __call__(self, *arguments: Any) -> Any:
        self.left -= 1
        if not self.left:
            self.act()
        return self.function(*arguments)


def batches_until(step: int, act: Callable[[], object]) -> Callable[[int], Iterator[ToyBatch]]:
    """The batches, before the fetch of the 0-based `step` of which `act` is called."""

    def batches(start: int) -> Iterator[ToyBatch]:
        for number, batch in enumerate(toy_batches(start), start):
            if number == step:
                act()
            yield batch

    return batches


def interrupted(place: str, step: int, act: Callable[[], object]) -> dict[str, Any]:
    """The changes of a toy task with which `act` is called in `place`, in or before the 0-based `step`."""
    if place == "fetch":
        return {"batches": batches_until(step, act)}
    if place == "step":
        return {"losses": Once(toy_losses, step + 1, act)}
    return {"evaluate": Once(toy_figures, step // 3, act)}


@pytest.mark.parametrize(
    ("place", "step", "saved"),
    [("fetch", 4, 4), ("step", 4, 5), ("step", 6, 7), ("evaluation", 3, 3), ("fetch", 3, 3)],
)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_saves_the_last_whole_step(
    number: signal.Signals,
    place: str,
    step: int,
    saved: int,
    tmp_path: Path,
    assert_same_training: Callable[[Path, Path], None],
) -> None:
    before = [signal.getsignal(other) for other in SIGNALS]
    train_toy(tmp_path / "whole", RARE)
    with pytest.raises(Stopped, match=f"after step {saved} of 7: continue with --resume") as caught:
        train_toy(tmp_path / "run", RARE, **interrupted(place, step, lambda: signal.raise_signal(number)))
    assert caught.value.signal == number and [signal.getsignal(other) for other in SIGNALS] == before
    assert load_state(tmp_path / "run/state.pt")["progress"]["step"] == saved
    assert (tmp_path / "run/last.safetensors").read_text() == str(saved)
    train_toy(tmp_path / "run", RARE, resume=True)
    assert_same_training(tmp_path / "run", tmp_path / "whole")
    for name in ("model.safetensors", "last.safetensors", "metrics.json"):
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_signal_before_the_first_step_leaves_what_can_be_resumed(tmp_path: Path) -> None:
    act = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    with pytest.raises(Stopped, match="before the first step"):
        train_toy(tmp_path, RARE, **interrupted("fetch", 0, act))
    train_toy(tmp_path, RARE, resume=True)
    assert load_state(tmp_path / "state.pt")["progress"]["step"] == 7


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_toy(tmp_path, RARE, **interrupted("step", 4, twice))
    assert load_state(tmp_path / "state.pt")["progress"]["step"] == 3, "the step was not whole"


def test_what_nohup_ignores_stays_ignored() -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption(Runtime(0, 1, None, None)):  # type: ignore[arg-type]
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "data loading process died"),
        (MemoryError(), "Memory ran out"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
@pytest.mark.parametrize("place", ["fetch", "evaluation"])
def test_a_failure_between_steps_loses_none(
    place: str,
    error: Exception,
    words: str,
    tmp_path: Path,
    refuses: Callable[..., Any],
    assert_same_training: Callable[[Path, Path], None],
) -> None:
    def fail() -> None:
        raise error

    step = 5 if place == "fetch" else 6
    train_toy(tmp_path / "whole", RARE)
    with refuses(words, f"continue with --resume {tmp_path}/run"):
        train_toy(tmp_path / "run", RARE, **interrupted(place, step, fail))
    assert load_state(tmp_path / "run/state.pt")["progress"]["step"] == step
    train_toy(tmp_path / "run", RARE, resume=True)
    assert_same_training(tmp_path / "run", tmp_path / "whole")


def test_a_failure_in_a_step_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    def fail() -> None:
        raise MemoryError

    with pytest.raises(UserError, match="Memory ran out"):
        train_toy(tmp_path, RARE, **interrupted("step", 4, fail))
    assert load_state(tmp_path / "state.pt")["progress"]["step"] == 3


def test_a_run_that_has_its_steps_is_evaluated_if_it_never_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    act = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    with pytest.raises(Stopped):
        train_toy(tmp_path, replace(RARE, eval_every=0), **interrupted("fetch", 4, act))
    assert not (tmp_path / "model.safetensors").exists()
    for steps, why in ((4, "4 of 4 steps"), (2, "4 steps, and solver.steps is 2")):
        capsys.readouterr()
        train_toy(tmp_path, replace(RARE, steps=steps), resume=True)
        assert f"Nothing left to train: {why}." in capsys.readouterr().out
        assert (tmp_path / "model.safetensors").read_text() == "4"
        assert load_state(tmp_path / "state.pt")["progress"]["evaluated"] == 4
