"""Batches as pure functions of seed and step: over restarts, processes, workers, and unreadable images."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotated import Picture, annotated
from torch import Tensor

from resdet.config import SHAPES_CLASSES, DataConfig, DetConfig, SolverConfig
from resdet.data import build, detection, loader
from resdet.data.annotations import Annotations
from resdet.data.detection import DetectionDataset, Sample
from resdet.data.images import ImageError, read_image
from resdet.data.loader import Draw, TrainSampler, epoch_batches, repeat_factors
from resdet.data.transforms import TestTransform as ValTransform  # pytest collects what is called Test…
from resdet.data.transforms import TrainTransform
from resdet.data.voc import read_voc
from resdet.engine.failures import explain
from resdet.engine.runtime import Runtime
from resdet.types import Batch, Target

Sampled = list[list[Draw]]


def groups(landscape: int, portrait: int) -> np.ndarray:
    """(M,) bool, mixed."""
    return np.random.default_rng(0).permutation(np.arange(landscape + portrait) < portrait)


def sample(portrait: np.ndarray, **changes: int) -> Sampled:
    """All that a sampler yields."""
    settings = {"batch_size": 4, "seed": 3, "start": 0, "steps": 20, "rank": 0, "world": 1, "accumulate": 1}
    sampler = TrainSampler(portrait, **(settings | changes))
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    return drawn


def assert_batches_equal(a: Batch, b: Batch) -> None:
    """To the bit."""
    assert a.names == b.names and a.indices == b.indices and len(a.targets) == len(b.targets)
    for one, other in zip(
        itertools.chain(a[:2], [a.original_sizes], *a.targets),
        itertools.chain(b[:2], [b.original_sizes], *b.targets),
        strict=True,
    ):
        assert torch.equal(one, other)


# The order of the images


@pytest.mark.parametrize("landscape, portrait", [(12, 0), (0, 12), (7, 6), (10, 1), (3, 2), (1, 0), (1, 1)])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 5])
def test_an_epoch_shows_every_image(landscape: int, portrait: int, batch_size: int) -> None:
    is_portrait = groups(landscape, portrait)
    count = landscape + portrait
    batches = epoch_batches(is_portrait, batch_size, seed=0, epoch=0)
    assert batches.shape == (-(-count // batch_size), batch_size)
    times = np.bincount(batches.ravel(), minlength=count)
    assert times.min() >= 1 and times.sum() - count == -count % batch_size, "no more filling than is needed"
    assert times.max() <= 1 + -(-(-count % batch_size) // count), "the filling is spread over the images"
    mixed = sum(len(set(is_portrait[batch])) == 2 for batch in batches)
    assert mixed <= 1 + (landscape % batch_size + portrait % batch_size > batch_size)
    whole = landscape // batch_size + portrait // batch_size
    assert len(batches) - mixed >= whole


def test_epochs_and_seeds_differ_and_repeat() -> None:
    portrait = groups(20, 10)
    one = epoch_batches(portrait, 4, seed=0, epoch=0)
    assert (one == epoch_batches(portrait, 4, seed=0, epoch=0)).all()
    assert (one != epoch_batches(portrait, 4, seed=0, epoch=1)).any()
    assert (one != epoch_batches(portrait, 4, seed=1, epoch=0)).any()


def test_groups_do_not_follow_each_other() -> None:
    """Batches of the two orientations come mixed."""
    portrait = groups(40, 40)
    for epoch in range(5):
        order = portrait[epoch_batches(portrait, 4, seed=0, epoch=epoch)[:, 0]].astype(int)
        assert np.abs(np.diff(order)).sum() > 3


def test_without_groups_orientations_mix() -> None:
    portrait = groups(40, 40)
    batches = epoch_batches(np.zeros(80, bool), 4, seed=0, epoch=0)
    assert sum(len(set(portrait[batch])) == 2 for batch in batches) > 10


# Which process sees what


@pytest.mark.parametrize("start", [0, 1, 7, 8, 19, 20])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_late_start_sees_what_an_early_one_sees_then(start: int, accumulate: int) -> None:
    whole = sample(groups(9, 5), accumulate=accumulate)
    assert sample(groups(9, 5), accumulate=accumulate, start=start) == whole[start * accumulate :]


def test_steps_go_through_the_epochs() -> None:
    portrait = groups(9, 5)
    drawn = sample(portrait)
    expected = np.concatenate([epoch_batches(portrait, 4, seed=3, epoch=epoch) for epoch in range(5)])
    assert [[draw.position for draw in batch] for batch in drawn] == expected.tolist()
    seeds = [draw.seed for batch in drawn for draw in batch]
    assert len(set(seeds)) == len(seeds), "an image is augmented anew each time"


@pytest.mark.parametrize("world, accumulate", [(2, 1), (4, 1), (1, 2), (1, 4), (2, 2)])
def test_processes_and_parts_share_the_batch(world: int, accumulate: int) -> None:
    whole = sample(groups(9, 5))
    shares = [sample(groups(9, 5), rank=rank, world=world, accumulate=accumulate) for rank in range(world)]
    for step, batch in enumerate(whole):
        parts = [share[step * accumulate + part] for share in shares for part in range(accumulate)]
        assert {len(part) for part in parts} == {4 // world // accumulate}
        assert sorted(draw for part in parts for draw in part) == sorted(batch)


# From draws to tensors


@pytest.fixture(scope="module")
def annotations(shapes_root: Path) -> Annotations:
    return read_voc(shapes_root, "train+val", SHAPES_CLASSES)


def dataset(annotations: Annotations, *, skip: bool = True, difficult: bool = False) -> DetectionDataset:
    """Small, with everything random switched on."""
    transform = TrainTransform((40, 50), 80, flip=0.5, photometric=0.5)
    return DetectionDataset(annotations, transform, difficult=difficult, unreadable="replace" if skip else "refuse")


def train(data: DetectionDataset, workers: int, start: int = 0, steps: int = 4) -> Iterator[Batch]:
    """Batches of two."""
    sampler = TrainSampler(
        np.zeros(len(data), bool),
        batch_size=2,
        seed=0,
        start=start,
        steps=steps,
        rank=0,
        world=1,
        accumulate=1,
    )
    return loader.train_batches(data, sampler, workers, pin=False)


def test_workers_do_not_change_the_batches(annotations: Annotations) -> None:
    data = dataset(annotations)
    alone, two, late = list(train(data, 0)), list(train(data, 2)), list(train(data, 2, start=2))
    assert len(alone) == 4
    for a, b in zip(alone + alone[2:], two + late, strict=True):
        assert_batches_equal(a, b)


def test_workers_do_not_change_the_evaluation(annotations: Annotations) -> None:
    data = DetectionDataset(annotations, ValTransform(40, 80), difficult=False, unreadable="refuse")
    alone, two = (list(loader.test_batches(data, 3, 0, 1, workers, pin=False)) for workers in (0, 2))
    for a, b in zip(alone, two, strict=True):
        assert_batches_equal(a, b)


def test_batches_pass_through_pipes_where_shared_memory_is_full(
    annotations: Annotations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in Docker, where it has 64 MB."""

    def full(tensor: Tensor) -> None:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
        )

    loader._report_pipes.cache_clear()
    monkeypatch.setattr(Tensor, "share_memory_", full)  # in the workers too, which are forked
    data = dataset(annotations)
    for a, b in zip(train(data, 0), train(data, 2), strict=True):
        assert_batches_equal(a, b)
    (record,) = caplog.records
    assert "too small for the batches" in record.getMessage() and "--shm-size" in record.getMessage()


class Failing(loader.ImageDataset):
    """Its first image makes the process that reads it fail, as `how` says."""

    def __init__(self, how: Callable[[], Any]) -> None:
        super().__init__(4, "refuse")
        self.how = how

    def load(self, index: int, seed: int) -> Any:
        """Fail, or return the index."""
        return self.how() if index == 0 else index

    @staticmethod
    def collate(samples: list[Any]) -> Any:
        """The first sample."""
        return samples[0]


@pytest.mark.parametrize(
    "how",
    [
        lambda: os.kill(os.getpid(), signal.SIGKILL),  # as the kernel does when memory runs out
        lambda: os._exit(3),
        lambda: threading.Lock(),  # cannot be sent to another process
    ],
    ids=["killed", "ended", "unsendable"],
)
def test_a_worker_that_dies_ends_the_reading(how: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        list(loader.test_batches(Failing(how), 1, 0, 1, 2, pin=False))
    assert "data.workers" in explain(caught.value)


def test_ctrl_c_does_not_end_a_worker() -> None:
    """The whole terminal receives it; what it means is for the training process to decide."""
    batches = loader.test_batches(Failing(lambda: os.kill(os.getpid(), signal.SIGINT)), 1, 0, 1, 1, pin=False)
    assert list(batches) == [None, 1, 2, 3]


@pytest.mark.parametrize("world", [1, 2, 3, 11])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_sees_each_image_once(annotations: Annotations, world: int, batch_size: int) -> None:
    data = DetectionDataset(annotations, ValTransform(20, 40), difficult=False, unreadable="refuse")
    seen = [
        index
        for rank in range(world)
        for batch in loader.test_batches(data, batch_size, rank, world, 0, pin=False)
        for index in batch.indices
    ]
    assert sorted(seen) == list(range(10))


def test_difficult_objects_are_left_out_unless_asked_for() -> None:
    boxes = [[0, 0, 9, 9], [1, 1, 9, 9], [2, 2, 9, 9]]
    flat = annotated([Picture("a", (10, 10), boxes, [0, 1, 0], [True, False, True])], ("x", "y"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "read_image", lambda path: np.zeros((10, 10, 3), np.uint8))
        for difficult, labels in ((False, [1]), (True, [0, 1, 0])):
            data = DetectionDataset(flat, ValTransform(10, 10), difficult=difficult, unreadable="refuse")
            sample = data[Draw(0, 0)]
            assert isinstance(sample, Sample) and sample.target.labels.tolist() == labels
            assert len(sample.target.boxes) == len(sample.target.difficult) == len(labels)


def test_boxes_are_clipped_to_their_image() -> None:
    flat = annotated([Picture("a", (10, 20), [[-3, 2, 25, 12]])])
    assert flat.target(0).boxes.tolist() == [[-3, 2, 25, 12]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "read_image", lambda path: np.zeros((10, 20, 3), np.uint8))
        data = DetectionDataset(flat, ValTransform(10, 20), difficult=False, unreadable="refuse")
        assert data[Draw(0, 0)].target.boxes.tolist() == [[0, 2, 20, 10]]


def test_images_are_selected_with_their_boxes() -> None:
    def picture(name: str, difficult: list[bool]) -> Picture:
        boxes = np.arange(4.0) + 10 * np.arange(len(difficult))[:, None] + [0, 0, 5, 5]
        return Picture(name, (50, 50), boxes, difficult=difficult)

    flat = annotated([picture("a", [False, True]), picture("b", []), picture("c", [True]), picture("d", [False])])
    chosen = flat.select(np.array([3, 0]))
    assert [chosen.id(index) for index in range(len(chosen))] == ["d", "a"]
    for index, original in enumerate([3, 0]):
        assert torch.equal(chosen.target(index).boxes, flat.target(original).boxes)
        assert torch.equal(chosen.target(index).difficult, flat.target(original).difficult)
    assert chosen.offsets.tolist() == [0, 1, 3] and chosen.areas.tolist() == [49, 49, 49]
    assert [flat.without_empty().id(index) for index in range(2)] == ["a", "d"]


def test_collate_pads_with_zeros_and_keeps_sizes() -> None:
    def sample(height: int, width: int, position: int) -> Sample:
        target = Target(torch.full((position, 4), 1.0), torch.arange(position), torch.zeros(position).bool())
        image = np.full((height, width, 3), (10, 20, 30), np.uint8)
        return Sample(image, target, (2 * height, 2 * width), f"{position}.jpg", position)

    batch = DetectionDataset.collate([sample(4, 6, 0), sample(5, 3, 2)])
    assert isinstance(batch, Batch)
    assert batch.images.shape == (2, 3, 5, 6) and batch.images.dtype == torch.uint8
    assert batch.sizes.tolist() == [[4, 6], [5, 3]] and batch.original_sizes.tolist() == [[8, 12], [10, 6]]
    assert batch.names == ["0.jpg", "2.jpg"] and batch.indices == [0, 2]
    assert [len(target.boxes) for target in batch.targets] == [0, 2]
    for image, (height, width) in zip(batch.images, batch.sizes.tolist(), strict=True):
        for channel, value in enumerate((10, 20, 30)):
            assert (image[channel, :height, :width] == value).all()
            assert image[channel].sum() == value * height * width, "all else is zero"


# Images that cannot be read when their turn comes


@pytest.fixture
def damaged(tmp_path: Path, shapes_root: Path) -> tuple[Annotations, str]:
    """A data set of which image 3 was cut off after its annotations had been read, and that image's path."""
    root = tmp_path / "set"
    shutil.copytree(shapes_root, root)
    annotations = read_voc(root, "train", SHAPES_CLASSES)
    victim = Path(annotations.file(3))
    victim.write_bytes(victim.read_bytes()[:2000])
    return annotations, str(victim)


def test_training_takes_the_next_image_and_says_so(
    damaged: tuple[Annotations, str], caplog: pytest.LogCaptureFixture, assert_sentence: Callable[..., None]
) -> None:
    annotations, victim = damaged
    data = dataset(annotations)
    with caplog.at_level(logging.WARNING, "resdet"):
        sample = data[Draw(3, 77)]
    assert isinstance(sample, Sample) and sample.position == 4 and sample.name == annotations.file(4)
    expected = data[Draw(4, 77)]
    assert isinstance(expected, Sample) and (sample.image == expected.image).all()
    assert len(caplog.records) == 1
    assert_sentence(caplog.records[0].getMessage(), victim, "truncated", "Skipping")


def test_training_goes_round_at_the_end(damaged: tuple[Annotations, str]) -> None:
    annotations, _ = damaged
    for index in (4, 5):
        Path(annotations.file(index)).unlink()
    sample = dataset(annotations)[Draw(3, 0)]
    assert isinstance(sample, Sample) and sample.position == 0


def test_training_batches_are_full_with_an_unreadable_image(damaged: tuple[Annotations, str]) -> None:
    annotations, victim = damaged
    batches = list(train(dataset(annotations), workers=2, steps=6))
    assert all(len(batch.names) == 2 and victim not in batch.names for batch in batches)
    assert sorted({index for batch in batches for index in batch.indices}) == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_without_a_readable_image_ends(
    damaged: tuple[Annotations, str], workers: int, refuses: Callable[..., object]
) -> None:
    annotations, _ = damaged
    for index in range(len(annotations)):
        Path(annotations.file(index)).unlink(missing_ok=True)
    with refuses(".jpg", "No such file"):
        next(train(dataset(annotations), workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_ends_at_an_unreadable_image(
    damaged: tuple[Annotations, str], workers: int, refuses: Callable[..., object]
) -> None:
    annotations, victim = damaged
    data = DetectionDataset(annotations, ValTransform(20, 40), difficult=False, unreadable="refuse")
    batches = loader.test_batches(data, 2, 0, 1, workers, pin=False)
    assert next(batches).indices == [0, 1]
    with refuses(victim, "truncated"):
        next(batches)


def test_an_image_that_was_replaced_by_another_is_not_used(
    damaged: tuple[Annotations, str], refuses: Callable[..., object]
) -> None:
    """Its boxes would lie elsewhere."""
    annotations, _ = damaged
    sizes = annotations.sizes.copy()
    sizes[0] += 1
    data = dataset(replace(annotations, sizes=sizes), skip=False)
    error = data[Draw(0, 0)]
    assert isinstance(error, ImageError)
    with refuses(annotations.file(0), "size"):
        raise error


# From the config


@pytest.fixture
def config(shapes_root: Path) -> DetConfig:
    return DetConfig(
        data=DataConfig(
            root=str(shapes_root),
            train="train",
            val="val",
            classes=SHAPES_CLASSES,
            short_sides=(40,),
            test_short_side=30,
            max_side=60,
            workers=0,
        ),
        solver=SolverConfig(steps=5, batch_size=4, accumulate=2),
        test=replace(DetConfig().test, batch_size=3),
    )


def test_the_config_becomes_batches(config: DetConfig) -> None:
    runtime = Runtime(0, 1, torch.device("cpu"), torch.float32)
    training = build.read_annotations(config.data, config.data.train, config.data.classes)
    validation = build.read_annotations(config.data, config.data.val, config.data.classes)
    batches = list(build.training_batches(training, config, runtime, start=2))
    assert len(batches) == 3 * 2 and all(len(batch.names) == 2 for batch in batches)
    assert all(batch.sizes.min() <= 40 and batch.sizes.max() <= 60 for batch in batches)
    batches = list(build.validation_batches(validation, config, runtime))
    assert [batch.indices for batch in batches] == [[0], [1, 3], [2]], "images of one size, up to three"
    for batch in batches:
        assert (batch.sizes == torch.tensor(batch.images.shape[2:])).all(), "nothing is padded"
        for name, size in zip(batch.names, batch.original_sizes.tolist(), strict=True):
            assert read_image(name).shape[:2] == tuple(size)


def test_the_description_counts_and_lists_what_was_left_out(annotations: Annotations) -> None:
    assert build.describe(annotations, "train") == f"train: 10 images, {len(annotations.labels)} objects"
    some = build.describe(replace(annotations, skipped=tuple("abcde")), "train").splitlines()
    assert "5 images or boxes skipped" in some[0] and [line.strip() for line in some[1:]] == list("abcde")
    many = build.describe(replace(annotations, skipped=tuple("abcdefgh")), "train").splitlines()
    assert "8 images or boxes skipped" in many[0]
    assert [line.strip() for line in many[1:]] == [*"abcde", "and 3 more"]


def test_images_are_repeated_as_often_as_asked() -> None:
    """In every epoch as many images in all, and each its number of times, up to one, in the mean exactly."""
    portrait, repeats = groups(9, 6), np.random.default_rng(1).uniform(1, 4, 15)
    counts = []
    for epoch in range(200):
        batches = epoch_batches(portrait, 4, 0, epoch, repeats)
        drawn = np.bincount(batches.ravel(), minlength=15)
        assert len(batches) == -(-round(repeats.sum()) // 4)
        assert (drawn >= np.floor(repeats) - 1).all() and (drawn >= 1).all()
        counts.append(drawn)
    mean = np.mean(counts, axis=0)
    filled = mean.sum() / repeats.sum()  # the last batch is filled up
    np.testing.assert_allclose(mean, repeats * filled, atol=0.4)
    once = np.bincount(epoch_batches(portrait, 4, 0, 3, np.ones(15)).ravel())
    assert (once >= 1).all() and once.sum() == 16


def test_repeat_factors_against_a_loop() -> None:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 20, 60), np.minimum(random.geometric(0.4, 60) - 1, 7)
    expected = []
    for image in range(20):
        factor = 1.0
        for label in set(labels[images == image].tolist()):
            share = len(set(images[labels == label].tolist())) / 20
            factor = max(factor, (0.3 / share) ** 0.5)
        expected.append(factor)
    found = repeat_factors(labels, images, 20, 0.3)
    np.testing.assert_allclose(found, expected)
    assert found.max() > 1.5 and found.min() == 1
