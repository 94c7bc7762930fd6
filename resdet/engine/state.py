"""What a training run changes as it goes, and what a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resdet.config import SolverConfig
from resdet.engine.runtime import Runtime
from resdet.engine.solver import build_optimizer, lr_at, restore_optimizer
from resdet.errors import UserError, reason
from resdet.models.weights.strict import load_strictly


@dataclass
class Progress:
    """How far a training run has come."""

    step: int = 0
    best: float = -math.inf
    """of the metric that picks the best checkpoint"""
    stale: int = 0
    """evaluations since then"""
    plateaus: int = 0
    """how often that many were a plateau"""
    measure: dict[str, Any] = field(default_factory=dict)
    """what `best` was measured by: settings, and the data"""
    evaluated: int = 0
    """step of the last evaluation"""

    def end(self, solver: SolverConfig) -> str:
        """Why the training is over, or nothing if it is not."""
        if self.step > solver.steps:
            return f"{self.step} steps, and solver.steps is {solver.steps}"
        if self.step == solver.steps:
            return f"{self.step} of {solver.steps} steps"
        if 0 < solver.patience <= self.stale:
            return f"{self.stale} evaluations without improvement (solver.patience)"
        return ""

    def note(self, value: float, solver: SolverConfig) -> bool:
        """Take an evaluation into account → whether it is the best so far."""
        self.evaluated = self.step
        better = value > self.best or not math.isfinite(self.best)
        self.best, self.stale = (value, 0) if better else (self.best, self.stale + 1)
        self.plateaus += self.stale > 0 and self.stale % solver.plateau == 0
        return better

    def compare_by(self, measure: Mapping[str, Any]) -> list[str]:
        """Compare evaluations by `measure` from now on → what is different from the measure of the best so far.

        Figures of different measures cannot be compared: the search for the best starts anew. The plateaus stay,
        since the learning rate follows from them.
        """
        names = sorted({*measure, *self.measure})
        different = [name for name in names if measure.get(name) != self.measure.get(name)]
        found = math.isfinite(self.best)
        if different:
            self.best, self.stale = -math.inf, 0
        self.measure = dict(measure)
        return different if found else []


class TrainState:
    """Model, optimizer, scaler, moving average and progress of one training.

    No random states: each step's randomness follows from its number.

    Args:
        classes: names in the order of the labels; a checkpoint is for these only
    """

    def __init__(
        self, model: nn.Module, solver: SolverConfig, runtime: Runtime, classes: tuple[str, ...] = ()
    ) -> None:
        model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model, self.solver, self.classes, self.progress = model, solver, classes, Progress()
        self.saved = 0  # step of the last checkpoint
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
        self.optimizer = build_optimizer(model, solver, fused=not self.scaler.is_enabled())
        decay = get_ema_multi_avg_fn(solver.ema)
        self.average = AveragedModel(model, multi_avg_fn=decay, use_buffers=True) if solver.ema else None

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and saved."""
        return self.average.module if self.average else self.model

    @property
    def lr(self) -> float:
        """The learning rate of the step that was last, or is under way."""
        return self.optimizer.param_groups[0]["lr"]

    def set_lr(self) -> None:
        """Give the optimizer the learning rate of the step that comes next."""
        lr = lr_at(self.progress.step, self.solver, self.progress.plateaus)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def finish_step(self) -> None:
        """Count a step of the optimizer, and let the moving average follow."""
        if self.average:
            self.average.update_parameters(self.model)
        self.progress.step += 1

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors, numbers and containers."""
        return {
            "classes": self.classes,
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else {},
        }

    def load_state_dict(self, state: dict[str, Any], source: Path) -> None:
        """The inverse of `state_dict`. What is a setting, as the optimizer's weight decay, stays what it is now.

        Raises UserError, which names the file `source`, for the state of another training or another version.
        """
        try:
            if state["classes"] != self.classes:
                raise UserError(
                    f"The classes differ from those of {source.parent}: start a new training run with "
                    f"--init-weights {source.parent}."
                )
            self._restore(state, str(source))
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{source} does not fit this training run ({reason(error)}): use the resdet that wrote it, or "
                f"start a new training run with --init-weights {source.parent}."
            ) from error

    def _restore(self, state: dict[str, Any], source: str) -> None:
        self.progress = Progress(**state["progress"])
        self.saved = self.progress.step
        load_strictly(self.model, state["model"], source)
        restore_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"]:  # nothing, if the precision was not fp16 so far
            self.scaler.load_state_dict(state["scaler"])
        if self.average and state["average"]:  # the average may begin, or end, at a resume
            self.average.load_state_dict(state["average"])
