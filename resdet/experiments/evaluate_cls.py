"""Evaluate classifiers, alone or as an ensemble, on the validation images of a config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from resdet.config import ClsConfig
from resdet.data.build_cls import Images, cls_validation_batches, read_images
from resdet.engine import runtime as runtimes
from resdet.engine.runtime import Runtime
from resdet.errors import UserError
from resdet.evaluation.classification import (
    Accuracies,
    Probabilities,
    accuracies,
    mean_probabilities,
    predict_probabilities,
)
from resdet.experiments.runs import run_folder
from resdet.io import write_text
from resdet.models.classifier import Classifier, build_classifier
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import ModelFile
from resdet.models.weights.strict import load_strictly


class ClsEvaluation(NamedTuple):
    """How good classifiers are."""

    images: Images
    """The validation images."""
    accuracies: dict[str, Accuracies]
    """Of each classifier, by the name of its file or folder, and of their ensemble."""
    path: Path
    """The file that holds the figures."""


def evaluate_classifiers(config: ClsConfig, sources: Sequence[str]) -> ClsEvaluation:
    """Accuracies of the classifiers in `sources` and of their ensemble, on every process.

    The main process writes them into the run's folder. Raises UserError if weights, data and config do not fit each
    other.
    """
    runtime = runtimes.start(config.device, config.solver.precision)
    _, images = read_images(config.data)
    files = [load_model(source, ClsConfig) for source in sources]
    for file, source in zip(files, sources, strict=True):
        _check(file, source, images, config)
    parts = {
        source: _probabilities(file, source, images, config, runtime)
        for file, source in zip(files, sources, strict=True)
    }
    if len(files) > 1:
        parts["ensemble"] = mean_probabilities(list(parts.values()))
    found = {source: accuracies(part.values, part.labels) for source, part in parts.items()}
    path = run_folder(config) / "eval_cls" / "metrics.json"
    if runtime.is_main:
        figures = {
            source: {"top1_error": 1 - top1, "top5_error": 1 - top5, "images": len(parts[source].labels)}
            for source, (top1, top5) in found.items()
        }
        write_text(path, json.dumps({"views": config.test.views, "models": figures}, indent=1) + "\n")
    return ClsEvaluation(images, found, path)


def restore_classifier(file: ModelFile[ClsConfig], source: str) -> Classifier:
    """The network of a model file, with its weights. Raises UserError, which names `source`, if they do not fit."""
    model = build_classifier(file.config.model, len(file.classes), file.weights["mean"], file.weights["std"])
    load_strictly(model, file.weights, source)
    return model


def _check(file: ModelFile[ClsConfig], source: str, images: Images, config: ClsConfig) -> None:
    """Refuse a classifier of other classes, and views that it has not."""
    if file.classes != images.classes:
        raise UserError(f"{source} has different classes from {config.data.root}: evaluate it on its own data.")
    if config.test.views != "1-crop" and (config.data.format != "folder" or file.config.model.family == "cifar"):
        raise UserError(f"test.views {config.test.views} needs an ImageNet network and a folder of images.")


def _probabilities(
    file: ModelFile[ClsConfig], source: str, images: Images, config: ClsConfig, runtime: Runtime
) -> Probabilities:
    """Those of one classifier; dense evaluation averages over the scales."""
    model = restore_classifier(file, source).to(runtime.device)
    dense = config.test.views == "dense"
    scales = config.test.scales if dense else (config.data.test_short_side,)
    return mean_probabilities(
        [
            predict_probabilities(
                model, cls_validation_batches(images, config, runtime, config.test.views, scale), runtime, dense
            )
            for scale in scales
        ]
    )
