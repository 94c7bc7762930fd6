"""Soft non-maximum suppression (Bodla et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from resdet import boxes
from resdet.precision import full_precision


@full_precision
def soft_nms(
    found: Tensor, scores: Tensor, labels: Tensor, sigma: float, min_score: float, most: int
) -> tuple[Tensor, Tensor]:
    """A better box of the class multiplies a score by exp(−IoU²/σ) (eq. 3).

    (D, 4), (D,), (D,) → positions and decayed scores of the at most `most` boxes that keep `min_score`, best first.
    """
    left = scores.clone()
    kept: list[int] = []
    values: list[float] = []
    while len(kept) < min(most, len(found)):
        best = int(left.argmax())
        if left[best] < min_score:
            break
        kept.append(best)
        values.append(float(left[best]))
        overlap = boxes.iou(found[best, None], found)[0]
        left *= torch.where(labels == labels[best], (-overlap.square() / sigma).exp(), 1.0)
        left[best] = -1
    return torch.tensor(kept, dtype=torch.int64, device=found.device), scores.new_tensor(values)
