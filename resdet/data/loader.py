"""From images on a disk to batches.

What a step sees is a pure function of (seed, step): the order of the images, their scales and flips do not depend
on how many processes train, on how many workers read, or on whether the training was interrupted.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import signal
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import cache, lru_cache, partial
from multiprocessing.queues import Queue
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from resdet.data.ahead import map_ahead
from resdet.data.images import ImageError
from resdet.errors import reason
from resdet.seeds import Purpose, seed_sequence


class Draw(NamedTuple):
    """Which image to load, and the seed of its augmentation."""

    position: int
    """in the data set"""
    seed: int


AHEAD = 2  # batches that a thread reads before they are asked for, where there are no workers
MEMORY = "/dev/shm"  # where Linux keeps shared memory
Unreadable = Literal["replace", "leave_out", "refuse"]


class ImageDataset(Dataset[Any], ABC):
    """Images by their position. One that turns out unreadable is an ImageError, not a crash.

    Args:
        count: images
        unreadable: what to do about such an image: take the next one instead, leave it out, or end the program
    """

    def __init__(self, count: int, unreadable: Unreadable) -> None:
        self.count, self.unreadable = count, unreadable

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, draw: Draw) -> Any:
        for attempt in range(len(self) if self.unreadable == "replace" else 1):
            try:
                return self.load((draw.position + attempt) % len(self), draw.seed)
            except ImageError as caught:
                error = caught
                if self.unreadable != "refuse":
                    logging.getLogger("resdet").warning("Skipping an image: %s", caught)
        return error

    @abstractmethod
    def load(self, index: int, seed: int) -> Any:
        """The sample at `index`, augmented as `seed` says. Raises ImageError."""

    @staticmethod
    @abstractmethod
    def collate(samples: list[Any]) -> Any:
        """Samples → a batch, or an ImageError if there is none."""


def epoch_batches(
    portrait: np.ndarray, batch_size: int, seed: int, epoch: int, repeats: np.ndarray | None = None
) -> np.ndarray:
    """The images of each batch of an epoch.

    Every image occurs; batches hold images of one orientation as far as the counts allow, and images from the
    start of the epoch's order fill up the last one.

    Args:
        portrait: (M,) bool, the group of each image
        repeats: (M,) how often each image occurs, 1 or more; a fraction is rounded up in some epochs and down in
            others, so that all epochs are of one length

    Returns:
        (batches, batch_size) int64 indices
    """
    generator = np.random.default_rng(seed_sequence(seed, Purpose.EPOCH, epoch))
    order = np.arange(len(portrait))
    if repeats is not None:
        ends = np.cumsum(repeats) * (round(repeats.sum()) / repeats.sum())
        ends[-1] = round(ends[-1])
        order = np.repeat(order, np.diff(np.floor(ends + generator.random()), prepend=0).astype(np.int64))
    order = generator.permutation(order)
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
        repeats: np.ndarray | None = None,
    ) -> None:
        self.portrait, self.repeats, self.batch_size, self.seed = portrait, repeats, batch_size, seed
        self.start, self.steps = start, steps
        self.rank, self.world, self.accumulate = rank, world, accumulate

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        for positions, seeds in self.shares():
            yield [Draw(int(i), int(s)) for i, s in zip(positions, seeds, strict=True)]

    def shares(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions of the images of each part, and the seeds of their augmentation."""

        @lru_cache(maxsize=1)
        def batches_of(epoch: int) -> np.ndarray:
            return epoch_batches(self.portrait, self.batch_size, self.seed, epoch, self.repeats)

        per_epoch = len(batches_of(0))
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, per_epoch)
            sequence = seed_sequence(self.seed, Purpose.AUGMENTATION, step)
            seeds = sequence.generate_state(self.batch_size)
            batch = batches_of(epoch)[position]
            own, own_seeds = batch[self.rank :: self.world], seeds[self.rank :: self.world]
            size = len(own) // self.accumulate
            for part in range(0, len(own), size):
                yield own[part : part + size], own_seeds[part : part + size]


def train_batches(dataset: ImageDataset, sampler: TrainSampler, workers: int, pin: bool) -> Iterator[Any]:
    """The batches that `sampler` asks for, read by `workers` processes; raises ImageError if none is readable."""
    return _read(dataset, sampler, workers, pin)


def test_batches(
    dataset: ImageDataset,
    batch_size: int,
    rank: int,
    world: int,
    workers: int,
    pin: bool,
    sizes: Sequence[Hashable] | None = None,
) -> Iterator[Any]:
    """Every image once, those of other processes left out; raises ImageError if an image must not be left out.

    Args:
        sizes: of the images, which share a batch only if they have one size: padding changes what is found
    """
    groups: dict[Hashable, list[Draw]] = defaultdict(list)
    for index in range(rank, len(dataset), world):
        groups[None if sizes is None else sizes[index]].append(Draw(index, index))
    batches = [own[i : i + batch_size] for own in groups.values() for i in range(0, len(own), batch_size)]
    if workers or pin:
        return _read(dataset, sorted(batches), workers, pin)
    return _readable(dataset, map_ahead(partial(_load, dataset), sorted(batches), AHEAD))


def _load(dataset: ImageDataset, draws: Sequence[Draw]) -> Any:
    return dataset.collate([dataset[draw] for draw in draws])


def _read(dataset: ImageDataset, sampler: object, workers: int, pin: bool) -> Iterator[Any]:
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_Collate(dataset),
        pin_memory=pin,
        worker_init_fn=_start_worker,
    )
    yield from _readable(dataset, loader)


def _readable(dataset: ImageDataset, batches: Iterable[Any]) -> Iterator[Any]:
    """The batches; raises ImageError for one that must not be left out."""
    for batch in batches:
        if isinstance(batch, _Pickled):
            _report_pipes(MEMORY)
            batch = pickle.loads(batch.content)
        if not isinstance(batch, ImageError):
            yield batch
        elif dataset.unreadable != "leave_out":
            raise batch


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
    for name in ("SIGINT", "SIGHUP"):  # of which the training process decides what they mean
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # A batch that cannot be sent would be lost, and waited for without an end.
    Queue._on_queue_feeder_error = staticmethod(_die)  # type: ignore[attr-defined]


def _die(error: Exception, batch: object) -> None:
    """End this process, as the training process will notice."""
    logging.getLogger("resdet").error("A data loading process cannot send its images: %s.", reason(error))
    os._exit(1)


class _Pickled(NamedTuple):
    """A batch as bytes, which a pipe carries."""

    content: bytes


class _Collate:
    """A dataset's `collate`; in a worker, the batch lies in shared memory, or passes as bytes where that is full.

    Docker gives a container 64 MB of shared memory.
    """

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __call__(self, samples: list[Any]) -> Any:
        batch = self.dataset.collate(samples)
        return batch if get_worker_info() is None or _share(batch) else _Pickled(pickle.dumps(batch))


def _share(value: Any) -> bool:
    """Move all tensors in nested tuples and lists to shared memory → whether there was room."""
    if isinstance(value, Tensor) and value.numel():
        try:
            value.share_memory_()
        except RuntimeError:
            return False
    return not isinstance(value, (list, tuple)) or all(map(_share, value))


def shared_or_own(tensor: Tensor) -> Tensor:
    """`tensor`, not yet filled; in a worker it lies where the training process reads it, if there is room."""
    if get_worker_info() is not None:
        _share(tensor)
    return tensor


@cache
def _report_pipes(memory: str) -> None:
    """Log once that the shared memory in the folder `memory` is too small."""
    size = f"{memory}, {shutil.disk_usage(memory).total / 2**20:.0f} MiB" if os.path.isdir(memory) else memory
    logging.getLogger("resdet").warning(
        f"Shared memory ({size}) is too small for the batches, which pass through pipes instead and take longer: "
        "make it larger, for example with `docker run --shm-size 8g`, or use fewer data.workers."
    )


def repeat_factors(labels: np.ndarray, images: np.ndarray, count: int, threshold: float) -> np.ndarray:
    """How often each image is to be shown: repeat-factor sampling (Gupta et al. 2019, §4 and appendix B).

    An image is as rare as its rarest class: it takes the highest max(1, √(threshold / share)) of its classes, where
    the share is that of the images in which a class occurs.

    Args:
        labels: (B,) of all boxes
        images: (B,) position of each box's image
        count: M images

    Returns:
        (M,) float64, 1 or more
    """
    pairs = np.unique(np.stack([labels, images]), axis=1)  # (2, P)
    shares = np.bincount(pairs[0]) / count
    with np.errstate(divide="ignore"):
        of_class = np.maximum(1, np.sqrt(threshold / shares))
    factors = np.ones(count)
    np.maximum.at(factors, pairs[1], of_class[pairs[0]])
    return factors
