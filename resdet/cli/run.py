"""What the commands that train have in common: which run to start or to resume."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from resdet.config import ClsConfig, DetConfig, load_config, override, recipe_names
from resdet.config.resume import check_resume
from resdet.errors import UserError
from resdet.experiments.runs import saved_config

C = TypeVar("C", DetConfig, ClsConfig)


def parse(arguments: Sequence[str], kind: type[C], command: str) -> tuple[C, bool]:
    """The config to train, and whether to resume its run.

    Args:
        arguments: RECIPE [--setting VALUE …], or --resume RUN [--setting VALUE …]
        kind: the type of the config
        command: the name of the command, for messages
    """
    if arguments and not arguments[0].startswith("-"):
        return load_config(arguments[0], arguments[1:], kind), False
    parser = argparse.ArgumentParser(prog=command)
    parser.add_argument("--resume", metavar="RUN", type=Path, help="a run folder: go on exactly where it stopped")
    options, rest = parser.parse_known_args(arguments)
    if options.resume is None:
        raise UserError(
            f"Name a recipe to train (a Python file, or one of {', '.join(recipe_names())}), "
            "or --resume a run folder."
        )
    # The folder may have been moved since, or the command be given somewhere else: its place is the present one.
    config = saved_config(options.resume, kind)
    changed = override(config, rest)
    check_resume(config, changed, options.resume)
    return changed, True
