"""resdet.models.layers.conv against F.conv2d, and the shortcuts of resdet.models.layers.blocks."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resdet.models.layers.blocks import BasicBlock, Bottleneck, PaddedIdentity, Projection, make_shortcut
from resdet.models.layers.conv import Conv2d
from resdet.models.layers.norm import FrozenBatchNorm2d
from resdet.ops import library


def taken(conv, x):
    """Whether `conv` lays the maps of `x` side by side."""
    with mock.patch.object(conv, "_side_by_side", wraps=conv._side_by_side) as spy:
        conv(x)
    return spy.called


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(7, 7), (14, 14), (4, 4), (5, 6), (6, 5), (1, 1), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_maps_side_by_side_equal_conv2d_and_its_gradients(kernel, stride, size, channels_last):
    conv = Conv2d(3, 5, kernel, stride).double()
    x = torch.randn(17, 3, *size, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    x.requires_grad_()
    assert taken(conv, x)

    expected = F.conv2d(x, conv.weight, stride=stride, padding=kernel // 2)
    result = conv(x)
    torch.testing.assert_close(result, expected)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(result, (x, conv.weight), upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (x, conv.weight), upstream))


def test_maps_are_laid_side_by_side_only_where_it_saves_time():
    conv = Conv2d(2, 2, 3)
    assert taken(conv, torch.randn(16, 2, 14, 14))
    assert not taken(conv, torch.randn(15, 2, 14, 14))  # few
    assert not taken(conv, torch.randn(16, 2, 14, 15))  # large
    assert not taken(conv, torch.randn(0, 2, 7, 7))
    with torch.no_grad():
        assert not taken(conv, torch.randn(16, 2, 14, 14))
    conv.weight.requires_grad_(False)
    assert not taken(conv, torch.randn(16, 2, 14, 14))


def test_a_detector_s_conv5_takes_that_way_and_gives_the_same():
    block = Bottleneck(16, 8, stride=2, stride_in_1x1=False, norm=FrozenBatchNorm2d).double()
    x = torch.randn(20, 16, 7, 7, dtype=torch.float64)
    assert taken(block.conv2, torch.randn(20, 8, 7, 7, dtype=torch.float64))
    together = block(x)
    torch.testing.assert_close(together, torch.cat([block(part) for part in x.split(5)]))


def test_autocast_keeps_its_type_on_that_way():
    conv = Conv2d(4, 4, 3)
    x = torch.randn(16, 4, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), conv(x), rtol=2e-2, atol=2e-2)


compiled = pytest.mark.skipif("cpu" not in library.DEVICES, reason="the operators were not compiled here")


def by_winograd(conv, x):
    """Whether `conv` takes Winograd's algorithm for `x`."""
    return "_Winograd" in type(conv(x).grad_fn).__name__


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
def test_winograd_s_algorithm_is_taken_only_where_it_saves_time():
    x = torch.randn(2, 64, 8, 8)
    assert by_winograd(Conv2d(64, 64, 3), x)
    assert not by_winograd(Conv2d(64, 48, 3), x)  # few channels
    assert not by_winograd(Conv2d(64, 72, 3), x)  # not in sixteens
    assert not by_winograd(Conv2d(64, 64, 3, 2), x)
    assert not by_winograd(Conv2d(64, 64, 1), x)
    assert not by_winograd(Conv2d(64, 64, 3).double(), x.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_winograd(Conv2d(64, 64, 3), x)


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
