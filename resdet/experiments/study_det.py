"""Studies of detectors: the papers' methods on the same data, with accuracy and seconds, as in their tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from resdet.config import DetConfig, with_settings
from resdet.data.build import given_proposals, validation_batches
from resdet.engine import runtime as runtimes
from resdet.evaluation.stages import TIMED_BATCHES, Stages, time_stages
from resdet.experiments.alternate import alternate
from resdet.experiments.evaluate import network_and_data, score
from resdet.experiments.propose import propose
from resdet.experiments.studies import Row, Study
from resdet.experiments.train import train_or_resume
from resdet.io import write_text
from resdet.models.weights.load import load_model
from resdet.visualize import plot_study

logger = logging.getLogger(__name__)


class Scores(NamedTuple):
    """What the detections of a study's detector are worth."""

    map07: float
    ap50: float


def compare_detectors(study: Study, configs: Mapping[str, DetConfig], folder: Path) -> str:
    """Train and test the detectors, and leave table.md and study.png in `folder` → the table.

    Args:
        study: its rows, by their labels
        configs: how each is trained, by the same labels
        folder: gets the run folders too
    """
    to_test: dict[str, tuple[DetConfig, str]] = {}
    scores: dict[str, Scores] = {}
    for label, row in study.rows.items():
        trained = _train(label, row, configs[label], folder)
        ensemble = {"test.ensemble": tuple(str(folder / run) for run in row.ensemble)} if row.ensemble else {}
        config = with_settings(load_model(trained).config, {**row.test, **ensemble})
        to_test[label] = config, str(trained)
        scores[label] = _test(*to_test[label])
        if runtimes.is_main():
            _write_table(study, scores, {}, folder)  # after each row, so that an interrupted study shows some
    if not runtimes.is_main():  # processes that share a machine would slow the measurement
        return ""
    seconds = _time(to_test)
    plot_study({label: (own.map07, seconds[label]) for label, own in scores.items()}, folder / "study.png")
    return _write_table(study, scores, seconds, folder)


def _train(label: str, row: Row, config: DetConfig, folder: Path) -> Path:
    """Train a detector, or continue it, or find that it is done → its run folder."""
    logger.info(f"— {label}")
    name = row.run or label.replace(" ", "_")
    if row.step:
        alternate(config, folder / name)
        return folder / name / row.step
    for path in map(Path, config.data.proposals):
        if not runtimes.from_main(path.exists):
            propose(config, "selective-search", path)
    return train_or_resume(with_settings(config, {"runs": str(folder), "name": name}))


def _test(config: DetConfig, weights: str) -> Scores:
    """Score a trained detector."""
    runtime = runtimes.start(config.device, config.solver.precision)
    figures = score(*network_and_data(config, weights, runtime), runtime)
    return Scores(figures["map07"], figures["ap50"])


def _time(detectors: Mapping[str, tuple[DetConfig, str]]) -> dict[str, Stages]:
    """The seconds of an image, of all detectors in turns."""
    trials, given = [], []
    for config, weights in detectors.values():
        runtime = runtimes.start(config.device, config.solver.precision).alone()
        one_by_one = with_settings(config, {"test.batch_size": 1})
        network, annotations, one_by_one = network_and_data(one_by_one, weights, runtime)
        batches = islice(validation_batches(annotations, one_by_one, runtime), TIMED_BATCHES)
        trials.append((network, tuple(batches)))
        given.append(given_proposals(annotations, one_by_one, 1))
    return {
        label: stages._replace(proposals=own.seconds) if own else stages
        for label, stages, own in zip(detectors, time_stages(trials), given, strict=True)
    }


def _write_table(study: Study, scores: Mapping[str, Scores], stages: Mapping[str, Stages], folder: Path) -> str:
    """Write what there is, as Markdown, to `folder`/table.md → the same."""
    lines = [
        f"| | VOC07 mAP | AP50 | proposals (s) | backbone (s) | regions (s) | together (s) | {study.paper} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, own in scores.items():
        times = (*stages[label], stages[label].total) if label in stages else ()
        seconds = " | ".join(f"{value:.3f}" for value in times) or " | | | "
        figures = " | ".join(f"{100 * value:.1f}" for value in own)
        lines.append(f"| {label} | {figures} | {seconds} | {study.rows[label].paper} |")
    text = "\n".join(lines) + "\n"
    write_text(folder / "table.md", text)
    return text
