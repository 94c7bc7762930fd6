"""Studies of classifiers: networks trained alike and drawn together, as in the papers' figures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from resdet.config import ClsConfig, with_settings
from resdet.data.build_cls import cls_validation_batches, read_images
from resdet.engine import runtime as runtimes
from resdet.engine.log import read_metrics
from resdet.evaluation.responses import response_deviations
from resdet.experiments.evaluate_cls import restore_classifier
from resdet.experiments.studies import Study
from resdet.experiments.train import train_or_resume
from resdet.io import write_text
from resdet.models.weights.load import load_model
from resdet.visualize import plot_errors, plot_responses

RESPONSE_IMAGES = 1000
logger = logging.getLogger(__name__)


class Trained(NamedTuple):
    """A network of a study."""

    rows: list[dict[str, float]]
    """The lines of its metrics.jsonl."""
    deviations: list[float]
    """Standard deviations of its layers' responses."""
    parameters: int


def compare_classifiers(study: Study, configs: Mapping[str, ClsConfig], folder: Path) -> str:
    """Train the classifiers, and leave table.md, errors.png and responses.png in `folder` → the table.

    Args:
        study: its rows, by their labels
        configs: how each is trained, by the same labels
        folder: gets the run folders too
    """
    trained = {label: _train(label, config, folder) for label, config in configs.items()}
    text = "\n".join(_table(trained)) + "\n"
    if runtimes.is_main():
        write_text(folder / "table.md", text)
        panels: dict[str, dict[str, list[dict[str, float]]]] = {}
        for label, row in study.rows.items():
            panels.setdefault(row.panel, {})[label] = trained[label].rows
        plot_errors(panels, folder / "errors.png")  # He et al. 2015, Fig. 6
        plot_responses({label: net.deviations for label, net in trained.items()}, folder / "responses.png")
    return text


def _train(label: str, config: ClsConfig, folder: Path) -> Trained:
    """Train a network, or continue it, or find that it is done."""
    logger.info(f"— {label}")
    run = train_or_resume(with_settings(config, {"runs": str(folder), "name": label.replace(" ", "-")}))
    return runtimes.from_main(lambda: _measure(run))


def _measure(run: Path) -> Trained:
    """What the study says of a trained network."""
    file = load_model(run / "last.safetensors", ClsConfig)
    model, config = restore_classifier(file, str(run)), file.config
    runtime = runtimes.start("cpu", "fp32").alone()
    _, validation = read_images(config.data)
    batches = islice(
        cls_validation_batches(validation, config, runtime), -(-RESPONSE_IMAGES // config.test.batch_size)
    )
    images = torch.cat([batch.images for batch in batches])[:RESPONSE_IMAGES]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Trained(read_metrics(run / "metrics.jsonl"), response_deviations(model, images), parameters)


def _table(trained: Mapping[str, Trained]) -> Iterator[str]:
    """Markdown: a row for each network, with the errors after its last step."""
    yield "| network | parameters | steps | training error (%) | test error (%) |"
    yield "|---|---|---|---|---|"
    for label, net in trained.items():
        error = top1 = float("nan")
        with suppress(StopIteration):
            error = next(row["error"] for row in reversed(net.rows) if "error" in row)
            top1 = next(row["top1"] for row in reversed(net.rows) if "top1" in row)
        yield (
            f"| {label} | {net.parameters / 1e6:.2f} M | {int(net.rows[-1]['step'])} | {100 * error:.2f} "
            f"| {100 - 100 * top1:.2f} |"
        )
