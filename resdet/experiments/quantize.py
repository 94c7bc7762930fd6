"""Calibrate a detector for int8: see what numbers its layers give for images, and write their scales."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from resdet.config import DetConfig
from resdet.data.build import read_annotations
from resdet.data.find_images import find_images
from resdet.data.images import ImageError, read_image
from resdet.data.resize import pad, resize
from resdet.engine import runtime as runtimes
from resdet.errors import UserError, reason
from resdet.inference.detector import image_size, restore
from resdet.inference.int8 import Method, Observed, observed_grids
from resdet.inference.optimize import OptimizedRCNN
from resdet.io import printable
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import Calibration, digest, is_own, save_model, weights_in

FEWEST = 8  # images; of fewer, the ranges say little of others
logger = logging.getLogger(__name__)


def quantize(
    source: str,
    images: Sequence[str | os.PathLike[str]] = (),
    output: Path | None = None,
    *,
    max_images: int = 200,
    ranges: Method = "minmax",
) -> Path:
    """Write the detector `source` with the int8 scales of its layers → the file.

    Args:
        source: a run folder, a weights file, or a detector of the zoo
        images: files, folders and patterns, as `find_images` takes them; without, the images of its training
        output: a .safetensors file to write; without, the detector's own
        max_images: maximum number of images to look at, evenly chosen
        ranges: how the range of a layer's numbers is chosen (`Observer.grid`)

    Raises UserError if there is no such detector, this processor does not serve, or there are too few images.
    """
    runtime = runtimes.start("cpu", "int8", detects=True)
    destination = output or _own_file(source)
    if destination.suffix != ".safetensors":
        raise UserError(f"{printable(destination)} must end in .safetensors: pass another file as --output.")
    file = load_model(source)
    if file.config.model.proposals == "given":
        raise UserError(f"{source} needs proposals from files, without which it cannot be calibrated for int8.")
    files = [image.file for image in find_images(images)[0]] if images else _training_images(file.config, source)
    if max_images < FEWEST:
        raise UserError(f"--max-images {max_images} is too few: use at least {FEWEST}.")
    chosen = [files[n * len(files) // max_images] for n in range(max_images)] if len(files) > max_images else files
    network = OptimizedRCNN(restore(file, source), replace(runtime, dtype=torch.float32), keep=False)
    count = 0
    for image in _read(chosen):
        network(*pad([resize(image, *image_size(file.config))]))
        count += 1
    if count < FEWEST:
        raise UserError(
            f"{count} images could be read, which are too few to see how large the numbers of each layer are: pass "
            f"at least {FEWEST} with --data."
        )
    layers = [layer for layer in network.modules() if isinstance(layer, Observed)]
    if not all(layer.seen for layer in layers):
        raise UserError(f"{source} proposes no region in these images: pass images of what it was trained on.")
    grids = observed_grids(network.model, ranges)
    save_model(destination, replace(file, calibration=Calibration(grids, digest(file.weights))))
    logger.info(f"{printable(destination)} has int8 scales for {len(grids)} layers, from {count} images.")
    logger.info(f"Try it: resdet detect IMAGE --weights {printable(output or Path(source))} --precision int8")
    return destination


def _own_file(source: str) -> Path:
    """The file to write the scales into. Raises UserError if that is not the user's."""
    path = Path(source)
    if not path.exists() or not is_own(path):
        raise UserError(f"{source} is not a file of yours in resdet's format: pass one to write as --output.")
    return weights_in(path)


def _training_images(config: DetConfig, source: str) -> list[Path]:
    """The images that a detector was trained on. Raises UserError if they are not here."""
    try:
        annotations = read_annotations(config.data, config.data.train, config.data.classes)
    except UserError as error:
        raise UserError(
            f"The training images of {source} cannot be used ({reason(error)}): pass others with --data."
        ) from error
    return [Path(annotations.file(index)) for index in range(len(annotations))]


def _read(files: Sequence[Path]) -> Iterator[np.ndarray]:
    """The images that can be read; the others are reported."""
    for file in track(files, description="Calibrating"):
        try:
            yield read_image(file)
        except ImageError as error:
            logger.info(f"skipped: {printable(error)}")
