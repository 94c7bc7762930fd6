"""From annotations to batches.

What a step sees is a pure function of (seed, step): the order of the images, their scales and flips do not depend
on how many processes train, on how many workers read, or on whether the training was interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from resdet.data.annotations import Annotations
from resdet.data.images import ImageError, read_image
from resdet.data.transforms import TestTransform, TrainTransform
from resdet.types import Batch, Target


class Draw(NamedTuple):
    """Which image to load, and the seed of its augmentation."""

    position: int
    """in the data set"""
    seed: int


class Sample(NamedTuple):
    """One image on its way into a batch."""

    image: np.ndarray
    """(H, W, 3) uint8"""
    target: Target
    original_size: tuple[int, int]
    name: str
    position: int
    """in the data set"""


class DetectionDataset(Dataset[Sample | ImageError]):
    """Annotations, images and a transform. An image that turns out unreadable is an ImageError, not a crash.

    Args:
        difficult: keep objects marked difficult in the targets
        skip_unreadable: take the next image instead of an unreadable one, with a warning
    """

    def __init__(
        self,
        annotations: Annotations,
        transform: TrainTransform | TestTransform,
        *,
        difficult: bool,
        skip_unreadable: bool,
    ) -> None:
        self.annotations, self.transform = annotations, transform
        self.difficult, self.skip_unreadable = difficult, skip_unreadable

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, draw: Draw) -> Sample | ImageError:
        for attempt in range(len(self) if self.skip_unreadable else 1):
            try:
                return self._load((draw.position + attempt) % len(self), draw.seed)
            except ImageError as caught:
                error = caught
                if self.skip_unreadable:
                    logging.getLogger("resdet").warning("An image is replaced by the next: %s", caught)
        return error

    def _load(self, index: int, seed: int) -> Sample:
        name = self.annotations.file(index)
        image = read_image(name)
        if image.shape[:2] != tuple(self.annotations.sizes[index]):
            raise ImageError(f"{name} has changed its size since the annotations were read.")
        target = self.annotations.target(index)
        if not self.difficult:
            easy = ~target.difficult
            target = Target(target.boxes[easy], target.labels[easy], target.difficult[easy])
        resized, target = self.transform(image, target, seed)
        return Sample(resized, target, image.shape[:2], name, index)


def collate(samples: list[Sample | ImageError]) -> Batch | ImageError:
    """Pad the images of a batch at the right and at the bottom to a common size."""
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, ImageError):
            return sample
        good.append(sample)
    height, width = (max(sample.image.shape[axis] for sample in good) for axis in (0, 1))
    images = torch.zeros((len(good), 3, height, width), dtype=torch.uint8)
    for canvas, sample in zip(images, good, strict=True):
        h, w = sample.image.shape[:2]
        canvas[:, :h, :w] = torch.from_numpy(sample.image).permute(2, 0, 1)
    return Batch(
        images,
        torch.tensor([sample.image.shape[:2] for sample in good]),
        [sample.target for sample in good],
        torch.tensor([sample.original_size for sample in good]),
        [sample.name for sample in good],
        [sample.position for sample in good],
    )


def epoch_batches(portrait: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The images of each batch of an epoch.

    Every image occurs; batches hold images of one orientation as far as the counts allow, and images from the
    start of the epoch's order fill up the last one.

    Args:
        portrait: (M,) bool, the group of each image

    Returns:
        (batches, batch_size) int64 indices
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(portrait))
    groups = [order[~portrait[order]], order[portrait[order]]]
    whole = [len(group) // batch_size * batch_size for group in groups]
    rest = np.concatenate([group[size:] for group, size in zip(groups, whole, strict=True)])
    rest = np.concatenate([rest, np.resize(order, -len(rest) % batch_size)])
    joined = np.concatenate([*(group[:size] for group, size in zip(groups, whole, strict=True)), rest])
    return generator.permutation(joined.reshape(-1, batch_size))


class TrainSampler:
    """For each step from `start` on, the share of one process in that step's batch, in `accumulate` parts."""

    def __init__(
        self,
        portrait: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        start: int,
        steps: int,
        rank: int,
        world: int,
        accumulate: int,
    ) -> None:
        self.portrait, self.batch_size, self.seed = portrait, batch_size, seed
        self.start, self.steps = start, steps
        self.rank, self.world, self.accumulate = rank, world, accumulate

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        @lru_cache(maxsize=1)
        def batches_of(epoch: int) -> np.ndarray:
            return epoch_batches(self.portrait, self.batch_size, self.seed, epoch)

        per_epoch = len(batches_of(0))
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, per_epoch)
            seeds = np.random.SeedSequence((self.seed, step)).generate_state(self.batch_size)
            batch = batches_of(epoch)[position]
            draws = [Draw(int(i), int(s)) for i, s in zip(batch, seeds, strict=True)][self.rank :: self.world]
            size = len(draws) // self.accumulate
            for part in range(self.accumulate):
                yield draws[part * size : (part + 1) * size]


def train_batches(dataset: DetectionDataset, sampler: TrainSampler, workers: int, pin: bool) -> Iterator[Batch]:
    """The batches that `sampler` asks for, read by `workers` processes; raises ImageError if none is readable."""
    return _unwrap(_loader(dataset, sampler, workers, pin))


def test_batches(
    dataset: DetectionDataset, batch_size: int, rank: int, world: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """Every image once, those of other processes left out; raises ImageError at an unreadable image."""
    own = [Draw(index, index) for index in range(rank, len(dataset), world)]
    return _unwrap(
        _loader(dataset, [own[i : i + batch_size] for i in range(0, len(own), batch_size)], workers, pin)
    )


def _loader(dataset: DetectionDataset, sampler: object, workers: int, pin: bool) -> DataLoader[Batch | ImageError]:
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=sampler,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=_start_worker,
    )


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism


def _unwrap(loader: DataLoader[Batch | ImageError]) -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, ImageError):
            raise batch
        yield batch
