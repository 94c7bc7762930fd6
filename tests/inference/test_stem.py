"""What stands around conv1 computes what the plain network's layers compute."""

from __future__ import annotations

import pytest
import torch
from networks import plain_pyramid
from torch import nn

from resdet.engine.runtime import Runtime
from resdet.inference.optimize_layers import RememberedAnchors, Upsample
from resdet.inference.quantized import Grid, Quantized, dequantized, quantized
from resdet.inference.stem import FastMaxPool, FastPixelNorm
from resdet.models.backbones.fpn import pad_to_multiple
from resdet.models.layers.pixel_norm import STYLES, PixelNorm

SIZES = torch.tensor([[37, 60], [50, 41]])


def runtime(dtype):
    return Runtime(0, 1, torch.device("cpu"), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("multiple", [1, 32])
@pytest.mark.parametrize("style", STYLES)
def test_pixels_are_normalised_to_the_last_bit(style, multiple, dtype):
    norm, images = PixelNorm(STYLES[style]), torch.randint(0, 256, (2, 3, 50, 60), dtype=torch.uint8)
    found = FastPixelNorm(norm, runtime(dtype), multiple)(images, SIZES)
    expected = pad_to_multiple(norm(images, SIZES), multiple)
    assert found.dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    assert torch.equal(found, expected.to(found.dtype))


@pytest.mark.parametrize("style", STYLES)
def test_pixels_in_whole_numbers_are_the_nearest(style):
    norm, images = PixelNorm(STYLES[style]), torch.randint(0, 256, (2, 3, 50, 60), dtype=torch.uint8)
    found = FastPixelNorm(norm, runtime(torch.float32), 1, whole=True)(images, SIZES)
    assert isinstance(found, Quantized) and found.grid.zero == 128
    assert (dequantized(found, torch.float32) - norm(images, SIZES)).abs().max() <= found.grid.scale * 0.501


def test_pooling_and_upsampling_are_torch_s():
    x = torch.randn(2, 5, 9, 7).to(memory_format=torch.channels_last)
    whole = quantized(x, Grid.over(3.0, signed=True))
    for fast, plain in [(FastMaxPool(), nn.MaxPool2d(3, 2, 1)), (Upsample(), nn.Upsample(scale_factor=2))]:
        assert torch.equal(fast(x), plain(x)) and fast(x).is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(fast(whole).values.float(), plain(whole.values.float()))


def test_anchors_are_made_once_for_each_size():
    make = plain_pyramid().rpn.anchor_generator
    remembered, strides = RememberedAnchors(make), (4, 8, 16, 32, 64)
    for side in (8, 8, 16, 8):
        shapes = [(side, 2 * side)] * 5
        before = remembered.last
        found = remembered(shapes, strides)
        assert all(map(torch.equal, found, make(shapes, strides)))
        assert (found is before[1]) == (before[0] == (tuple(shapes), strides))
