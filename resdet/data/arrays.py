"""Batches of small images that are kept in memory: on the device, without a loop over images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from resdet.data.cifar import ImageArray
from resdet.data.loader import TrainSampler
from resdet.types import ClsBatch, Crop


class ArrayBatches:
    """Images and labels on a device, by their positions.

    Args:
        array: the images
        device: where batches are made
    """

    def __init__(self, array: ImageArray, device: torch.device) -> None:
        self.images = torch.from_numpy(array.images).to(device).permute(0, 3, 1, 2)  # (M, 3, H, W), channels last
        self.labels = torch.from_numpy(array.labels).to(device)
        self.names = array.names

    def train(self, sampler: TrainSampler, padding: int, flip: float) -> Iterator[ClsBatch]:
        """The batches that `sampler` asks for, each image to be cropped and mirrored as its seed says."""
        for positions, seeds in sampler.shares():
            yield self._batch(positions, draw_crop(torch.from_numpy(seeds.astype(np.int64)), padding, flip))

    def test(self, batch_size: int, rank: int, world: int) -> Iterator[ClsBatch]:
        """Every image once, those of other processes left out."""
        own = np.arange(rank, len(self.labels), world)
        for start in range(0, len(own), batch_size):
            yield self._batch(own[start : start + batch_size], None)

    def _batch(self, positions: np.ndarray, crop: Crop | None) -> ClsBatch:
        index = torch.from_numpy(positions).to(self.images.device)
        names = [self.names[i] for i in positions]
        return ClsBatch(self.images[index], self.labels[index], names, positions.tolist(), crop)


def draw_crop(seeds: Tensor, padding: int, flip: float) -> Crop:
    """(N,) int64 seeds below 2³² → the crop of each image; a flip has the probability `flip`."""
    places = 2 * padding + 1
    rows, rest = seeds % places, seeds // places
    columns, rest = rest % places, rest // places
    return Crop(torch.stack([rows, columns], 1), rest % 1024 < flip * 1024, padding)
