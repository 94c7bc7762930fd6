"""Detectors in the files of other toolkits: which kind a file is, its names say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from resdet.config import DetConfig
from resdet.errors import UserError, listed
from resdet.models.weights import detectron2, torchvision_detector
from resdet.models.weights.foreign import read_tensors, without_prefix
from resdet.models.weights.resdet import ModelFile

# What other detectors and their parts are called, by a part of the names that only they have.
OTHERS = {
    "roi_heads.mask": "a Mask R-CNN",
    "roi_heads.keypoint": "a Keypoint R-CNN",
    "head.classification_head": "a RetinaNet, an FCOS or an SSD of torchvision",
    "head.cls_subnet": "a RetinaNet of detectron2",
    "bbox_head.": "a detector of MMDetection",
    "rpn_head.rpn_": "a detector of MMDetection",
    "transformer.": "a DETR",
    "class_embed.": "a DETR",
    "model.22.": "a YOLO",
    "model.23.": "a YOLO",
    "model.24.": "a YOLO",
    "module_list.": "a YOLO",
}
LOGITS = detectron2.LOGITS  # the same in both kits


def read_detector(path: Path, classes: tuple[str, ...] = ()) -> ModelFile[DetConfig]:
    """The Faster R-CNN of torchvision or detectron2 in a file, as the file of resdet that finds what it finds.

    Args:
        path: a file of torch.save, of safetensors or of pickle
        classes: their names without the background; with none, those of COCO or VOC if there are as many

    Raises UserError for anything else; of a detector of another kind it says which.
    """
    found = read_tensors(path)
    other = kind_of(found)
    if other:
        raise UserError(f"{path} is {other}: resdet reads Faster R-CNNs of torchvision and detectron2.")
    if not is_detector(found):
        raise UserError(
            f"{path} was not written by resdet, and is not a Faster R-CNN of torchvision or detectron2 (it has "
            f"{listed(list(found), 2)}): pass a run folder or another file, and a classifier as "
            "--init-weights."
        )
    state = without_prefix(found, [LOGITS], path)
    of_torchvision = torchvision_detector.FIRST in state
    read = torchvision_detector.from_torchvision_detector if of_torchvision else detectron2.from_detectron2_detector
    weights, config = read(state, classes, str(path))
    return ModelFile(weights, config.data.classes, replace(config, name=path.stem), step=0)


def holds_detector(path: Path) -> bool:
    """Whether a file of another toolkit holds a detector that `read_detector` would read, or refuse by its kind."""
    tensors = read_tensors(path)
    return is_detector(tensors) or bool(kind_of(tensors))


def is_detector(names: Iterable[str]) -> bool:
    """Whether these are names of a Faster R-CNN of torchvision or detectron2, whatever their prefix."""
    return any(f".{name}".endswith(f".{LOGITS}") for name in names)


def kind_of(tensors: Mapping[str, Tensor]) -> str:
    """What another detector is, in words; nothing for a Faster R-CNN and for what is not a detector."""
    return next((what for part, what in OTHERS.items() if any(part in name for name in tensors)), "")
