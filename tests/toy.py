"""A network that trains in milliseconds, for the tests of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from resdet.config import SolverConfig
from resdet.engine import loop
from resdet.engine.loop import fit, train_step
from resdet.engine.runtime import Runtime

ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
SOLVER = SolverConfig(
    lr=0.1,
    steps=7,
    milestones=(5,),
    warmup_steps=2,
    batch_size=4,
    precision="fp32",
    eval_every=3,
    save_every=2,
    log_every=1,
)


class ToyBatch(NamedTuple):
    x: Tensor
    y: Tensor
    names: list[str]


class ToyLosses(NamedTuple):
    fit: Tensor
    size: Tensor

    @property
    def loss(self) -> Tensor:
        return self.fit + self.size


def toy_network() -> nn.Module:
    """Normalisation with statistics and random dropout: what a careless resume gets wrong."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 16, 1)
    )


def toy_losses(network: nn.Module, batch: ToyBatch) -> ToyLosses:
    out = network(batch.x)[:, 0]
    return ToyLosses((out - batch.y).square().mean(), 0.01 * out.abs().mean())


def toy_batches(start: int, parts: int = 1) -> Iterator[ToyBatch]:
    """Four images for each step, in equal parts."""
    for step in count(start):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(4, 3, 6, 6, generator=generator), torch.randn(4, generator=generator)
        for part, (some_x, some_y) in enumerate(zip(x.chunk(parts), y.chunk(parts), strict=True)):
            yield ToyBatch(some_x, some_y, [f"image {step}.{part}"])


def toy_figures(network: nn.Module) -> dict[str, float]:
    """Something that depends on the weights."""
    return {"map": float(next(network.parameters()).detach().abs().mean())}


@dataclass
class ToyConfig:
    """A setting for config.json."""

    colour: str = "red"


@dataclass
class ToyTask:
    """The toy network as a task; the files of weights hold the step they were written after."""

    model: nn.Module
    batches: Callable[[int], Iterator[ToyBatch]]
    losses: Callable[[nn.Module, Any], ToyLosses] = toy_losses
    evaluate: Callable[[Any], dict[str, float]] = toy_figures
    measure: Mapping[str, Any] = field(default_factory=lambda: {"test.metric": "map"})
    config: ToyConfig = field(default_factory=ToyConfig)
    metric: str = "map"
    classes: tuple[str, ...] = ("a", "b")
    seed: int = 3

    def save(self, network: nn.Module, path: Path, step: int) -> None:
        path.write_text(str(step))


def train_toy(
    folder: Path, solver: SolverConfig = SOLVER, runtime: Runtime = ALONE, resume: bool = False, **changes: Any
) -> nn.Module:
    """`fit` on the toy network, with `changes` of the task."""
    folder.mkdir(exist_ok=True)
    batches = changes.pop("batches", lambda start: toy_batches(start, solver.accumulate))
    task = ToyTask(toy_network(), batches, **changes)
    fit(task, solver, runtime, folder, resume)
    return task.model


class CrashError(Exception):
    """Stands for a crash."""


def interrupt_before(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the training crash instead of taking the 0-based `step`, counted in this session."""
    steps = count()

    def limited(*arguments: Any) -> dict[str, float]:
        if next(steps) == step:
            raise CrashError
        return train_step(*arguments)

    monkeypatch.setattr(loop, "train_step", limited)
