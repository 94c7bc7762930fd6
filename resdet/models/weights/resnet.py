"""Weights from elsewhere, loaded strictly through explicit name maps.

ResNets come from torchvision, or from MSRA: the networks of He et al. 2015, which Detectron and detectron2 pass on
in pickles, under Caffe2's names (res2_0_branch2a_w) or detectron2's (res2.0.conv1.weight). VGG-16 is torchvision's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torchvision.models
from torch import Tensor, nn

from resdet.errors import UserError, reason
from resdet.models.backbones.resnet import ARCHITECTURES, ResNet
from resdet.models.backbones.vgg import VGG16
from resdet.models.layers.norm import FrozenBatchNorm2d
from resdet.pickles import read_pickle

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
# Our name → detectron2's; every rule is applied in turn.
DETECTRON2_NAMES = (
    (r"^backbone\.conv1\.conv\.", "stem.conv1."),
    (r"^backbone\.conv1\.norm\.", "stem.conv1.norm."),
    (r"^(?:backbone\.)?conv(\d)_x\.", r"res\1."),
    (r"\.norm(\d)\.", r".conv\1.norm."),
    (r"\.shortcut\.conv\.", ".shortcut."),
    (r"^fc\.", "stem.fc."),
)
# Caffe2's name → detectron2's; every rule is applied in turn.
BLOB_NAMES = (
    (r"^(fc1000|pred)_", "stem.fc."),
    (r"^(res_)?conv1_", "stem.conv1."),
    (r"^(res\d)_(\d+)_branch1_", r"\1.\2.shortcut."),
    (r"^(res\d)_(\d+)_branch2a_", r"\1.\2.conv1."),
    (r"^(res\d)_(\d+)_branch2b_", r"\1.\2.conv2."),
    (r"^(res\d)_(\d+)_branch2c_", r"\1.\2.conv3."),
    (r"\.bn_(s|gamma)$", ".norm.weight"),
    (r"\.bn_(b|beta)$", ".norm.bias"),
    (r"\.bn_(rm|running_mean)$", ".norm.running_mean"),
    (r"\.bn_(riv|running_var)$", ".norm.running_var"),
    (r"\.w$", ".weight"),
    (r"\.b$", ".bias"),
)


class ClassifierWeights(NamedTuple):
    """A network from elsewhere that was trained to classify."""

    tensors: dict[str, Tensor]
    """under the names of `ResNet`, or as `from_torchvision_vgg16` gives them"""
    style: Literal["torchvision", "msra"]
    """one of `pixels.STYLES`"""


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


def from_blobs(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an MSRA ResNet from Caffe2's names to those of `ResNet`.

    Where the file has no statistics, scale and shift hold them already, and the normalisation becomes exactly that
    map. ResNet-50's first convolution has a bias, which the mean that is subtracted next takes up. Raises UserError
    for names of anything else.
    """
    bias = state.get("conv1_b")
    names = _our_names({name: _substitute(name, BLOB_NAMES) for name in state if name != "conv1_b"})
    tensors = {ours: state[name] for name, ours in names.items()}
    if not any("running" in name for name in tensors):
        for name, scale in list(tensors.items()):
            if re.search(r"norm\d?\.weight$", name):
                norm = name.removesuffix("weight")
                tensors[f"{norm}running_mean"] = torch.zeros_like(scale)
                tensors[f"{norm}running_var"] = torch.ones_like(scale) - FrozenBatchNorm2d(1).eps
    if bias is not None:
        mean = tensors.get("backbone.conv1.norm.running_mean")
        if mean is None or mean.shape != bias.shape:
            raise UserError("conv1_b does not fit the normalisation after it: these weights are of another kind.")
        tensors["backbone.conv1.norm.running_mean"] = mean - bias
    return tensors


def from_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a ResNet from detectron2's names to those of `ResNet`.

    The counters of batches seen are dropped. Raises UserError for a name that is none of them.
    """
    names = _our_names({name: name for name in state if not name.endswith("num_batches_tracked")})
    return {ours: state[name] for name, ours in names.items()}


def _our_names(spelled: Mapping[str, str]) -> dict[str, str]:
    """The names in a file → ours, from the names in the file → detectron2's; no two of them may be the same."""
    with torch.device("meta"):
        ours = ResNet(bottleneck_depth(spelled.values()), norm=FrozenBatchNorm2d).state_dict()
    known = {detectron2_name(name): name for name in ours}
    unknown = [name for name, theirs in spelled.items() if theirs not in known]
    if unknown or len(set(spelled.values())) < len(spelled):
        names = _listed(unknown) or "one name in two spellings"
        raise UserError(f"{names}: no MSRA ResNet has that, these weights are of another kind.")
    return {name: known[theirs] for name, theirs in spelled.items()}


def detectron2_name(name: str) -> str:
    """detectron2's name of a tensor of `ResNet`: backbone.conv2_x.0.norm1.bias → res2.0.conv1.norm.bias"""
    return _substitute(name, DETECTRON2_NAMES)


def bottleneck_depth(names: Iterable[str]) -> Literal[50, 101, 152]:
    """Layers of the network that has these names in detectron2's spelling, by the units of res4.

    Raises UserError for another count of units.
    """
    depths: dict[int, Literal[50, 101, 152]] = {ARCHITECTURES[d][1][2]: d for d in (50, 101, 152)}
    found = (re.match(r"(?:backbone\.)?res4\.(\d+)\.", name) for name in names)
    units = 1 + max((int(match[1]) for match in found if match), default=-1)
    if units not in depths:
        known = ", ".join(map(str, depths.values()))
        raise UserError(f"it has {units} units in res4, as no ResNet of {known} layers has.")
    return depths[units]


def _substitute(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def torchvision_weights(name: str, version: Literal["V1", "V2"] = "V1") -> dict[str, Tensor]:
    """torchvision's ImageNet weights of resnet18, …, vgg16 under our names; downloaded once into torch's cache.

    V2 is of its newer training recipe, for ResNets of 50 layers and more. Raises UserError where there are none.
    """
    versions = torchvision.models.get_model_weights(name).__members__
    if f"IMAGENET1K_{version}" not in versions:
        raise UserError(f"torchvision has no {version} weights of {name}: pass --weights torchvision.")
    weights = versions[f"IMAGENET1K_{version}"]
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the checksum of what arrived is wrong
        raise UserError(
            f"Cannot download torchvision's {name} ({error}): fetch {weights.url} yourself "
            "and pass the file as --weights FILE."
        ) from error
    return from_torchvision_vgg16(state) if name == "vgg16" else from_torchvision(state)


def read_classifier(path: Path) -> ClassifierWeights:
    """The ResNet in a file of torchvision, Detectron or detectron2, or torchvision's VGG-16; the names say which.

    Raises UserError for anything else.
    """
    state = read_tensors(path)
    if "backbone.stem.conv1.weight" in state:
        raise UserError(f"{path} is a detector of another toolkit: convert it with tools/convert_weights.py first.")
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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `torch.save` file or of a pickle of arrays (.pkl), read without running any code in it.

    They may lie under the key "model" (detectron2's and torchvision's trainings) or "blobs" (Detectron's, whose
    momenta are left out).
    """
    content = read_pickle(path) if path.suffix == ".pkl" else _read_torch(path)
    for key in ("model", "blobs"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if isinstance(content, dict):
        content = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in content.items()
            if not str(name).endswith("_momentum")
        }
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise UserError(f"{path} is not a plain dictionary of tensors: save a state_dict instead.")
    return content


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as plain weights ({reason(error)}): pass a state_dict written by torch.save."
        ) from error


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `network`; every name and shape must agree.

    Raises UserError that lists what is missing, unexpected or of another shape. A module's own count of batches
    seen may be absent.
    """
    check_names(network.state_dict(), state, source)
    network.load_state_dict(dict(state), strict=False)


def check_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError that lists what `state` lacks of `own`, has besides it, or has in another shape."""
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


def _listed(names: list[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
