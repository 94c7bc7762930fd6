"""resdet.models.rpn against torchvision's RPN under copied weights."""

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.models.detection.rpn import RPNHead as TorchvisionRPNHead

from resdet import boxes
from resdet.config import DetConfig, RPNConfig
from resdet.models.anchors import AnchorGenerator, base_anchors, grid_anchors
from resdet.models.rpn import RPN, RPNHead
from resdet.models.rpn import propose as propose_from_levels
from resdet.types import FeatureMaps

SIZES = torch.tensor([[96, 128], [80, 112]])
LIMITS = {"pre_nms_topk": 400, "post_nms_topk": 100, "nms_iou": 0.7, "min_size": 0.0}


def propose(logits, deltas, anchors, sizes, **limits):
    """The proposals from the anchors of one level."""
    return propose_from_levels([logits], [deltas], [anchors], sizes, **limits)


@pytest.fixture
def anchors():
    return grid_anchors(base_anchors((16, 32, 64), (0.5, 1, 2)), 6, 8, 16)  # 432


@pytest.fixture
def predictions(anchors):
    return torch.randn(2, len(anchors)), torch.randn(2, len(anchors), 4) * 0.3


def test_outputs_equal_torchvision_in_the_order_of_the_anchors():
    ours, theirs = RPNHead(12, 12, 9, depth=2), TorchvisionRPNHead(12, 9, conv_depth=2)
    for layer, twin in (
        (ours.convs[0], theirs.conv[0][0]),
        (ours.convs[1], theirs.conv[1][0]),
        (ours.objectness_logits, theirs.cls_logits),
        (ours.anchor_deltas, theirs.bbox_pred),
    ):
        torch.nn.init.normal_(layer.weight, std=0.3)
        torch.nn.init.normal_(layer.bias)
        twin.load_state_dict(layer.state_dict())
    features = torch.randn(2, 12, 5, 7)
    expected_logits, expected_deltas = concat_box_prediction_layers(*theirs([features]))
    logits, deltas = ours(features)
    torch.testing.assert_close(logits, expected_logits.reshape(2, -1))
    torch.testing.assert_close(deltas, expected_deltas.reshape(2, -1, 4))
    assert logits.shape == (2, 5 * 7 * 9)


def test_an_output_belongs_to_the_anchor_at_its_cell():
    rpn = RPNHead(1, 1, 9)
    with torch.no_grad():
        for layer in (rpn.convs[0], rpn.objectness_logits, rpn.anchor_deltas):
            layer.weight.zero_()
        rpn.convs[0].weight[0, 0, 1, 1] = 1  # reads its own cell
        rpn.objectness_logits.weight[4] = 1  # the square of the middle scale
        rpn.anchor_deltas.weight[4 * 4 + 1] = 1  # and its t_y
    features = torch.zeros(1, 1, 5, 7)
    features[0, 0, 3, 2] = 1
    logits, deltas = rpn(features)
    assert logits.nonzero().tolist() == [[0, (3 * 7 + 2) * 9 + 4]]
    assert deltas.nonzero().tolist() == [[0, (3 * 7 + 2) * 9 + 4, 1]]
    anchor = grid_anchors(base_anchors((16, 32, 64), (0.5, 1, 2)), 5, 7, 16)[logits.argmax()]
    assert anchor.tolist() == [40 - 16, 56 - 16, 40 + 16, 56 + 16]


def test_a_new_network_proposes_almost_the_anchors():
    """Weights from a normal distribution of deviation 0.01 (Faster R-CNN §3.1.3), biases zero."""
    rpn = RPNHead(64, 64, 9)
    for layer, count in (
        (rpn.convs[0], 64 * 64 * 9),
        (rpn.objectness_logits, 64 * 9),
        (rpn.anchor_deltas, 64 * 36),
    ):
        assert layer.weight.numel() == count and not layer.bias.any()
        assert abs(layer.weight.mean()) < 5 * 0.01 / count**0.5
        assert layer.weight.std().item() == pytest.approx(0.01, rel=4 / count**0.5)


def test_nothing_negative_passes_between_the_convolutions():
    rpn = RPNHead(1, 1, 1)
    with torch.no_grad():
        for layer in (rpn.convs[0], rpn.objectness_logits, rpn.anchor_deltas):
            layer.weight.fill_(1)
    logits, deltas = rpn(torch.tensor([[[[-3.0]], [[2.0]]]]).reshape(2, 1, 1, 1))
    assert logits.tolist() == [[0], [2]] and deltas.tolist() == [[[0] * 4], [[2] * 4]]


def test_outputs_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        logits, deltas = RPNHead(4, 4, 9)(torch.randn(1, 4, 5, 7))
    assert logits.dtype == deltas.dtype == torch.float32


@pytest.mark.parametrize("min_size", [1e-3, 20.0])
@pytest.mark.parametrize("pre_nms_topk, post_nms_topk, nms_iou", [(400, 100, 0.7), (50, 300, 0.7), (9999, 20, 0.3)])
def test_proposals_equal_torchvision(anchors, predictions, pre_nms_topk, post_nms_topk, nms_iou, min_size):
    logits, deltas = predictions
    rpn = RegionProposalNetwork(
        *(None, None, 0.7, 0.3, 256, 0.5),
        {"training": 0, "testing": pre_nms_topk},
        {"training": 0, "testing": post_nms_topk},
        nms_iou,
    ).eval()
    rpn.min_size = min_size
    decoded = BoxCoder((1, 1, 1, 1)).decode(deltas.reshape(-1, 4), [anchors, anchors]).reshape(2, -1, 4)
    expected, _ = rpn.filter_proposals(decoded, logits.reshape(-1, 1), SIZES.tolist(), [len(anchors)])
    proposals = propose(
        *(logits, deltas, anchors, SIZES),
        pre_nms_topk=pre_nms_topk,
        post_nms_topk=post_nms_topk,
        nms_iou=nms_iou,
        min_size=min_size,
    )
    assert len(proposals) == 2 and min(map(len, proposals)) > 5
    for result, wanted in zip(proposals, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("pre_nms_topk, post_nms_topk", [(400, 200), (30, 60), (9999, 20)])
def test_proposals_from_several_levels_equal_torchvision(pre_nms_topk, post_nms_topk):
    """Top k of each level, suppression within each level, top k of all."""
    anchors = AnchorGenerator((16, 32, 64), (0.5, 1, 2), "corner", 3)([(12, 16), (6, 8), (3, 4)], [8, 16, 32])
    counts = [len(own) for own in anchors]
    logits, deltas = [torch.randn(2, n) for n in counts], [torch.randn(2, n, 4) * 0.3 for n in counts]
    rpn = RegionProposalNetwork(
        *(None, None, 0.7, 0.3, 256, 0.5),
        {"training": 0, "testing": pre_nms_topk},
        {"training": 0, "testing": post_nms_topk},
        0.7,
    ).eval()
    joint = torch.cat(anchors)
    decoded = BoxCoder((1, 1, 1, 1)).decode(torch.cat(deltas, 1).reshape(-1, 4), [joint, joint]).reshape(2, -1, 4)
    expected, _ = rpn.filter_proposals(decoded, torch.cat(logits, 1).reshape(-1, 1), SIZES.tolist(), counts)
    limits = {"pre_nms_topk": pre_nms_topk, "post_nms_topk": post_nms_topk, "nms_iou": 0.7, "min_size": 1e-3}
    proposals = propose_from_levels(logits, deltas, anchors, SIZES, **limits)
    for result, wanted in zip(proposals, expected, strict=True):
        assert len(wanted) >= 20
        torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-4)


def test_proposals_come_best_first_and_lie_in_their_image(anchors, predictions):
    logits, deltas = predictions
    proposals = propose(logits, deltas, anchors, SIZES, **LIMITS)
    for n, (rois, (height, width)) in enumerate(zip(proposals, SIZES.tolist(), strict=True)):
        assert (rois >= 0).all() and (rois[:, 2] <= width).all() and (rois[:, 3] <= height).all()
        assert (rois[:, 2:] > rois[:, :2]).all()
        every = boxes.clip(boxes.decode(deltas[n], anchors), height, width)
        source = (rois[:, None] - every).abs().sum(2).argmin(1)
        assert torch.equal(source, source[logits[n, source].argsort(descending=True)])
        overlaps = boxes.iou(rois, rois).fill_diagonal_(0)
        assert overlaps.max() <= 0.7


def test_a_box_pushed_out_of_the_image_is_no_proposal():
    anchors = torch.tensor([[0.0, 0, 32, 32], [32, 32, 64, 64]])
    deltas = torch.tensor([[[-3.0, 0, 0, 0], [0, 0, 0, 0]]])
    (rois,) = propose(torch.tensor([[9.0, 1.0]]), deltas, anchors, SIZES[:1], **LIMITS)
    assert rois.tolist() == [[32, 32, 64, 64]]


def propose_anchors(given, scores, **limits):
    """The proposals of an image of 96 × 128 whose anchors are not moved."""
    anchors = torch.tensor(given)
    rules = LIMITS | limits
    (rois,) = propose(torch.tensor([scores]), torch.zeros(1, len(anchors), 4), anchors, SIZES[:1], **rules)
    return rois.tolist()


def test_a_shorter_side_of_the_least_size_is_enough():
    wide, high = [0.0, 0.0, 40.0, 16.0], [60.0, 0.0, 76.0, 40.0]
    flat, thin, cut = [0.0, 50.0, 40.0, 65.5], [60.0, 50.0, 75.5, 90.0], [120.0, 0.0, 150.0, 40.0]
    assert propose_anchors([flat, wide, thin, cut, high], [5.0, 4, 3, 2, 1], min_size=16.0) == [wide, high]


@pytest.mark.parametrize("min_size", [0.0, -1.0])
def test_a_box_without_area_is_no_proposal_though_any_size_is_allowed(min_size):
    small = [0.0, 0.0, 0.25, 0.25]
    boxes_given = [[9.0, 9.0, 9.0, 30.0], [9.0, 9.0, 30.0, 9.0], small]
    assert propose_anchors(boxes_given, [3.0, 2, 1], min_size=min_size) == [small]


def test_the_limits_before_and_after_suppression():
    """The second best overlaps the best by ¾."""
    best, near, *far = ([x, 0.0, x + 10, y] for x, y in ((0.0, 80.0), (0.0, 60.0), (20.0, 90.0), (40.0, 90.0)))
    every, scores = [far[1], near, best, far[0]], [1.0, 3, 4, 2]
    assert propose_anchors(every, scores, nms_iou=0.75) == [best, near, *far]
    assert propose_anchors(every, scores, nms_iou=0.74) == [best, *far]
    assert propose_anchors(every, scores, nms_iou=0.74, post_nms_topk=2) == [best, far[0]]
    assert propose_anchors(every, scores, nms_iou=0.74, pre_nms_topk=2) == [best]
    assert propose_anchors(every, scores, nms_iou=0.74, pre_nms_topk=4) == [best, *far]


def test_no_proposal_is_an_empty_tensor(anchors, predictions):
    proposals = propose(*predictions, anchors, SIZES, **LIMITS | {"min_size": 1e6})
    assert [rois.shape for rois in proposals] == [(0, 4), (0, 4)]


def test_every_image_needs_its_size(anchors, predictions):
    with pytest.raises(ValueError):
        propose(*predictions, anchors, SIZES[:1], **LIMITS)


def test_proposals_carry_no_gradient(anchors, predictions):
    logits, deltas = (tensor.requires_grad_() for tensor in predictions)
    assert not any(rois.requires_grad for rois in propose(logits, deltas, anchors, SIZES, **LIMITS))


def make_rpn(levels=1):
    settings = RPNConfig(pre_nms_topk=300, post_nms_topk=40, nms_iou=0.8, min_size=8)
    test = replace(DetConfig().test, pre_nms_topk=200, post_nms_topk=20)
    return RPN(AnchorGenerator((16, 32), (0.5, 1, 2), levels=levels), RPNHead(3, 4, 6 // levels), settings, test)


def test_the_module_scores_the_anchors_of_the_last_map():
    rpn = make_rpn()
    maps, strides = [torch.randn(2, 3, 3, 4), torch.randn(2, 3, 5, 8)], [32, 16]
    (logits,), (deltas,), (anchors,) = rpn(FeatureMaps(maps, strides))
    expected = rpn.head(maps[1])
    assert torch.equal(logits, expected[0]) and torch.equal(deltas, expected[1])
    assert torch.equal(anchors, grid_anchors(base_anchors((16, 32), (0.5, 1, 2)), 5, 8, 16))


def test_the_module_scores_the_anchors_of_each_level():
    rpn = make_rpn(levels=2)
    maps, strides = [torch.randn(2, 3, 5, 8), torch.randn(2, 3, 3, 4)], [16, 32]
    logits, deltas, anchors = rpn(FeatureMaps(maps, strides))
    for n, (map_, stride, scale) in enumerate(zip(maps, strides, (16, 32), strict=True)):
        expected = rpn.head(map_)
        assert torch.equal(logits[n], expected[0]) and torch.equal(deltas[n], expected[1])
        assert torch.equal(anchors[n], grid_anchors(base_anchors((scale,), (0.5, 1, 2)), *map_.shape[2:], stride))


def test_the_module_proposes_as_many_as_it_is_set_to():
    rpn = make_rpn()
    torch.nn.init.normal_(rpn.head.objectness_logits.weight)
    scored = rpn(FeatureMaps([torch.randn(2, 3, 6, 8)], [16]))
    settings = {"nms_iou": 0.8, "min_size": 8}
    cases = (({}, 200, 20), ({"training": True}, 300, 40), ({"post_nms_topk": 7}, 200, 7))
    for arguments, before, after in cases:
        found = rpn.propose(scored, SIZES, **arguments)
        expected = propose_from_levels(*scored, SIZES, pre_nms_topk=before, post_nms_topk=after, **settings)
        assert [len(own) for own in found] == [after] * 2
        assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(found, expected, strict=True))
