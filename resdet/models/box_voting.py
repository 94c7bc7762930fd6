"""Box voting (Gidaris and Komodakis 2015, §4; He et al. 2015, appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor

from resdet import boxes
from resdet.precision import full_precision


@full_precision
def box_voting(
    kept: Tensor, kept_labels: Tensor, found: Tensor, scores: Tensor, labels: Tensor, iou: float
) -> Tensor:
    """Each kept box becomes the mean, by score, of the boxes of its class that overlap it by `iou` or more.

    Where all of them score 0, the kept box
    stays as it is. (K, 4), (K,), (D, 4), (D,), (D,) → (K, 4).
    """
    votes = (boxes.iou(kept, found) >= iou) & (kept_labels[:, None] == labels)  # (K, D)
    weights = (votes * scores).double()  # on GPUs, TF32 would shorten the coordinates in a float32 product
    total = weights.sum(1, keepdim=True)  # (K, 1)
    return torch.where(total > 0, weights @ found.double() / total, kept).to(found.dtype)
