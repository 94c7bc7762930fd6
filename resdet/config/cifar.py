"""The CIFAR recipe of both papers, for the recipe files."""

from __future__ import annotations

from typing import Any

from resdet.config.classification import ClsConfig, ClsDataConfig, ClsModelConfig, ClsTestConfig
from resdet.config.solver import SolverConfig

SOURCE = "cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html, unpacked or not"


def cifar10(depth: int, *, warm_up: bool = False, solver: dict[str, Any] | None = None, **model: Any) -> ClsConfig:
    """A network of `depth` layers trained on CIFAR-10 as He et al. 2015, §4.2 do it.

    Args:
        warm_up: a learning rate of 0.01 over the first 400 steps (110 layers in 2015, all networks in 2016)
        solver: settings that differ
        model: settings of the network that differ from a residual one with shortcuts A
    """
    network: dict[str, Any] = {"family": "cifar", "depth": depth, "shortcut": "A", "pixel_mean": "pixel"}
    training: dict[str, Any] = {"lr": 0.1, "steps": 64_000, "milestones": (32_000, 48_000), "batch_size": 128}
    training |= {"weight_decay": 1e-4, "decay_all": True}
    training |= {"eval_every": 1000, "save_every": 1000, "log_every": 100}
    if warm_up:
        training |= {"warmup": "constant", "warmup_steps": 400, "warmup_factor": 0.1}
    return ClsConfig(
        data=ClsDataConfig(format="cifar10", root="datasets/cifar10", size=32, source=SOURCE),
        model=ClsModelConfig(**network | model),
        solver=SolverConfig(**training | (solver or {})),
        test=ClsTestConfig(batch_size=500),
    )
