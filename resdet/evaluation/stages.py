"""Where the time of a detection goes: proposals, backbone, regions (Faster R-CNN, Table 5)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from resdet.engine.runtime import Runtime
from resdet.evaluation.predict import to_device
from resdet.types import Batch, Detections

TIMED_BATCHES = 12  # are enough for a table


class StagedNetwork(Protocol):
    """A detector whose stages can be run one after the other."""

    runtime: Runtime

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def see(self, images: Tensor, sizes: Tensor, /) -> Any:
        """(N, 3, H, W) uint8 and (N, 2) → what the network's own later stages read."""

    def propose(self, images: Tensor, sizes: Tensor, seen: Any, /) -> list[Tensor]:
        """What `see` returned → proposals (R, 4) of each image."""

    def detect(self, seen: Any, rois: Sequence[Tensor], sizes: Tensor, /) -> list[Detections]:
        """What `see` and `propose` returned → the detections of each image."""


class Stages(NamedTuple):
    """Seconds an image."""

    proposals: float
    """the RPN with its non-maximum suppression; 0 where they are given"""
    backbone: float
    """of all the scales, mirror images and networks of an ensemble"""
    regions: float
    """pooling, head and the selection of detections"""

    @property
    def total(self) -> float:
        """Their sum."""
        return sum(self)


@torch.no_grad()
def time_stages(trials: Sequence[tuple[StagedNetwork, Sequence[Batch]]]) -> list[Stages]:
    """Networks and as many batches for each → the medians of each network over its batches.

    The networks take turns, so that whatever else the machine does slows them alike. The first batch of each warms
    up and does not count, unless it is the only one.
    """
    times: list[list[Stages]] = [[] for _ in trials]
    for turn in zip(*(batches for _, batches in trials), strict=True):
        for (network, _), batch, own in zip(trials, turn, times, strict=True):
            network.eval()
            own.append(_time(network, batch))
    return [Stages(*map(median, zip(*(own[1:] or own), strict=True))) for own in times]


def _time(network: StagedNetwork, batch: Batch) -> Stages:
    device = network.runtime.device
    images, sizes, _, given = to_device(batch, device, with_targets=False)
    with torch.autocast(device.type, enabled=False):
        started = _now(device)
        seen = network.see(images, sizes)
        looked = _now(device)
        rois = network.propose(images, sizes, seen) if given is None else given
        proposed = _now(device)
        network.detect(seen, rois, sizes)
        ended = _now(device)
    proposals = proposed - looked if given is None else 0.0
    return Stages(*(seconds / len(images) for seconds in (proposals, looked - started, ended - proposed)))


def _now(device: torch.device) -> float:
    """Seconds, when all is done that the device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
