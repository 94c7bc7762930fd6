"""resdet.boxes against torchvision's box coder and operators, and against arithmetic on single numbers."""

import math

import pytest
import torch
import torchvision.ops
from reference import encode_literal, iou_literal
from torchvision.models.detection._utils import BoxCoder

from resdet import boxes


def test_area_of_a_box_without_extent_is_zero():
    given = torch.tensor([[0.0, 0, 4, 5], [3, 3, 3, 9], [3, 3, 9, 3], [5, 5, 1, 9], [5, 5, 9, 1], [5, 5, 1, 1]])
    assert boxes.area(given).tolist() == [20, 0, 0, 0, 0, 0]
    assert boxes.area(torch.tensor([[0.0, 0, 0.25, 0.5]])).tolist() == [0.125]


def test_iou_equals_torchvision_and_the_literal_loop(random_boxes):
    a, b = random_boxes(40), random_boxes(30)
    iou = boxes.iou(a, b)
    torch.testing.assert_close(iou, torchvision.ops.box_iou(a, b))
    literal = torch.tensor([[iou_literal(p, q) for q in b.tolist()] for p in a.tolist()])
    torch.testing.assert_close(iou, literal)
    assert ((iou > 0.3) & (iou < 1)).any() and (iou == 0).any()


def test_iou_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10]])
    # itself; the right half; touching; inside, a quarter; 25 common of 175
    b = torch.tensor([[0.0, 0, 10, 10], [5, 0, 10, 10], [10, 0, 20, 10], [2, 2, 7, 7], [5, 5, 15, 15]])
    torch.testing.assert_close(boxes.iou(a, b), torch.tensor([[1, 1 / 2, 0, 1 / 4, 25 / 175]]))


def test_iou_with_boxes_without_area_is_zero_and_never_nan():
    a = torch.tensor([[3.0, 3, 3, 3], [0, 0, 10, 0], [0, 0, 10, 10], [8, 8, 2, 2]])
    iou = boxes.iou(a, a)
    literal = torch.tensor([[iou_literal(p, q) for q in a.tolist()] for p in a.tolist()])
    torch.testing.assert_close(iou, literal)
    assert iou.sum() == 1  # only the square with itself


@pytest.mark.parametrize("rows, columns", [(0, 3), (3, 0), (0, 0)])
def test_iou_of_nothing(rows, columns, random_boxes):
    assert boxes.iou(random_boxes(rows), random_boxes(columns)).shape == (rows, columns)


def test_encode_equals_torchvision_and_the_literal_formulas(random_boxes):
    given, anchors = random_boxes(50), random_boxes(50)
    deltas = boxes.encode(given, anchors)
    torch.testing.assert_close(deltas, BoxCoder((1, 1, 1, 1)).encode_single(given, anchors), rtol=1e-5, atol=1e-6)
    literal = [encode_literal(p, q) for p, q in zip(given.tolist(), anchors.tolist(), strict=True)]
    torch.testing.assert_close(deltas, torch.tensor(literal), rtol=1e-4, atol=1e-5)


def test_decode_equals_torchvision_including_the_clamp(random_boxes):
    anchors = random_boxes(50)
    deltas = torch.randn(50, 4) * torch.tensor([1.0, 1.0, 4.0, 4.0])
    limit = math.log(1000 / 16)
    assert (deltas[:, 2:] > limit).any() and (deltas[:, 2:] < -limit).any()
    expected = BoxCoder((1, 1, 1, 1)).decode_single(deltas, anchors)
    torch.testing.assert_close(boxes.decode(deltas, anchors), expected, rtol=1e-5, atol=1e-3)


def test_a_huge_delta_grows_a_16_pixel_anchor_to_1000_pixels():
    grown = boxes.decode(torch.tensor([0.0, 0, 1e6, 1e6]), torch.tensor([0.0, 0, 16, 16]))
    torch.testing.assert_close(grown, torch.tensor([-492.0, -492, 508, 508]), rtol=0, atol=1e-3)


def test_boxes_in_several_dimensions(random_boxes):
    """(..., 4): what holds for a row of boxes holds for a table of them, as regions by classes."""
    given, anchors = random_boxes(12).reshape(3, 4, 4), random_boxes(12).reshape(3, 4, 4)
    flat, flat_anchors = given.flatten(0, 1), anchors.flatten(0, 1)
    for function, second in ((boxes.encode, (anchors, flat_anchors)), (boxes.decode, (anchors, flat_anchors))):
        assert torch.equal(function(given, second[0]), function(flat, second[1]).reshape(3, 4, 4))
    assert torch.equal(boxes.clip(given, 30, 50), boxes.clip(flat, 30, 50).reshape(3, 4, 4))
    larger = boxes.resize(flat, (10, 20), (30, 40)).reshape(3, 4, 4)
    assert torch.equal(boxes.resize(given, (10, 20), (30, 40)), larger)
    assert torch.equal(boxes.area(given), boxes.area(flat).reshape(3, 4))


def test_decode_inverts_encode(random_boxes):
    given, anchors = random_boxes(200).double(), random_boxes(200).double()
    torch.testing.assert_close(boxes.decode(boxes.encode(given, anchors), anchors), given, rtol=0, atol=1e-9)
    assert boxes.encode(anchors, anchors).abs().max() < 1e-12


def test_decode_broadcasts_over_classes(random_boxes):
    anchors, deltas = random_boxes(7), torch.randn(7, 3, 4)
    every = boxes.decode(deltas, anchors[:, None])
    assert every.shape == (7, 3, 4)
    for label in range(3):
        torch.testing.assert_close(every[:, label], boxes.decode(deltas[:, label], anchors))


def test_clip_equals_torchvision():
    given = (torch.rand(4, 25, 4) - 0.25) * 200
    torch.testing.assert_close(boxes.clip(given, 60, 90), torchvision.ops.clip_boxes_to_image(given, (60, 90)))
    inside = torch.tensor([[0.0, 0, 90, 60], [1, 2, 3, 4]])
    assert torch.equal(boxes.clip(inside, 60, 90), inside)


def test_resizing_moves_x_and_y_apart():
    given = torch.tensor([[1.0, 2, 3, 4]])
    assert boxes.resize(given, (30, 20), (300, 40)).tolist() == [[2, 20, 6, 40]]
    assert boxes.resize(given[:0], (30, 20), (300, 40)).shape == (0, 4)
