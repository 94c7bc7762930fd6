"""Layer responses against a literal forward of the units."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resdet.evaluation.responses import response_deviations
from resdet.models.backbones.resnet import CifarResNet, ResNet
from resdet.models.classifier import Classifier
from resdet.models.layers.norm import SyncBatchNorm2d


def classifier(network: nn.Module) -> Classifier:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return Classifier(network, torch.full((3, 1, 1), 120.0), torch.full((3, 1, 1), 60.0))


@pytest.mark.parametrize("order", ["original", "full_preactivation"])
def test_each_3x3_layer_responds_after_its_normalisation(order: str) -> None:
    """He et al. 2015, Fig. 7; without a normalisation behind the layer, the layer's own output."""
    model = classifier(CifarResNet(8, norm=SyncBatchNorm2d, order=order, shortcut="A"))
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    found = response_deviations(model, images)
    assert len(found) == 7, "conv1, and two layers in each of three units"
    net = model.network
    with torch.no_grad():
        x = net.conv1.norm(net.conv1.conv(model.normalise(images)))
        assert found[0] == pytest.approx(x.std().item(), rel=1e-5)
        unit = net.conv2_x[0]
        if order == "original":
            first = unit.norm1(unit.conv1(x.relu()))
            second = unit.norm2(unit.conv2(first.relu()))
        else:
            first = unit.conv1(x.relu())
            second = unit.conv2(unit.norm2(first).relu())
        assert found[1:3] == pytest.approx([first.std().item(), second.std().item()], rel=1e-5)


def test_bottlenecks_respond_with_their_3x3_layers_only() -> None:
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    assert len(response_deviations(classifier(CifarResNet(20, norm=SyncBatchNorm2d, bottleneck=True)), images)) == 7
    assert len(response_deviations(classifier(ResNet(50, norm=SyncBatchNorm2d)), images)) == 16


def test_no_hook_stays() -> None:
    model = classifier(CifarResNet(8, norm=SyncBatchNorm2d))
    response_deviations(model, torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert not any(module._forward_hooks for module in model.modules())
