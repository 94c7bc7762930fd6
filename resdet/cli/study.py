"""Train a named set of networks and compare them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from resdet.cli import study_cls, study_det
from resdet.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """STUDY [--setting VALUE …]: train the networks of a study, each with these settings, and compare them"""
    parse(arguments)()


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """What runs the study with its settings, which every one of its recipes must know."""
    names = [*study_cls.STUDIES, *study_det.STUDIES]
    if not arguments or arguments[0] not in names:
        raise UserError(f"Name a study: {', '.join(names)}.")
    name = arguments[0]
    parser = argparse.ArgumentParser(prog="study", add_help=False)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options, settings = parser.parse_known_args(arguments[1:])
    if name in study_cls.STUDIES:
        study_cls.check(study_cls.STUDIES[name], settings)
        return partial(study_cls.run, study_cls.STUDIES[name], options.runs / name, settings)
    study_det.check(study_det.STUDIES[name], settings)
    return partial(study_det.run, study_det.STUDIES[name], options.runs / name, settings)
