"""What the training loop needs to know of what it trains: a detector, a classifier, or anything else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn


class NamedBatch(Protocol):
    """What the loop needs to know of a batch."""

    @property
    def names(self) -> list[str]:
        """The names of its images, for messages."""


class NamedLosses(Protocol):
    """A named tuple of scalars: loss terms, and figures to watch."""

    @property
    def loss(self) -> Tensor:
        """The scalar that is minimised."""

    def _asdict(self) -> dict[str, Tensor]: ...


class Task(Protocol):
    """A model, the data that it is trained and evaluated on, and what is minimised."""

    @property
    def model(self) -> nn.Module:
        """The network to train."""

    @property
    def config(self) -> Any:
        """The dataclass of all settings, which config.json will hold."""

    @property
    def seed(self) -> int:
        """The number that all randomness of the training follows from."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the labels; a run can be resumed with the same classes only."""

    @property
    def metric(self) -> str:
        """The figure of `evaluate` whose highest value marks the best model."""

    @property
    def measure(self) -> Mapping[str, Any]:
        """Settings and data, by name, that the figures depend on: only figures of the same measure are compared."""

    def batches(self, start: int) -> Iterator[NamedBatch]:
        """This process's batches of step `start` and of all later steps, `solver.accumulate` for each step."""

    def losses(self, network: nn.Module, batch: Any) -> NamedLosses:
        """The loss terms of a batch. `network` is the model, or the same wrapped for several processes."""

    def evaluate(self, network: Any) -> dict[str, float]:
        """The figures of a network on the validation data, the same on every process."""

    def save(self, network: Any, path: Path, step: int) -> None:
        """Write the weights of a network that was trained for `step` steps."""
