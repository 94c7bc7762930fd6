"""MSRA's ResNets: the networks of He et al. 2015, under Caffe2's names (res2_0_branch2a_w) or detectron2's.

Detectron and detectron2 pass them on in pickles; detectron2 names a tensor res2.0.conv1.weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from resdet.errors import UserError, listed
from resdet.models.backbones.resnet import ARCHITECTURES, ResNet
from resdet.models.layers.norm import FrozenBatchNorm2d

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
        names = listed(unknown) or "one name in two spellings"
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
    found = (re.match(r"(?:backbone\.)?(?:bottom_up\.)?res4\.(\d+)\.", name) for name in names)
    units = 1 + max((int(match[1]) for match in found if match), default=-1)
    if units not in depths:
        known = ", ".join(map(str, depths.values()))
        raise UserError(f"it has {units} units in res4, as no ResNet of {known} layers has.")
    return depths[units]


def _substitute(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
