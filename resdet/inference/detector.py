"""A trained detector as a function of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from resdet.boxes import rescale
from resdet.data.images import read_image
from resdet.data.transforms import TestTransform, resize
from resdet.detection.faster_rcnn import FasterRCNN, build_faster_rcnn
from resdet.engine import runtime
from resdet.engine.checkpoint import ModelFile, load_model
from resdet.engine.runtime import Runtime
from resdet.nn.weights import load_strictly
from resdet.types import Detections


def restore(file: ModelFile, source: str | Path) -> FasterRCNN:
    """The network of a model file, with its weights; `source` is named if they do not fit."""
    model = build_faster_rcnn(file.config, len(file.classes))
    load_strictly(model, file.weights, str(source))
    return model.eval().to(memory_format=torch.channels_last)


class Detector:
    """Images in, detections out. `Detector.load` makes one from a run.

    Args:
        model: the network, on the device of `runtime`
        classes: names in the order of the labels
        transform: how images are resized
        runtime: device and number type
    """

    def __init__(
        self, model: FasterRCNN, classes: tuple[str, ...], transform: TestTransform, runtime: Runtime
    ) -> None:
        self.model, self.classes, self.transform, self.runtime = model, classes, transform, runtime

    @classmethod
    def load(cls, source: str | Path, device: str = "auto", precision: str = "auto") -> Detector:
        """Load a run folder or a weights file. Raises UserError if it is neither.

        Args:
            device: auto, cpu, cuda or cuda:N
            precision: auto, fp32, bf16 or fp16
        """
        file = load_model(source)
        where = runtime.start(device, precision)
        data = file.config.data
        transform = TestTransform(data.test_short_side, data.max_side)
        return cls(restore(file, source).to(where.device), file.classes, transform, where)

    @torch.no_grad()
    def __call__(self, image: str | Path | np.ndarray) -> Detections:
        """A file, or (H, W, 3) uint8 RGB → detections in pixels of that image, on the CPU, best first."""
        image = image if isinstance(image, np.ndarray) else read_image(image)
        resized = resize(image, self.transform.short_side, self.transform.max_side)
        height, width = resized.shape[:2]
        pixels = torch.from_numpy(resized).permute(2, 0, 1)[None].to(self.runtime.device)
        with self.runtime.autocast():
            found = self.model(pixels, torch.tensor([[height, width]]))[0]
        boxes = rescale(found.boxes, image.shape[1] / width, image.shape[0] / height)
        return Detections(boxes.cpu(), found.scores.cpu(), found.labels.cpu())
