"""Trunks from timm: any of its networks that is a sequence of modules with a map of stride 16 among their outputs.

As with a ResNet, what comes up to that map is the trunk, and the rest is for the head to run on each region.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resdet.errors import UserError, reason
from resdet.nn.pixels import TrunkStyle


class TimmTrunk(nn.Sequential):
    """Normalised images (N, 3, H, W) → (N, channels, ⌈H/16⌉, ⌈W/16⌉)"""

    stride = 16
    channels: int


def timm_parts(
    name: str, norm: Literal["frozen", "group", "sync_batch"] = "frozen", pretrained: bool = False
) -> tuple[TimmTrunk, nn.Sequential, int, TrunkStyle]:
    """A network of timm in two parts, the channels that the second gives, and what the first expects of images.

    Raises UserError if timm is not installed, has no such network or none of its weights, if the network has no map
    of stride 16 or is no sequence, and for group normalisation, which would replace half of a foreign network.

    Args:
        name: as in `timm.list_models()`
        norm: frozen as in its files, or over the images of all processes (on GPUs only, if there are several)
        pretrained: with timm's weights, downloaded once
    """
    try:
        import timm
        from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
        from timm.models import FeatureListNet
    except ImportError as error:
        raise UserError("Trunks of timm need the package timm: pip install 'resdet[timm]'.") from error
    if norm == "group":
        raise UserError("A network of timm keeps its own normalisation: set --model.norm frozen or sync_batch.")
    try:
        network: Any = timm.create_model(name, features_only=True, pretrained=pretrained)
    except Exception as error:  # whatever its builders and its downloads raise
        raise UserError(f"timm cannot make {name!r} ({reason(error)}): see timm.list_models().") from error
    strides, modules = network.feature_info.reduction(), network.feature_info.module_name()
    if 16 not in strides:
        raise UserError(f"{name} has no map of stride 16, only of {', '.join(map(str, strides))}: choose another.")
    if not isinstance(network, FeatureListNet):
        raise UserError(f"{name} is no plain sequence of modules, which a head could go on with: choose another.")
    level = strides.index(16)
    last = modules[level].replace(".", "_")
    network = freeze_batch_norm_2d(network) if norm == "frozen" else convert_sync_batchnorm(network)
    pad_as_same(network)
    children = list(network.named_children())
    split = 1 + [child for child, _ in children].index(last)
    trunk, rest = TimmTrunk(OrderedDict(children[:split])), nn.Sequential(OrderedDict(children[split:]))
    channels = network.feature_info.channels()
    trunk.channels = channels[level]
    cfg: Any = timm.get_pretrained_cfg(name)
    mean, std = ((255 * r, 255 * g, 255 * b) for r, g, b in (cfg.mean, cfg.std))
    return trunk, rest, channels[-1], TrunkStyle("rgb", mean, std, stride_in_1x1=False)


def pad_as_same(network: nn.Module) -> None:
    """Pad what was not: a cell of the map then lies where the anchors and the regions take it to be.

    The Inceptions' first layers and reductions eat the border; inside an image, the padded network computes the
    same function.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            kernel, padding = _pair(module.kernel_size), _pair(module.padding)
            padded = tuple(p or (k // 2 if k % 2 else 0) for k, p in zip(kernel, padding, strict=True))
            module.padding = padded if isinstance(module, nn.Conv2d) else padded[0]


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def timm_weights(name: str) -> dict[str, Tensor]:
    """timm's own weights of a network, as `trunk.…` and `conv5_x.…`; downloaded once. Raises UserError."""
    trunk, rest, _, _ = timm_parts(name, pretrained=True)
    with torch.no_grad():
        return {f"trunk.{n}": t for n, t in trunk.state_dict().items()} | {
            f"conv5_x.{n}": t for n, t in rest.state_dict().items()
        }
