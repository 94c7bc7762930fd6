"""Our own files: a detector or a classifier as safetensors, with its classes and its config as metadata."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from resdet.config import ClsConfig, DetConfig, from_dict, to_dict
from resdet.errors import UserError, reason
from resdet.io import write_atomically

FORMATS: dict[str, type[DetConfig] | type[ClsConfig]] = {
    "resdet-detector-5": DetConfig,
    "resdet-classifier-3": ClsConfig,
}
C = TypeVar("C", DetConfig, ClsConfig)
logger = logging.getLogger(__name__)


GRIDS = "int8."  # before the names of tensors that are not weights
WEIGHTS_OF_GRIDS = "int8_weights"


@dataclass(frozen=True)
class Calibration:
    """How a detector computes in whole numbers."""

    grids: dict[str, Tensor]
    """(2, 2) of each layer: scale and zero of its input and of its output (`resdet.inference.int8`)"""
    weights: str
    """`digest` of the weights that it was made for"""


@dataclass(frozen=True)
class ModelFile(Generic[C]):
    """A detector or a classifier as a file: its weights, and all that is needed to use them."""

    weights: dict[str, Tensor]
    classes: tuple[str, ...]
    config: C
    step: int
    calibration: Calibration | None = None


def digest(weights: Mapping[str, Tensor]) -> str:
    """What tells weights from any others."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def save_model(path: Path, model: ModelFile) -> None:
    """Write `model` as safetensors with its classes and config as metadata."""
    metadata = {
        "format": next(name for name, kind in FORMATS.items() if isinstance(model.config, kind)),
        "classes": json.dumps(model.classes),
        "config": json.dumps(to_dict(model.config)),
        "step": str(model.step),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.weights.items()}
    if model.calibration:
        tensors |= {GRIDS + name: grids for name, grids in model.calibration.grids.items()}
        metadata[WEIGHTS_OF_GRIDS] = model.calibration.weights
    write_atomically(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, metadata))


def read_model(path: Path) -> ModelFile[Any]:
    """What a file that resdet wrote, or a run folder, holds. Raises UserError for anything else."""
    path = weights_in(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({reason(error)}): copy it again, or pass another.") from error
    written = metadata["format"]
    if written not in FORMATS:
        raise UserError(f"{path} was written by another version of resdet ({written}): train again with this one.")
    try:
        config = from_dict(FORMATS[written], json.loads(metadata["config"]))
        classes, step = _names(json.loads(metadata["classes"])), int(metadata["step"])
    except (KeyError, ValueError, UserError) as error:
        raise UserError(f"{path} cannot be used ({reason(error)}): use the resdet that wrote it.") from error
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(GRIDS)}
    grids = {name.removeprefix(GRIDS): tensor for name, tensor in tensors.items() if name not in weights}
    calibration = Calibration(grids, metadata.get(WEIGHTS_OF_GRIDS, "")) if grids else None
    return ModelFile(weights, classes, config, step, calibration)


def is_own(path: Path) -> bool:
    """Whether this is a run folder, or a file that resdet wrote, of whichever version. Raises UserError."""
    if path.is_dir():
        return True
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format", "").startswith("resdet-")
    except (SafetensorError, OSError):
        return False


def weights_in(path: Path) -> Path:
    """The weights file of a run folder; a file as it is. Raises UserError for a folder without one.

    Those of the last checkpoint serve, with a word, until the first evaluation finds the best.
    """
    if not path.is_dir():
        return path
    weights, last = path / "model.safetensors", path / "last.safetensors"
    if not weights.is_file() and last.is_file():
        _report_last(str(last))
        return last
    if not weights.is_file():
        stopped = (path / "state.pt").is_file()
        why = (
            "stopped before its first evaluation: continue it with --resume" if stopped else "has none: train first"
        )
        raise UserError(f"Weights file not found: {weights}; the run {why}, or pass another run folder or file.")
    return weights


@cache
def _report_last(path: str) -> None:
    """Log once what is used in place of the best weights."""
    logger.warning(f"This run has had no evaluation yet, so that its last weights are used: {path}.")


def _names(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UserError("its classes are not a list of names")
    return tuple(found)
