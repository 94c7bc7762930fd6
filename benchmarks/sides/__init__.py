"""What detectors that are compared have in common: how they are called, and random weights that do something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resdet.config import DataConfig, DetConfig
from resdet.engine import runtime as runtimes
from resdet.errors import UserError
from resdet.inference.int8 import observed_grids
from resdet.inference.optimize import OptimizedRCNN
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.layers.norm import FrozenBatchNorm2d
from resdet.models.weights.resdet import Calibration, ModelFile, digest
from resdet.types import Detections

Run = Callable[[Tensor, Tensor], list[Detections]]
Sides = dict[str, Callable[[], Run]]
"""by their names, how to make them"""
CALIBRATION_IMAGES = 8


class Comparison(NamedTuple):
    """What is compared."""

    sides: Sides
    network: Callable[[], FasterRCNN]
    """ours"""
    classes: tuple[str, ...]
    config: DetConfig

    def file(self) -> ModelFile[DetConfig]:
        """Ours as a file, with int8 scales where the processor has int8 products."""
        size = self.config.data.test_short_side, self.config.data.max_side
        weights = self.network().state_dict()
        calibration = Calibration(grids_of(self.network(), size), digest(weights)) if has_int8() else None
        return ModelFile(weights, self.classes, self.config, 0, calibration)


def has_int8() -> bool:
    """Whether this processor has int8 products."""
    try:
        return runtimes.choose("cpu", "int8").int8
    except UserError:
        return False


def images_to_calibrate(size: tuple[int, int]) -> list[Tensor]:
    """Random images (1, 3, H, W) uint8."""
    generator = torch.Generator().manual_seed(1)
    shape = 1, 3, *size
    return [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(CALIBRATION_IMAGES)]


def grids_of(network: FasterRCNN, size: tuple[int, int]) -> dict[str, Tensor]:
    """The int8 scales of a network's layers for random images."""
    observing = OptimizedRCNN(network, replace(runtimes.choose("cpu", "int8"), dtype=torch.float32))
    for images in images_to_calibrate(size):
        observing(images, torch.tensor([size]))
    return observed_grids(observing.model, "minmax")


def resdet_run(network: FasterRCNN, precision: str, size: tuple[int, int]) -> Run:
    """The fast detector."""
    runtime = runtimes.choose("cpu", precision)
    return OptimizedRCNN(network, runtime, grids_of(network, size) if runtime.int8 else None)


def data_of(size: tuple[int, int]) -> DataConfig:
    """That images of this height and width are not resized."""
    return DataConfig(test_short_side=min(size), max_side=max(size))


@torch.no_grad()
def make_lively(network: nn.Module, objectness: nn.Module, classes: nn.Module) -> None:
    """Random weights whose normalisations and scores are not trivial."""
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
            module.weight.uniform_(0.3, 0.6)
            module.bias.normal_(0, 0.1)
    nn.init.normal_(objectness.weight, std=0.1)  # type: ignore[arg-type]
    nn.init.normal_(classes.weight, std=0.5)  # type: ignore[arg-type]
