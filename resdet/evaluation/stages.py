"""Where the time of a detection goes: proposals, trunk, regions (Faster R-CNN, Table 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import torch

from resdet.engine.runtime import Runtime
from resdet.evaluation.predict import to_device
from resdet.inference.fast import FastRCNN
from resdet.inference.test_time import TestTimeRCNN
from resdet.types import Batch

TIMED_BATCHES = 12  # are enough for a table
T = TypeVar("T")


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
def time_stages(network: FastRCNN | TestTimeRCNN, batches: Iterable[Batch], runtime: Runtime) -> Stages:
    """The medians over the batches; the first one warms up and does not count, unless there is no other."""

    def timed(run: Callable[..., T], *arguments: Any) -> tuple[T, float]:
        _synchronise(runtime)
        started = perf_counter()
        result = run(*arguments)
        _synchronise(runtime)
        return result, perf_counter() - started

    network.eval()
    times = []
    with torch.autocast(runtime.device.type, enabled=False):
        for batch in batches:
            images, sizes, _, given = to_device(batch, runtime.device, with_targets=False)
            seen, trunk = timed(network.see, images, sizes)
            rois, proposals = (given, 0.0) if given is not None else timed(network.propose, images, sizes, seen)
            _, regions = timed(network.detect, seen, rois, sizes)
            times.append([seconds / len(images) for seconds in (proposals, trunk, regions)])
    return Stages(*(median(column) for column in zip(*(times[1:] or times), strict=True)))


def _synchronise(runtime: Runtime) -> None:
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
