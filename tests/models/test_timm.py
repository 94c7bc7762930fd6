"""timm's networks in two parts, against timm's own classifiers, and what cannot be one."""

from __future__ import annotations

import sys

import pytest
import timm
import torch
from torch import nn

from resdet.models.backbones.timm import pad_as_same, timm_parts
from resdet.models.weights.timm import timm_weights


def make(name, **options):
    torch.manual_seed(0)
    return timm_parts(name, **options)


@pytest.mark.parametrize("name", ["resnet10t", "resnetv2_18", "convnext_atto"])
def test_both_parts_are_the_network(name):
    """Copied weights: what the second part makes of the first one's map is timm's last feature map."""
    backbone, rest, channels, _ = make(name)
    theirs = timm.create_model(name, features_only=True).eval()
    names = list(theirs.state_dict())
    ours = {**backbone.state_dict(), **rest.state_dict()}
    theirs.load_state_dict(ours, strict=False)
    assert {n for n in names if "num_batches" not in n} == {n for n in ours if "num_batches" not in n}
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        maps = theirs(images)
        (features,) = backbone.eval()(images)
        last = rest.eval()(features)
    assert features.shape == (1, backbone.channels, 6, 8) and last.shape[1] == channels
    strides = theirs.feature_info.reduction()
    torch.testing.assert_close(features, maps[strides.index(16)], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, maps[-1], rtol=1e-4, atol=1e-5)


def test_what_eats_the_border_is_padded():
    """A map covers ⌈H/16⌉ × ⌈W/16⌉ cells; inside the image, padding moves the grid and changes nothing else."""
    backbone, _, _, style = make("inception_v4")
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, 171, 235))[0].shape[2:] == (11, 15)
    assert style.mean == (127.5, 127.5, 127.5) and style.channels == "rgb"
    layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 2), nn.AvgPool2d(2), nn.Conv2d(2, 2, (1, 7)))
    images = torch.randn(1, 1, 40, 60)
    before = layers[0](images)
    pad_as_same(layers)
    assert [layer.padding for layer in layers] == [(1, 1), 1, 0, (0, 3)]
    torch.testing.assert_close(layers[0](images)[:, :, 1:-1, 1:-1], before)


def test_frozen_normalisations_stay_as_they_are():
    backbone, rest, _, _ = make("resnet10t", norm="frozen")
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone.train()(torch.randn(2, 3, 64, 64))
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in backbone.named_buffers())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in (*backbone.modules(), *rest.modules()))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_network", ("'no_such_network'", "timm.list_models()")),
        ("efficientnet_b0", ("efficientnet_b0", "sequence")),
        ("vit_tiny_patch16_224", ("vit_tiny_patch16_224", "sequence")),
    ],
)
def test_networks_that_cannot_be_cut(name, words, refuses):
    with refuses(*words):
        timm_parts(name)


def test_a_network_without_a_map_of_stride_16(refuses, monkeypatch):
    made = timm.create_model("resnet10t", features_only=True)
    monkeypatch.setattr(made.feature_info, "reduction", lambda: [2, 4, 8, 12, 24])
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: made)
    with refuses("resnet10t", "stride 16", "2, 4, 8, 12, 24"):
        timm_parts("resnet10t")


def test_a_foreign_normalisation_is_not_replaced(refuses):
    with refuses("--model.norm frozen, batch or sync_batch"):
        timm_parts("resnet10t", norm="group")


def test_without_timm(refuses, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with refuses("pip install 'resdet[timm]'"):
        timm_parts("resnet10t")


def test_timm_s_weights_come_under_our_names(monkeypatch):
    asked, create = [], timm.create_model

    def download(name, features_only, pretrained):
        asked.append((name, pretrained))
        return create(name, features_only=features_only)

    monkeypatch.setattr(timm, "create_model", download)
    weights = timm_weights("resnet10t")
    assert asked == [("resnet10t", True)]
    backbone, rest, _, _ = timm_parts("resnet10t")
    assert set(weights) == {f"backbone.{n}" for n in backbone.state_dict()} | {
        f"conv5_x.{n}" for n in rest.state_dict()
    }
