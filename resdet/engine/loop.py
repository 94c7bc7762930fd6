"""The one training loop, of detectors and of classifiers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resdet.config import SolverConfig
from resdet.engine.checkpoint import load_state, save_state, write_text
from resdet.engine.log import TrainLog
from resdet.engine.runtime import Runtime, from_main, mean, seed_everything
from resdet.engine.solver import build_optimizer, lr_at
from resdet.errors import UserError


class NamedBatch(Protocol):
    """What the loop needs to know of a batch."""

    @property
    def names(self) -> list[str]:
        """of its images, for messages"""


class NamedLosses(Protocol):
    """Loss terms, a named tuple of scalars."""

    def _asdict(self) -> dict[str, Tensor]: ...


@dataclass
class Progress:
    """How far a training has come."""

    step: int = 0
    best: float = -math.inf
    """of the metric that picks the best checkpoint"""
    stale: int = 0
    """evaluations since then"""


def fit(
    model: nn.Module,
    *,
    losses: Callable[[nn.Module, Any], NamedLosses],
    batches: Callable[[int], Iterator[NamedBatch]],
    evaluate: Callable[[], dict[str, float]],
    metric: str,
    save_model: Callable[[Path, int], None],
    solver: SolverConfig,
    seed: int,
    runtime: Runtime,
    folder: Path,
    resume: bool,
) -> None:
    """Train `model` and leave the run folder with weights, state and metrics.

    Args:
        losses: network, batch → loss terms
        batches: first step → its batches and those of all later steps, `solver.accumulate` for each step
        evaluate: → figures, the same on every process
        metric: the figure whose highest value marks the best model
        save_model: path, step → writes the weights
        folder: model.safetensors (best), last.safetensors, state.pt, metrics.jsonl, metrics.json
        resume: go on from the folder's state.pt
    """
    model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, solver)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
    progress = Progress()
    if resume:
        progress = _restore(from_main(lambda: load_state(folder / "state.pt")), model, optimizer, scaler)
    elif runtime.is_main:  # so that a training can be resumed from its first moment
        save_state(folder / "state.pt", _state(progress, model, optimizer, scaler))
    network = DistributedDataParallel(model) if runtime.world > 1 else model

    stream = batches(progress.step)
    with TrainLog(folder, progress.step, solver.steps) if runtime.is_main else nullcontext() as log:
        while not _end(progress, solver):
            lr = lr_at(progress.step, solver)
            for group in optimizer.param_groups:
                group["lr"] = lr
            model.train()
            fetched = time.perf_counter()
            parts = list(islice(stream, solver.accumulate))
            waited = time.perf_counter() - fetched
            # After the fetch, since a data loader that starts (at a resume too) draws from torch's generator.
            seed_everything(seed, progress.step, runtime.rank)
            terms = train_step(network, parts, losses, optimizer, scaler, runtime, solver.clip_norm)
            progress.step += 1

            evaluates = _due(progress.step, solver.eval_every, solver.steps)
            saves = evaluates or _due(progress.step, solver.save_every, solver.steps)
            if log:
                log.step(terms, solver.batch_size, waited)
                if saves or _due(progress.step, solver.log_every, solver.steps):
                    log.flush(progress.step, lr)
            if evaluates:
                _evaluate(evaluate, metric, progress, log, save_model, folder)
            if saves and runtime.is_main:
                save_state(folder / "state.pt", _state(progress, model, optimizer, scaler))
        if log:
            log.say(f"The training ends here: {_end(progress, solver)}.")


def train_step(
    network: nn.Module,
    parts: Sequence[NamedBatch],
    losses: Callable[[nn.Module, Any], NamedLosses],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    runtime: Runtime,
    clip_norm: float,
) -> dict[str, float]:
    """One step of the optimizer on the mean loss of `parts`; returns the loss terms, over all processes.

    Raises UserError that names the images if the loss or the gradient is not finite; the weights are untouched.
    """
    sums: dict[str, float] = {}
    for number, batch in enumerate(parts, 1):
        last = number == len(parts)
        synchronised = nullcontext() if last or runtime.world == 1 else network.no_sync()  # type: ignore[operator]
        with synchronised:
            with runtime.autocast():
                terms = losses(network, batch)._asdict()
            total = torch.stack([term.float() for term in terms.values()])
            values = dict(zip(terms, total.tolist(), strict=True))
            _refuse_infinite(values, batch.names)
            scaler.scale(total.sum() / len(parts)).backward()
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / len(parts)
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(network.parameters(), clip_norm or math.inf)
    if not scaler.is_enabled():  # the scaler skips such a step by itself
        _refuse_infinite({"gradient": norm.item()}, [name for batch in parts for name in batch.names])
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


def _end(progress: Progress, solver: SolverConfig) -> str:
    """Why the training is over, or nothing if it is not."""
    if progress.step >= solver.steps:
        return f"all {solver.steps} steps are done (solver.steps)"
    if 0 < solver.patience <= progress.stale:
        return f"{progress.stale} evaluations without a better one (solver.patience)"
    return ""


def _evaluate(
    evaluate: Callable[[], dict[str, float]],
    metric: str,
    progress: Progress,
    log: TrainLog | None,
    save_model: Callable[[Path, int], None],
    folder: Path,
) -> None:
    """Evaluate, note whether this is the best model so far, and write the weights."""
    started = time.perf_counter()
    figures = evaluate()
    better = figures[metric] > progress.best or not math.isfinite(progress.best)
    progress.best, progress.stale = (figures[metric], 0) if better else (progress.best, progress.stale + 1)
    if log is None:
        return
    log.evaluation(progress.step, figures, time.perf_counter() - started)
    save_model(folder / "last.safetensors", progress.step)
    if better:
        save_model(folder / "model.safetensors", progress.step)
        write_text(folder / "metrics.json", json.dumps({"step": progress.step, **figures}, indent=2) + "\n")


def _state(
    progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> dict[str, Any]:
    """All that a training needs to go on. No random states: each step's randomness follows from its number."""
    return {
        "progress": asdict(progress),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
    }


def _restore(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> Progress:
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:  # nothing, if the precision was not fp16 so far
        scaler.load_state_dict(state["scaler"])
    return Progress(**state["progress"])
