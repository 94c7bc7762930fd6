"""The head: two sibling layers, with and without the context of the whole image."""

import pytest
import torch
from torch import nn

from resdet.detection.roi_head import RoIHead, whole_images

CLASSES, CHANNELS = 4, 6
SIZES = torch.tensor([[96, 128], [80, 112]])


class Body(nn.Module):
    """The area of a region and five numbers of its image: enough to tell regions apart."""

    channels = CHANNELS

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.01))

    def forward(self, features, rois, image_index):
        area = (rois[:, 2:] - rois[:, :2]).prod(1, keepdim=True)
        return torch.cat([area * self.scale, features[image_index]], 1)


@pytest.fixture
def inputs(random_boxes):
    """Features, regions and their images, sizes."""
    return torch.randn(2, CHANNELS - 1), random_boxes(7), torch.tensor([1, 0, 0, 1, 1, 1, 0]), SIZES


def head(context):
    """With biases that do something."""
    made = RoIHead(Body(), CLASSES, context)
    for layer in (made.classify, made.regress):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return made


def test_the_two_layers(inputs):
    made = head(False)
    class_logits, box_deltas = made(*inputs)
    vectors = made.body(*inputs[:3])
    torch.testing.assert_close(class_logits, vectors @ made.classify.weight.T + made.classify.bias)
    weight, bias = made.regress.weight.reshape(CLASSES, 4, CHANNELS), made.regress.bias.reshape(CLASSES, 4)
    torch.testing.assert_close(box_deltas, torch.einsum("rc,kdc->rkd", vectors, weight) + bias)


def test_context_joins_the_vector_of_the_image_to_each_regions(inputs):
    """Region by region; the gradient flows through both."""
    made = head(True)
    features, rois, image_index, sizes = inputs
    class_logits, box_deltas = made(*inputs)
    assert class_logits.shape == (7, CLASSES + 1) and box_deltas.shape == (7, CLASSES, 4)
    for k, (roi, image) in enumerate(zip(rois, image_index.tolist(), strict=True)):
        height, width = sizes[image].tolist()
        whole = torch.tensor([[0.0, 0, width, height]])
        own, context = (made.body(features, r, torch.tensor([image]))[0] for r in (roi[None], whole))
        torch.testing.assert_close(class_logits[k], made.classify(torch.cat([own, context])))
    class_logits[:, 0].sum().backward()
    expected = sum(
        made.classify.weight[0, 0] * (r[2] - r[0]) * (r[3] - r[1])
        + made.classify.weight[0, CHANNELS] * SIZES[image].prod()
        for r, image in zip(rois, image_index.tolist(), strict=True)
    )
    torch.testing.assert_close(made.body.scale.grad, expected.detach())


def test_whole_images():
    assert whole_images(SIZES).tolist() == [[0, 0, 128, 96], [0, 0, 112, 80]]
