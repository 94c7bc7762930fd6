"""Backbones from timm: any of its networks that is a sequence of modules with a map of stride 16 among its outputs.

As with a ResNet, what comes up to that map is the backbone, and the rest is for the box head to run on each region.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from resdet.errors import UserError, reason
from resdet.models.backbones import Backbone
from resdet.models.layers.pixel_norm import PixelStyle


class TimmBackbone(Backbone):
    """The first modules of a network of timm.

    Args:
        modules: by their names, in the order in which images pass through them
        channels: of what the last one gives
    """

    strides = (16,)

    def __init__(self, modules: Mapping[str, nn.Module], channels: int) -> None:
        super().__init__()
        self.channels = channels
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) normalised images → (N, channels, ⌈H/16⌉, ⌈W/16⌉), the one level"""
        x = images
        for module in self.children():
            x = module(x)
        return [x]


def timm_parts(
    name: str, norm: Literal["frozen", "group", "batch", "sync_batch"] = "frozen", pretrained: bool = False
) -> tuple[TimmBackbone, nn.Sequential, int, PixelStyle]:
    """A network of timm in two parts, the channels that the second gives, and what the first expects of images.

    Raises UserError if timm is not installed, has no such network or none of its weights, if the network has no map
    of stride 16 or is not a sequence, and for group normalisation, which would replace half of a foreign network.

    Args:
        name: as in `timm.list_models()`
        norm: frozen as in its files, or over the images of each process, or of all (on GPUs only, if there are
            several)
        pretrained: with timm's weights, downloaded once
    """
    try:
        import timm
        from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
        from timm.models import FeatureListNet
    except ImportError as error:
        raise UserError("timm backbones need the package timm: pip install 'resdet[timm]'.") from error
    if norm == "group":
        raise UserError("A timm network keeps its own normalization: set --model.norm frozen, batch or sync_batch.")
    try:
        network: Any = timm.create_model(name, features_only=True, pretrained=pretrained)
    except Exception as error:  # whatever its builders and its downloads raise
        raise UserError(f"timm cannot create {name!r} ({reason(error)}): see timm.list_models().") from error
    strides, modules = network.feature_info.reduction(), network.feature_info.module_name()
    if 16 not in strides:
        raise UserError(
            f"{name} has no feature map of stride 16, only of {', '.join(map(str, strides))}: choose another."
        )
    if not isinstance(network, FeatureListNet):
        raise UserError(
            f"{name} is not a plain sequence of modules, which a box head could continue: choose another."
        )
    level = strides.index(16)
    last = modules[level].replace(".", "_")
    if norm != "batch":
        network = freeze_batch_norm_2d(network) if norm == "frozen" else convert_sync_batchnorm(network)
    pad_as_same(network)
    children = list(network.named_children())
    split = 1 + [child for child, _ in children].index(last)
    channels = network.feature_info.channels()
    backbone = TimmBackbone(dict(children[:split]), channels[level])
    rest = nn.Sequential(OrderedDict(children[split:]))
    cfg: Any = timm.get_pretrained_cfg(name)
    mean, std = ((255 * r, 255 * g, 255 * b) for r, g, b in (cfg.mean, cfg.std))
    return backbone, rest, channels[-1], PixelStyle("rgb", mean, std, stride_in_1x1=False)


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
