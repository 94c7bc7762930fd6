"""Train a named set of networks and compare them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from resdet.config import ClsConfig, DetConfig, load_config
from resdet.engine.runtime import is_main
from resdet.errors import UserError
from resdet.experiments.studies import STUDIES, Study
from resdet.experiments.study import run_study


def main(arguments: Sequence[str]) -> None:
    """STUDY [--recipe RECIPE] [--setting VALUE …]: train networks, each with these settings, and compare them"""
    study, recipes, folder = parse(arguments)
    table = run_study(study, recipes, folder)
    if is_main():
        print(f"{table}\nThe table and the pictures of it are in {folder}.")


def parse(arguments: Sequence[str]) -> tuple[Study, Mapping[str, DetConfig | ClsConfig], Path]:
    """The study, its recipes with the settings, which every one of them must know, and the folder for all of it."""
    name = arguments[0] if arguments else ""
    if name not in STUDIES:
        raise UserError(f"Name a study: {', '.join(STUDIES)}.")
    parser = argparse.ArgumentParser(prog="study", add_help=False)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--recipe", help="another than the study's own")
    options, settings = parser.parse_known_args(arguments[1:])
    study, folder = STUDIES[name], options.runs / name
    if options.recipe:
        study, folder = study.of_recipe(options.recipe), options.runs / f"{name}_{Path(options.recipe).stem}"
    return study, {recipe: load_config(recipe, settings, study.kind) for recipe in study.recipes}, folder
