"""Train a named set of networks and compare them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from resdet.cli import study_cls, study_det
from resdet.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """STUDY [--recipe RECIPE] [--setting VALUE …]: train networks, each with these settings, and compare them"""
    parse(arguments)()


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """What runs the study with its settings, which every one of its recipes must know."""
    kinds = (study_cls, study_det)
    name = arguments[0] if arguments else ""
    kind = next((kind for kind in kinds if name in kind.STUDIES), None)
    if kind is None:
        raise UserError(f"Name a study: {', '.join(name for kind in kinds for name in kind.STUDIES)}.")
    parser = argparse.ArgumentParser(prog="study", add_help=False)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--recipe", help="another than the study's own")
    options, settings = parser.parse_known_args(arguments[1:])
    study, folder = kind.STUDIES[name], options.runs / name
    if options.recipe:
        study, folder = kind.of_recipe(study, options.recipe), options.runs / f"{name}_{Path(options.recipe).stem}"
    kind.check(study, settings)
    return partial(kind.run, study, folder, settings)
