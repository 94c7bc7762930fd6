"""From the data settings to data sets: the only code of the data side that reads a config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from resdet.config import DataConfig, DetConfig
from resdet.data.annotations import Annotations
from resdet.data.augment import read_augmentation
from resdet.data.detection import DetectionDataset
from resdet.data.formats import FORMATS
from resdet.data.loader import TrainSampler, repeat_factors, test_batches, train_batches
from resdet.data.proposals import Proposals, read_proposals
from resdet.data.resize import fit_size
from resdet.data.split_file import read_split_file, select_splits
from resdet.data.transforms import TestTransform, TrainTransform
from resdet.data.tree import Tree
from resdet.engine.runtime import Runtime
from resdet.errors import UserError
from resdet.types import Batch


def read_annotations(data: DataConfig, splits: str, classes: tuple[str, ...]) -> Annotations:
    """The images of `splits` and all that is annotated in them. Raises UserError if they cannot be read."""
    if data.split_file:
        path = Path(data.split_file)
        return select_splits(read_all(data, classes), Path(data.root), read_split_file(path), path, splits)
    read = FORMATS[data.format].read
    return read(data.root, splits, classes, other_classes=data.other_classes, exif=data.exif, source=data.source)


def read_all(data: DataConfig, classes: tuple[str, ...] = ()) -> Annotations:
    """All images of a data set, whatever its own splits; one that several list comes once.

    Raises UserError if there is none.
    """
    form = FORMATS[data.format]
    splits = "+".join(form.splits(Tree(data.root)))
    if not splits:
        raise UserError(f"No images of the format {data.format} found in {data.root}; to get them: {data.source}.")
    whole = form.read(
        data.root, splits, classes, other_classes=data.other_classes, exif=data.exif, source=data.source
    )
    _, first, number = np.unique(whole.files, return_index=True, return_inverse=True)
    objects = np.diff(whole.offsets)
    differ = np.flatnonzero(objects != objects[first[number.reshape(-1)]])
    skipped = [
        f"{whole.file(int(place))} is listed again with other objects, which are left out." for place in differ
    ]
    return replace(whole.select(np.sort(first)), skipped=(*whole.skipped, *skipped))


def describe(annotations: Annotations, splits: str) -> str:
    """A line on what was read, and one for each of the first few things that were left out."""
    line = f"{splits}: {len(annotations)} images, {len(annotations.labels)} objects"
    return "\n  ".join([with_skipped(line, "images or boxes", annotations.skipped), *annotations.notes])


def with_skipped(line: str, kind: str, skipped: Sequence[str]) -> str:
    """`line`, and below it the first few sentences on what was left out."""
    if not skipped:
        return line
    more = [f"and {len(skipped) - 5} more"] * (len(skipped) > 5)
    return "\n  ".join([f"{line}; {len(skipped)} {kind} skipped:", *skipped[:5], *more])


def training_images(annotations: Annotations, data: DataConfig) -> Annotations:
    """Those of the images that are trained on. Raises UserError if there is none."""
    kept = annotations if data.empty_images else annotations.without_empty()
    if not len(kept):
        raise UserError(
            f"None of the {len(annotations)} images of {data.train} has objects to train on, and "
            "--data.no-empty-images leaves out all others: annotate some, or drop this option."
        )
    return kept


def training_batches(annotations: Annotations, config: DetConfig, runtime: Runtime, start: int) -> Iterator[Batch]:
    """This process's share of the batches of step `start` and of all later steps."""
    data, solver = config.data, config.solver
    annotations = training_images(annotations, data)
    augmentation = read_augmentation(data.augmentation)
    if augmentation:
        augmentation.check(annotations.sizes)
    transform = TrainTransform(data.short_sides, data.max_side, data.flip, data.photometric, augmentation)
    proposals = given_proposals(annotations, config, config.rpn.post_nms_topk)
    dataset = DetectionDataset(
        annotations, transform, difficult=data.difficult, unreadable="replace", proposals=proposals
    )
    images = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    repeats = repeat_factors(annotations.labels, images, len(annotations), data.repeat) if data.repeat else None
    sampler = TrainSampler(
        (annotations.sizes[:, 0] > annotations.sizes[:, 1]) & data.group_by_aspect,
        batch_size=solver.batch_size,
        seed=config.seed,
        start=start,
        steps=solver.steps,
        rank=runtime.rank,
        world=runtime.world,
        accumulate=solver.accumulate,
        repeats=repeats,
    )
    return train_batches(dataset, sampler, data.workers, pin=runtime.device.type == "cuda")


def validation_batches(annotations: Annotations, config: DetConfig, runtime: Runtime) -> Iterator[Batch]:
    """This process's share of the images, each once."""
    data = config.data
    transform = TestTransform(data.test_short_side, data.max_side)
    proposals = given_proposals(annotations, config, config.test.post_nms_topk)
    dataset = DetectionDataset(
        annotations, transform, difficult=data.difficult, unreadable="refuse", proposals=proposals
    )
    pin = runtime.device.type == "cuda"
    sizes = [
        fit_size(height, width, data.test_short_side, data.max_side) for height, width in annotations.sizes.tolist()
    ]
    return test_batches(dataset, config.test.batch_size, runtime.rank, runtime.world, data.workers, pin, sizes)


def given_proposals(annotations: Annotations, config: DetConfig, most: int) -> Proposals | None:
    """The best `most` proposals of each of these images, where files hold them."""
    if config.data.proposals:
        return read_proposals(config.data.proposals, annotations, most)
    if config.model.proposals == "given":
        raise UserError(
            "This detector needs proposals: make them with `resdet propose`, then pass the "
            "files with --data.proposals."
        )
    return None
