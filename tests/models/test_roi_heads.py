"""The RoI heads: the two sibling layers, with and without the context of the whole image."""

import pytest
import torch
from torch import nn

from resdet.config import RoIConfig
from resdet.config import TestConfig as Limits
from resdet.models.box_coder import BoxCoder
from resdet.models.poolers import RoIPooler
from resdet.models.roi_heads import BoxPredictor, RoIHeads, concatenate, whole_images

CLASSES, CHANNELS = 4, 6
SIZES = torch.tensor([[96, 128], [80, 112]])


class Body(nn.Module):
    """The area of a region and five numbers of its image: enough to tell regions apart."""

    channels = CHANNELS

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.01))

    def forward(self, pooler, features, rois, image_index):
        area = (rois[:, 2:] - rois[:, :2]).prod(1, keepdim=True)
        return torch.cat([area * self.scale, features[image_index]], 1)


@pytest.fixture
def inputs(random_boxes):
    """Features, the regions of each image, sizes."""
    return torch.randn(2, CHANNELS - 1), [random_boxes(3), random_boxes(4)], SIZES


def heads(context):
    """With biases that do something."""
    predictor = BoxPredictor(CHANNELS * (1 + context), CLASSES)
    for layer in (predictor.cls_score, predictor.bbox_pred):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    parts = RoIPooler("pool", 7), Body(), predictor, BoxCoder()
    return RoIHeads(*parts, RoIConfig(), Limits(), context=context)


def test_the_two_layers(inputs):
    made = heads(False)
    class_logits, box_deltas = made(*inputs)
    vectors = made.box_head(None, inputs[0], *concatenate(inputs[1]))
    scores, deltas = made.box_predictor.cls_score, made.box_predictor.bbox_pred
    torch.testing.assert_close(class_logits, vectors @ scores.weight.T + scores.bias)
    weight, bias = deltas.weight.reshape(CLASSES, 4, CHANNELS), deltas.bias.reshape(CLASSES, 4)
    torch.testing.assert_close(box_deltas, torch.einsum("rc,kdc->rkd", vectors, weight) + bias)


def test_context_joins_the_vector_of_the_image_to_each_regions(inputs):
    """Region by region; the gradient flows through both."""
    made = heads(True)
    features, proposals, sizes = inputs
    rois, image_index = concatenate(proposals)
    classify = made.box_predictor.cls_score
    class_logits, box_deltas = made(*inputs)
    assert class_logits.shape == (7, CLASSES + 1) and box_deltas.shape == (7, CLASSES, 4)
    for k, (roi, image) in enumerate(zip(rois, image_index.tolist(), strict=True)):
        height, width = sizes[image].tolist()
        whole = torch.tensor([[0.0, 0, width, height]])
        own, context = (made.box_head(None, features, r, torch.tensor([image]))[0] for r in (roi[None], whole))
        torch.testing.assert_close(class_logits[k], classify(torch.cat([own, context])))
    class_logits[:, 0].sum().backward()
    expected = sum(
        classify.weight[0, 0] * (r[2] - r[0]) * (r[3] - r[1]) + classify.weight[0, CHANNELS] * SIZES[image].prod()
        for r, image in zip(rois, image_index.tolist(), strict=True)
    )
    torch.testing.assert_close(made.box_head.scale.grad, expected.detach())


def test_whole_images():
    assert whole_images(SIZES).tolist() == [[0, 0, 128, 96], [0, 0, 112, 80]]
