"""Maps of whole numbers: a number q from 0 to 255 stands for scale · (q − zero).

What `Tensor | Quantized` passes through takes both, so that a network may be part one and part the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resdet import ops


class Grid(NamedTuple):
    """The numbers that 0 to 255 stand for."""

    scale: float
    zero: int
    """0 for maps without negative numbers, 128 for others: oneDNN packs weights for one or the other"""

    @classmethod
    def over(cls, limit: float, signed: bool) -> Grid:
        """From 0, or from −limit, to limit."""
        return cls(max(limit, 1e-12) / (127 if signed else 255), 128 if signed else 0)

    @property
    def limit(self) -> float:
        """The largest number."""
        return self.scale * (127 if self.zero else 255)


def covering(grids: list[Grid]) -> Grid:
    """A grid over all that the grids are over."""
    return Grid.over(max(grid.limit for grid in grids), any(grid.zero for grid in grids))


@dataclass(frozen=True)
class Quantized:
    """A tensor of whole numbers, which can be cut as a tensor can."""

    values: Tensor
    """uint8; maps are channels-last"""
    grid: Grid

    @property
    def shape(self) -> torch.Size:
        """Of the tensor."""
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Quantized:
        return Quantized(self.values[index], self.grid)

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> Quantized:
        """As of a tensor."""
        return Quantized(self.values.contiguous(memory_format=memory_format), self.grid)


def quantized(x: Tensor | Quantized, grid: Grid) -> Quantized:
    """Numbers of any kind on a grid; those that lie on one already stay there."""
    return x if isinstance(x, Quantized) else Quantized(ops.quantize(x, *grid), grid)


def dequantized(x: Tensor | Quantized, dtype: torch.dtype) -> Tensor:
    """What the numbers stand for, in `dtype`; a tensor as it is."""
    return x if isinstance(x, Tensor) else x.values.to(dtype).sub_(x.grid.zero).mul_(x.grid.scale)


def cell_means(x: Tensor | Quantized) -> Tensor:
    """(N, C, H, W) → (N, C) float32, the mean over the cells."""
    if isinstance(x, Tensor):
        return ops.cell_means(x)
    return (ops.cell_means(x.values) - x.grid.zero) * x.grid.scale


def flatten_bins(x: Any) -> Any:
    """(R, C, S, S) or (R, C, bins) → (R, bins·C): a bin's channels side by side, as they lie in memory."""
    if isinstance(x, Quantized):
        return Quantized(flatten_bins(x.values), x.grid)
    return x.flatten(2).transpose(1, 2).flatten(1)


def concatenated(parts: list[Any]) -> Any:
    """`torch.cat` of tensors, or of whole numbers on one grid."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Quantized):
        return Quantized(torch.cat([part.values for part in parts]), parts[0].grid)
    return torch.cat(parts)
