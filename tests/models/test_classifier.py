"""The classifier: pixels, loss and mixup, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resdet.config import ClsModelConfig
from resdet.models.backbones.resnet import CifarResNet, ResNet
from resdet.models.classifier import (
    Classifier,
    build_classifier,
    classification_loss,
    mixed_loss,
    take_crop,
)
from resdet.types import Crop


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)


def identity(mean: torch.Tensor, bgr: bool = False) -> Classifier:
    """A classifier whose network returns its normalised input."""
    return Classifier(nn.Identity(), mean, torch.tensor([2.0, 4.0, 8.0])[:, None, None], bgr)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 8, 8)])
def test_pixels_are_normalised_by_channel_or_by_pixel(shape: tuple[int, ...], images: torch.Tensor) -> None:
    mean = torch.rand(shape) * 255
    result = identity(mean)(images)
    for c in range(3):
        for y in range(8):
            m = mean[c, y % shape[1], 5 % shape[2]]
            assert result[1, c, y, 5] == pytest.approx(float((images[1, c, y, 5] - m) / 2 ** (c + 1)), rel=1e-5)


def test_a_network_of_blue_green_red_gets_them_in_that_order(images: torch.Tensor) -> None:
    mean = torch.zeros(3, 1, 1)
    assert torch.equal(identity(mean, bgr=True)(images)[:, 0] * 2, images[:, 2].float())


def test_a_mean_image_is_stretched_to_other_sizes() -> None:
    mean = torch.arange(3.0)[:, None, None].expand(3, 8, 8) * 10
    assert identity(mean)(torch.zeros(1, 3, 20, 12, dtype=torch.uint8))[0, 2] == pytest.approx(-20 / 8)


def test_the_mean_is_subtracted_before_the_crop(images: torch.Tensor) -> None:
    """§4.2: the zeros of the padding are the mean, and the mean image moves with its pixels."""
    model = identity(torch.rand(3, 8, 8) * 255)
    crop = Crop(torch.tensor([[0, 0], [2, 1], [4, 4], [3, 0]]), torch.tensor([False, True, True, False]), 2)
    assert torch.equal(model(images, crop), take_crop(model(images), crop))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_cross_entropy(smoothing: float) -> None:
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 1])
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        for k, value in enumerate(row):
            share = (1 - smoothing) * (k == label) + smoothing / 4
            total -= share * (value - log_sum)
    losses = classification_loss(logits, labels, smoothing)
    assert losses.loss.item() == losses.cross_entropy.item() == pytest.approx(total / 5, rel=1e-5)
    wrong = sum(row.argmax() != label for row, label in zip(logits, labels, strict=True))
    assert losses.error.item() == pytest.approx(int(wrong) / 5)


def test_mixup_blends_images_and_losses(images: torch.Tensor) -> None:
    seen = []

    def network(x: torch.Tensor, crop: Crop | None) -> torch.Tensor:
        seen.append(x)
        return x.mean((2, 3))

    labels = torch.tensor([0, 1, 2, 0])
    torch.manual_seed(5)
    losses = mixed_loss(network, images, labels, 0.7)  # type: ignore[arg-type]
    torch.manual_seed(5)
    share = torch.distributions.Beta(0.7, 0.7).sample().item()
    partner = torch.randperm(4)
    assert 0.05 < share < 0.95 and not torch.equal(partner, torch.arange(4))
    blended = share * images.float() + (1 - share) * images[partner].float()
    torch.testing.assert_close(seen[0], blended)
    logits = blended.mean((2, 3))
    expected = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, labels[partner])
    torch.testing.assert_close(losses.loss, expected)


@pytest.mark.parametrize(
    "model, kind",
    [
        (ClsModelConfig(depth=18), ResNet),
        (ClsModelConfig(family="cifar", depth=20, shortcut="A"), CifarResNet),
        (ClsModelConfig(family="cifar", depth=29, bottleneck=True, order="full_preactivation"), CifarResNet),
    ],
)
def test_a_config_becomes_a_network_that_learns(model: ClsModelConfig, kind: type[nn.Module]) -> None:
    classifier = build_classifier(model, 7, torch.zeros(3, 1, 1), torch.full((3, 1, 1), 100.0))
    assert isinstance(classifier.network, kind)
    logits = classifier(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    assert logits.shape == (2, 7) and logits.dtype == torch.float32
    classification_loss(logits, torch.tensor([1, 2])).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in classifier.parameters())


def test_a_config_s_options_reach_the_units() -> None:
    model = ClsModelConfig(depth=50, shortcut="C", joining="shortcut_gate", order="relu_before", style="msra")
    classifier = build_classifier(model, 7, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    unit = classifier.network.backbone.conv3_x[0]  # type: ignore[union-attr, index]
    assert unit.order == "relu_before" and not unit.joining.exclusive and unit.projects
    assert unit.conv1.stride == (2, 2) and classifier.bgr
