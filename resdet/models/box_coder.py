"""How a box is described relative to another one: the targets and the outputs of both box layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from resdet import boxes
from resdet.precision import full_precision


@dataclass(frozen=True)
class BoxCoder:
    """t_x, t_y, t_w, t_h (R-CNN, appendix C), divided by standard deviations."""

    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """units of the four deltas"""

    @full_precision
    def encode(self, targets: Tensor, references: Tensor) -> Tensor:
        """(..., 4), (..., 4) → (..., 4): deltas of `targets` relative to `references`; all with positive sides."""
        return boxes.encode(targets, references) / references.new_tensor(self.stds)

    @full_precision
    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """(..., 4), (..., 4) → (..., 4): the inverse of `encode`; leading dimensions broadcast."""
        return boxes.decode(deltas * deltas.new_tensor(self.stds), references)
