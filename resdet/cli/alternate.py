"""Train a Faster R-CNN in four alternating steps, in place of RPN and head together (Faster R-CNN §3.2)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from resdet.config import DetConfig, load_config
from resdet.errors import UserError
from resdet.experiments.alternate import alternate


def main(arguments: Sequence[str]) -> None:
    """RECIPE [--setting VALUE …]: train a Faster R-CNN in four alternating steps, each with these settings"""
    alternate(*parse(arguments))


def parse(arguments: Sequence[str]) -> tuple[DetConfig, Path]:
    """The config of all four steps, and the folder of their runs."""
    if not arguments or arguments[0].startswith("-"):
        raise UserError("Name a recipe first, such as configs/bccd_r18.py.")
    recipe, *rest = arguments
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--name", default=f"{Path(recipe).stem}_alternating")
    options, settings = parser.parse_known_args(rest)
    return load_config(recipe, settings), Path(options.runs) / options.name
