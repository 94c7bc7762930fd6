"""Weights from elsewhere, loaded strictly through explicit name maps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision.models
from torch import Tensor, nn

from resdet.errors import UserError, reason

# torchvision's name → ours, tried in this order; every name must match one of them.
TORCHVISION_NAMES = (
    (r"conv1\.(.+)", r"trunk.conv1.conv.\1"),
    (r"bn1\.(.+)", r"trunk.conv1.norm.\1"),
    (r"layer1\.(.+)", r"trunk.conv2_x.\1"),
    (r"layer2\.(.+)", r"trunk.conv3_x.\1"),
    (r"layer3\.(.+)", r"trunk.conv4_x.\1"),
    (r"layer4\.(.+)", r"conv5_x.\1"),
    (r"(fc\..+)", r"\1"),
)
TORCHVISION_BLOCK_NAMES = (
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.downsample\.0\.", r".shortcut.conv."),
    (r"\.downsample\.1\.", r".shortcut.norm."),
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


def torchvision_resnet(depth: int) -> dict[str, Tensor]:
    """torchvision's ImageNet weights (V1), under our names; downloaded once into torch's cache."""
    weights = torchvision.models.get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"]
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the checksum of what arrived is wrong
        raise UserError(
            f"Cannot download torchvision's ResNet-{depth} ({error}): fetch {weights.url} yourself "
            "and pass the file as --weights FILE."
        ) from error
    return from_torchvision(state)


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a `torch.save` file, read without running any code that it may hold."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as plain weights ({reason(error)}): pass a state_dict written by torch.save."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is not a plain dictionary of tensors: save a state_dict instead.")
    return state


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `network`; every name and shape must agree.

    Raises UserError that lists what is missing, unexpected or of another shape. A module's own count of batches
    seen may be absent.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    complaints = [
        f"{title} {_listed(names)}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if complaints:
        raise UserError(f"{source} does not fit this network: {'; '.join(complaints)}.")
    network.load_state_dict(dict(state), strict=False)


def _listed(names: list[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
