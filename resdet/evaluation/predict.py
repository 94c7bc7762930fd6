"""Run a detector over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from resdet.boxes import resize
from resdet.engine.runtime import Runtime, gather
from resdet.models.faster_rcnn import FasterRCNN
from resdet.seeds import Purpose, seed_everything
from resdet.types import Batch, Detections, Losses, Target

T = TypeVar("T")


class Detecting(Protocol):
    """What is needed of a detector for its detections."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def __call__(
        self, images: Tensor, sizes: Tensor, targets: None = None, proposals: Sequence[Tensor] | None = None
    ) -> list[Detections]:
        """Images and what is known of them (`Inputs`) → the detections of each."""


class Network(Detecting, Protocol):
    """What is needed of a detector here, in whatever form it runs: plain, optimized, or with test-time methods."""

    def detect_and_propose(
        self, images: Tensor, sizes: Tensor, most: int, proposals: Sequence[Tensor] | None = None
    ) -> tuple[list[Detections], Sequence[Tensor]]:
        """Detections, and up to `most` proposals (P, 4) of each image."""


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


def predict(model: Detecting, batches: Iterable[Batch], runtime: Runtime) -> dict[int, Detections]:
    """Detections of each image, by its position in the data set, in pixels of the image as it was read.

    Every process gives its own `batches` and receives the detections of all.
    """
    model.eval()

    def run(batch: Batch) -> Iterable[Detections]:
        images, sizes, _, given = to_device(batch, runtime.device, with_targets=False)
        return _as_read(model(images, sizes, None, given), batch)

    return _over(batches, runtime, run)


def predict_and_propose(
    model: Network, batches: Iterable[Batch], runtime: Runtime, most: int
) -> dict[int, tuple[Detections, Tensor]]:
    """As `predict`; besides the detections, up to `most` proposals (P, 4) of each image, best first."""
    model.eval()

    def run(batch: Batch) -> Iterable[tuple[Detections, Tensor]]:
        images, sizes, _, given = to_device(batch, runtime.device, with_targets=False)
        found, proposals = model.detect_and_propose(images, sizes, most, given)
        boxes = [_to_original(own, batch, i).cpu() for i, own in enumerate(proposals)]
        return zip(_as_read(found, batch), boxes, strict=True)

    return _over(batches, runtime, run)


def predict_with_losses(
    model: FasterRCNN, batches: Iterable[Batch], runtime: Runtime
) -> tuple[Losses, dict[int, Detections]]:
    """As `predict`, and the loss terms averaged over the images of all processes, from the same pass.

    The same images draw the same samples each time.
    """
    model.eval()
    sums = torch.zeros(len(Losses._fields))

    def run(batch: Batch) -> Iterable[Detections]:
        seed_everything(0, Purpose.VALIDATION, batch.indices[0])
        images, sizes, targets, given = to_device(batch, runtime.device)
        assert targets is not None
        losses, found = model.losses_and_detections(images, sizes, targets, given)
        sums.add_(torch.stack(losses).float().cpu() * len(batch.indices))
        return _as_read(found, batch)

    found = _over(batches, runtime, run)
    return Losses(*(torch.stack(gather(sums)).sum(0) / len(found))), found


def in_order(found: Mapping[int, T]) -> list[T]:
    """What was found in each image, in the order of the data set."""
    return [found[index] for index in range(len(found))]


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
