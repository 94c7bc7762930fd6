"""resdet.models.layers.pixel_norm against torchvision's Normalize and against arithmetic on single pixels."""

import pytest
import torch
from torchvision.transforms.functional import normalize

from resdet.models.layers.pixel_norm import STYLES, PixelNorm


@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 3, 6, 8), dtype=torch.uint8)


def test_torchvision_style_equals_torchvision(images):
    # The figures that torchvision documents for its weights, for pixels in [0, 1].
    expected = normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(PixelNorm(STYLES["torchvision"])(images), expected, rtol=1e-5, atol=1e-5)


def test_msra_style_swaps_the_channels_and_subtracts_the_mean(images):
    x = PixelNorm(STYLES["msra"])(images)
    red, green, blue = images.float().unbind(1)
    expected = torch.stack([blue - 103.53, green - 116.28, red - 123.675], dim=1)
    torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("style", STYLES)
def test_padding_becomes_exactly_zero_and_nothing_else_changes(images, style):
    norm = PixelNorm(STYLES[style])
    whole = norm(images)
    x = norm(images, torch.tensor([[4, 8], [6, 5]]))
    assert torch.equal(x[0, :, :4], whole[0, :, :4]) and not x[0, :, 4:].any()
    assert torch.equal(x[1, :, :, :5], whole[1, :, :, :5]) and not x[1, :, :, 5:].any()
    assert torch.equal(norm(images, torch.tensor([[6, 8], [6, 8]])), whole)


def test_images_are_left_as_they_were_and_statistics_are_no_weights(images):
    before = images.clone()
    norm = PixelNorm(STYLES["torchvision"])
    x = norm(images, torch.tensor([[4, 8], [6, 5]]))
    assert torch.equal(images, before)
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    assert norm.state_dict() == {}
