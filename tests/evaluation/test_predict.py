"""A detector over a data set: every image once, boxes in the pixels of the image as it was read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor, nn

from resdet.boxes import iou
from resdet.config import DetConfig, load_config
from resdet.data.annotations import Annotations
from resdet.data.build import read_annotations, validation_batches
from resdet.data.detection import DetectionDataset
from resdet.data.transforms import TestTransform as ValTransform  # pytest collects what is called Test…
from resdet.engine.runtime import Runtime
from resdet.evaluation.predict import predict, predict_and_propose, predict_with_losses, to_device
from resdet.inference.detector import Detector, restore
from resdet.inference.optimize import OptimizedRCNN
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.weights.load import load_model
from resdet.seeds import Purpose, seed_everything
from resdet.types import Batch, Detections, Losses

ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)


class Part(Runtime):
    """One of several processes, that hears of no other."""

    def gather(self, value: Any) -> list[Any]:
        return [value]


@pytest.fixture(scope="module")
def config(finished: Path) -> DetConfig:
    return load_config(finished.parents[1] / "tiny.py")


@pytest.fixture(scope="module")
def annotations(config: DetConfig) -> Annotations:
    return read_annotations(config.data, "train", config.data.classes)


@pytest.fixture(scope="module")
def model(finished: Path) -> FasterRCNN:
    return restore(load_model(finished), finished)


def detect_by_hand(model: FasterRCNN, path: str) -> Detections:
    """One image alone, resized here, its boxes taken back here."""
    image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    scale = min(64 / min(height, width), 96 / max(height, width))
    new_height, new_width = round(height * scale), round(width * scale)
    resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(resized).permute(2, 0, 1)[None].contiguous()
    with torch.no_grad():
        (found,) = model(pixels, torch.tensor([[new_height, new_width]]))
    x1, y1, x2, y2 = found.boxes.unbind(1)
    wider, higher = width / new_width, height / new_height
    return found._replace(boxes=torch.stack([x1 * wider, y1 * higher, x2 * wider, y2 * higher], dim=1))


def test_boxes_come_back_in_pixels_of_the_image_as_it_was_read(
    config: DetConfig, annotations: Annotations, model: FasterRCNN
) -> None:
    found = predict(model, validation_batches(annotations, config, ALONE), ALONE)
    assert sorted(found) == list(range(6))
    beyond = 0
    for index, detections in found.items():
        torch.testing.assert_close(detections, detect_by_hand(model, annotations.file(index)))
        height, width = annotations.sizes[index]
        assert len(detections.boxes) and (detections.boxes <= torch.tensor([width, height] * 2) + 1e-3).all()
        beyond += int((detections.boxes > 96).any())
    assert beyond, "no box would be outside the resized image: the test sees nothing"


def test_proposals_come_from_the_same_pass(config: DetConfig, annotations: Annotations, model: FasterRCNN) -> None:
    """The detections are those of `predict`; the proposals, taken further, begin with those that the head saw."""
    alone = predict(model, validation_batches(annotations, config, ALONE), ALONE)
    found = predict_and_propose(model, validation_batches(annotations, config, ALONE), ALONE, most=25)
    assert sorted(found) == list(range(6))
    for index, (detections, proposals) in found.items():
        torch.testing.assert_close(detections, alone[index], rtol=0, atol=0)
        height, width = annotations.sizes[index].tolist()
        assert config.test.post_nms_topk < len(proposals) <= 25
        assert (proposals <= torch.tensor([width, height] * 2) + 1e-3).all() and (proposals >= 0).all()
        assert (proposals.amax(0) > 96).any(), "no box would be outside the resized image: the test sees nothing"
    fewer = predict_and_propose(model, validation_batches(annotations, config, ALONE), ALONE, most=5)
    for index, (_, proposals) in fewer.items():
        torch.testing.assert_close(proposals, found[index][1][:5], rtol=0, atol=0)
    fast = predict_and_propose(
        OptimizedRCNN(model, ALONE), validation_batches(annotations, config, ALONE), ALONE, most=5
    )
    for index, (_, proposals) in fast.items():
        # Equal but for rounding, which may exchange two of about the same score.
        assert (iou(proposals, found[index][1]).amax(1) > 0.99).all()


def test_the_detector_finds_what_the_evaluation_finds(
    config: DetConfig, annotations: Annotations, model: FasterRCNN, finished: Path
) -> None:
    found = predict(model, validation_batches(annotations, config, ALONE), ALONE)
    detector = Detector.load(finished, device="cpu", precision="fp32")
    assert detector.classes == annotations.classes
    for index in (0, 3):
        mine, theirs = detector(annotations.file(index)), found[index]
        torch.testing.assert_close(mine.scores[:5], theirs.scores[:5], rtol=1e-3, atol=1e-3)
        same = (mine.labels[:, None] == theirs.labels) & (iou(mine.boxes, theirs.boxes) > 0.99)
        # Not all: a rounding error, since pixels are laid out otherwise, may tip a suppression.
        assert same.any(1).float().mean() > 0.9


@pytest.mark.parametrize("batch_size", [2, 3, 6])
def test_what_is_found_does_not_depend_on_the_batch_size(
    batch_size: int, config: DetConfig, annotations: Annotations, model: FasterRCNN
) -> None:
    """Since only images of one size share a batch: nothing is padded."""
    expected = predict(model, validation_batches(annotations, config, ALONE), ALONE)
    config = replace(config, test=replace(config.test, batch_size=batch_size))
    batches = list(validation_batches(annotations, config, ALONE))
    assert len(annotations) > len(batches) > 1
    for batch in batches:
        assert (batch.sizes == torch.tensor(batch.images.shape[2:])).all()
    found = predict(model, batches, ALONE)
    for index, detections in expected.items():
        for ours, theirs in zip(found[index], detections, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("world", [1, 3, 8])
def test_every_image_is_seen_once(world: int, batch_size: int, config: DetConfig, annotations: Annotations) -> None:
    """Also if the images cannot be shared equally, and if there are more processes than images."""
    config = replace(config, test=replace(config.test, batch_size=batch_size))
    seen = []
    for rank in range(world):
        runtime = replace(ALONE, rank=rank, world=world)
        for batch in validation_batches(annotations, config, runtime):
            assert 0 < len(batch.indices) <= batch_size
            assert [annotations.file(index) for index in batch.indices] == batch.names
            seen += batch.indices
    assert sorted(seen) == list(range(6))


def test_processes_without_images_predict_nothing(
    config: DetConfig, annotations: Annotations, model: FasterRCNN
) -> None:
    idle = Part(7, 8, torch.device("cpu"), torch.float32)
    assert predict(model, validation_batches(annotations, config, idle), idle) == {}


class WholeImage(nn.Module):
    """Stands for a detector: finds one object in each image, as large as the image without its padding."""

    def forward(
        self, images: Tensor, sizes: Tensor, targets: None = None, proposals: None = None
    ) -> list[Detections]:
        one, zero = torch.ones(1), torch.zeros(1, dtype=torch.int64)
        return [Detections(torch.tensor([[0.0, 0.0, w, h]]), one, zero) for h, w in sizes.tolist()]


def test_padding_does_not_enter_the_scale(config: DetConfig, annotations: Annotations) -> None:
    """Images of both orientations in one batch."""
    transform = ValTransform(config.data.test_short_side, config.data.max_side)
    dataset = DetectionDataset(annotations, transform, difficult=False, unreadable="refuse")
    batch = dataset.collate([dataset.load(index, 0) for index in range(len(dataset))])
    assert isinstance(batch, Batch) and len({tuple(size) for size in batch.sizes.tolist()}) > 1
    for index, detections in predict(WholeImage(), [batch], ALONE).items():  # type: ignore[arg-type]
        height, width = (float(side) for side in annotations.sizes[index])
        torch.testing.assert_close(detections.boxes, torch.tensor([[0, 0, width, height]]))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_losses_and_detections_of_one_pass_equal_those_of_two(
    batch_size: int, config: DetConfig, annotations: Annotations, model: FasterRCNN
) -> None:
    """To the bit. Batches of four and two images: each image counts once in the mean loss, not each batch."""
    config = replace(config, test=replace(config.test, batch_size=batch_size))
    batches = list(validation_batches(annotations, config, ALONE))
    model.eval()
    sums = torch.zeros(4)
    with torch.no_grad():
        for batch in batches:
            seed_everything(0, Purpose.VALIDATION, batch.indices[0])
            sums += torch.stack(model(*to_device(batch, torch.device("cpu")))) * len(batch.indices)
    losses, found = predict_with_losses(model, batches, ALONE)
    torch.testing.assert_close(losses, Losses(*(sums / 6)), rtol=0, atol=0)
    alone = predict(model, batches, ALONE)
    assert found.keys() == alone.keys()
    for index, detections in alone.items():
        torch.testing.assert_close(found[index], detections, rtol=0, atol=0)


def test_an_image_is_seen_by_the_backbone_once(
    config: DetConfig, annotations: Annotations, model: FasterRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = model.features

    def features(images: Tensor, sizes: Tensor) -> Any:
        seen.append(len(images))
        return real(images, sizes)

    monkeypatch.setattr(model, "features", features)
    predict_with_losses(model, validation_batches(annotations, config, ALONE), ALONE)
    assert sum(seen) == 6
