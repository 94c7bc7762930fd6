"""The one training loop, of detectors and of classifiers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from resdet.config import SolverConfig, to_dict
from resdet.engine.checkpoint import load_state, save_state
from resdet.engine.log import TrainLog
from resdet.engine.runtime import Runtime, from_main, mean
from resdet.engine.state import TrainState
from resdet.engine.task import NamedBatch, NamedLosses, Task
from resdet.errors import UserError
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

    Raises UserError if the run cannot be resumed, or if the training diverges.
    """
    state = TrainState(task.model, solver, runtime, task.classes)
    notice = _open_run(task, state, folder, runtime, resume)
    network = DistributedDataParallel(task.model) if runtime.world > 1 else task.model
    progress, batches = state.progress, task.batches(state.progress.step)
    with TrainLog(folder, progress.step, solver.steps) if runtime.is_main else nullcontext() as log:
        if log and notice:
            log.message(notice)
        while not progress.end(solver):
            lr = state.set_lr()
            fetched = time.perf_counter()
            parts = list(islice(batches, solver.accumulate))
            waited = time.perf_counter() - fetched
            # After the fetch, since a data loader that starts (at a resume too) draws from torch's generator.
            seed_everything(task.seed, Purpose.STEP, progress.step, runtime.rank)
            task.model.train()
            terms = train_step(
                network, parts, task.losses, state.optimizer, state.scaler, runtime, solver.clip_norm
            )
            state.finish_step()

            evaluates = _due(progress.step, solver.eval_every, solver.steps)
            saves = evaluates or _due(progress.step, solver.save_every, solver.steps)
            if log:
                log.step(terms, solver.batch_size, waited)
                if saves or _due(progress.step, solver.log_every, solver.steps):
                    log.flush(progress.step, lr)
            if evaluates:
                _evaluate(task, state, log, folder)
            if saves and runtime.is_main:
                save_state(folder / STATE, state.state_dict())
        if log:
            log.message(f"Training finished: {progress.end(solver)}.")


def _open_run(task: Task, state: TrainState, folder: Path, runtime: Runtime, resume: bool) -> str:
    """Read the state of a run to resume, write config.json → what the user should know, if anything."""
    if resume:
        state.load_state_dict(from_main(lambda: load_state(folder / STATE)), folder / STATE)
    different = state.progress.compare_by(task.measure)
    if runtime.is_main:  # only now: what cannot be resumed keeps its config
        write_text(folder / "config.json", json.dumps(to_dict(task.config), indent=1) + "\n")
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
    return step == steps or (every > 0 and step % every == 0)


def _evaluate(task: Task, state: TrainState, log: TrainLog | None, folder: Path) -> None:
    """Evaluate, note whether this is the best model so far, and write the weights."""
    started = time.perf_counter()
    figures = task.evaluate(state.evaluated)
    better = state.progress.note(figures[task.metric], state.solver)
    if log is None:
        return
    step = state.progress.step
    log.evaluation(step, figures, time.perf_counter() - started)
    task.save(state.evaluated, folder / "last.safetensors", step)
    if better:
        task.save(state.evaluated, folder / "model.safetensors", step)
        write_figures(folder, step, figures)


def write_figures(folder: Path, step: int, figures: Mapping[str, float]) -> None:
    """Write metrics.json: what the best model of the run reaches, and after how many steps it was found."""
    write_text(folder / "metrics.json", json.dumps({"step": step, **figures}, indent=2) + "\n")
