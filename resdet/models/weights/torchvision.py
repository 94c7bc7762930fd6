"""torchvision's ResNets and VGG-16, under our names."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from resdet.errors import UserError
from resdet.models.backbones.vgg import VGG16

# torchvision's name → ours, tried in this order; every name must match one of them.
TORCHVISION_NAMES = (
    (r"conv1\.(.+)", r"backbone.conv1.conv.\1"),
    (r"bn1\.(.+)", r"backbone.conv1.norm.\1"),
    (r"layer1\.(.+)", r"backbone.conv2_x.\1"),
    (r"layer2\.(.+)", r"backbone.conv3_x.\1"),
    (r"layer3\.(.+)", r"backbone.conv4_x.\1"),
    (r"layer4\.(.+)", r"conv5_x.\1"),
    (r"(fc\..+)", r"\1"),
)
TORCHVISION_BLOCK_NAMES = (
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.downsample\.0\.", r".shortcut.conv."),
    (r"\.downsample\.1\.", r".shortcut.norm."),
)

# Our name → torchvision's; every rule is applied in turn.
OUR_NAMES = (
    (r"^backbone\.conv1\.conv\.", "conv1."),
    (r"^backbone\.conv1\.norm\.", "bn1."),
    (r"^(?:backbone\.)?conv(\d)_x\.", lambda match: f"layer{int(match[1]) - 1}."),
    (r"\.norm(\d)\.", r".bn\1."),
    (r"\.shortcut\.conv\.", ".downsample.0."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
)


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of torchvision's ResNet to those of `ResNet`.

    The counters of batches seen are dropped. Raises UserError for a name that is not torchvision's.
    """
    renamed = {}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in TORCHVISION_NAMES:
            if re.fullmatch(pattern, name):
                ours = re.sub(pattern, replacement, name)
                break
        else:
            raise UserError(f"{name!r} is not a name of torchvision's ResNets: these weights are of another kind.")
        for pattern, replacement in TORCHVISION_BLOCK_NAMES:
            ours = re.sub(pattern, replacement, ours)
        renamed[ours] = tensor
    return renamed


def torchvision_name(name: str) -> str:
    """torchvision's name of a tensor of `ResNet`: backbone.conv2_x.0.norm1.bias → layer1.0.bn1.bias"""
    for pattern, replacement in OUR_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def from_torchvision_vgg16(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of torchvision's VGG-16: backbone.conv1_1.weight, …; fcs.0 and fcs.1 are its fc6 and fc7.

    The last layer is dropped. Raises UserError for a name that is not torchvision's.
    """
    convs = [
        f"backbone.conv{stage}_{n}" for stage, widths in enumerate(VGG16, 1) for n in range(1, len(widths) + 1)
    ]
    places = sorted({int(match[1]) for name in state if (match := re.match(r"features\.(\d+)\.", name))})
    if len(places) != len(convs):
        raise UserError(f"it has {len(places)} convolutions where VGG-16 has {len(convs)}.")
    names = {f"features.{place}": conv for place, conv in zip(places, convs, strict=True)}
    names |= {"classifier.0": "fcs.0", "classifier.3": "fcs.1", "classifier.6": "fc"}
    renamed = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if layer not in names:
            raise UserError(f"{name!r} is not a name of torchvision's VGG-16: these weights are of another kind.")
        renamed[f"{names[layer]}.{kind}"] = tensor
    return renamed


def can_be_had(name: str) -> bool:
    """Whether torchvision's ImageNet weights are in torch's cache, or their server answers within five seconds."""
    weights = _weights(name, "V1")
    if Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name).is_file():
        return True
    try:
        with urllib.request.urlopen(urllib.request.Request(weights.url, method="HEAD"), timeout=5):
            return True
    except (OSError, ValueError):
        return False


def _weights(name: str, version: str) -> Any:
    """torchvision's description of weights. Raises UserError where there are none."""
    from torchvision.models import get_model_weights  # takes longer to import than torch itself

    versions = get_model_weights(name).__members__
    if f"IMAGENET1K_{version}" not in versions:
        raise UserError(f"torchvision has no {version} weights for {name}: pass --init-weights torchvision.")
    return versions[f"IMAGENET1K_{version}"]


def torchvision_weights(name: str, version: Literal["V1", "V2"] = "V1") -> dict[str, Tensor]:
    """torchvision's ImageNet weights of resnet18, …, vgg16 under our names; downloaded once into torch's cache.

    V2 is of its newer training recipe, for ResNets of 50 layers and more. Raises UserError where there are none.
    """
    weights = _weights(name, version)
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the checksum of what arrived is wrong
        raise UserError(
            f"Cannot download torchvision's {name} ({error}): download {weights.url} "
            "yourself, and pass the file as --init-weights FILE."
        ) from error
    return from_torchvision_vgg16(state) if name == "vgg16" else from_torchvision(state)
