"""Detectors in whole numbers compute nearly what they compute in floats."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from networks import KINDS, PYRAMIDS, network, pictures
from torch import nn

from resdet.engine.runtime import Runtime
from resdet.inference.convolutions import fused_conv2d, fused_linear
from resdet.inference.int8 import Int8Conv2d, Int8Linear, Observed, Observer, observed_grids, whole
from resdet.inference.optimize import OptimizedRCNN
from resdet.inference.quantized import Grid, Quantized, covering, dequantized, quantized
from resdet.inference.test_time import TestTimeRCNN
from resdet.models.layers.conv import Conv2d

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()),
    reason="this processor has no int8 products",
)
INT8 = Runtime(0, 1, torch.device("cpu"), torch.float32, int8=True)
FLOATS = replace(INT8, int8=False)


def calibrated(model, images, sizes, method="minmax"):
    """The network in whole numbers, with the grids of these very images."""
    observing = OptimizedRCNN(model, INT8)
    observing(images, sizes)
    return OptimizedRCNN(model, INT8, observed_grids(observing.model, method))


# The whole detector


@pytest.mark.parametrize("kind", [*KINDS, *PYRAMIDS], ids=str)
def test_a_detector_in_whole_numbers_is_near_the_one_in_floats(kind):
    model, (images, sizes) = network(kind), pictures()
    quick = calibrated(model, images, sizes).model
    bf16 = OptimizedRCNN(model, replace(FLOATS, dtype=torch.bfloat16)).model
    corner = torch.rand(2, 15, 2) * 60
    rois = list(torch.cat([corner, corner + torch.rand(2, 15, 2) * 60 + 5], 2))
    with torch.no_grad():
        exact, seen = model.features(images, sizes), quick.features(images, sizes)
        # Group normalisation of random maps makes every error ten times as large.
        rounded = bf16.features(images, sizes)
        for ours, near, theirs in zip(seen.maps, rounded.maps, exact.maps, strict=True):
            ours = dequantized(ours, torch.float32)
            assert ours.shape == theirs.shape and (ours - theirs).norm() < 8 * (near.float() - theirs).norm()
        (scores, deltas), (exact_scores, exact_deltas) = (
            net.roi_heads(maps, rois, sizes) for net, maps in [(quick, seen), (model, exact)]
        )
    assert (scores.softmax(1) - exact_scores.softmax(1)).abs().mean() < 0.02
    assert (deltas - exact_deltas).norm() < 0.2 * exact_deltas.norm()


@pytest.mark.parametrize("kind", [*KINDS, *PYRAMIDS], ids=str)
def test_calibration_computes_in_floats_and_every_layer_takes_part(kind):
    model, (images, sizes) = network(kind), pictures()
    observing = OptimizedRCNN(model, INT8)
    with torch.no_grad():
        expected = model(images, sizes)
    for ours, theirs in zip(observing(images, sizes), expected, strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)
    layers = [layer for layer in observing.modules() if isinstance(layer, Observed)]
    assert layers and all(layer.seen for layer in layers)
    quick = OptimizedRCNN(model, INT8, observed_grids(observing.model, "mse"))
    assert not any(isinstance(layer, Observed | nn.Conv2d) for layer in quick.modules())
    assert sum(isinstance(layer, Int8Conv2d | Int8Linear) for layer in quick.modules()) == len(layers) - 1


def test_a_network_of_convolutions_hands_on_whole_numbers():
    images, sizes = pictures()
    for kind in (KINDS[4], KINDS[0], {}, {"fc_dims": (64, 64), "conv_dims": (32,), "head_norm": "batch"}):
        quick = calibrated(network(kind), images, sizes).model
        floats = [
            name
            for name, layer in quick.named_modules()
            if isinstance(layer, Int8Conv2d | Int8Linear) and layer.out[2] != torch.uint8
        ]
        fcs = len(kind.get("fc_dims", "1")) if isinstance(kind, dict) else 0
        assert floats == ["rpn.head.siblings", *[f"roi_heads.box_head.fcs.{fcs - 1}"] * bool(fcs)]
        assert all(isinstance(map_, Quantized) for map_ in quick.features(images, sizes).maps)


def test_the_same_image_gives_the_same_detections_whatever_else_is_in_the_batch():
    images, sizes = pictures()
    quick = calibrated(network({}), images, sizes)
    together = quick(images, sizes)
    for n in range(len(images)):
        (alone,) = quick(images[n : n + 1], sizes[n : n + 1])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(alone, together[n], strict=True))


def test_test_time_methods_work_in_whole_numbers():
    model, (images, sizes) = network(KINDS[0]), pictures()
    observing = OptimizedRCNN(model, INT8)
    observing(images, sizes)
    grids, more = observed_grids(observing.model, "minmax"), {"scales": (60, 90), "flip": True, "refine": True}
    quick = TestTimeRCNN([model], INT8, [grids], short_side=60, **more)
    exact = TestTimeRCNN([network(KINDS[0])], FLOATS, short_side=60, **more)
    for ours, theirs in zip(quick(images, sizes), exact(images, sizes), strict=True):
        assert abs(len(ours.scores) - len(theirs.scores)) <= 0.2 * len(theirs.scores)
        assert abs(ours.scores[:5].mean() - theirs.scores[:5].mean()) < 0.05


def test_a_layer_without_grids_is_named():
    images, sizes = pictures()
    observing = OptimizedRCNN(network({}), INT8)
    observing(images, sizes)
    grids = observed_grids(observing.model, "minmax")
    del grids["rpn.head.siblings"]
    with pytest.raises(KeyError, match="siblings"):
        OptimizedRCNN(network({}), INT8, grids)


# A layer


def on_grid(x, grid):
    """What is left of numbers on a grid, in float64."""
    return dequantized(quantized(x, grid), torch.float64)


def assert_rounded(found, exact):
    """Whole numbers are the nearest to what they stand for, or the last."""
    scale, zero = found.grid
    inside = exact.clamp(-zero * scale, (255 - zero) * scale)
    assert (dequantized(found, torch.float64) - inside).abs().max() < scale * 0.501


@pytest.mark.parametrize("chained", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    "inputs, outputs, kernel, stride, more",
    [
        (64, 48, 1, 1, {}),
        (64, 48, 1, 2, {}),
        (512, 1024, 1, 1, {}),
        (512, 1024, 1, 2, {}),
        (32, 64, 3, 1, {}),
        (32, 64, 3, 2, {}),
        (32, 64, 3, 1, {"dilation": 2}),
        (32, 64, 3, 1, {"groups": 4}),
        (3, 64, 7, 2, {}),
    ],
)
def test_a_convolution_equals_that_of_the_rounded_numbers(
    inputs, outputs, kernel, stride, more, signed, joined, relu, chained
):
    conv = Conv2d(inputs, outputs, kernel, stride, bias=True, **more).eval().requires_grad_(False)
    x = torch.randn(2, inputs, 9, 8).to(memory_format=torch.channels_last)
    x = x if signed else x.abs()
    observed = fused_conv2d(conv, conv.weight, conv.bias, INT8, joined, chained)
    y = F.conv2d(x, conv.weight, conv.bias, stride, conv.padding, conv.dilation, conv.groups)
    added, other = torch.randn_like(y), Grid.over(4.0, signed=True)
    # What is added is lost, so that each call is given its own.
    expected = observed(x, added.clone() if joined else None, relu=relu)
    y = y + added if joined else y
    torch.testing.assert_close(expected, y.relu() if relu else y, rtol=1e-4, atol=1e-4)
    came_in, went_out = (Grid(scale, int(zero)) for scale, zero in observed.grids("minmax").tolist())
    layer = observed.int8(came_in, went_out)
    for given in (x, quantized(x, came_in)):
        found = layer(given, quantized(added, other) if joined else None, relu=relu)
        numbers, scales = whole(conv.weight)
        weight = numbers * scales[:, None, None, None]
        where = stride, conv.padding, conv.dilation, conv.groups
        y = F.conv2d(on_grid(x, came_in), weight.double(), conv.bias.double(), *where)
        y = y + on_grid(added, other) if joined else y
        y = y.relu() if relu else y
        if chained:
            assert isinstance(found, Quantized) and found.grid == went_out
            assert_rounded(found, y)
        else:
            torch.testing.assert_close(found.double(), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chained", [True, False])
def test_a_fully_connected_layer_equals_that_of_the_rounded_numbers(chained):
    like, x = nn.Linear(200, 70), torch.randn(9, 200)
    observed = fused_linear(like, like.weight, INT8, chained)
    with torch.no_grad():
        torch.testing.assert_close(observed(x), F.linear(x, like.weight, like.bias).relu(), rtol=1e-4, atol=1e-5)
    came_in, went_out = (Grid(scale, int(zero)) for scale, zero in observed.grids("minmax").tolist())
    found = observed.int8(came_in, went_out)(x)
    numbers, scales = whole(like.weight.detach())
    weight = numbers.double() * scales[:, None]
    exact = F.linear(on_grid(x, came_in), weight, like.bias.detach().double()).relu()
    if chained:
        assert_rounded(found, exact)
    else:
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


def test_each_output_s_weights_have_their_own_scale():
    weight = torch.randn(5, 4, 3, 3) * torch.tensor([1e-3, 1, 50, 0, 2])[:, None, None, None]
    numbers, scales = whole(weight)
    assert numbers.dtype == torch.int8 and numbers[[0, 1, 2, 4]].abs().amax((1, 2, 3)).eq(127).all()
    assert (numbers * scales[:, None, None, None] - weight).abs().le(scales[:, None, None, None] * 0.501).all()


# Grids


def test_grids_cover_what_they_are_over():
    for signed in (True, False):
        grid = Grid.over(3.0, signed)
        assert grid.limit == pytest.approx(3.0) and grid.zero == (128 if signed else 0)
        low, high = ((number - grid.zero) * grid.scale for number in (0, 255))
        assert high == pytest.approx(3.0) and low == pytest.approx(-3.0, rel=0.01) if signed else low == 0
    both = covering([Grid.over(3.0, False), Grid.over(2.0, True)])
    assert both == Grid.over(3.0, True) and Grid.over(0.0, False).scale > 0


@pytest.mark.parametrize("signed", [True, False])
def test_a_histogram_that_grows_counts_what_one_of_the_last_size_counts(signed):
    observer, shown = Observer(), []
    for size in (0.01, 3.0, 0.5, 40.0):
        x = torch.randn(7, 3, 50, 40) * size
        shown.append(x if signed else x.abs())
        observer.watch(shown[-1])
    everything = torch.cat([x.flatten() for x in shown])
    assert observer.low == min(0, everything.min()) and observer.high == everything.max()
    assert observer.limit / 2 < everything.abs().max() <= observer.limit
    counted = torch.histc(everything, observer.bins, -observer.limit, observer.limit)
    # A number on the border of two bins may go to either.
    assert observer.counts.sum() == len(everything) and (observer.counts - counted).abs().sum() < 40


def test_the_range_of_the_smallest_error_is_found():
    x = torch.randn(1, 1, 400, 500)
    x[0, 0, 0, :10] = 60.0  # outliers
    observer = Observer()
    observer.watch(x)

    def error(limit):
        return (on_grid(x, Grid.over(limit, signed=True)) - x).square().mean()

    best = min(range(20, 101), key=lambda share: error(0.6 * share)) * 0.6
    assert observer.grid("minmax").limit == pytest.approx(60)
    assert observer.grid("mse").limit == pytest.approx(best, rel=0.1)
    y = torch.rand(1, 1, 1000, 1000)
    y[0, 0, 0, :5] = 9.0
    observer = Observer()
    observer.watch(y)
    assert observer.grid("percentile").limit == pytest.approx(1, rel=0.02)
    assert observer.grid("percentile").zero == 0


def test_an_observer_that_saw_nothing_has_a_grid():
    observer = Observer()
    observer.watch(torch.zeros(0, 3, 4, 4))
    assert all(observer.grid(method).scale > 0 for method in ("minmax", "percentile", "mse"))
    observer.watch(torch.zeros(2, 3, 4, 4))
    assert all(observer.grid(method).scale > 0 for method in ("minmax", "percentile", "mse"))
