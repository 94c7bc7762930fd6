"""Evaluate classifiers, alone or as an ensemble, on the validation images of a recipe."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from resdet.classification.classifier import Classifier, build_classifier
from resdet.config import ClsConfig, load_config
from resdet.data.build_cls import Images, cls_validation_batches, describe_images, read_images
from resdet.engine import runtime as runtimes
from resdet.engine.checkpoint import ModelFile, load_model
from resdet.engine.runtime import Runtime
from resdet.errors import UserError
from resdet.evaluation.classification import (
    Probabilities,
    accuracies,
    mean_probabilities,
    predict_probabilities,
)
from resdet.io import write_text
from resdet.nn.weights import load_strictly


def main(arguments: Sequence[str]) -> None:
    """RECIPE --weights RUN|FILE … [--setting VALUE …]: errors of a classifier, or of several as an ensemble"""
    config, sources = parse(arguments)
    evaluate(config, sources, runtimes.start(config.device, config.solver.precision))


def parse(arguments: Sequence[str]) -> tuple[ClsConfig, list[str]]:
    """The recipe with its settings, and the weights to evaluate."""
    if not arguments or arguments[0].startswith("-"):
        raise UserError("Name a recipe first, as in: eval_cls configs/cifar10_r20.py --weights runs/cifar10_r20")
    parser = argparse.ArgumentParser(prog="eval_cls", add_help=False)
    parser.add_argument("--weights", nargs="+", default=[])
    options, rest = parser.parse_known_args(arguments[1:])
    config = load_config(arguments[0], rest, ClsConfig)
    if not options.weights:
        raise UserError(
            f"Name what to evaluate: --weights and one or more run folders, such as runs/{config.name}."
        )
    return config, options.weights


def evaluate(config: ClsConfig, sources: Sequence[str], runtime: Runtime) -> None:
    """Errors of the classifiers in `sources` and of their ensemble, printed and written into the run's folder."""
    _, images = read_images(config.data)
    files = [load_model(source, ClsConfig) for source in sources]
    for file, source in zip(files, sources, strict=True):
        if file.classes != images.classes:
            raise UserError(f"{source} knows other classes than {config.data.root}: evaluate it on its own data.")
        if config.test.views != "1-crop" and (
            config.data.format != "folder" or file.config.model.family == "cifar"
        ):
            raise UserError(f"test.views {config.test.views} is for an ImageNet network on a folder of images.")
    parts = [
        probabilities(file, source, images, config, runtime) for file, source in zip(files, sources, strict=True)
    ]
    if not runtime.is_main:
        return
    print(describe_images(images, "validation"))
    named = dict(zip(sources, parts, strict=True))
    if len(parts) > 1:
        named["ensemble"] = mean_probabilities(parts)
    figures = {}
    for name, part in named.items():
        top1, top5 = accuracies(part.values, part.labels)
        figures[str(name)] = {"top1_error": 1 - top1, "top5_error": 1 - top5, "images": len(part.labels)}
        print(f"{name}: top-1 error {100 - 100 * top1:.2f} %, top-5 error {100 - 100 * top5:.2f} %")
    path = Path(config.runs) / config.name / "eval_cls" / "metrics.json"
    write_text(path, json.dumps({"views": config.test.views, "models": figures}, indent=1) + "\n")
    print(f"The figures are in {path}.")


def restore(file: ModelFile[ClsConfig], source: str) -> Classifier:
    """The network of a model file, with its weights; `source` is named if they do not fit."""
    model = build_classifier(file.config.model, len(file.classes), file.weights["mean"], file.weights["std"])
    load_strictly(model, file.weights, source)
    return model


def probabilities(
    file: ModelFile[ClsConfig], source: str, images: Images, config: ClsConfig, runtime: Runtime
) -> Probabilities:
    """Those of one classifier; dense evaluation averages over the scales."""
    model = restore(file, source).to(runtime.device)
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
