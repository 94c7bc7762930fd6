"""What the commands that train have in common: which run to start or to resume."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from resdet.config import ClsConfig, DetConfig, from_dict, load_config, override
from resdet.config.check import settings
from resdet.config.resume import FIXED, MEASURED_BY
from resdet.engine import runtime as runtimes
from resdet.engine.runtime import Runtime
from resdet.errors import UserError, reason

C = TypeVar("C", DetConfig, ClsConfig)


def parse(arguments: Sequence[str], kind: type[C], command: str) -> tuple[C, bool]:
    """The config to train, and whether to resume its run.

    Args:
        arguments: RECIPE [--setting VALUE …], or --resume RUN [--setting VALUE …]
        kind: of config
        command: its name, for messages
    """
    if arguments and not arguments[0].startswith("-"):
        return load_config(arguments[0], arguments[1:], kind), False
    parser = argparse.ArgumentParser(prog=command)
    parser.add_argument("--resume", metavar="RUN", type=Path, help="a run folder: go on exactly where it stopped")
    options, rest = parser.parse_known_args(arguments)
    if options.resume is None:
        recipes = ", ".join(sorted(str(path) for path in Path("configs").rglob("*.py")))
        raise UserError(f"Name a recipe to train ({recipes or 'a Python file'}), or --resume a run folder.")
    config = runtimes.from_main(lambda: _read_config(options.resume, kind))
    # The folder may have been moved since, or the command be given somewhere else.
    config = replace(config, runs=str(options.resume.parent), name=options.resume.name)
    changed = override(config, rest)
    _refuse_changes(config, changed, options.resume)
    return changed, True


def go_on(train: Callable[[Sequence[str]], None], start: Sequence[str], runs: Path, name: str) -> Path:
    """Train the run `name` of a larger whole, or go on with it, or find that it is done → its folder.

    Args:
        train: the command
        start: recipe and settings, which the run is started with, or goes on with
        runs: folder of the run folders
    """
    run = runs / name
    if runtimes.from_main((run / "state.pt").exists):
        train(["--resume", str(run), *start[1:]])
    else:
        train([*start, "--runs", str(runs), "--name", name])
    return runtimes.from_main(lambda: run)  # also waits until the main process has written the last file


def _read_config(run: Path, kind: type[C]) -> C:
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"There is nothing to resume in {run}: it has no config.json.")
    try:
        return from_dict(kind, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, UserError) as error:
        raise UserError(
            f"{path} cannot be used ({reason(error)}): use the resdet that wrote it, or start a new training with "
            f"--weights {run}."
        ) from error


def _refuse_changes(saved: C, changed: C, run: Path) -> None:
    """Refuse other values of settings that a checkpoint holds for good."""
    before = {name: value for name, _, value in settings(saved)}
    for name, _, value in settings(changed):
        if name in FIXED and value != before[name]:
            raise UserError(
                f"--resume goes on with the {name} of {run}: to change it, start a new training "
                f"with --weights {run}."
            )


def measure(config: DetConfig | ClsConfig, *validation: np.ndarray) -> dict[str, Any]:
    """What the figures of a training's evaluations depend on, besides the weights.

    Args:
        validation: what identifies the validation data, wherever they lie
    """
    digest = hashlib.sha256()
    for array in validation:
        digest.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    read = {name: value for name, _, value in settings(config) if name in MEASURED_BY}
    return read | {"the validation data": digest.hexdigest()}


def check(config: DetConfig | ClsConfig, runtime: Runtime, folder: Path, resume: bool) -> None:
    """Refuse what cannot work, before anything is read or written."""
    parts = runtime.world * config.solver.accumulate
    if config.solver.batch_size % parts:
        raise UserError(
            f"solver.batch_size {config.solver.batch_size} cannot be shared equally by {runtime.world} processes "
            f"in {config.solver.accumulate} parts each: make it a multiple of {parts}."
        )
    files = folder / "state.pt", folder / "model.safetensors"
    # A process that looked by itself might look too late, and see what the main process has begun to write.
    if not resume and runtimes.from_main(lambda: any(file.exists() for file in files)):
        raise UserError(
            f"{folder} already holds a training: go on with --resume {folder}, choose another --name, or delete it."
        )
