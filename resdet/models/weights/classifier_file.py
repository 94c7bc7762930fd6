"""Classifiers in the files of other toolkits: which kind a file is, its names say."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from resdet.errors import UserError
from resdet.models.weights.msra import from_blobs, from_detectron2
from resdet.models.weights.strict import read_tensors
from resdet.models.weights.torchvision import from_torchvision, from_torchvision_vgg16


class ClassifierWeights(NamedTuple):
    """A network from elsewhere that was trained to classify."""

    tensors: dict[str, Tensor]
    """under the names of `ResNet`, or as `from_torchvision_vgg16` gives them"""
    style: Literal["torchvision", "msra"]
    """one of `pixels.STYLES`"""


def read_classifier(path: Path) -> ClassifierWeights:
    """The ResNet in a file of torchvision, Detectron or detectron2, or torchvision's VGG-16; the names say which.

    Raises UserError for anything else.
    """
    state = read_tensors(path)
    if "backbone.stem.conv1.weight" in state:
        raise UserError(f"{path} is another toolkit's detector: convert it with `resdet convert-weights` first.")
    try:
        if "conv1_w" in state:
            return ClassifierWeights(from_blobs(state), "msra")
        if "stem.conv1.weight" in state:
            # detectron2's converter of torchvision's ResNets, and nothing else, puts the last layer into the stem.
            return ClassifierWeights(from_detectron2(state), "torchvision" if "stem.fc.weight" in state else "msra")
        read = from_torchvision_vgg16 if "features.0.weight" in state else from_torchvision
        return ClassifierWeights(read(state), "torchvision")
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
