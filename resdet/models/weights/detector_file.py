"""Detectors in the files of other toolkits: which kind a file is, its names say."""

from __future__ import annotations

from pathlib import Path

from resdet.config import DetConfig
from resdet.models.weights.detectron2 import LOGITS, from_detectron2_detector
from resdet.models.weights.foreign import read_tensors, without_prefix
from resdet.models.weights.resdet import ModelFile
from resdet.models.weights.torchvision_detector import FIRST, from_torchvision_detector


def read_detector(path: Path, classes: tuple[str, ...] = ()) -> ModelFile[DetConfig]:
    """The Faster R-CNN of torchvision or detectron2 in a file, as the file of resdet that finds what it finds.

    Args:
        path: a file of torch.save, of safetensors or of pickle
        classes: their names without the background; with none, those of COCO or VOC if there are as many

    Raises UserError for anything else.
    """
    state = without_prefix(read_tensors(path), [LOGITS], path)
    read = from_torchvision_detector if FIRST in state else from_detectron2_detector
    weights, config = read(state, classes, str(path))
    return ModelFile(weights, config.data.classes, config, step=0)
