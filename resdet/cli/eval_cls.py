"""Evaluate classifiers, alone or as an ensemble, on the validation images of a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from resdet.config import ClsConfig, load_config
from resdet.data.build_cls import describe_images
from resdet.engine.runtime import is_main
from resdet.errors import UserError
from resdet.experiments.evaluate_cls import evaluate_classifiers


def main(arguments: Sequence[str]) -> None:
    """RECIPE --weights RUN|FILE … [--setting VALUE …]: errors of a classifier, or of several as an ensemble"""
    found = evaluate_classifiers(*parse(arguments))
    if is_main():
        print(describe_images(found.images, "validation"))
        for name, (top1, top5) in found.accuracies.items():
            print(f"{name}: top-1 error {100 - 100 * top1:.2f} %, top-5 error {100 - 100 * top5:.2f} %")
        print(f"The figures are in {found.path}.")


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
