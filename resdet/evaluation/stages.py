"""Where the time of a detection goes: proposals, trunk, regions (Faster R-CNN, Table 5)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch

from resdet.evaluation.predict import to_device
from resdet.inference.optimize import OptimizedRCNN
from resdet.inference.test_time import TestTimeRCNN
from resdet.types import Batch

TIMED_BATCHES = 12  # are enough for a table


class Stages(NamedTuple):
    """Seconds an image."""

    proposals: float
    """the RPN with its non-maximum suppression; 0 where they are given"""
    trunk: float
    """of all the scales, mirror images and networks of an ensemble"""
    regions: float
    """pooling, head and the selection of detections"""

    @property
    def total(self) -> float:
        """Their sum."""
        return sum(self)


@torch.no_grad()
def time_stages(trials: Sequence[tuple[OptimizedRCNN | TestTimeRCNN, Sequence[Batch]]]) -> list[Stages]:
    """Networks and as many batches for each → the medians of each network over its batches.

    The networks take turns, so that whatever else the machine does slows them alike. The first batch of each warms
    up and does not count, unless it is the only one.
    """
    times: list[list[Stages]] = [[] for _ in trials]
    for turn in zip(*(batches for _, batches in trials), strict=True):
        for (network, _), batch, own in zip(trials, turn, times, strict=True):
            own.append(_time(network.eval(), batch))
    return [Stages(*map(median, zip(*(own[1:] or own), strict=True))) for own in times]


def _time(network: Any, batch: Batch) -> Stages:  # what `see` returns is of the network's own kind
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
