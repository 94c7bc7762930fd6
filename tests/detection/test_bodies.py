"""What a region goes through: conv5_x."""

from functools import partial

import pytest
import torch
from torch import nn

from resdet import ops
from resdet.detection.bodies import Conv5
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
