"""resdet.models.postprocess against torchvision's RoIHeads."""

import math

import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads

from resdet.models.box_coder import BoxCoder
from resdet.models.box_voting import box_voting
from resdet.models.postprocess import Predictions, predict, select
from resdet.models.soft_nms import soft_nms

CLASSES = 4
SIZES = torch.tensor([[96, 128], [80, 112]])
RULES = {"box_coder": BoxCoder((0.1, 0.1, 0.2, 0.2)), "min_score": 0.05, "nms_iou": 0.3, "max_detections": 100}


def detect(class_logits, box_deltas, proposals, sizes, *, box_coder, **rules):
    """What the detector does with the head's outputs."""
    found = predict(class_logits, box_deltas, proposals, sizes, box_coder)
    return [select(predictions, **rules) for predictions in found]


def heads(min_score=0.05, nms_iou=0.3, max_detections=100):
    """torchvision's; its box weights 10, 10, 5, 5 are one over our units 0.1, 0.1, 0.2, 0.2."""
    return RoIHeads(
        None, None, None, 0.5, 0.5, 128, 0.25, (10.0, 10.0, 5.0, 5.0), min_score, nms_iou, max_detections
    )


@pytest.mark.parametrize("counts", [(40, 30), (0, 30), (40, 0), (0, 0)])
@pytest.mark.parametrize("rules", [{}, {"min_score": 0.3}, {"nms_iou": 0.6}, {"max_detections": 7}])
def test_detections_equal_torchvision(random_boxes, counts, rules):
    proposals = [random_boxes(count, *size, 8) for count, size in zip(counts, SIZES.tolist(), strict=True)]
    class_logits, box_deltas = torch.randn(sum(counts), CLASSES + 1) * 2, torch.randn(sum(counts), CLASSES, 4)
    result = detect(class_logits, box_deltas, proposals, SIZES, **RULES | rules)
    if sum(counts) == 0:  # torchvision's reshape refuses this
        assert [(d.boxes.shape, d.scores.shape, d.labels.shape) for d in result] == [((0, 4), (0,), (0,))] * 2
        return
    background_first = class_logits.roll(1, 1)
    with_background = torch.cat([torch.zeros(sum(counts), 4), box_deltas.flatten(1)], dim=1)
    expected = heads(**rules).postprocess_detections(background_first, with_background, proposals, SIZES.tolist())
    for detections, boxes, scores, labels in zip(result, *expected, strict=True):
        torch.testing.assert_close(detections.boxes, boxes, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(detections.scores, scores)
        assert torch.equal(detections.labels, labels - 1)
    assert sum(len(detections.scores) for detections in result) > 3


def test_classes_do_not_suppress_each_other():
    """One region, two likely classes, the same box: both stay; a second region with the same box goes."""
    class_logits = torch.tensor([[3.0, 3.5, -9], [2.0, 2.0, -9]])
    rois = torch.tensor([[10.0, 10, 50, 50], [11, 10, 51, 50]])
    (detections,) = detect(class_logits, torch.zeros(2, 2, 4), [rois], SIZES[:1], **RULES)
    assert detections.labels.tolist() == [1, 0]  # best first
    assert detections.boxes.tolist() == [[10, 10, 50, 50], [11, 10, 51, 50]]
    assert detections.scores.tolist() == pytest.approx([0.6225, 0.5], abs=1e-3)


def test_background_never_shows():
    class_logits = torch.tensor([[-9.0, -9, 9]])
    (detections,) = detect(class_logits, torch.zeros(1, 2, 4), [torch.tensor([[1.0, 1, 9, 9]])], SIZES[:1], **RULES)
    assert len(detections.scores) == 0


def test_each_class_has_its_own_box_and_boxes_are_clipped():
    class_logits = torch.tensor([[1.0, 1, 0]])
    deltas = torch.zeros(1, 2, 4)
    deltas[0, 0, 0] = 10  # in units of 0.1: one width to the right
    deltas[0, 1, 3] = 5 * torch.tensor(2.0).log()  # in units of 0.2: twice as high
    rois = torch.tensor([[70.0, 20, 110, 60]])
    (detections,) = detect(class_logits, deltas, [rois], SIZES[:1], **RULES)
    found = dict(zip(detections.labels.tolist(), detections.boxes.tolist(), strict=True))
    assert found[0] == pytest.approx([110, 20, 128, 60])
    assert found[1] == pytest.approx([70, 0, 110, 80], abs=1e-3)


def box_and_neighbour():
    """Two boxes of a class that overlap, in coordinates that bfloat16 does not hold."""
    return torch.tensor([[602.02, 332.30, 831.80, 488.50], [603.02, 331.30, 833.80, 489.50]])


def test_a_vote_is_the_mean_by_score():
    found, scores, labels = box_and_neighbour(), torch.tensor([0.6, 0.2]), torch.zeros(2, dtype=torch.int64)
    expected = (found[0] * 0.6 + found[1] * 0.2) / 0.8
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            kept = box_voting(found[:1], labels[:1], found, scores, labels, 0.5)
        assert kept.dtype == torch.float32
        torch.testing.assert_close(kept, expected[None])


def test_a_box_without_a_vote_stays_as_it_is():
    """All scores may be 0 where `min_score` is; a box of another class has no say."""
    found = box_and_neighbour()
    predictions = Predictions(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), found[:, None].repeat(1, 2, 1))
    plain, voted = (
        select(predictions, min_score=0.0, nms_iou=0.3, max_detections=9, vote_iou=iou) for iou in (0, 0.5)
    )
    assert len(voted.boxes) == 2
    torch.testing.assert_close(voted, plain, rtol=0, atol=0)
    labels, scores = torch.tensor([0, 1]), torch.tensor([0.0, 0.9])
    torch.testing.assert_close(
        box_voting(found[:1], labels[:1], found, scores, labels, 0.5), found[:1], rtol=0, atol=0
    )


def test_only_the_boxes_of_the_class_that_overlap_enough_have_a_vote():
    """IoU with the first: 1, ½ exactly, a little less."""
    found = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9], [0, 0, 10, 8]])
    scores, labels = torch.tensor([0.5, 0.25, 0.9, 0.9]), torch.tensor([1, 1, 1, 0])
    kept = box_voting(found[:1], labels[:1], found, scores, labels, 0.5)
    torch.testing.assert_close(kept, torch.tensor([[0.0, 0, 10, (0.5 * 10 + 0.25 * 5) / 0.75]]))


def test_the_least_score_is_enough_and_a_box_without_area_is_none():
    scores = torch.tensor([[0.5, 0.25], [0.75, 0.125], [0.5, 0.0]])
    regions = torch.tensor([[0.0, 0, 10, 10], [30, 0, 40, 0], [50, 0, 60, 10]])
    predictions = Predictions(scores, regions[:, None].repeat(1, 2, 1))
    predictions.boxes[2, 0, 2] = 50
    found = select(predictions, min_score=0.25, nms_iou=0.3, max_detections=9)
    assert found.scores.tolist() == [0.5, 0.25] and found.labels.tolist() == [0, 1]
    assert found.boxes.tolist() == [regions[0].tolist()] * 2


def test_plain_suppression_is_the_default():
    found = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [50, 0, 60, 10]])
    predictions = Predictions(torch.tensor([[0.9], [0.8], [0.7]]), found[:, None])
    plain = select(predictions, min_score=0.05, nms_iou=0.79, max_detections=9)
    assert plain.boxes.tolist() == found[[0, 2]].tolist() and plain.scores.tolist() == pytest.approx([0.9, 0.7])
    both = select(predictions, min_score=0.05, nms_iou=0.81, max_detections=2)
    assert both.boxes.tolist() == found[:2].tolist()
    voted = select(predictions, min_score=0.05, nms_iou=0.79, max_detections=9, vote_iou=0.75)
    torch.testing.assert_close(voted.boxes, torch.tensor([[0, 0, 10, 15.4 / 1.7], [50, 0, 60, 10]]))


def test_soft_suppression_by_hand():
    """IoU ½ of the class: the score is multiplied by exp(−¼ / ½); what falls to the least score stays."""
    found = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5], [50, 0, 60, 10]])
    scores, labels = torch.tensor([1.0, 0.8, 0.7, 0.25]), torch.tensor([0, 0, 1, 0])
    predictions = Predictions(
        torch.zeros(4, 2).scatter(1, labels[:, None], scores[:, None]), found[:, None].repeat(1, 2, 1)
    )
    detections = select(predictions, min_score=0.25, nms_iou=0.3, max_detections=9, soft_nms_sigma=0.5)
    assert detections.labels.tolist() == [0, 1, 0, 0]
    assert detections.scores.tolist() == pytest.approx([1, 0.7, 0.8 * math.exp(-0.5), 0.25])
    assert detections.boxes.tolist() == found[[0, 2, 1, 3]].tolist()
    fewer = select(predictions, min_score=0.5, nms_iou=0.3, max_detections=9, soft_nms_sigma=0.5)
    assert fewer.scores.tolist() == pytest.approx([1, 0.7])
    assert select(
        predictions, min_score=0.25, nms_iou=0.3, max_detections=1, soft_nms_sigma=0.5
    ).scores.tolist() == [1]


def test_soft_suppression_of_boxes_that_score_nothing_keeps_each_once():
    found = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10]])
    for empty in (found[:0], found):
        count = len(empty)
        keep, values = soft_nms(empty, torch.zeros(count), torch.zeros(count).long(), 0.5, 0.0, 9)
        assert sorted(keep.tolist()) == list(range(count)) and values.tolist() == [0] * count
