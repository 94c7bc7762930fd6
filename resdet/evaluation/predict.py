"""Run a detector over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from resdet.boxes import resize
from resdet.engine.runtime import Runtime, gather
from resdet.inference.optimize import OptimizedRCNN
from resdet.inference.test_time import TestTimeRCNN
from resdet.models.faster_rcnn import FasterRCNN
from resdet.seeds import Purpose, seed_everything
from resdet.types import Batch, Detections, Losses, Target

T = TypeVar("T")


class Inputs(NamedTuple):
    """What a detector is given, in the order of its arguments."""

    images: Tensor
    sizes: Tensor
    targets: list[Target] | None
    proposals: list[Tensor] | None


def to_device(batch: Batch, device: torch.device, with_targets: bool = True) -> Inputs:
    """What a detector needs of `batch`, on `device`; sizes stay on the CPU, where they are read."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    targets = [Target(*map(moved, target)) for target in batch.targets] if with_targets else None
    proposals = None if batch.proposals is None else [moved(own) for own in batch.proposals]
    return Inputs(moved(batch.images), batch.sizes, targets, proposals)


def predict(
    model: FasterRCNN | OptimizedRCNN | TestTimeRCNN, batches: Iterable[Batch], runtime: Runtime
) -> dict[int, Detections]:
    """Detections of each image, by its position in the data set, in pixels of the image as it was read.

    Every process gives its own `batches` and receives the detections of all.
    """
    model.eval()

    def run(batch: Batch) -> Iterable[Detections]:
        return _as_read(model(*to_device(batch, runtime.device, with_targets=False)), batch)

    return _over(batches, runtime, run)


def predict_and_propose(
    model: FasterRCNN | OptimizedRCNN | TestTimeRCNN, batches: Iterable[Batch], runtime: Runtime, most: int
) -> dict[int, tuple[Detections, Tensor]]:
    """As `predict`; besides the detections, up to `most` proposals (P, 4) of each image, best first."""
    model.eval()

    def run(batch: Batch) -> Iterable[tuple[Detections, Tensor]]:
        images, sizes, _, given = to_device(batch, runtime.device, with_targets=False)
        found, proposals = model.detect_and_propose(images, sizes, most, given)
        boxes = [_to_original(own, batch, i).cpu() for i, own in enumerate(proposals)]
        return zip(_as_read(found, batch), boxes, strict=True)

    return _over(batches, runtime, run)


@torch.no_grad()
def _over(batches: Iterable[Batch], runtime: Runtime, run: Callable[[Batch], Iterable[T]]) -> dict[int, T]:
    """What `run` makes of the batches of all processes, by the images' positions in the data set."""
    own: dict[int, T] = {}
    for batch in batches:
        with runtime.autocast():
            own |= zip(batch.indices, run(batch), strict=True)
    return {index: found for part in gather(own) for index, found in part.items()}


def _as_read(found: Sequence[Detections], batch: Batch) -> list[Detections]:
    """On the CPU, in pixels of the images as they were read."""
    return [
        Detections(_to_original(boxes, batch, i).cpu(), scores.cpu(), labels.cpu())
        for i, (boxes, scores, labels) in enumerate(found)
    ]


def _to_original(boxes: Tensor, batch: Batch, i: int) -> Tensor:
    """(D, 4) in pixels of image `i` of the batch → in pixels of that image as it was read"""
    return resize(boxes, batch.sizes[i].tolist(), batch.original_sizes[i].tolist())


@torch.no_grad()
def mean_losses(model: FasterRCNN, batches: Iterable[Batch], runtime: Runtime) -> Losses:
    """The loss terms averaged over the images of all processes; the same images draw the same samples each time."""
    model.eval()
    sums, count = torch.zeros(len(Losses._fields)), 0
    for batch in batches:
        seed_everything(0, Purpose.VALIDATION, batch.indices[0])
        with runtime.autocast():
            terms = model(*to_device(batch, runtime.device))
        sums += torch.stack(terms).float().cpu() * len(batch.indices)
        count += len(batch.indices)
    parts = gather((sums, count))
    total = sum(count for _, count in parts)
    return Losses(*(torch.stack([part for part, _ in parts]).sum(0) / total))
