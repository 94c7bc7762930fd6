"""The sizes that images are given: resized each, and padded to those of their batch."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor


def fit_size(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """Height and width that make the shorter side `short_side`, or the longer `max_side` if that is smaller."""
    scale = min(short_side / min(height, width), max_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: np.ndarray, short_side: int, max_side: int) -> np.ndarray:
    """(H, W, 3) → the same image at `fit_size`, bilinear as in the authors' code."""
    height, width = fit_size(image.shape[0], image.shape[1], short_side, max_side)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def pad(images: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """(H_i, W_i, 3) uint8 → (N, 3, H, W), zeros at the right and at the bottom, and (N, 2) sizes without them."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    padded = torch.zeros((len(images), 3, height, width), dtype=torch.uint8)
    for canvas, image in zip(padded, images, strict=True):
        canvas[:, : image.shape[0], : image.shape[1]] = torch.from_numpy(image).permute(2, 0, 1)
    return padded, torch.tensor([image.shape[:2] for image in images])
