"""The one training loop, of detectors and of classifiers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from resdet.config import SolverConfig, to_dict
from resdet.engine.checkpoint import load_state, save_state
from resdet.engine.failures import explain
from resdet.engine.interruption import Interruption
from resdet.engine.log import TrainLog
from resdet.engine.runtime import Runtime, from_main, mean
from resdet.engine.state import Progress, TrainState
from resdet.engine.task import NamedBatch, NamedLosses, Task
from resdet.errors import Stopped, UserError
from resdet.io import write_text
from resdet.seeds import Purpose, seed_everything

STATE = "state.pt"  # in the run folder: what a resume reads


def fit(task: Task, solver: SolverConfig, runtime: Runtime, folder: Path, resume: bool) -> None:
    """Train the model of `task` and leave a run folder with its config, weights, state and metrics.

    Args:
        task: model, data, losses and evaluation
        solver: the settings of the optimizer and of what surrounds it
        runtime: this process, its device and its number type
        folder: gets config.json, model.safetensors (best), last.safetensors, state.pt, metrics.jsonl, metrics.json
        resume: continue from the folder's state.pt

    Raises UserError if the run cannot be resumed, if the training diverges, or if memory runs out, and Stopped if a
    signal ends it. In all cases the run can be continued.
    """
    state = TrainState(task.model, solver, runtime, task.classes)
    notice = _open_run(task, state, folder, runtime, resume)
    network = DistributedDataParallel(task.model) if runtime.world > 1 else task.model
    progress, batches = state.progress, task.batches(state.progress.step)
    started_at = progress.step
    with (
        TrainLog(folder, progress.step, solver.steps) if runtime.is_main else nullcontext() as log,
        Interruption(runtime) as interruption,
        _kept(task, state, log, folder, interruption),
    ):
        if log and notice:
            log.message(notice)
        if _evaluates(progress, solver):  # which the run that is resumed has not come to
            _checkpoint(task, state, log, folder, interruption)
        while not progress.end(solver):
            fetched = time.perf_counter()
            parts = list(islice(batches, solver.accumulate))
            waited = time.perf_counter() - fetched
            with interruption.hold():
                state.set_lr()
                # After the fetch, since a data loader that starts (at a resume too) draws from torch's generator.
                seed_everything(task.seed, Purpose.STEP, progress.step, runtime.rank)
                task.model.train()
                terms = train_step(
                    network, parts, task.losses, state.optimizer, state.scaler, runtime, solver.clip_norm
                )
                state.finish_step()
                if log:
                    log.step(terms, solver.batch_size, waited)
            interruption.check()

            saves = _evaluates(progress, solver) or _due(progress.step, solver.save_every, solver.steps)
            if log and (saves or _due(progress.step, solver.log_every, solver.steps)):
                log.flush(progress.step, state.lr)
            if saves:
                _checkpoint(task, state, log, folder, interruption)
        if log:
            what = "Training finished" if progress.step > started_at else "Nothing left to train"
            log.message(f"{what}: {progress.end(solver)}.")


@contextmanager
def _kept(
    task: Task, state: TrainState, log: TrainLog | None, folder: Path, interruption: Interruption
) -> Iterator[None]:
    """Whatever ends this block while the state is whole, the state is saved.

    Failures of the machine become a UserError, and both they and Stopped say how to continue.
    """
    try:
        yield
    except BaseException as error:
        step = state.progress.step
        if interruption.is_whole and log and step > state.saved:
            with suppress(UserError, OSError):  # a full disk may be what has ended the training
                log.flush(step, state.lr)
                _save(task, state, folder)
        then = f"continue with --resume {folder}"
        if isinstance(error, Stopped):
            done = f"after step {step} of {state.solver.steps}" if step else "before the first step"
            raise Stopped(error.signal, f"Stopped {done}: {then}.") from None
        if why := explain(error):
            raise UserError(f"{why.removesuffix('.')}; then {then}.") from error
        raise


def _open_run(task: Task, state: TrainState, folder: Path, runtime: Runtime, resume: bool) -> str:
    """Read the state of a run to resume, write config.json → what the user should know, if anything."""
    if resume:
        state.load_state_dict(from_main(lambda: load_state(folder / STATE)), folder / STATE)
    different = state.progress.compare_by(task.measure)
    if runtime.is_main:  # only now: what cannot be resumed keeps its config
        write_text(folder / "config.json", json.dumps(to_dict(task.config), indent=1) + "\n")
        for half in folder.glob(".tmp??????"):  # left by safetensors, if it was killed
            half.unlink()
        if not resume:  # so that a training run can be resumed from its first moment
            save_state(folder / STATE, state.state_dict())
    if not different:
        return ""
    return (
        f"The best model so far was measured otherwise ({', '.join(different)}): the search for the best starts "
        f"anew, and the next evaluation replaces {folder}/model.safetensors."
    )


def train_step(
    network: nn.Module,
    parts: Sequence[NamedBatch],
    losses: Callable[[nn.Module, Any], NamedLosses],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    runtime: Runtime,
    clip_norm: float,
) -> dict[str, float]:
    """One step of the optimizer on the mean loss of `parts`; returns the figures, over all processes.

    Raises UserError that names the images if the loss or the gradient is not finite; the weights are untouched.
    """
    sums: dict[str, float] = {}
    for number, batch in enumerate(parts, 1):
        last = number == len(parts)
        synchronised = nullcontext() if last or runtime.world == 1 else network.no_sync()  # type: ignore[operator]
        with synchronised:
            with runtime.autocast():
                terms = losses(network, batch)
            named = {"loss": terms.loss, **terms._asdict()}
            flat = torch.stack([term.detach().float() for term in named.values()])  # one copy to the CPU
            values = dict(zip(named, flat.tolist(), strict=True))
            _refuse_infinite(values, batch.names)
            scaler.scale(terms.loss / len(parts)).backward()
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / len(parts)
    scaler.unscale_(optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    if not scaler.is_enabled():  # the scaler skips such a step by itself
        _refuse_infinite({"gradient": norm.item()}, [name for batch in parts for name in batch.names])
    if 0 < clip_norm < norm:
        nn.utils.clip_grads_with_norm_(network.parameters(), clip_norm, norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return mean(sums)


def _refuse_infinite(values: Mapping[str, float], names: Sequence[str]) -> None:
    wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(
            f"The training diverged: {', '.join(wrong)} on {', '.join(names)}: lower solver.lr, raise "
            "solver.warmup_steps, set solver.clip_norm 10, or look at the boxes of these images; "
            "the last checkpoint is good."
        )


def _due(step: int, every: int, steps: int) -> bool:
    return step >= steps or (every > 0 and step % every == 0)


def _evaluates(progress: Progress, solver: SolverConfig) -> bool:
    """Whether an evaluation is due that has not been done."""
    return progress.evaluated < progress.step and _due(progress.step, solver.eval_every, solver.steps)


def _checkpoint(
    task: Task, state: TrainState, log: TrainLog | None, folder: Path, interruption: Interruption
) -> None:
    """Evaluate if that is due, and save the state; the main process is the one with a log."""
    figures, started = {}, time.perf_counter()
    if _evaluates(state.progress, state.solver):
        figures = task.evaluate(state.evaluated)
    with interruption.hold():  # what is logged, what is saved as the best and what the state says belong together
        if figures:
            _note(task, state, log, folder, figures, time.perf_counter() - started)
        if log:
            _save(task, state, folder)


def _note(
    task: Task, state: TrainState, log: TrainLog | None, folder: Path, figures: dict[str, float], seconds: float
) -> None:
    """Note whether this is the best model so far, and write it if so."""
    better, step = state.progress.note(figures[task.metric], state.solver), state.progress.step
    if log:
        log.evaluation(step, figures, seconds)
    if log and better:
        task.save(state.evaluated, folder / "model.safetensors", step)
        write_figures(folder, step, figures)


def _save(task: Task, state: TrainState, folder: Path) -> None:
    """Write the weights as they are, and the state to resume from."""
    task.save(state.evaluated, folder / "last.safetensors", state.progress.step)
    save_state(folder / STATE, state.state_dict())
    state.saved = state.progress.step


def write_figures(folder: Path, step: int, figures: Mapping[str, float]) -> None:
    """Write metrics.json: what the best model of the run reaches, and after how many steps it was found."""
    write_text(folder / "metrics.json", json.dumps({"step": step, **figures}, indent=2) + "\n")
