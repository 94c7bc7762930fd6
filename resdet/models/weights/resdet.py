"""Our own files: a detector or a classifier as safetensors, with its classes and its config as metadata."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from resdet.config import ClsConfig, DetConfig, from_dict, to_dict
from resdet.errors import UserError, reason
from resdet.io import write_atomically
from resdet.models.weights.foreign import TRAINING_STATE, read_content

FORMATS: dict[str, type[DetConfig] | type[ClsConfig]] = {
    "resdet-detector-5": DetConfig,
    "resdet-classifier-3": ClsConfig,
}
C = TypeVar("C", DetConfig, ClsConfig)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFile(Generic[C]):
    """A detector or a classifier as a file: its weights, and all that is needed to use them."""

    weights: dict[str, Tensor]
    classes: tuple[str, ...]
    config: C
    step: int


def save_model(path: Path, model: ModelFile) -> None:
    """Write `model` as safetensors with its classes and config as metadata."""
    metadata = {
        "format": next(name for name, kind in FORMATS.items() if isinstance(model.config, kind)),
        "classes": json.dumps(model.classes),
        "config": json.dumps(to_dict(model.config)),
        "step": str(model.step),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.weights.items()}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(weights, temporary, metadata))


def load_model(path: str | Path, kind: type[C] = DetConfig) -> ModelFile[C]:  # type: ignore[assignment]
    """Read a detector (or, with `kind` ClsConfig, a classifier) from its file or from a run folder.

    A detector of the zoo is read by its name. Raises UserError for anything else.
    """
    file = load_any_model(path)
    if not isinstance(file.config, kind):
        this, wanted = ("classifier", "detector") if kind is DetConfig else ("detector", "classifier")
        raise UserError(f"{path} is a {this}: pass a {wanted}'s run folder or file.")
    return file


def load_any_model(path: str | Path) -> ModelFile[Any]:
    """`load_model` whatever the file holds."""
    from resdet.models.weights.zoo import local_path  # which writes files of resdet

    path = _weights_in(local_path(path))
    if not is_own(path):
        content = read_content(path)
        if isinstance(content, dict) and content.keys() >= TRAINING_STATE:
            raise UserError(f"{path} is the state of a training run: pass the run folder {path.parent} instead.")
        raise UserError(
            f"{path} was not written by resdet: pass a run folder; detectors of detectron2 can be converted "
            "(convert-weights), and a detector's training can start from other toolkits' classifiers."
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({reason(error)}): copy it again, or pass another.") from error
    written = metadata["format"]
    if written not in FORMATS:
        raise UserError(f"{path} was written by another version of resdet ({written}): train again with this one.")
    try:
        config = from_dict(FORMATS[written], json.loads(metadata["config"]))
        return ModelFile(weights, _names(json.loads(metadata["classes"])), config, int(metadata["step"]))
    except (KeyError, ValueError, UserError) as error:
        raise UserError(f"{path} cannot be used ({reason(error)}): use the resdet that wrote it.") from error


def is_own(path: Path) -> bool:
    """Whether this is a run folder, or a file that resdet wrote, of whichever version. Raises UserError."""
    if path.is_dir():
        return True
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format", "").startswith("resdet-")
    except (SafetensorError, OSError):
        return False


def _weights_in(path: Path) -> Path:
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
