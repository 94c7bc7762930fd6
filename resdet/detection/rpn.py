"""The region proposal network (Faster R-CNN §3.1) and its proposals.

Letters: N images, (h, w) the feature map, A anchors at a cell, K = h·w·A, P proposals of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resdet import boxes, ops
from resdet.precision import full_precision


class RPN(nn.Module):
    """A 3×3 convolution with ReLU and two sibling 1×1 convolutions: objectness and box."""

    def __init__(self, channels: int, hidden: int, num_anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1)
        self.objectness = nn.Conv2d(hidden, num_anchors, 1)
        self.box = nn.Conv2d(hidden, num_anchors * 4, 1)
        for layer in (self.conv, self.objectness, self.box):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, channels, h, w) → objectness logits (N, K) and deltas (N, K, 4), float32, ordered as the anchors"""
        hidden = self.conv(features).relu_()
        logits = self.objectness(hidden).permute(0, 2, 3, 1)  # (N, h, w, A)
        deltas = self.box(hidden).permute(0, 2, 3, 1)  # (N, h, w, 4A)
        return logits.flatten(1).float(), deltas.reshape(len(features), -1, 4).float()


@torch.no_grad()
@full_precision
def propose(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    sizes: Tensor,
    *,
    before_nms: int,
    after_nms: int,
    nms_iou: float,
    min_size: float,
) -> list[Tensor]:
    """The best boxes of each image, best first (Faster R-CNN §3.1.3 and §3.3).

    Args:
        logits: (N, K)
        deltas: (N, K, 4)
        anchors: (K, 4)
        sizes: (N, 2) heights and widths of the images; boxes are clipped to them
        before_nms: boxes kept by score before non-maximum suppression
        after_nms: boxes kept after it
        nms_iou: overlap above which the worse box goes
        min_size: boxes with a shorter side (pixels) or without area are dropped

    Returns:
        a list of (P, 4) proposals
    """
    proposals = []
    for image_logits, image_deltas, (height, width) in zip(logits, deltas, sizes.tolist(), strict=True):
        scores, order = image_logits.topk(min(before_nms, len(image_logits)))
        candidates = boxes.clip(boxes.decode(image_deltas[order], anchors[order]), height, width)
        sides = (candidates[:, 2:] - candidates[:, :2]).amin(1)
        keep = (sides >= min_size) & (sides > 0)
        candidates, scores = candidates[keep], scores[keep]
        proposals.append(candidates[ops.nms(candidates, scores, nms_iou, after_nms)])
    return proposals
