"""What a region goes through: conv5_x, layers of one's own, spatial pyramids."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from resdet import ops
from resdet.detection.bodies import Conv5, Layers, pyramid_pool, warp
from resdet.nn.blocks import Bottleneck
from resdet.nn.norm import FrozenBatchNorm2d


class Mean(nn.Module):
    """A conv5_x that only changes the size."""

    def forward(self, x):
        return x.mean((2, 3), keepdim=True).expand(-1, -1, 2, 3)


def test_conv5_is_pooling_conv5_and_the_average():
    seen = []

    def pool(features, rois, image_index):
        seen.append((rois, image_index))
        return features[image_index]

    features, rois, image_index = torch.randn(2, 6, 3, 3), torch.rand(5, 4), torch.tensor([0, 0, 1, 1, 1])
    vectors = Conv5(pool, nn.Sequential(Mean()), 6)(features, rois, image_index)
    assert seen == [(rois, image_index)]
    torch.testing.assert_close(vectors, features.mean((2, 3))[image_index])


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_training_convolves_before_pooling_and_nothing_changes(random_boxes, stride_in_1x1):
    """Gradients too; without gradients the body pools first."""
    unit = Bottleneck(8, 4, 2, norm=FrozenBatchNorm2d, stride_in_1x1=stride_in_1x1)
    for norm in (unit.norm1, unit.norm2, unit.norm3, unit.shortcut.norm):
        norm.running_mean.normal_(0, 0.1)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    pool = partial(ops.roi_align, size=6, scale=1 / 16)
    body = Conv5(pool, nn.Sequential(unit, Bottleneck(16, 4, 1, norm=FrozenBatchNorm2d)), 16).double()
    features = torch.randn(2, 8, 6, 8, dtype=torch.float64, requires_grad=True)
    rois, image_index = random_boxes(12, 96, 128, 8).double() * 1.2 - 8, torch.arange(12) % 2  # some outside

    def vectors_and_gradients(commutes):
        with pytest.MonkeyPatch.context() as patch:
            calls = []
            patch.setattr(body, "commutes", lambda: calls.append(1) or commutes)
            vectors = body(features, rois, image_index)
            assert calls
        return [vectors, *torch.autograd.grad(vectors.sin().sum(), [features, *body.parameters()])]

    convolved, pooled = vectors_and_gradients(True), vectors_and_gradients(False)
    assert body.commutes()
    torch.testing.assert_close(convolved, pooled)
    with torch.no_grad():
        torch.testing.assert_close(body(features, rois, image_index), pooled[0])


# Layers, and spatial pyramids


@pytest.mark.parametrize(("convs", "fcs"), [((), (5,)), ((4,), (7, 5)), ((4, 8), (9,))])
def test_layers_are_convolutions_then_fully_connected_ones(random_boxes, convs, fcs):
    pool = partial(ops.roi_pool, size=3, scale=1 / 16)
    body = Layers(pool, 6, 9, convs=convs, fcs=fcs, dropout=0.5).eval()
    features, rois, image_index = torch.randn(2, 6, 6, 8), random_boxes(5), torch.tensor([0, 1, 1, 0, 1])
    x = pool(features, rois, image_index)
    for conv in body.convs:
        x = torch.relu(nn.functional.conv2d(x, conv.weight, conv.bias, padding=1))
    for fc in body.fcs:
        x = torch.relu(x.flatten(1) @ fc.weight.T + fc.bias)
    torch.testing.assert_close(body(features, rois, image_index), x)
    assert x.shape == (5, body.channels) and body.channels == fcs[-1]
    assert not torch.equal(body.train()(features, rois, image_index), x), "dropout"


def test_a_pyramid_is_the_largest_value_of_each_bin_of_each_level(random_boxes):
    features, rois, image_index = torch.randn(2, 3, 12, 16), random_boxes(6, 96, 128, 30), torch.arange(6) % 2
    pooled = pyramid_pool(features, rois, image_index, levels=(4, 2, 1), scale=1 / 8)
    assert pooled.shape == (6, 3, 21)
    for region in range(6):
        x1, y1, x2, y2 = (math.floor(c / 8 + 0.5) for c in rois[region].tolist())
        height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        expected = []
        for n in (4, 2, 1):
            for row in range(n):
                for column in range(n):
                    top, bottom = y1 + math.floor(row * height / n), y1 + math.ceil((row + 1) * height / n)
                    left, right = x1 + math.floor(column * width / n), x1 + math.ceil((column + 1) * width / n)
                    part = features[image_index[region], :, max(top, 0) : bottom, max(left, 0) : right]
                    expected.append(part.amax((1, 2)) if part.numel() else torch.zeros(3))
        torch.testing.assert_close(pooled[region], torch.stack(expected, 1))


def test_a_warped_region_is_the_image_around_it(random_boxes):
    """At a size of 227, one output pixel for each of the image, with 16 of context at each side; zero beyond it."""
    image = torch.randn(1, 3, 300, 320)
    region = torch.tensor([[60.0, 40, 60 + 195, 40 + 195], [-5, -5, 190, 190]])
    warped = warp(image, region, torch.tensor([0, 0]), size=227)
    torch.testing.assert_close(warped[0], image[0, :, 24 : 24 + 227, 44 : 44 + 227], atol=1e-5, rtol=1e-5)
    assert (warped[1, :, :20] == 0).all() and (warped[1, :, :, :20] == 0).all()
    torch.testing.assert_close(warped[1, :, 22:, 22:], image[0, :, 1:206, 1:206], atol=1e-5, rtol=1e-5)
    small = warp(image, random_boxes(3, 300, 320, 30), torch.zeros(3, dtype=torch.int64), size=32)
    assert small.shape == (3, 3, 32, 32)
