"""Seconds of the stages of a detection."""

from types import SimpleNamespace

import pytest
import torch

from resdet.evaluation import stages
from resdet.evaluation.stages import Stages, time_stages
from resdet.types import Batch


class Clocked:
    """A network whose stages take the seconds that it is told, on a clock of its own."""

    def __init__(self, name, clock, calls, seconds):
        self.runtime = SimpleNamespace(device=torch.device("cpu"))
        self.name, self.clock, self.calls, self.seconds = name, clock, calls, iter(seconds)

    def eval(self):
        self.now = next(self.seconds)
        return self

    def _run(self, stage):
        self.calls.append(self.name + stage)
        self.clock[0] += self.now[stage]
        return stage

    def see(self, images, sizes):
        return self._run("backbone")

    def propose(self, images, sizes, seen):
        return self._run("proposals")

    def detect(self, seen, rois, sizes):
        return self._run("regions")


def batch(proposals=None):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    return Batch(images, torch.full((2, 2), 8), [], torch.full((2, 2), 8), ["", ""], [0, 1], proposals)


def seconds(*rows):
    return [dict(zip(Stages._fields, row, strict=True)) for row in rows]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stages, "perf_counter", lambda: now[0])
    return now


def test_networks_take_turns_and_the_first_batch_does_not_count(clock):
    calls = []
    one = Clocked("one ", clock, calls, seconds((90, 90, 90), (2, 4, 6), (8, 2, 2), (4, 6, 8)))
    two = Clocked("two ", clock, calls, seconds((50, 50, 50), (0, 1, 10), (0, 3, 12), (0, 2, 11)))
    given = batch([torch.zeros(1, 4)] * 2)
    of_one, of_two = time_stages([(one, [batch()] * 4), (two, [given] * 4)])
    assert of_one == (2, 2, 3) and of_one.total == 7  # medians, of one of the two images
    assert of_two == (0, 1, 5.5)
    assert calls == 4 * ["one backbone", "one proposals", "one regions", "two backbone", "two regions"]


def test_a_batch_alone_counts(clock):
    network = Clocked("", clock, [], seconds((2, 4, 6)))
    assert time_stages([(network, [batch()])]) == [Stages(1, 2, 3)]
