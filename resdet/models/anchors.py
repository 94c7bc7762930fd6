"""Anchors: reference boxes of several scales and ratios at each cell of the feature map (Faster R-CNN §3.1.1).

Shapes: A anchors at a cell (scales × ratios), (h, w) the feature map, K = h·w·A anchors of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ANCHOR_OFFSETS = {"cell": 0.5, "corner": 0.0}
"""where in its cell an anchor sits, as a share of the stride"""


def base_anchors(scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """(A, 4) boxes centred on the origin, ratio-major: all scales of the first ratio, then of the next.

    A scale is the square root of the area, in pixels; a ratio is height over width.
    """
    scale = torch.tensor(scales, dtype=torch.float32)[None, :]  # (1, scales)
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]  # (ratios, 1)
    half_width, half_height = (scale / root / 2).flatten(), (scale * root / 2).flatten()
    return torch.stack([-half_width, -half_height, half_width, half_height], dim=1)


def grid_anchors(
    base: Tensor, height: int, width: int, stride: float | tuple[float, float], offset: float = 0.5
) -> Tensor:
    """(A, 4) → (K, 4): the base anchors at each cell, in the order row, column, anchor.

    Cell (i, j) covers pixels [16j, 16j + 16) × [16i, 16i + 16) at stride 16; anchors sit at its centre
    (16j + 8, 16i + 8), or at another place that `offset` names as a share of the stride. Two strides are those from
    row to row and from column to column.
    """
    down, across = stride if isinstance(stride, tuple) else (stride, stride)
    y = (torch.arange(height, device=base.device) + offset) * down
    x = (torch.arange(width, device=base.device) + offset) * across
    y, x = torch.meshgrid(y, x, indexing="ij")  # (h, w)
    centers = torch.stack([x, y, x, y], dim=-1)  # (h, w, 4)
    return (centers[:, :, None, :] + base).reshape(-1, 4)  # (h, w, A, 4) → (K, 4)


class AnchorGenerator(nn.Module):
    """The anchors of feature maps.

    Args:
        scales: square roots of the anchors' areas, in pixels; each of several levels has an equal share of them, in
            this order
        ratios: height over width
        center: where in its cell an anchor sits, one of `ANCHOR_OFFSETS`
        levels: feature maps that have anchors
        rounded: as in torchvision: corners at whole pixels, and strides too, which are the sizes of the largest map
            in pixels divided by those of each map, rounded downwards
    """

    bases: Tensor

    def __init__(
        self,
        scales: Sequence[float],
        ratios: Sequence[float],
        center: str = "cell",
        levels: int = 1,
        rounded: bool = False,
    ) -> None:
        super().__init__()
        self.offset, self.levels, self.rounded = ANCHOR_OFFSETS[center], levels, rounded
        share = len(scales) // levels
        bases = torch.stack([base_anchors(scales[n * share : (n + 1) * share], ratios) for n in range(levels)])
        self.register_buffer("bases", bases.round() if rounded else bases, persistent=False)

    def __len__(self) -> int:
        """Anchors at a cell."""
        return self.bases.shape[1]

    def forward(self, shapes: Sequence[tuple[int, int]], strides: Sequence[float]) -> list[Tensor]:
        """(K, 4) anchors of each map of (height, width) cells, `strides` pixels from cell to cell."""
        steps: list[tuple[float, float]] = [(stride, stride) for stride in strides]
        if self.rounded:
            height, width = (int(cells * strides[0]) for cells in shapes[0])
            steps = [(height // h, width // w) for h, w in shapes]
        return [
            grid_anchors(base, *shape, step, self.offset)
            for base, shape, step in zip(self.bases, shapes, steps, strict=True)
        ]
