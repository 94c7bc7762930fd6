"""Batches of small images in memory, against a loop over images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resdet.data.arrays import ArrayBatches, draw_crop
from resdet.data.cifar import ImageArray
from resdet.data.loader import TrainSampler
from resdet.models.classifier import take_crop
from resdet.types import Crop


@pytest.fixture
def array() -> ImageArray:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (11, 8, 8, 3), np.uint8)
    return ImageArray(images, np.arange(11) % 3, ("a", "b", "c"), [f"image {i}" for i in range(11)], [])


def sampler(rank: int = 0, world: int = 1, accumulate: int = 1, start: int = 0, steps: int = 6) -> TrainSampler:
    shares = {"rank": rank, "world": world, "accumulate": accumulate}
    return TrainSampler(np.zeros(11, bool), batch_size=4, seed=1, start=start, steps=steps, **shares)


def test_a_batch_holds_the_images_that_the_sampler_draws(array: ImageArray) -> None:
    batches = list(ArrayBatches(array, torch.device("cpu")).train(sampler(), 2, 0.5))
    assert len(batches) == 6
    for batch, draws in zip(batches, sampler(), strict=True):
        assert batch.indices == [draw.position for draw in draws]
        for image, label, name, index in zip(batch.images, batch.labels, batch.names, batch.indices, strict=True):
            assert torch.equal(image, torch.from_numpy(array.images[index]).permute(2, 0, 1))
            assert label == array.labels[index] and name == f"image {index}"
    epoch = sum((batch.indices for batch in batches[:3]), [])
    assert set(epoch) == set(range(11)), "an epoch of three batches shows every image"


def test_processes_and_parts_share_a_batch_without_changing_it(array: ImageArray) -> None:
    (whole,) = ArrayBatches(array, torch.device("cpu")).train(sampler(steps=1), 2, 0.5)
    shared = [
        list(ArrayBatches(array, torch.device("cpu")).train(sampler(rank, 2, 2, steps=1), 2, 0.5))
        for rank in (0, 1)
    ]
    assert [len(parts) for parts in shared] == [2, 2]
    for rank, parts in enumerate(shared):
        assert sum((part.indices for part in parts), []) == whole.indices[rank::2]
        offsets = torch.cat([part.crop.offsets for part in parts])
        flips = torch.cat([part.crop.flips for part in parts])
        assert torch.equal(offsets, whole.crop.offsets[rank::2]) and torch.equal(flips, whole.crop.flips[rank::2])


def test_a_later_start_repeats_the_later_batches(array: ImageArray) -> None:
    data = ArrayBatches(array, torch.device("cpu"))
    whole, rest = list(data.train(sampler(), 2, 0.5)), list(data.train(sampler(start=4), 2, 0.5))
    for a, b in zip(whole[4:], rest, strict=True):
        assert a.indices == b.indices and torch.equal(a.crop.offsets, b.crop.offsets)


@pytest.mark.parametrize("world", [1, 3])
def test_every_image_is_tested_once(array: ImageArray, world: int) -> None:
    data = ArrayBatches(array, torch.device("cpu"))
    found = sum((batch.indices for rank in range(world) for batch in data.test(2, rank, world)), [])
    assert sorted(found) == list(range(11))
    assert next(data.test(2, 0, world)).crop is None


@pytest.mark.parametrize("flip", [0.0, 0.25, 1.0])
def test_crops_are_spread_evenly(flip: float) -> None:
    seeds = torch.from_numpy(np.random.SeedSequence(0).generate_state(100_000).astype(np.int64))
    crop = draw_crop(seeds, 4, flip)
    counts = torch.bincount(crop.offsets[:, 0] * 9 + crop.offsets[:, 1], minlength=81)
    assert len(counts) == 81 and counts.min() > 1000 and counts.max() < 1500
    assert crop.flips.float().mean().item() == pytest.approx(flip, abs=0.01)


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("height, width", [(8, 8), (5, 7)])
def test_crops_equal_a_loop_over_images(padding: int, height: int, width: int) -> None:
    """He et al. 2015, §4.2: pad, crop, mirror."""
    images = torch.randn(6, 3, height, width)
    offsets = torch.randint(0, 2 * padding + 1, (6, 2))
    flips = torch.tensor([True, False] * 3)
    result = take_crop(images, Crop(offsets, flips, padding))
    for image, (row, column), flip, cropped in zip(images, offsets.tolist(), flips, result, strict=True):
        canvas = torch.zeros(3, height + 2 * padding, width + 2 * padding)
        canvas[:, padding : padding + height, padding : padding + width] = image
        expected = canvas[:, row : row + height, column : column + width]
        assert torch.equal(cropped, expected.flip(2) if flip else expected)
    assert result.is_contiguous(memory_format=torch.channels_last)
