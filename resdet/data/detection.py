"""Annotated images as samples and batches of a detector."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from resdet.boxes import clip
from resdet.data.annotations import Annotations
from resdet.data.images import ImageError, read_image
from resdet.data.loader import ImageDataset, Unreadable
from resdet.data.proposals import Proposals
from resdet.data.resize import pad
from resdet.data.transforms import TestTransform, TrainTransform
from resdet.types import Batch, Target


class Sample(NamedTuple):
    """One image on its way into a batch."""

    image: np.ndarray
    """(H, W, 3) uint8"""
    target: Target
    original_size: tuple[int, int]
    name: str
    position: int
    """in the data set"""
    proposals: Tensor | None = None
    """(P, 4) where they were made before"""


class DetectionDataset(ImageDataset):
    """Annotations, images and a transform.

    Args:
        proposals: of the same images, where they were made before
        difficult: keep objects marked difficult in the targets
        unreadable: as in `ImageDataset`
    """

    def __init__(
        self,
        annotations: Annotations,
        transform: TrainTransform | TestTransform,
        *,
        difficult: bool,
        unreadable: Unreadable,
        proposals: Proposals | None = None,
    ) -> None:
        super().__init__(len(annotations), unreadable)
        self.annotations, self.transform, self.difficult = annotations, transform, difficult
        self.proposals = proposals

    def load(self, index: int, seed: int) -> Sample:
        """The image at `index`, resized and augmented as `seed` says. Raises ImageError."""
        name = self.annotations.file(index)
        image = read_image(name)
        if image.shape[:2] != tuple(self.annotations.sizes[index]):
            raise ImageError(f"{name} has changed its size since the annotations were read.")
        target = self.annotations.target(index)
        target = target._replace(boxes=clip(target.boxes, *image.shape[:2]))
        if not self.difficult:
            easy = ~target.difficult
            target = Target(target.boxes[easy], target.labels[easy], target.difficult[easy])
        given = torch.zeros((0, 4)) if self.proposals is None else self.proposals.of(index)
        resized, together = self.transform(image, _with_proposals(target, given), seed)
        objects = together.labels >= 0
        target = Target(*(field[objects] for field in together))
        proposals = None if self.proposals is None else together.boxes[~objects]
        return Sample(resized, target, image.shape[:2], name, index, proposals)

    @staticmethod
    def collate(samples: list[Sample | ImageError]) -> Batch | ImageError:
        """Pad the images of a batch at the right and at the bottom to a common size."""
        good: list[Sample] = []
        for sample in samples:
            if isinstance(sample, ImageError):
                return sample
            good.append(sample)
        images, sizes = pad([sample.image for sample in good])
        return Batch(
            images,
            sizes,
            [sample.target for sample in good],
            torch.tensor([sample.original_size for sample in good]),
            [sample.name for sample in good],
            [sample.position for sample in good],
            [sample.proposals for sample in good if sample.proposals is not None] or None,
        )


def _with_proposals(target: Target, proposals: Tensor) -> Target:
    """A target that holds proposals too, as objects of the class −1: they go where the objects go."""
    labels, difficult = (
        field.new_full((len(proposals),), fill) for field, fill in ((target.labels, -1), (target.difficult, 0))
    )
    return Target(*(torch.cat(pair) for pair in zip(target, (proposals, labels, difficult), strict=True)))
