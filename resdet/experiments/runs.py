"""Run folders: which can be started, which can be resumed, and what makes their figures comparable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from resdet.config import ClsConfig, DetConfig, from_dict
from resdet.config.check import settings
from resdet.config.resume import MEASURED_BY
from resdet.engine.runtime import Runtime, from_main
from resdet.errors import UserError, reason

C = TypeVar("C", bound=DetConfig | ClsConfig)


def run_folder(config: DetConfig | ClsConfig) -> Path:
    """Where the run of a config lies."""
    return Path(config.runs) / config.name


def saved_config(run: Path, kind: type[C]) -> C:
    """The config of an existing run, as the main process reads it, with the name and the place that it has now.

    Raises UserError if there is no run of this kind.
    """
    config = from_main(lambda: _read_config(run, kind))
    return replace(config, runs=str(run.parent), name=run.name)


def _read_config(run: Path, kind: type[C]) -> C:
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"Nothing to resume in {run}: config.json was not found.")
    try:
        return from_dict(kind, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, UserError) as error:
        raise UserError(
            f"{path} cannot be used ({reason(error)}): use the resdet that wrote it, or start a new training run "
            f"with --init-weights {run}."
        ) from error


def check_start(config: DetConfig | ClsConfig, runtime: Runtime, resume: bool) -> None:
    """Refuse what cannot work, before anything is read or written.

    Raises UserError if the processes cannot share a batch equally, or if a new run would replace another.
    """
    solver, folder = config.solver, run_folder(config)
    parts = runtime.world * solver.accumulate
    if solver.batch_size % parts:
        raise UserError(
            f"solver.batch_size {solver.batch_size} cannot be split equally among {runtime.world} processes "
            f"in {solver.accumulate} parts each: make it a multiple of {parts}."
        )
    files = folder / "state.pt", folder / "model.safetensors"
    # A process that looked by itself might look too late, and see what the main process has begun to write.
    if not resume and from_main(lambda: any(file.exists() for file in files)):
        raise UserError(
            f"{folder} already holds a training run: continue it with --resume {folder}, choose another "
            "--name, or delete it."
        )


def measure(config: DetConfig | ClsConfig, *validation: np.ndarray) -> dict[str, Any]:
    """What the metrics of a training run's evaluations depend on, besides the weights.

    Args:
        validation: what identifies the validation data, wherever they lie
    """
    digest = hashlib.sha256()
    for array in validation:
        digest.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    read = {name: value for name, _, value in settings(config) if name in MEASURED_BY}
    return read | {"the validation data": digest.hexdigest()}
