"""resdet.models.layers.conv against F.conv2d, and the shortcuts of resdet.models.layers.blocks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resdet.models.layers import conv as layers
from resdet.models.layers.blocks import BasicBlock, Bottleneck, PaddedIdentity, Projection, make_shortcut
from resdet.models.layers.conv import Conv2d
from resdet.models.layers.norm import FrozenBatchNorm2d
from resdet.ops import library

compiled = pytest.mark.skipif("cpu" not in library.DEVICES, reason="the operators were not compiled here")


@pytest.fixture
def taken(monkeypatch):
    """`taken(way, conv, x)`: x convolved in bfloat16, each sum by that way → the result, and what was offered."""

    def convolve(way, conv, x):
        offered = {}

        def choose(layer, ways):
            offered[layer.rpartition(", ")[2]] = [*ways]
            return way if way in ways else next(iter(ways))

        monkeypatch.setattr(layers, "fastest", choose)
        with torch.autocast("cpu", torch.bfloat16):
            return conv(x), offered

    return convolve


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(7, 7), (14, 14), (4, 4), (5, 6), (6, 5), (1, 1), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("way", ["direct", "side by side"])
def test_maps_side_by_side_equal_conv2d_and_its_gradients(way, stride, size, channels_last):
    weight, x = torch.randn(5, 3, 3, 3, dtype=torch.float64), torch.randn(17, 3, *size, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    exact = [x.requires_grad_(), weight.requires_grad_()]
    expected = F.conv2d(*exact, stride=stride, padding=1)
    upstream = torch.randn_like(expected)
    for_x, for_weight = torch.autograd.grad(expected, exact, upstream)
    with torch.no_grad():
        torch.testing.assert_close(layers._result(x, weight, weight, stride, way), expected)
        torch.testing.assert_close(layers._maps_gradient(upstream, x, weight, weight, stride, way), for_x)
        found = layers._weight_gradient(upstream, x, weight, stride, way)
        torch.testing.assert_close(found, for_weight.float())


@compiled
def test_each_sum_of_a_training_in_bfloat16_chooses_between_the_ways_that_fit(taken):
    small, wide, large = torch.randn(16, 64, 14, 14), torch.randn(2, 64, 8, 8), torch.randn(16, 64, 14, 15)

    def offered(conv, x):
        x = x.clone().requires_grad_()
        y, found = taken("", conv, x)
        y.float().sum().backward()
        assert {*found} in (set(), {"result", "gradient of the maps", "gradient of the weights"})
        assert len({tuple(ways) for ways in found.values()}) <= 1
        return next(iter(found.values()), [])

    assert offered(Conv2d(64, 64, 3), small) == ["side by side", "direct", "Winograd"]
    assert offered(Conv2d(64, 64, 3, 2), small) == ["side by side", "direct"]
    assert offered(Conv2d(64, 72, 3), small) == ["side by side", "direct"]  # not in sixteens
    assert offered(Conv2d(64, 48, 3), small) == ["side by side", "direct"]  # few channels
    for x in (wide, large, small[:15]):
        assert offered(Conv2d(64, 64, 3), x) == ["direct", "Winograd"]
    assert offered(Conv2d(64, 64, 3, 2), wide) == ["direct"]
    for conv in (Conv2d(64, 64, 1), Conv2d(64, 64, 7), Conv2d(64, 64, 3, groups=2), Conv2d(64, 64, 3, dilation=2)):
        assert not offered(conv, small)
    with torch.no_grad():
        assert not taken("", Conv2d(64, 64, 3), small)[1]
    assert not offered(Conv2d(64, 64, 3).requires_grad_(False), small)


@compiled
@pytest.mark.parametrize("way", ["side by side", "direct", "Winograd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_all_ways_give_the_same(stride, bias, dtype, way, taken):
    conv, x = Conv2d(64, 80, 3, stride, bias=bias), torch.randn(16, 64, 7, 7)
    exact = [t.detach().double().requires_grad_() for t in (x, conv.weight)]
    expected = F.conv2d(*exact, conv.bias.double() if bias else None, stride, 1)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, exact, upstream)
    x = x.to(dtype).requires_grad_()
    result, _ = taken(way, conv, x)
    assert result.dtype == torch.bfloat16
    gradients = torch.autograd.grad(result, (x, conv.weight), upstream.bfloat16())
    assert [gradient.dtype for gradient in gradients] == [dtype, torch.float32]
    for found, true in zip((result, *gradients), (expected, *wanted), strict=True):
        assert (found.double() - true).abs().mean() < 1e-2 * true.abs().mean()


def test_only_the_gradients_that_are_wanted_are_computed(taken):
    conv, x = Conv2d(16, 16, 3), torch.randn(16, 16, 7, 7)
    y, offered = taken("direct", conv, x)
    y.float().sum().backward()
    assert {*offered} == {"result", "gradient of the weights"}


def by_winograd(conv, x):
    """Whether `conv` takes Winograd's algorithm for `x` in float32."""
    return "_Convolution" in type(conv(x).grad_fn).__name__


@compiled
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(2, 64, 9, 14), (17, 64, 7, 7), (1, 80, 1, 1)], ids=str)
def test_winograd_s_convolution_and_its_gradients_equal_conv2d(shape, channels_last):
    conv, x = Conv2d(shape[1], 96, 3), torch.randn(shape)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    x.requires_grad_()
    result, exact = conv(x), [t.detach().double().requires_grad_() for t in (x, conv.weight)]
    assert by_winograd(conv, x)
    expected = F.conv2d(*exact, padding=1)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)
    upstream = torch.randn_like(result)
    gradients = torch.autograd.grad(result, (x, conv.weight), upstream)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, exact, upstream.double()), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-3)


@compiled
def test_in_float32_wide_3x3_convolutions_are_winograd_s_by_rule():
    x = torch.randn(2, 64, 8, 8)
    assert by_winograd(Conv2d(64, 64, 3), x)
    assert not by_winograd(Conv2d(64, 48, 3), x)  # few channels
    assert not by_winograd(Conv2d(64, 72, 3), x)  # not in sixteens
    assert not by_winograd(Conv2d(64, 64, 3, 2), x)
    assert not by_winograd(Conv2d(64, 64, 1), x)
    assert not by_winograd(Conv2d(64, 64, 3).double(), x.double())


@pytest.mark.parametrize(
    "kind, changed, kept",
    [("A", PaddedIdentity, nn.Identity), ("B", Projection, nn.Identity), ("C", Projection, Projection)],
)
def test_shortcut_options(kind, changed, kept):
    assert isinstance(make_shortcut(kind, 8, 8, 1, FrozenBatchNorm2d), kept)
    for outputs, stride in ((8, 2), (16, 1), (16, 2)):
        shortcut = make_shortcut(kind, 8, outputs, stride, FrozenBatchNorm2d)
        assert isinstance(shortcut, changed)
        assert shortcut(torch.randn(1, 8, 5, 6)).shape == (1, outputs, -(-5 // stride), -(-6 // stride))


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_unit_leaves_its_input_alone(block):
    """In-place ReLUs must not write into what the shortcut still needs."""
    unit = block(8 * block.expansion, 8, stride=1, stride_in_1x1=False, norm=FrozenBatchNorm2d)
    x = torch.randn(2, 8 * block.expansion, 6, 6)
    before = x.clone()
    assert (unit(x) >= 0).all()
    assert torch.equal(x, before)
