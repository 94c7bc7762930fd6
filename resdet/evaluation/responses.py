"""How strongly the layers of a network respond (He et al. 2015, §4.2 and Fig. 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resdet.models.classifier import Classifier
from resdet.models.layers.blocks import Unit


@torch.no_grad()
def response_deviations(model: Classifier, images: Tensor) -> list[float]:
    """Standard deviation of what each 3×3 layer puts out, after normalisation and before the nonlinearity.

    In networks with full pre-activation, where no normalisation follows a layer, of the layer's own output.

    Args:
        images: (N, 3, H, W) uint8

    Returns:
        one number for each layer, in the order of the network
    """
    model.eval()
    found: list[float] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        output = layer.forward(inputs[0])  # alone: in the network it also adds the shortcut and rectifies
        found.append(output.float().std().item())

    handles = [layer.register_forward_pre_hook(note) for layer in _responding(model)]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _responding(model: Classifier) -> list[nn.Module]:
    layers: list[nn.Module] = [model.network.conv1.norm] if hasattr(model.network, "conv1") else []  # type: ignore[list-item]
    for unit in model.modules():
        if isinstance(unit, Unit):
            for conv, norm in unit.layers:
                if conv.kernel_size == (3, 3):
                    layers.append(conv if unit.order == "full_preactivation" else norm)
    return layers
