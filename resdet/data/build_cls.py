"""From the settings of a classifier's data to batches: the counterpart of `build` for classification."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

from resdet.config import ClsConfig, ClsDataConfig
from resdet.data.arrays import ArrayBatches
from resdet.data.build import with_skipped
from resdet.data.cifar import ImageArray, read_cifar
from resdet.data.image_folder import FolderDataset, ImageFolder, read_image_folder
from resdet.data.loader import TrainSampler, test_batches, train_batches
from resdet.data.transforms import ClsTestTransform, ClsTrainTransform
from resdet.engine.runtime import Runtime
from resdet.errors import UserError, listed
from resdet.models.layers.pixel_norm import STYLES
from resdet.types import ClsBatch

Images = ImageArray | ImageFolder
STATISTICS_IMAGES = 10_000  # of a folder, to measure the mean of


def read_images(data: ClsDataConfig) -> tuple[Images, Images]:
    """The training and the validation images, of the same classes."""
    training = _read_split(data, "train", ())
    if not data.held_out:
        return training, _read_split(data, "val", training.classes)
    count = len(training.labels)
    if data.held_out >= count:
        raise UserError(f"data.held_out {data.held_out} leaves nothing to train on: there are {count} images.")
    order = np.random.default_rng(0).permutation(count)
    return _subset(training, np.sort(order[data.held_out :])), _subset(training, np.sort(order[: data.held_out]))


def _read_split(data: ClsDataConfig, split: str, classes: tuple[str, ...]) -> Images:
    if data.format == "folder":
        return read_image_folder(
            data.root, data.train if split == "train" else data.val, classes, source=data.source
        )
    array = read_cifar(data.root, data.format, "train" if split == "train" else "test", source=data.source)
    side = array.images.shape[1]
    if side == data.size:
        return array
    larger = np.stack([cv2.resize(image, (data.size, data.size)) for image in array.images])
    return array._replace(images=larger)


def _subset(images: Images, kept: np.ndarray) -> Images:
    if isinstance(images, ImageFolder):
        return images._replace(files=images.files[kept], labels=images.labels[kept])
    names = [images.names[i] for i in kept]
    return images._replace(images=images.images[kept], labels=images.labels[kept], names=names)


def describe_images(images: Images, split: str) -> str:
    """A line on what was read, and one for each of the first few images that were left out."""
    line = f"{split}: {len(images.labels)} images of {len(images.classes)} classes"
    if isinstance(images, ImageArray):
        return with_skipped(line, "images", images.skipped)
    counts = np.bincount(images.labels, minlength=len(images.classes))
    empty = [name for name, count in zip(images.classes, counts, strict=True) if not count]
    notes = [f"Without images: {listed(empty)}."] * bool(empty)
    if images.hidden:
        notes.append(f"{images.hidden} hidden images in {images.root}, as in .ipynb_checkpoints, are left out.")
    return "\n  ".join([line, *notes])


def pixel_statistics(images: Images, config: ClsConfig) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the pixels in [0, 255], in the channel order of the network's style.

    Returns:
        (3, 1, 1) or, by pixel, (3, H, W), and (3, 1, 1)
    """
    style = STYLES[config.model.style]
    if config.model.pixel_mean == "style":
        return torch.tensor(style.mean)[:, None, None], torch.tensor(style.std)[:, None, None]
    if isinstance(images, ImageArray):
        pixels = images.images
    else:
        count = len(images.labels)
        some = np.random.default_rng(0).permutation(count)[:STATISTICS_IMAGES]
        transform = ClsTestTransform("1-crop", config.data.test_short_side, config.data.size)
        dataset = FolderDataset(_subset(images, some), transform, unreadable="leave_out")  # type: ignore[arg-type]
        batches = test_batches(dataset, 100, 0, 1, config.data.workers, pin=False)
        pixels = np.concatenate([batch.images.permute(0, 2, 3, 1).numpy() for batch in batches])
    mean = pixels.mean(0, dtype=np.float64)  # (H, W, 3)
    square = np.mean([np.square(image, dtype=np.float64).mean((0, 1)) for image in pixels], axis=0)
    std = np.sqrt(square - np.square(mean.mean((0, 1))))
    mean = mean if config.model.pixel_mean == "pixel" else mean.mean((0, 1), keepdims=True)
    order = [2, 1, 0] if style.channels == "bgr" else [0, 1, 2]
    return tuple(  # type: ignore[return-value]
        torch.from_numpy(figure.transpose(2, 0, 1)[order].copy()).float() for figure in (mean, std[None, None])
    )


def cls_training_batches(images: Images, config: ClsConfig, runtime: Runtime, start: int) -> Iterator[ClsBatch]:
    """This process's share of the batches of step `start` and of all later steps."""
    data, solver = config.data, config.solver
    sampler = TrainSampler(
        np.zeros(len(images.labels), bool),
        batch_size=solver.batch_size,
        seed=config.seed,
        start=start,
        steps=solver.steps,
        rank=runtime.rank,
        world=runtime.world,
        accumulate=solver.accumulate,
    )
    if isinstance(images, ImageArray):
        return ArrayBatches(images, runtime.device).train(sampler, data.padding, data.flip)
    transform = ClsTrainTransform(data.size, data.short_sides, data.flip, data.color, data.operations)
    dataset = FolderDataset(images, transform, unreadable="replace")
    return train_batches(dataset, sampler, data.workers, pin=runtime.device.type == "cuda")


def cls_validation_batches(
    images: Images, config: ClsConfig, runtime: Runtime, views: str = "1-crop", short_side: int | None = None
) -> Iterator[ClsBatch]:
    """This process's share of the images, each once, in one or several views."""
    data, batch_size = config.data, config.test.batch_size
    if isinstance(images, ImageArray):
        return ArrayBatches(images, runtime.device).test(batch_size, runtime.rank, runtime.world)
    transform = ClsTestTransform(views, short_side or data.test_short_side, data.size)
    dataset = FolderDataset(images, transform, unreadable="leave_out")
    size = 1 if views == "dense" else batch_size
    pin = runtime.device.type == "cuda"
    return test_batches(dataset, size, runtime.rank, runtime.world, data.workers, pin)
