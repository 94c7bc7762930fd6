"""What happens to an image and its boxes before they enter a batch."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from resdet.boxes import resize as resize_boxes
from resdet.data.augment import A, Augmentation, seed_pipeline
from resdet.data.resize import resize
from resdet.types import Target


class TrainTransform:
    """Resize to one of several short sides, flip, and perhaps change the colours; a pure function of its seed.

    Args:
        short_sides, max_side: pixels, as in `fit_size`
        flip, photometric: probabilities of a horizontal flip and of other colours
        augmentation: what happens to the image before the resize
    """

    def __init__(
        self,
        short_sides: Sequence[int],
        max_side: int,
        flip: float,
        photometric: float,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.short_sides, self.max_side, self.augmentation = tuple(short_sides), max_side, augmentation
        boxes = A.BboxParams(format="pascal_voc", label_fields=["index"])
        self.flip = A.Compose([A.HorizontalFlip(p=flip)], bbox_params=boxes)
        jitter = A.ColorJitter((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), (-0.05, 0.05), p=photometric)
        self.colors = A.Compose([jitter] if photometric else [])

    def __call__(self, image: np.ndarray, target: Target, seed: int) -> tuple[np.ndarray, Target]:
        """(H, W, 3) uint8 and its target → the same, resized and augmented."""
        if self.augmentation:
            image, target = self.augmentation(image, target, seed)
        short_side = self.short_sides[seed % len(self.short_sides)]
        resized = resize(image, short_side, self.max_side)
        scaled = resize_boxes(target.boxes, image.shape, resized.shape)
        self.flip.set_random_seed(seed)
        result = self.flip(image=resized, bboxes=scaled.numpy(), index=np.arange(len(scaled)))
        kept = torch.from_numpy(np.asarray(result["index"], dtype=np.int64))
        boxes = torch.from_numpy(np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4))
        seed_pipeline(self.colors, seed, 1)
        return self.colors(image=result["image"])["image"], Target(
            boxes, target.labels[kept], target.difficult[kept]
        )


class TestTransform:
    """Resize only."""

    def __init__(self, short_side: int, max_side: int) -> None:
        self.short_side, self.max_side = short_side, max_side

    def __call__(self, image: np.ndarray, target: Target, seed: int) -> tuple[np.ndarray, Target]:
        """(H, W, 3) uint8 and its target → the same, resized."""
        resized = resize(image, self.short_side, self.max_side)
        boxes = resize_boxes(target.boxes, image.shape, resized.shape)
        return resized, target._replace(boxes=boxes)


# Principal components of ImageNet's colours in [0, 1] and their standard deviations (AlexNet §4.1; the values that
# fb.resnet.torch measured).
COLOR_COMPONENTS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)
COLOR_DEVIATIONS = 255 * np.array([0.2175, 0.0188, 0.0045], np.float32)


class ClsTrainTransform:
    """A random crop at a random scale, mirrored, with other colours (He et al. 2015, §3.4).

    Args:
        size: pixels; side of the result
        short_sides: pixels; the image's shorter side is drawn from this range before the crop
        flip: probability of a horizontal flip
        color: "pca" adds a multiple of ImageNet's colour components, "jitter" changes brightness, contrast,
            saturation and hue
        operations: random distortions, as in RandAugment
    """

    def __init__(self, size: int, short_sides: tuple[int, int], flip: float, color: str, operations: int) -> None:
        self.size, self.short_sides, self.flip, self.pca = size, short_sides, flip, color == "pca"
        augmentations: list[A.BasicTransform | A.BaseCompose] = []
        if operations:
            augmentations.append(A.SomeOf(distortions(), n=operations, replace=True, p=1))
        if color == "jitter":
            augmentations.append(A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), p=1))
        self.augment = A.Compose(augmentations) if augmentations else None

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """(H, W, 3) uint8 → (1, size, size, 3) uint8; a pure function of its arguments."""
        generator = np.random.default_rng(seed)
        short_side = generator.integers(self.short_sides[0], self.short_sides[1], endpoint=True)
        # The crop is taken first and then resized: the same picture for a fraction of the work.
        side = max(1, round(self.size * min(image.shape[:2]) / short_side))
        side = min(side, *image.shape[:2])
        y, x = (generator.integers(length - side, endpoint=True) for length in image.shape[:2])
        result = resize_square(image[y : y + side, x : x + side], self.size)
        if generator.random() < self.flip:
            result = cv2.flip(result, 1)
        if self.augment:
            seed_pipeline(self.augment, seed, 0)
            result = self.augment(image=result)["image"]
        if self.pca:
            shift = COLOR_COMPONENTS @ (generator.normal(scale=0.1, size=3) * COLOR_DEVIATIONS)
            result = cv2.add(result, (*shift, 0))  # type: ignore[call-overload]  # rounded, and held in 0 to 255
        return result[None]


def resize_square(image: np.ndarray, size: int) -> np.ndarray:
    """(S, S, 3) → (size, size, 3); pixels are averaged where bilinear samples would leave some out."""
    skips = image.shape[0] > 2 * size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if skips else cv2.INTER_LINEAR)


def distortions() -> list[A.BasicTransform]:
    """The operations of RandAugment (Cubuk et al. 2020), each at a random strength."""
    return [
        *(A.AutoContrast(p=1), A.Equalize(p=1), A.Posterize((4, 8), p=1), A.Solarize((0.5, 1.0), p=1)),
        *(A.Sharpen((0.0, 0.9), p=1), A.ColorJitter((0.3, 1.7), (1, 1), (1, 1), (0, 0), p=1)),
        *(
            A.ColorJitter((1, 1), (0.3, 1.7), (1, 1), (0, 0), p=1),
            A.ColorJitter((1, 1), (1, 1), (0.3, 1.7), (0, 0), p=1),
        ),
        *(
            A.Affine(rotate=(-25, 25), p=1),
            A.Affine(shear={"x": (-17, 17)}, p=1),
            A.Affine(shear={"y": (-17, 17)}, p=1),
        ),
        *(A.Affine(translate_percent={"x": (-0.3, 0.3)}, p=1), A.Affine(translate_percent={"y": (-0.3, 0.3)}, p=1)),
    ]


class ClsTestTransform:
    """The views of an image in evaluation (He et al. 2015, §3.4).

    Args:
        views: "1-crop" (the centre), "10-crop" (centre, corners, and all of them mirrored) or "dense" (everything,
            and mirrored)
        short_side: pixels; the image's shorter side before the crops
        size: pixels; side of the crops
    """

    def __init__(self, views: str, short_side: int, size: int) -> None:
        self.views, self.short_side, self.size = views, short_side, size

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """(H, W, 3) uint8 → (V, H', W', 3) uint8 with 1, 10 or 2 views"""
        scale = max(self.short_side, self.size if self.views != "dense" else 0) / min(image.shape[:2])
        height, width = (max(1, round(length * scale)) for length in image.shape[:2])
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        resized = cv2.resize(image, (width, height), interpolation=interpolation)
        if self.views == "dense":
            crops = [resized]
        else:
            size = self.size
            bottom, right = height - size, width - size
            corners = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
            crops = [resized[y : y + size, x : x + size] for y, x in corners[: 1 if self.views == "1-crop" else 5]]
        if self.views != "1-crop":
            crops += [cv2.flip(crop, 1) for crop in crops]
        return np.stack(crops)
