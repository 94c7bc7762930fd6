"""The optimizer: which parameters decay, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Any

from torch import nn, optim

from resdet.config import SolverConfig


def lr_at(step: int, solver: SolverConfig, plateaus: int = 0) -> float:
    """Learning rate of the 0-based `step`, after so many plateaus of the evaluations: schedule and warm-up."""
    if solver.schedule == "cosine":
        share = max(0, step - solver.warmup_steps) / max(1, solver.steps - solver.warmup_steps)
        lr = solver.lr * (1 + math.cos(math.pi * share)) / 2
    elif solver.schedule == "plateau":
        lr = solver.lr * solver.gamma**plateaus
    else:
        lr = solver.lr * solver.gamma ** sum(step >= milestone for milestone in solver.milestones)
    if step < solver.warmup_steps:
        progress = step / solver.warmup_steps if solver.warmup == "linear" else 0
        lr *= solver.warmup_factor + (1 - solver.warmup_factor) * progress
    return lr


def build_optimizer(model: nn.Module, solver: SolverConfig, fused: bool = True) -> optim.Optimizer:
    """The optimizer of what is trained; normalisations and biases (one dimension) do not decay by default.

    Args:
        fused: torch's one pass over memory. Not where a scaler may skip the first step: the momentum of torch's
            fused SGD would start from whatever is in memory.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if solver.decay_all or parameter.ndim > 1]
    exempt = [parameter for parameter in trained if not (solver.decay_all or parameter.ndim > 1)]
    groups = [
        {"params": decayed, "weight_decay": solver.weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if solver.optimizer == "adamw":
        return optim.AdamW(groups, lr=solver.lr, fused=fused)
    return optim.SGD(groups, lr=solver.lr, momentum=solver.momentum, fused=fused)


def restore_optimizer(optimizer: optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take over the momenta of a saved optimizer, not its settings: those of `optimizer` are the present config's.

    Only the learning rate is still that of the last step, until the next one sets its own. Raises ValueError if it
    trained other parameters, or in other groups.
    """
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in groups]:
        raise ValueError("its optimizer has other groups of parameters")
    for group, before in zip(groups, saved["param_groups"], strict=True):
        group["lr"] = before["lr"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
