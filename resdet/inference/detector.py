"""A trained detector as a function of images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from resdet.boxes import resize as resize_boxes
from resdet.config import DetConfig, TestConfig, check_config
from resdet.data.ahead import map_ahead
from resdet.data.resize import pad, resize
from resdet.engine import runtime as runtimes
from resdet.engine.forks import safe_after_fork
from resdet.engine.runtime import Runtime
from resdet.errors import UserError
from resdet.inference.optimize import OptimizedRCNN
from resdet.inference.pictures import Picture, each_picture, is_picture, to_pixels
from resdet.inference.test_time import TestTimeRCNN
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import ModelFile, digest
from resdet.models.weights.strict import load_strictly

READ_AHEAD = 8  # batches of images that are held at a time, from which those of one size are taken together
Member = tuple[str, ModelFile[DetConfig]]
"""where a network of an ensemble comes from, and what the file holds"""


def restore(file: ModelFile, source: str | Path) -> FasterRCNN:
    """The network of a model file, with its weights; `source` is named if they do not fit."""
    model = build_detector(file.config, len(file.classes))
    load_strictly(model, file.weights, str(source))
    return model.eval().to(memory_format=torch.channels_last)


def prepare(file: ModelFile[DetConfig], source: str | Path, runtime: Runtime) -> OptimizedRCNN | TestTimeRCNN:
    """The network of a model file, with the methods that its test settings ask for.

    It is to be given images of `image_size`. Raises UserError if weights do not fit, or the networks of an ensemble
    have different classes.
    """
    return assemble(members_of(file, source), runtime)


def members_of(file: ModelFile[DetConfig], source: str | Path) -> list[Member]:
    """A model file, and those of the ensemble that its test settings name. Raises UserError."""
    members = [(str(source), file)]
    for path in file.config.test.ensemble:
        other = load_model(path)
        if other.classes != file.classes:
            raise UserError(
                f"{path} has different classes from {source}: the detectors of an ensemble need the same "
                "classes in the same order."
            )
        members.append((path, replace(other, config=replace(other.config, test=file.config.test))))
    return members


@safe_after_fork
def assemble(members: Sequence[Member], runtime: Runtime) -> OptimizedRCNN | TestTimeRCNN:
    """The networks of an ensemble, or the only one, with the methods that the first one's test settings ask for."""
    config = members[0][1].config
    models, test = [restore(file, source) for source, file in members], config.test
    grids = [grids_of(file, source) if runtime.int8 else None for source, file in members]
    try:
        if len(models) == 1 and not (test.scales or test.flip or test.refine):
            return OptimizedRCNN(models[0], runtime, grids[0], keep=False)
        short_side = config.data.test_short_side
        more: dict[str, Any] = {"scales": test.scales, "flip": test.flip, "refine": test.refine}
        return TestTimeRCNN(models, runtime, grids, short_side=short_side, **more)
    except KeyError as error:
        source, _ = members[0]
        raise UserError(
            f"{source} has no int8 scales for its layer {error}: leave out test.scales, with which regions go "
            f"through other layers, or run `resdet quantize {source}` again."
        ) from error


def grids_of(file: ModelFile, source: str) -> dict[str, Tensor]:
    """The int8 scales of a model file. Raises UserError if it has none, or those of other weights."""
    if file.calibration is None:
        raise UserError(
            f"{source} has no int8 scales: run `resdet quantize {source}` first, or choose another precision."
        )
    if file.calibration.weights != digest(file.weights):
        raise UserError(
            f"{source} has the int8 scales of other weights: run `resdet quantize {source}` again, or choose "
            "another precision."
        )
    return file.calibration.grids


def image_size(config: DetConfig) -> tuple[int, int]:
    """Shorter and longer side, in pixels, of the images to be given to what `prepare` returns."""
    short_side = max(config.test.scales, default=config.data.test_short_side)
    return short_side, config.data.max_side * short_side // config.data.test_short_side


class NamedDetections(NamedTuple):
    """What a detector finds in one image, best score first; on the CPU."""

    boxes: Tensor
    """(D, 4) float32, pixels of the image as it was given"""
    scores: Tensor
    """(D,) float32 in [0, 1]"""
    labels: Tensor
    """(D,) int64, positions among the detector's classes"""
    names: list[str]
    """of the classes, one for each box"""


class _Resized(NamedTuple):
    """An image as the network is given it."""

    pixels: np.ndarray
    """(h, w, 3) uint8"""
    original_shape: tuple[int, ...]


class Detector:
    """Images in, detections out. `Detector.load` makes one from a run.

    Threads may share it, it can be copied and pickled, and it works in processes that were forked or spawned.

    Args:
        members: the network's file, and those of an ensemble's other networks
        runtime: device and number type
    """

    def __init__(self, members: Sequence[Member], runtime: Runtime) -> None:
        self.members, self.runtime, self.process = tuple(members), runtime, os.getpid()
        _, file = self.members[0]
        self.classes = file.classes
        self.short_side, self.max_side = image_size(file.config)
        self.network = assemble(self.members, runtime)

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        device: str | int | torch.device | None = "auto",
        precision: str | torch.dtype | None = "auto",
        **test: Any,
    ) -> Detector:
        """Load a run folder, a weights file, or a detector that `resdet zoo` lists, by its name.

        Nothing of the host process changes; a detector of the zoo is downloaded on its first use.

        Raises UserError for a file of another kind, and for a setting that does not exist or has no such value.

        Args:
            device: auto (or None), cpu, cuda, cuda:N or N, or an object of torch's
            precision: auto (or None), fp32, bf16 or fp16, or a type of torch's; int8 on a CPU, for a detector that
                `resdet quantize` has calibrated
            test: settings of `TestConfig` to change, such as flip=True or vote_iou=0.5
        """
        if not isinstance(source, str | os.PathLike):
            raise UserError(f"A detector is loaded from a run folder or a weights file, not from {source!r:.80}.")
        file = load_model(Path(source))
        file = replace(file, config=replace(file.config, test=_changed(file.config.test, test)))
        check_config(file.config)
        if file.config.model.proposals == "given":
            raise UserError(
                f"{source} needs proposals from files, so it cannot detect in an image alone: evaluate it "
                "with `resdet eval-det`."
            )
        return cls(members_of(file, Path(source)), runtimes.choose(device, precision))

    def __reduce__(self) -> tuple[Any, ...]:
        """The files and the settings: what a network was rearranged to cannot be pickled."""
        precision = "int8" if self.runtime.int8 else self.runtime.dtype
        return _rebuilt, (type(self), self.members, str(self.runtime.device), precision)

    @overload
    def __call__(self, images: Picture) -> NamedDetections: ...  # type: ignore[overload-overlap]  # a str
    @overload
    def __call__(self, images: Iterable[Picture], batch_size: int = 1) -> list[NamedDetections]: ...

    def __call__(
        self, images: Picture | Iterable[Picture], batch_size: int = 1
    ) -> NamedDetections | list[NamedDetections]:
        """What is in an image, or in each of several; the same, whatever other images it is given with.

        Raises UserError for what is not an image, in a sentence that says what to do instead.

        Args:
            images: one image or an iterable of them, of any sizes and kinds (see `Picture`); a 4-d array or tensor
                is several
            batch_size: images that go through the network at a time, if they have one size; it pays on GPUs
        """
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}: it must be a whole number from 1 on.")
        if self.runtime.device.type == "cuda" and self.process != os.getpid():
            raise UserError("A detector on a GPU cannot be used after a fork: start processes by spawn instead.")
        if is_picture(images):
            return self._detect_one(images)
        return self._detect(each_picture(images), batch_size)

    @safe_after_fork
    def _detect_one(self, image: Any) -> NamedDetections:
        """What is in an image."""
        return next(self._run([self._read(("The image", image))]))

    @safe_after_fork
    def _detect(self, images: Iterator[tuple[str, Any]], batch_size: int) -> list[NamedDetections]:
        """What is in each of the named images; a thread reads the next ones meanwhile."""
        found: list[NamedDetections] = []
        at_a_time = READ_AHEAD * batch_size
        ready = map_ahead(self._read, images, at_a_time)
        while some := list(islice(ready, at_a_time)):
            here: dict[int, NamedDetections] = {}
            order = sorted(range(len(some)), key=lambda position: some[position].pixels.shape)
            for _, group in groupby(order, key=lambda position: some[position].pixels.shape):
                while batch := list(islice(group, batch_size)):
                    here |= zip(batch, self._run([some[position] for position in batch]), strict=True)
            found += [here[position] for position in range(len(some))]
        return found

    def _read(self, named: tuple[str, Any]) -> _Resized:
        name, image = named
        pixels = to_pixels(image, name)
        return _Resized(resize(pixels, self.short_side, self.max_side), pixels.shape)

    def _run(self, images: Sequence[_Resized]) -> Iterator[NamedDetections]:
        """What the network finds in images of one size."""
        pixels, sizes = pad([image.pixels for image in images])
        found = self.network(pixels.to(self.runtime.device), sizes)
        for image, (boxes, scores, labels) in zip(images, found, strict=True):
            names = [self.classes[label] for label in labels.tolist()]
            boxes = resize_boxes(boxes, image.pixels.shape, image.original_shape)
            yield NamedDetections(boxes.cpu(), scores.cpu(), labels.cpu(), names)


def _rebuilt(
    kind: type[Detector], members: Sequence[Member], device: str, precision: str | torch.dtype
) -> Detector:
    """A detector from its pickle, where it may find another machine."""
    return kind(members, runtimes.choose(device, precision))


def _changed(config: TestConfig, settings: dict[str, Any]) -> TestConfig:
    """`config` with other values for some settings; lists become tuples. Raises UserError for an unknown name."""
    known = [field.name for field in fields(config)]
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, 1) or known
            raise UserError(f"test.{name} is not a setting: use {', '.join(near)}.")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    return replace(config, **values)
