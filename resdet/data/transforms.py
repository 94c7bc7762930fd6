"""What happens to an image and its boxes before they enter a batch."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from resdet.boxes import rescale
from resdet.types import Target

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for a newer version
import albumentations as A


def fit_size(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """Height and width that make the shorter side `short_side`, or the longer `max_side` if that is smaller."""
    scale = min(short_side / min(height, width), max_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: np.ndarray, short_side: int, max_side: int) -> np.ndarray:
    """(H, W, 3) → the same image at `fit_size`, bilinear as in the authors' code."""
    height, width = fit_size(image.shape[0], image.shape[1], short_side, max_side)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


class TrainTransform:
    """Resize to one of several short sides, flip, and perhaps change the colours; a pure function of its seed."""

    def __init__(self, short_sides: Sequence[int], max_side: int, flip: float, photometric: float) -> None:
        self.short_sides, self.max_side = tuple(short_sides), max_side
        augmentations = [A.HorizontalFlip(p=flip)]
        if photometric:
            augmentations.append(A.ColorJitter((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), (-0.05, 0.05), p=photometric))
        self.augment = A.Compose(
            augmentations, bbox_params=A.BboxParams(format="pascal_voc", label_fields=["index"])
        )

    def __call__(self, image: np.ndarray, target: Target, seed: int) -> tuple[np.ndarray, Target]:
        """(H, W, 3) uint8 and its target → the same, resized and augmented."""
        short_side = self.short_sides[seed % len(self.short_sides)]
        resized = resize(image, short_side, self.max_side)
        scaled = rescale(target.boxes, resized.shape[1] / image.shape[1], resized.shape[0] / image.shape[0])
        self.augment.set_random_seed(seed)
        result = self.augment(image=resized, bboxes=scaled.numpy(), index=np.arange(len(scaled)))
        kept = torch.from_numpy(np.asarray(result["index"], dtype=np.int64))
        boxes = torch.from_numpy(np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4))
        return result["image"], Target(boxes, target.labels[kept], target.difficult[kept])


class TestTransform:
    """Resize only."""

    def __init__(self, short_side: int, max_side: int) -> None:
        self.short_side, self.max_side = short_side, max_side

    def __call__(self, image: np.ndarray, target: Target, seed: int) -> tuple[np.ndarray, Target]:
        """(H, W, 3) uint8 and its target → the same, resized."""
        resized = resize(image, self.short_side, self.max_side)
        boxes = rescale(target.boxes, resized.shape[1] / image.shape[1], resized.shape[0] / image.shape[0])
        return resized, target._replace(boxes=boxes)
