"""The one door to trained networks: run folders, our own files, other toolkits' detectors, and those of the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from resdet.config import ClsConfig, DetConfig
from resdet.errors import UserError
from resdet.models.weights.detector_file import read_detector
from resdet.models.weights.resdet import ModelFile, is_own, read_model
from resdet.models.weights.zoo import local_path

C = TypeVar("C", DetConfig, ClsConfig)


def load_model(source: str | Path, kind: type[C] = DetConfig) -> ModelFile[C]:  # type: ignore[assignment]
    """Read a detector (or, with `kind` ClsConfig, a classifier) from its file, a run folder, or the zoo.

    A Faster R-CNN of torchvision or detectron2 is converted as it is read. Raises UserError for anything else.

    Args:
        source: a path, or the name of a detector of the zoo
        kind: DetConfig or ClsConfig
    """
    file = load_any_model(source)
    if not isinstance(file.config, kind):
        this, wanted = ("classifier", "detector") if kind is DetConfig else ("detector", "classifier")
        raise UserError(f"{source} is a {this}: pass a {wanted}'s run folder or file.")
    return file


def load_any_model(source: str | Path) -> ModelFile[Any]:
    """`load_model` whatever the file holds."""
    path = local_path(source)
    return read_model(path) if is_own(path) else read_detector(path)
