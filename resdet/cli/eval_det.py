"""Evaluate a detector, or the detections that it left, on the validation data of a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from resdet.config import DetConfig, load_config
from resdet.data.build import describe
from resdet.engine.runtime import is_main
from resdet.errors import UserError
from resdet.evaluation.report import analysis_table, class_table, coco_table
from resdet.experiments.evaluate import Evaluation, evaluate, evaluate_saved


def main(arguments: Sequence[str]) -> None:
    """RECIPE --weights RUN|FILE or --detections FILE|FOLDER [--setting VALUE …]: score on the validation data"""
    config, saved = parse(arguments)
    found = None
    if saved is None:
        found = evaluate(config)
    elif is_main():
        found = evaluate_saved(config, saved)
    if found:
        print_tables(found, config.data.val)


def parse(arguments: Sequence[str]) -> tuple[DetConfig, Path | None]:
    """The config, and the saved detections that are to be scored in place of a model."""
    if not arguments or arguments[0].startswith("-"):
        raise UserError("Name a recipe first, as in: eval_det configs/shapes_r18.py --weights runs/shapes_r18")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # --help is the recipe's
    parser.add_argument("--detections", type=Path)
    options, settings = parser.parse_known_args(arguments[1:])
    return load_config(arguments[0], settings), options.detections


def print_tables(found: Evaluation, splits: str) -> None:
    """Print figures and analysis, and where the report is."""
    print(describe(found.annotations, splits))
    print(class_table(found.scores, found.annotations.classes))
    print(coco_table(found.scores.coco.stats))
    print(analysis_table(found.analysis))
    print(f"Figures, plots, pictures and results files are in {found.folder}.")
