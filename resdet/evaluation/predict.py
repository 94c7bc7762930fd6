"""Run a detector over a data set."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from resdet.boxes import rescale
from resdet.detection.faster_rcnn import FasterRCNN
from resdet.engine.runtime import Runtime, gather, seed_everything
from resdet.inference.fast import FastRCNN
from resdet.types import Batch, Detections, Losses, Target


def to_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, list[Target]]:
    """The images, sizes and targets of `batch` on `device`; sizes stay on the CPU, where they are read."""
    targets = [Target(*(tensor.to(device, non_blocking=True) for tensor in target)) for target in batch.targets]
    return batch.images.to(device, non_blocking=True), batch.sizes, targets


@torch.no_grad()
def predict(model: FasterRCNN | FastRCNN, batches: Iterable[Batch], runtime: Runtime) -> dict[int, Detections]:
    """Detections of each image, by its position in the data set, in pixels of the image as it was read.

    Every process gives its own `batches` and receives the detections of all.
    """
    model.eval()
    own: dict[int, Detections] = {}
    for batch in batches:
        with runtime.autocast():
            images, sizes, _ = to_device(batch, runtime.device)
            found = model(images, sizes)
        for index, detections, size, original in zip(
            batch.indices, found, batch.sizes.tolist(), batch.original_sizes.tolist(), strict=True
        ):
            boxes = rescale(detections.boxes, original[1] / size[1], original[0] / size[0])
            own[index] = Detections(boxes.cpu(), detections.scores.cpu(), detections.labels.cpu())
    return {index: found for part in gather(own) for index, found in part.items()}


@torch.no_grad()
def mean_losses(model: FasterRCNN, batches: Iterable[Batch], runtime: Runtime) -> Losses:
    """The loss terms averaged over the images of all processes; the same images draw the same samples each time."""
    model.eval()
    sums, count = torch.zeros(len(Losses._fields)), 0
    for batch in batches:
        seed_everything(0, batch.indices[0])
        with runtime.autocast():
            terms = model(*to_device(batch, runtime.device))
        sums += torch.stack(terms).float().cpu() * len(batch.indices)
        count += len(batch.indices)
    parts = gather((sums, count))
    total = sum(count for _, count in parts)
    return Losses(*(torch.stack([part for part, _ in parts]).sum(0) / total))
