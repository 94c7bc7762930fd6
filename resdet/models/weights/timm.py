"""timm's own weights."""

from __future__ import annotations

import torch
from torch import Tensor

from resdet.models.backbones.timm import timm_parts


def timm_weights(name: str) -> dict[str, Tensor]:
    """timm's own weights of a network, as `backbone.…` and `conv5_x.…`; downloaded once. Raises UserError."""
    backbone, rest, _, _ = timm_parts(name, pretrained=True)
    with torch.no_grad():
        return {f"backbone.{n}": t for n, t in backbone.state_dict().items()} | {
            f"conv5_x.{n}": t for n, t in rest.state_dict().items()
        }
