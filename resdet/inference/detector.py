"""A trained detector as a function of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resdet.boxes import resize as resize_boxes
from resdet.config import DetConfig, check_config
from resdet.data.detection import pad
from resdet.data.images import read_image
from resdet.data.transforms import TestTransform, resize
from resdet.engine import runtime
from resdet.engine.runtime import Runtime
from resdet.errors import UserError
from resdet.inference.optimize import OptimizedRCNN
from resdet.inference.test_time import TestTimeRCNN
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.weights.resdet import ModelFile, load_model
from resdet.models.weights.strict import load_strictly

Picture = str | Path | Image.Image | np.ndarray
"""a file, or RGB pixels: an image of Pillow's, or (H, W, 3) uint8"""


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
    test = file.config.test
    models = [restore(file, source)]
    for path in test.ensemble:
        other = load_model(path)
        if other.classes != file.classes:
            raise UserError(
                f"{path} has different classes from {source}: the detectors of an ensemble need the same "
                "classes in the same order."
            )
        models.append(restore(replace(other, config=replace(other.config, test=test)), path))
    if len(models) == 1 and not (test.scales or test.flip or test.refine):
        return OptimizedRCNN(models[0], runtime)
    short_side = file.config.data.test_short_side
    return TestTimeRCNN(
        models, runtime, short_side=short_side, scales=test.scales, flip=test.flip, refine=test.refine
    )


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


class Detector:
    """Images in, detections out. `Detector.load` makes one from a run; threads may share it.

    Args:
        network: images → detections
        classes: names in the order of the labels
        transform: how images are resized
        runtime: device and number type
    """

    def __init__(
        self,
        network: OptimizedRCNN | TestTimeRCNN,
        classes: tuple[str, ...],
        transform: TestTransform,
        runtime: Runtime,
    ) -> None:
        self.network, self.classes, self.transform, self.runtime = network, classes, transform, runtime

    @classmethod
    def load(cls, source: str | Path, device: str = "auto", precision: str = "auto", **test: Any) -> Detector:
        """Load a run folder or a weights file; nothing of the host process changes.

        Raises UserError for a file of another kind, and for a setting that does not exist or has no such value.

        Args:
            device: auto, cpu, cuda or cuda:N
            precision: auto, fp32, bf16 or fp16
            test: settings of `TestConfig` to change, such as flip=True or vote_iou=0.5
        """
        file = load_model(source)
        file = replace(file, config=replace(file.config, test=replace(file.config.test, **test)))
        check_config(file.config)
        if file.config.model.proposals == "given":
            raise UserError(
                f"{source} needs proposals from files, so it cannot detect in an image alone: evaluate it "
                "with `resdet eval-det`."
            )
        started = runtime.choose(device, precision)
        transform = TestTransform(*image_size(file.config))
        return cls(prepare(file, source, started), file.classes, transform, started)

    @overload
    def __call__(self, images: Picture) -> NamedDetections: ...  # type: ignore[overload-overlap]  # a str
    @overload
    def __call__(self, images: Iterable[Picture], batch_size: int = 1) -> list[NamedDetections]: ...

    def __call__(
        self, images: Picture | Iterable[Picture], batch_size: int = 1
    ) -> NamedDetections | list[NamedDetections]:
        """What is in an image, or in each of several.

        Raises UserError for a file that is not an image, and for pixels that are not (H, W, 3) uint8.

        Args:
            images: of any sizes
            batch_size: images that go through the network at a time, padded to a common size; it pays on GPUs
        """
        if isinstance(images, Picture):
            return self._detect([_pixels(images)])[0]
        found: list[NamedDetections] = []
        rest = iter(images)
        while batch := [_pixels(image) for image in islice(rest, batch_size)]:
            found += self._detect(batch)
        return found

    def _detect(self, images: Sequence[np.ndarray]) -> list[NamedDetections]:
        resized = [resize(image, self.transform.short_side, self.transform.max_side) for image in images]
        pixels, sizes = pad(resized)
        found = self.network(pixels.to(self.runtime.device), sizes)
        results = []
        for image, small, (boxes, scores, labels) in zip(images, resized, found, strict=True):
            names = [self.classes[label] for label in labels.tolist()]
            boxes = resize_boxes(boxes, small.shape, image.shape)
            results.append(NamedDetections(boxes.cpu(), scores.cpu(), labels.cpu(), names))
        return results


def _pixels(image: Picture) -> np.ndarray:
    """(H, W, 3) uint8 RGB"""
    if isinstance(image, str | Path):
        return read_image(image)
    pixels = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise UserError(
            f"An array must hold (H, W, 3) uint8 pixels in RGB order; this one is {pixels.shape} {pixels.dtype}."
        )
    return pixels
