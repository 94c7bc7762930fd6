"""The rearranged detector computes what the plain one does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from networks import KINDS, PYRAMIDS, network, pictures, plain

from resdet import ops
from resdet.engine.runtime import Runtime
from resdet.inference import convolutions, optimize_heads
from resdet.inference.convolutions import (
    FusedConv2d,
    MatrixConv2d,
    PackedConv2d,
    WinogradConv2d,
    fused_conv2d,
)
from resdet.inference.optimize import OptimizedRCNN
from resdet.inference.optimize_heads import HoistedStart
from resdet.inference.optimize_layers import Subsample
from resdet.models.layers.conv import Conv2d
from resdet.models.layers.norm import FrozenBatchNorm2d, fold
from resdet.types import FeatureMaps

ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)


@pytest.fixture(params=[True, False], ids=["onednn", "torch"])
def packed(request, monkeypatch):
    """With oneDNN's packed weights, and as elsewhere."""
    if not request.param:
        monkeypatch.setattr(convolutions, "_packs", lambda runtime: False)


@pytest.mark.parametrize("kind", [*KINDS, *PYRAMIDS], ids=str)
def test_the_fast_detector_finds_what_the_plain_one_finds(kind, packed):
    model = network(kind)
    images, sizes = pictures()
    quick = OptimizedRCNN(model, ALONE)
    with torch.no_grad():
        expected = model(images, sizes)
    found = quick(images, sizes)
    assert sum(len(detections.scores) for detections in expected) > 20
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", [*KINDS, *PYRAMIDS], ids=str)
def test_bfloat16_is_as_near_as_autocast_is(kind):
    model = network(kind)
    images, sizes = pictures()
    corner = torch.rand(2, 15, 2) * 60
    rois = list(torch.cat([corner, corner + torch.rand(2, 15, 2) * 60 + 5], 2))
    quick = OptimizedRCNN(model, replace(ALONE, dtype=torch.bfloat16)).model
    with torch.no_grad():
        exact = model.roi_heads(model.features(images, sizes), rois, sizes)[0]
        ours = quick.roi_heads(quick.features(images, sizes), rois, sizes)[0]
        with torch.autocast("cpu", torch.bfloat16):
            theirs = model.roi_heads(model.features(images, sizes), rois, sizes)[0]
    # Where the head's norms are folded too, more biases are rounded: 1.45 to 1.63 over eight draws.
    times = 1.75 if isinstance(kind, dict) and kind.get("head_norm") == "batch" else 1.5
    assert (ours - exact).norm() < times * (theirs - exact).norm() + 1e-3


def test_the_plain_detector_is_left_as_it_is():
    model = plain(*KINDS[-1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strides = [module.stride for module in model.modules() if isinstance(module, Conv2d)]
    OptimizedRCNN(model, ALONE)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert strides == [module.stride for module in model.modules() if isinstance(module, Conv2d)]


def test_nothing_is_computed_that_nobody_reads():
    network = OptimizedRCNN(plain(*KINDS[-1]), ALONE).model
    assert isinstance(network.backbone.conv2_x[-1].shortcut, Subsample)
    assert isinstance(network.backbone.conv3_x[-1].shortcut, Subsample)
    assert not isinstance(network.backbone.conv4_x[-1].shortcut, Subsample)
    assert isinstance(network.roi_heads.box_head.start, HoistedStart)
    assert network.roi_heads.box_head.start.bin_strides == (2, 2)
    pooling = OptimizedRCNN(plain(*KINDS[-2]), ALONE).model.roi_heads.box_head.start
    assert not isinstance(pooling, HoistedStart) and pooling.bin_stride == 2
    grouped = OptimizedRCNN(plain(*KINDS[-3]), ALONE).model.roi_heads.box_head.start
    assert not isinstance(grouped, HoistedStart), "group normalisation is not linear"


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_regions_go_through_the_head_in_parts(count, monkeypatch):
    monkeypatch.setattr(optimize_heads, "REGIONS_AT_A_TIME", 3)
    model = plain(*KINDS[4])
    heads = OptimizedRCNN(model, ALONE).model.roi_heads
    features, rois = FeatureMaps([torch.randn(2, 1024, 5, 6)], [16]), torch.rand(count, 4) * 40
    rois[:, 2:] += rois[:, :2]
    inputs = (features, rois.tensor_split([count // 3]), torch.tensor([[80, 96], [75, 90]]))
    with torch.no_grad():
        for ours, theirs in zip(heads(*inputs), model.roi_heads(*inputs), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def expected_class(kernel: int, stride: int, outputs: int, joined: bool) -> type[FusedConv2d]:
    """What `fused_conv2d` should choose in float32 for 64 inputs."""
    if not convolutions._packs(ALONE):
        return FusedConv2d
    if kernel == 1 and (not joined or outputs == 1024):
        return MatrixConv2d
    return WinogradConv2d if kernel == 3 and stride == 1 and ops.has_native_kernel(torch.zeros(1)) else PackedConv2d


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("kernel, stride", [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("outputs", [80, 1024])
def test_a_fused_convolution_is_its_steps_one_after_the_other(outputs, kernel, stride, joined, relu, packed):
    torch.manual_seed(0)
    conv, norm = Conv2d(64, outputs, kernel, stride).eval(), FrozenBatchNorm2d(outputs)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.weight.normal_()
    norm.bias.normal_()
    x = torch.randn(2, 64, 9, 8)
    y = F.conv2d(x, conv.weight, stride=stride, padding=kernel // 2)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = (y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    added = torch.randn_like(expected) if joined else None
    expected = expected + added if added is not None else expected
    expected = expected.clamp(min=0) if relu else expected
    fused = fused_conv2d(conv, *fold(conv, norm), ALONE, joined=joined)
    assert fused.__class__ is expected_class(kernel, stride, outputs, joined)
    with torch.no_grad():
        result = fused(x.contiguous(memory_format=torch.channels_last), added, relu)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


BF16 = replace(ALONE, dtype=torch.bfloat16)


def choosing(name, monkeypatch):
    """Every measurement calls each way twice, and finds that `name` is the fastest; returns the ways by layer."""
    asked = {}

    def fastest(layer, ways):
        asked[layer] = [*ways]
        for way in (*ways.values(), *ways.values()):
            way()
        return name

    monkeypatch.setattr(convolutions, "fastest", fastest)
    return asked


@pytest.mark.skipif(not convolutions._packs(BF16), reason="no bfloat16 here")
@pytest.mark.parametrize("name", ["PackedConv2d", "MatrixConv2d", "WinogradConv2d"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_bfloat16_takes_the_fastest_and_loses_nothing_by_measuring(bias, joined, relu, name, monkeypatch):
    kernel = 1 if name == "MatrixConv2d" else 3
    if kernel == 3 and not ops.has_native_kernel(torch.zeros(1)):
        pytest.skip("Winograd's operator was not compiled here")
    asked = choosing(name, monkeypatch)
    conv = Conv2d(64, 80, kernel, bias=bias).requires_grad_(False)
    x, added = torch.randn(2, 64, 9, 8).bfloat16(), torch.randn(2, 80, 9, 8).bfloat16()
    x, added = (t.to(memory_format=torch.channels_last) for t in (x, added))
    expected = F.conv2d(x.float(), conv.weight, conv.bias, padding=kernel // 2)
    expected = expected + added.float() if joined else expected
    expected = expected.relu() if relu else expected
    fused = fused_conv2d(conv, conv.weight, conv.bias, BF16, joined=joined)
    for _ in range(2):
        result = fused(x, added.clone() if joined else None, relu)
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result.float(), expected, rtol=2e-2, atol=4e-2)
    assert type(fused.chosen).__name__ == name and len(asked) == 1 and not fused.made
    (layer,), (names,) = asked, asked.values()
    assert f"bf16, {kernel}×{kernel}, 64 → 80, stride 1" in layer and ("joined" in layer) == joined
    assert set(names) == {"PackedConv2d", "MatrixConv2d" if kernel == 1 else "WinogradConv2d"}


@pytest.mark.skipif(not convolutions._packs(BF16), reason="no bfloat16 here")
def test_bfloat16_has_no_choice_where_there_is_one_way(monkeypatch):
    monkeypatch.setattr(convolutions, "fastest", None)
    for conv in (Conv2d(3, 64, 7, 2), Conv2d(64, 64, 3, 2), Conv2d(64, 48, 3), Conv2d(64, 64, 3, groups=2)):
        fused = fused_conv2d(conv, conv.weight, None, BF16)
        assert type(fused) is PackedConv2d and fused(torch.randn(1, conv.in_channels, 9, 9)).dtype == torch.bfloat16
