"""Region proposals that were made before: their file, and their way into a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resdet.boxes import resize
from resdet.config import SHAPES_CLASSES, DataConfig, DetConfig, ModelConfig, SolverConfig
from resdet.data.annotations import Annotations
from resdet.data.build import training_batches, validation_batches
from resdet.data.proposals import read_proposals, write_proposals
from resdet.data.voc import read_voc
from resdet.engine.runtime import Runtime

ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)


@pytest.fixture
def annotations(shapes_root: Path) -> Annotations:
    """Six images."""
    return read_voc(shapes_root, "train", SHAPES_CLASSES)


def boxes_of(annotations: Annotations) -> list[np.ndarray]:
    """Some inside each image, none in the second."""
    random = np.random.default_rng(0)
    found = []
    for index, (height, width) in enumerate(annotations.sizes.tolist()):
        corners = random.uniform(0, [width / 2, height / 2], (0 if index == 1 else 5 + index, 2))
        found.append(np.hstack([corners, corners + random.uniform(5, [width / 2, height / 2], corners.shape)]))
    return [own.astype(np.float32) for own in found]


@pytest.fixture
def written(annotations: Annotations, tmp_path: Path) -> str:
    """A file of them, in another order, and with another image's."""
    ids = [annotations.id(index) for index in range(len(annotations))]
    order = [3, 0, 5, 1, 2, 4]
    boxes = boxes_of(annotations)
    path = tmp_path / "proposals.npz"
    write_proposals(path, [*(ids[i] for i in order), "other"], [*(boxes[i] for i in order), boxes[0]])
    return str(path)


def test_each_image_gets_its_own(annotations: Annotations, written: str) -> None:
    read = read_proposals([written], annotations, 2000)
    for index, own in enumerate(boxes_of(annotations)):
        np.testing.assert_array_equal(read.of(index), own)
    assert read.of(1).shape == (0, 4)


def test_several_files(annotations: Annotations, tmp_path: Path) -> None:
    boxes = boxes_of(annotations)
    for number in range(2):
        own = range(number, 6, 2)
        write_proposals(tmp_path / f"{number}.npz", [annotations.id(i) for i in own], [boxes[i] for i in own])
    read = read_proposals([str(tmp_path / f"{number}.npz") for number in range(2)], annotations, 2000)
    np.testing.assert_array_equal(read.boxes, np.concatenate(boxes))


def test_proposals_go_where_the_objects_go(annotations: Annotations, written: str) -> None:
    """Resized, and mirrored with the image: an object that is its own proposal stays so."""
    targets = [annotations.target(index).boxes.numpy() for index in range(6)]
    write_proposals(Path(written), [annotations.id(index) for index in range(6)], targets)
    data = DataConfig(short_sides=(64, 96), max_side=200, workers=0, proposals=(written,), difficult=True)
    config = DetConfig(data=data, model=ModelConfig(proposals="given"), solver=SolverConfig(steps=6, batch_size=2))
    for batch in training_batches(annotations, config, ALONE, 0):
        assert batch.proposals is not None
        for target, own in zip(batch.targets, batch.proposals, strict=True):
            torch.testing.assert_close(target.boxes, own)
    sizes = {}
    for batch in validation_batches(annotations, config, ALONE):
        assert batch.proposals is not None
        size, original = batch.sizes[0].tolist(), batch.original_sizes[0].tolist()
        expected = resize(torch.from_numpy(targets[batch.indices[0]]), original, size)
        torch.testing.assert_close(batch.proposals[0], expected)
        sizes[batch.indices[0]] = len(expected)
    assert len(sizes) == 6


def test_without_them_batches_have_none(annotations: Annotations) -> None:
    config = DetConfig(data=DataConfig(workers=0, test_short_side=32))
    assert next(validation_batches(annotations, config, ALONE)).proposals is None


def test_bad_proposals(annotations: Annotations, written: str, tmp_path: Path, refuses: Callable[..., Any]) -> None:
    with refuses("proposals", "resdet propose"):
        next(validation_batches(annotations, replace(DetConfig(), model=ModelConfig(proposals="given")), ALONE))
    ids, boxes = [annotations.id(index) for index in range(6)], boxes_of(annotations)
    path = tmp_path / "bad.npz"
    write_proposals(path, ids[1:], boxes[1:])
    with refuses(ids[0], path):
        read_proposals([str(path)], annotations, 9)
    assert len(read_proposals([str(path), written], annotations, 99).boxes) == sum(map(len, boxes))
    for wrong in ([0, 0, 10, 5000], [-9, 0, 10, 10], [0, 0, np.nan, 10]):
        write_proposals(path, ids, [np.array([wrong], np.float32), *boxes[1:]])
        with refuses(ids[0], path, "another image"):
            read_proposals([str(path)], annotations, 9)
    path.write_bytes(b"nothing")
    with refuses(path, "resdet propose"):
        read_proposals([str(path)], annotations, 9)
    with refuses(tmp_path / "no.npz"):
        read_proposals([str(tmp_path / "no.npz")], annotations, 9)
