"""Classifiers in the files of other toolkits: which kind a file is, its names say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from resdet.errors import UserError, listed
from resdet.models.weights.foreign import read_tensors, without_prefix
from resdet.models.weights.msra import from_blobs, from_detectron2
from resdet.models.weights.torchvision import from_torchvision, from_torchvision_vgg16

ANCHORS = ("layer1.0.conv1.weight", "res2.0.conv1.weight", "res2_0_branch2a_w", "features.0.weight")
"""A tensor of torchvision's ResNets, detectron2's, Detectron's, and of torchvision's VGG-16."""
DETECTOR_PARTS = re.compile(
    r"(^|[._])(rpn|roi_heads?|bbox|neck|fpn|proposal_generator|transformer|anchors?)([._]|$)"
)


class ClassifierWeights(NamedTuple):
    """A network from elsewhere that was trained to classify."""

    tensors: dict[str, Tensor]
    """under the names of `ResNet`, or as `from_torchvision_vgg16` gives them"""
    style: Literal["torchvision", "msra"]
    """one of `pixels.STYLES`"""


def read_classifier(path: Path) -> ClassifierWeights:
    """The ResNet of torchvision, timm, Detectron or detectron2 in a file, or torchvision's VGG-16, as names say.

    Raises UserError for anything else.
    """
    found = read_tensors(path)
    parts = [name for name in found if DETECTOR_PARTS.search(name)]
    if parts:
        remedy = "pass the classifier that it was trained from"
        if any("proposal_generator" in name for name in parts):
            remedy = "convert it with `resdet convert-weights` first"
        raise UserError(f"{path} is another toolkit's detector ({listed(parts, 2)}): {remedy}.")
    state = without_prefix(found, ANCHORS, path)
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
