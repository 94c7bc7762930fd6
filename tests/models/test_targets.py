"""resdet.models.targets against literal loops and torchvision's matcher."""

import pytest
import torch
from reference import encode_literal, iou_literal, match_anchors_literal, sample_rois_literal
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.rpn import RegionProposalNetwork

from resdet import boxes
from resdet.models.anchors import base_anchors, grid_anchors
from resdet.models.box_coder import BoxCoder
from resdet.models.ohem import hard_examples
from resdet.models.targets import (
    RoITargets,
    label_anchors,
    match_anchors,
    random_subset,
    sample_rois,
)
from resdet.types import Target

HEIGHT, WIDTH = 96, 128
STDS = (0.1, 0.1, 0.2, 0.2)
EVERYTHING = 100_000
RPN = {"foreground_fraction": 1.0, "foreground_iou": 0.7, "background_iou": 0.3, "cross_boundary": True}
ROI = {"foreground_fraction": 1.0, "foreground_iou": 0.5, "background_iou": (0.0, 0.5), "box_coder": BoxCoder(STDS)}


def targets_of(gt_boxes, labels=None):
    gt_boxes = torch.as_tensor(gt_boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(gt_boxes)).long() if labels is None else torch.tensor(labels)
    return Target(gt_boxes, labels, torch.zeros(len(gt_boxes), dtype=torch.bool))


@pytest.fixture
def anchors():
    return grid_anchors(base_anchors((16, 32, 64), (0.5, 1, 2)), HEIGHT // 16, WIDTH // 16, 16)


def inside(anchors):
    return [x1 >= 0 and y1 >= 0 and x2 <= WIDTH and y2 <= HEIGHT for x1, y1, x2, y2 in anchors.tolist()]


# ------------------------------------------------------------ matching


@pytest.mark.parametrize("rows, columns", [(60, 3), (60, 1), (3, 20), (60, 0), (0, 3), (0, 0)])
def test_matching_equals_the_literal_loop(rows, columns):
    # Eighths, so that ties and both thresholds occur exactly; a column without any overlap too.
    iou = torch.randint(0, 8, (rows, columns)) / 8
    iou[:, :1] *= torch.randint(0, 2, ())
    labels = match_anchors(iou, 0.75, 0.25)
    assert labels.tolist() == match_anchors_literal(iou.tolist(), 0.75, 0.25)


def test_matching_equals_torchvision(random_boxes, anchors):
    iou = boxes.iou(anchors, random_boxes(6, HEIGHT, WIDTH))
    matched = Matcher(0.7, 0.3, allow_low_quality_matches=True)(iou.T)
    expected = torch.where(matched >= 0, 1, torch.where(matched == Matcher.BELOW_LOW_THRESHOLD, 0, -1))
    labels = match_anchors(iou, 0.7, 0.3)
    assert torch.equal(labels.long(), expected)
    assert set(labels.tolist()) == {1, 0, -1}


def test_all_anchors_in_a_tie_for_the_best_are_objects():
    iou = torch.tensor([[0.5], [0.25], [0.5], [0.4]])
    assert match_anchors(iou, 0.7, 0.3).tolist() == [1, 0, 1, -1]


def test_a_box_that_no_anchor_touches_makes_no_object():
    """torchvision's matcher would call every anchor its best, at IoU 0."""
    iou = torch.tensor([[0.0, 0.8], [0.0, 0.1], [0.0, 0.5]])
    assert match_anchors(iou, 0.7, 0.3).tolist() == [1, 0, -1]
    assert Matcher(0.7, 0.3, allow_low_quality_matches=True)(iou.T).tolist() == [1, 1, 1]


# ------------------------------------------------------------ the RPN's mini-batch


def test_labels_and_deltas_equal_torchvision(random_boxes, anchors):
    target = targets_of(random_boxes(5, HEIGHT, WIDTH))
    rpn = RegionProposalNetwork(None, None, 0.7, 0.3, 256, 0.5, {}, {}, 0.7)
    (labels,), (matched,) = rpn.assign_targets_to_anchors([anchors], [{"boxes": target.boxes}])
    positive, negative, deltas = label_anchors(anchors, target, HEIGHT, WIDTH, batch=EVERYTHING, **RPN)
    assert torch.equal(positive, (labels == 1).nonzero()[:, 0])
    assert torch.equal(negative, (labels == 0).nonzero()[:, 0])
    expected = TorchvisionBoxCoder((1, 1, 1, 1)).encode_single(matched[positive], anchors[positive])
    torch.testing.assert_close(deltas, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cross_boundary", [False, True])
def test_labels_equal_the_literal_loop(random_boxes, anchors, cross_boundary):
    """Without cross-boundary anchors the best anchor of a box is the best of those inside."""
    target = targets_of(random_boxes(5, HEIGHT, WIDTH))
    rules = RPN | {"cross_boundary": cross_boundary}
    positive, negative, deltas = label_anchors(anchors, target, HEIGHT, WIDTH, batch=EVERYTHING, **rules)
    kept = [k for k, within in enumerate(inside(anchors)) if within or cross_boundary]
    gt_boxes = target.boxes.tolist()
    iou = [[iou_literal(anchors[k].tolist(), box) for box in gt_boxes] for k in kept]
    labels = match_anchors_literal(iou, 0.7, 0.3)
    assert positive.tolist() == [k for k, label in zip(kept, labels, strict=True) if label == 1]
    assert negative.tolist() == [k for k, label in zip(kept, labels, strict=True) if label == 0]
    best = [gt_boxes[row.index(max(row))] for row, label in zip(iou, labels, strict=True) if label == 1]
    literal = [encode_literal(box, anchors[k].tolist()) for box, k in zip(best, positive.tolist(), strict=True)]
    torch.testing.assert_close(deltas, torch.tensor(literal), rtol=1e-4, atol=1e-5)
    assert len(kept) < len(anchors) or cross_boundary


def test_the_best_of_the_inner_anchors_is_an_object_though_an_outer_one_is_better():
    # IoU with the box: 0.56 for the outer anchor, 0.34 and 0 for the inner ones
    anchors = torch.tensor([[-10.0, -10, 30, 30], [8, 8, 40, 40], [60, 40, 92, 72]])
    target = targets_of([[0, 0, 30, 30]])
    result = label_anchors(anchors, target, HEIGHT, WIDTH, batch=9, **RPN | {"cross_boundary": False})
    assert result.positive.tolist() == [1] and result.negative.tolist() == [2]
    every = label_anchors(anchors, target, HEIGHT, WIDTH, batch=9, **RPN)
    assert every.positive.tolist() == [0] and every.negative.tolist() == [2]


def test_an_anchor_that_touches_the_border_is_inside():
    anchors = torch.tensor(
        [[0.0, 0, WIDTH, HEIGHT], [0, 0, WIDTH + 0.5, HEIGHT], [-0.5, 0, 50, 50], [0, 0, 50, 97]]
    )
    rules = RPN | {"cross_boundary": False}
    result = label_anchors(anchors, targets_of([[0, 0, WIDTH, HEIGHT]]), HEIGHT, WIDTH, batch=9, **rules)
    assert result.positive.tolist() == [0] and result.negative.tolist() == []
    assert result.deltas.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("cross_boundary", [False, True])
def test_an_image_without_boxes_gives_background_only(anchors, cross_boundary):
    rules = RPN | {"cross_boundary": cross_boundary, "foreground_fraction": 0.5}
    positive, negative, deltas = label_anchors(anchors, targets_of([]), HEIGHT, WIDTH, batch=32, **rules)
    assert len(positive) == 0 and deltas.shape == (0, 4)
    assert len(set(negative.tolist())) == 32
    assert cross_boundary or all(inside(anchors[negative]))


def test_boxes_that_only_outer_anchors_touch_make_no_object():
    anchors = torch.tensor([[-20.0, -20, 12, 12], [40, 40, 72, 72], [60, 40, 92, 72]])
    target = targets_of([[0, 0, 10, 10]])
    rules = RPN | {"cross_boundary": False}
    positive, negative, deltas = label_anchors(anchors, target, HEIGHT, WIDTH, batch=9, **rules)
    assert positive.tolist() == [] and negative.tolist() == [1, 2] and deltas.shape == (0, 4)
    assert label_anchors(anchors, target, HEIGHT, WIDTH, batch=9, **RPN).positive.tolist() == [0]


@pytest.mark.parametrize("gt_boxes", [[], [[0, 0, 10, 10]]])
def test_an_image_smaller_than_every_anchor_gives_nothing(gt_boxes):
    anchors = grid_anchors(base_anchors((64,), (1,)), 2, 2, 16)
    rules = RPN | {"cross_boundary": False}
    positive, negative, deltas = label_anchors(anchors, targets_of(gt_boxes), 32, 32, batch=9, **rules)
    assert len(positive) == len(negative) == len(deltas) == 0


@pytest.mark.parametrize("batch, fraction", [(32, 0.5), (8, 0.25), (400, 0.01), (400, 0.5), (1, 0.5)])
def test_the_sample_has_the_right_counts_and_no_anchor_twice(random_boxes, anchors, batch, fraction):
    target = targets_of(random_boxes(5, HEIGHT, WIDTH))
    every = label_anchors(anchors, target, HEIGHT, WIDTH, batch=EVERYTHING, **RPN)
    rules = RPN | {"foreground_fraction": fraction}
    positive, negative, deltas = label_anchors(anchors, target, HEIGHT, WIDTH, batch=batch, **rules)
    assert len(positive) == min(int(batch * fraction), len(every.positive))
    assert len(negative) == min(batch - len(positive), len(every.negative))
    assert len(set(positive.tolist())) == len(positive) == len(deltas)
    assert len(set(negative.tolist())) == len(negative)
    assert set(positive.tolist()) <= set(every.positive.tolist())
    assert set(negative.tolist()) <= set(every.negative.tolist())
    of_anchor = dict(zip(every.positive.tolist(), every.deltas.tolist(), strict=True))
    assert deltas.tolist() == [of_anchor[k] for k in positive.tolist()]


def test_random_subset_draws_each_index_equally_often():
    indices = torch.arange(100, 110)
    draws = torch.stack([random_subset(indices, 4) for _ in range(1000)])
    counts = torch.bincount(draws.flatten(), minlength=110)[100:]
    assert counts.sum() == 4000 and (counts - 400).abs().max() < 80  # 5 standard deviations
    assert random_subset(indices, 10) is indices
    assert random_subset(indices, 0).tolist() == []


# ------------------------------------------------------------ the head's mini-batch


def near(gt_boxes, count):
    """Proposals that overlap the boxes more or less."""
    chosen = gt_boxes[torch.randint(0, len(gt_boxes), (count,))]
    return boxes.clip(chosen + torch.randn(count, 4) * 8, HEIGHT, WIDTH)


@pytest.mark.parametrize("background_iou", [(0.0, 0.5), (0.1, 0.5), (0.1, 0.3)])
def test_regions_equal_the_literal_loop(random_boxes, background_iou):
    target = targets_of(random_boxes(4, HEIGHT, WIDTH, 16), [2, 0, 1, 2])
    proposals = torch.cat([near(target.boxes, 40), random_boxes(40, HEIGHT, WIDTH)])
    rules = ROI | {"background_iou": background_iou}
    rois, classes, deltas = sample_rois(proposals, target, 3, batch=EVERYTHING, **rules)
    given = proposals.tolist(), target.boxes.tolist(), target.labels.tolist()
    expected = sample_rois_literal(*given, 3, 0.5, background_iou, STDS)
    assert rois.tolist() == [roi for roi, _, _ in expected]
    assert classes.tolist() == [label for _, label, _ in expected]
    torch.testing.assert_close(deltas, torch.tensor([d for _, _, d in expected]), rtol=1e-4, atol=1e-4)
    assert set(classes.tolist()) == {0, 1, 2, 3}


def test_the_ground_truth_joins_the_proposals():
    target = targets_of([[10, 10, 50, 60], [70, 20, 120, 90]], [1, 0])
    rois, classes, deltas = sample_rois(torch.tensor([[0.0, 80, 20, 96]]), target, 2, batch=9, **ROI)
    assert torch.equal(rois, torch.cat([target.boxes, torch.tensor([[0.0, 80, 20, 96]])]))
    assert classes.tolist() == [1, 0, 2]
    assert not deltas.any()


@pytest.mark.parametrize("batch, fraction", [(16, 0.25), (12, 0.5), (60, 0.02), (200, 0.25)])
def test_regions_have_the_right_counts_and_none_comes_twice(random_boxes, batch, fraction):
    target = targets_of(random_boxes(4, HEIGHT, WIDTH, 16), [2, 0, 1, 2])
    proposals = torch.cat([near(target.boxes, 40), random_boxes(40, HEIGHT, WIDTH)])
    every = sample_rois(proposals, target, 3, batch=EVERYTHING, **ROI)
    foreground = int((every.classes < 3).sum())
    rules = ROI | {"foreground_fraction": fraction}
    rois, classes, deltas = sample_rois(proposals, target, 3, batch=batch, **rules)
    chosen = int((classes < 3).sum())
    assert chosen == min(int(batch * fraction), foreground)
    assert (classes[:chosen] < 3).all() and not deltas[chosen:].any()
    assert len(rois) - chosen == min(batch - chosen, len(every.rois) - foreground)
    known = {tuple(roi): row for row, roi in enumerate(every.rois.tolist())}
    rows = [known[tuple(roi)] for roi in rois.tolist()]
    assert len(set(rows)) == len(rows)
    assert torch.equal(classes, every.classes[rows]) and torch.equal(deltas, every.deltas[rows])


def test_background_lies_in_its_half_open_range():
    target = targets_of([[0, 0, 80, 80]])
    # IoU 0, ⅛ (low, taken), ¼, ½ (foreground)
    proposals = torch.tensor([[90.0, 0, 100, 50], [0, 0, 10, 80], [0, 0, 20, 80], [0, 0, 40, 80]])
    rules = ROI | {"background_iou": (0.125, 0.25)}
    rois, classes, _ = sample_rois(proposals, target, 1, batch=9, **rules)
    assert rois.tolist() == [proposals[3].tolist(), target.boxes[0].tolist(), proposals[1].tolist()]
    assert classes.tolist() == [0, 0, 1]


def test_regions_of_an_image_without_boxes_are_background(random_boxes):
    proposals = random_boxes(20)
    rois, classes, deltas = sample_rois(proposals, targets_of([]), 3, batch=8, **ROI)
    assert len(rois) == 8 and classes.tolist() == [3] * 8 and not deltas.any()
    few = sample_rois(proposals[:5], targets_of([]), 3, batch=8, **ROI)
    assert torch.equal(few.rois, proposals[:5])


def test_regions_without_proposals_are_the_ground_truth():
    target = targets_of([[10, 10, 50, 60]], [1])
    rois, classes, deltas = sample_rois(torch.zeros(0, 4), target, 3, batch=8, **ROI)
    assert torch.equal(rois, target.boxes) and classes.tolist() == [1] and not deltas.any()
    nothing = sample_rois(torch.zeros(0, 4), targets_of([]), 3, batch=8, **ROI)
    assert nothing.rois.shape == nothing.deltas.shape == (0, 4)
    assert nothing.classes.shape == (0,) and nothing.classes.dtype == torch.int64


def test_a_ground_truth_box_without_area_harms_nobody(random_boxes):
    target = targets_of([[10, 10, 10, 60], [20, 20, 70, 70]], [0, 1])
    _, classes, deltas = sample_rois(random_boxes(20), target, 2, batch=64, **ROI)
    assert 0 not in classes.tolist() and deltas.isfinite().all()
    anchors = grid_anchors(base_anchors((16, 32), (1,)), 6, 8, 16)
    result = label_anchors(anchors, target, HEIGHT, WIDTH, batch=EVERYTHING, **RPN)
    alone = label_anchors(anchors, targets_of([[20, 20, 70, 70]]), HEIGHT, WIDTH, batch=EVERYTHING, **RPN)
    assert torch.equal(result.positive, alone.positive) and torch.equal(result.deltas, alone.deltas)


def test_hard_examples_against_a_loop(random_boxes):
    """The regions of the highest loss, without those that overlap a harder one."""
    rois, losses = random_boxes(60, 60, 60, 15), torch.rand(60)
    regions = RoITargets(rois, torch.randint(0, 4, (60,)), torch.randn(60, 4))
    expected = []
    for k in losses.argsort(descending=True).tolist():
        if all(boxes.iou(rois[k, None], rois[j, None]) <= 0.7 for j in expected) and len(expected) < 20:
            expected.append(k)
    chosen = hard_examples(regions, losses, 20, 0.7)
    for field, all_of_it in zip(chosen, regions, strict=True):
        assert torch.equal(field, all_of_it[expected])
    assert len(hard_examples(RoITargets(*(field[:0] for field in regions)), losses[:0], 20, 0.7).rois) == 0


def test_an_anchor_may_not_leave_the_image_at_any_side():
    """In an image that is higher than wide, and in one that is wider than high."""
    inside = [10.0, 10, 40, 40]
    rules = RPN | {"cross_boundary": False}
    for height, width in ((200, 60), (60, 200)):
        leaving = [
            [-1, 10, 29, 40],
            [10, -1, 40, 29],
            [width - 29, 10, width + 1, 40],
            [10, height - 29, 40, height + 1],
        ]
        anchors = torch.tensor([inside, *leaving])
        result = label_anchors(anchors, targets_of([inside]), height, width, batch=9, **rules)
        assert result.positive.tolist() == [0] and result.negative.tolist() == []
