"""What a pooled region goes through: conv5_x, or convolutions and fully connected layers."""

import pytest
import torch
from torch import nn

from resdet import ops
from resdet.models.box_heads import Conv5Head, ConvFCHead
from resdet.models.layers.blocks import Bottleneck
from resdet.models.layers.norm import FrozenBatchNorm2d
from resdet.models.poolers import RoIPooler
from resdet.types import FeatureMaps


class Mean(nn.Module):
    """A conv5_x that only changes the size."""

    def forward(self, x):
        return x.mean((2, 3), keepdim=True).expand(-1, -1, 2, 3)


def test_conv5_is_pooling_conv5_and_the_average():
    seen = []

    class Whole(RoIPooler):
        def forward(self, features, rois, image_index, bin_stride=1):
            seen.append((rois, image_index))
            return features.maps[0][image_index]

    map_, rois, image_index = torch.randn(2, 6, 3, 3), torch.rand(5, 4), torch.tensor([0, 0, 1, 1, 1])
    features = FeatureMaps([map_], [16])
    vectors = Conv5Head(nn.Sequential(Mean()), 6)(Whole("pool", 3), features, rois, image_index)
    assert seen == [(rois, image_index)]
    torch.testing.assert_close(vectors, map_.mean((2, 3))[image_index])


@pytest.mark.parametrize(("kind", "stride_in_1x1"), [("align", True), ("align", False), ("align_v2", False)])
def test_training_convolves_before_pooling_and_nothing_changes(random_boxes, kind, stride_in_1x1):
    """Gradients too; without gradients the head pools first."""
    unit = Bottleneck(8, 4, 2, norm=FrozenBatchNorm2d, stride_in_1x1=stride_in_1x1)
    for norm in (unit.norm1, unit.norm2, unit.norm3, unit.shortcut.norm):
        norm.running_mean.normal_(0, 0.1)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    pooler = RoIPooler(kind, 6)
    head = Conv5Head(nn.Sequential(unit, Bottleneck(16, 4, 1, norm=FrozenBatchNorm2d)), 16).double()
    map_ = torch.randn(2, 8, 6, 8, dtype=torch.float64, requires_grad=True)
    features = FeatureMaps([map_], [16])
    rois, image_index = random_boxes(12, 96, 128, 8).double() * 1.2 - 8, torch.arange(12) % 2  # some outside

    def vectors_and_gradients(commutes):
        with pytest.MonkeyPatch.context() as patch:
            calls = []
            patch.setattr(head, "commutes", lambda *_: calls.append(1) or commutes)
            vectors = head(pooler, features, rois, image_index)
            assert calls
        return [vectors, *torch.autograd.grad(vectors.sin().sum(), [map_, *head.parameters()])]

    convolved, pooled = vectors_and_gradients(True), vectors_and_gradients(False)
    assert head.commutes(pooler, features)
    assert not head.commutes(RoIPooler("pool", 6), features), "the largest value of a sum is not a sum"
    assert not head.commutes(pooler, FeatureMaps([map_] * 2, [32, 16])), "nor is the larger of two"
    torch.testing.assert_close(convolved, pooled)
    with torch.no_grad():
        torch.testing.assert_close(head(pooler, features, rois, image_index), pooled[0])


# Convolutions and fully connected layers


@pytest.mark.parametrize(("convs", "fcs"), [((), (5,)), ((4,), (7, 5)), ((4, 8), (9,))])
def test_layers_are_convolutions_then_fully_connected_ones(random_boxes, convs, fcs):
    head = ConvFCHead(6, 9, conv_dims=convs, fc_dims=fcs, dropout=0.5).eval()
    map_, rois, image_index = torch.randn(2, 6, 6, 8), random_boxes(5), torch.tensor([0, 1, 1, 0, 1])
    regions = RoIPooler("pool", 3), FeatureMaps([map_], [16]), rois, image_index
    x = ops.roi_pool(map_, rois, image_index, 3, 1 / 16)
    for conv in (block.conv for block in head.convs):
        x = torch.relu(nn.functional.conv2d(x, conv.weight, conv.bias, padding=1))
    for fc in head.fcs:
        x = torch.relu(x.flatten(1) @ fc.weight.T + fc.bias)
    torch.testing.assert_close(head(*regions), x)
    assert x.shape == (5, head.channels) and head.channels == fcs[-1]
    assert not torch.equal(head.train()(*regions), x), "dropout"


def test_the_layers_that_vgg16_fills_are_its_own():
    def parts(**settings):
        given = {"conv_dims": (), "fc_dims": (4096, 4096), "dropout": 0.5, "after_vgg16": True} | settings
        with torch.device("meta"):
            return list(ConvFCHead(512, given.pop("bins", 49), **given).classifier_parts())

    assert parts() == ["fcs"]
    for other in ({"after_vgg16": False}, {"bins": 36}, {"fc_dims": (4096,)}, {"conv_dims": (512,)}):
        assert parts(**other) == []
