"""metrics.jsonl, TensorBoard events, and the figures in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resdet.engine import log as log_module
from resdet.engine.log import TrainLog, read_metrics


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(log_module, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def events(folder: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard shows of one figure: step and value."""
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def test_a_window_is_averaged_and_timed(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with TrainLog(tmp_path, 0, 10) as log:
        for cls, box in ((1.0, 0.5), (3.0, 0.1)):
            clock.now += 4
            log.step({"loss": cls + box, "cls": cls, "box": box}, images=6, waited=1.0)
        log.flush(2, lr=0.25)
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row == pytest.approx(
        {"step": 2, "loss": 2.3, "cls": 2.0, "box": 0.3, "lr": 0.25}
        | {"images_per_second": 12 / 8, "data_wait": 2 / 8, "seconds_left": 8 / 2 * 8}
    )
    printed = capsys.readouterr().out
    for part in ("step 2/10", "loss 2.3000", "cls 2.0000", "1.5 images/s", "data 25%", "left 0:00:32"):
        assert part in printed


def test_an_evaluation_does_not_slow_the_next_window(tmp_path: Path, clock: Clock) -> None:
    with TrainLog(tmp_path, 0, 4) as log:
        clock.now += 100  # an evaluation
        log.evaluation(0, {"map": 0.5}, 100)
        clock.now += 2
        log.step({"cls": 1.0}, images=8, waited=0.5)
        log.flush(1, lr=1.0)
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["images_per_second"] == 4
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["data_wait"] == 0.25


def test_the_time_left_after_a_resume_follows_from_this_session(tmp_path: Path, clock: Clock) -> None:
    with TrainLog(tmp_path, 90, 100) as log:
        clock.now += 6
        log.step({"cls": 1.0}, images=1, waited=0.0)
        log.step({"cls": 1.0}, images=1, waited=0.0)
        log.flush(92, lr=1.0)
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["seconds_left"] == 3 * 8


def test_an_empty_window_writes_nothing(tmp_path: Path) -> None:
    with TrainLog(tmp_path, 0, 10) as log:
        log.flush(0, lr=1.0)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_resume_drops_the_lines_beyond_its_checkpoint_and_a_cut_off_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "map": 0.25}\n{"step": 3, "loss": 0.5}\n{"step": 2, "lo')
    with TrainLog(tmp_path, 2, 10) as log:
        log.step({"cls": 1.0}, images=1, waited=0.0)
        log.flush(3, lr=1.0)
    lines = path.read_text().splitlines()
    assert lines[:2] == ['{"step": 1, "loss": 0.5}', '{"step": 2, "map": 0.25}']
    assert [json.loads(line)["step"] for line in lines[2:]] == [3]


def test_tensorboard_shows_what_metrics_jsonl_says(finished: Path, logged: Callable[..., list]) -> None:
    rows = logged(finished)
    for name in ("loss", "rpn_cls", "lr", "val_loss", "map07"):
        expected = {row["step"]: row[name] for row in rows if name in row}
        assert expected and dict(events(finished, name)) == pytest.approx(expected, rel=1e-5)


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    """The step of the checkpoint stays; what an interrupted training logged beyond it goes."""
    for first, last in ((0, 3), (2, 4)):
        with TrainLog(tmp_path, first, 4) as log:
            for step in range(first + 1, last + 1):
                log.step({"cls": 10.0 * first + step}, images=1, waited=0.0)
                log.flush(step, lr=1.0)
    assert events(tmp_path, "cls") == [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0)]


def test_each_line_of_metrics_jsonl_is_one_object(finished: Path) -> None:
    text = (finished / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert text.endswith("\n") and all(isinstance(row, dict) for row in rows)
    assert [row["step"] for row in rows] == [1, 2, 3, 3, 4, 5, 6, 6]  # evaluated after 3 and 6
    terms = {"rpn_cls", "rpn_box", "roi_cls", "roi_box"}
    for row in rows:
        if "loss" in row:
            assert set(row) == {"step", "loss", "lr", "images_per_second", "data_wait", "seconds_left", *terms}
            assert row["loss"] == pytest.approx(sum(row[term] for term in terms), abs=1e-6)
        else:
            assert set(row) == {"step", "val_loss", "map07", "map", "ap", "ap50", "ap75"}
