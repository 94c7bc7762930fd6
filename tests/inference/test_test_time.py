"""The test-time methods against literal versions, and what they must not change."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from networks import pictures, plain

from resdet import boxes, ops
from resdet.engine.runtime import Runtime
from resdet.inference.optimize import OptimizedRCNN
from resdet.inference.test_time import TestTimeRCNN, best_boxes, flip_boxes, flip_images
from resdet.models.box_voting import box_voting
from resdet.models.image_scales import resize_images
from resdet.models.poolers import RoIPooler, lower_scale
from resdet.models.postprocess import Predictions, select
from resdet.models.soft_nms import soft_nms
from resdet.types import FeatureMaps

ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
KIND = (18, "torchvision", "align", 4, 1, "frozen")


def iou(a, b):
    """Of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def candidates(random_boxes, count=40):
    """Boxes, scores and labels that overlap a lot."""
    found = random_boxes(count, 40, 40, 12)
    return found, torch.rand(count), torch.randint(0, 3, (count,))


# Voting and soft-NMS


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_voting_against_a_loop(random_boxes, threshold):
    found, scores, labels = candidates(random_boxes)
    keep = torch.tensor([3, 0, 17, 22])
    expected = []
    for k in keep.tolist():
        weight, total = 0.0, np.zeros(4)
        for box, score, label in zip(found.tolist(), scores.tolist(), labels.tolist(), strict=True):
            if label == labels[k] and iou(box, found[k].tolist()) >= threshold:
                weight += score
                total += score * np.array(box)
        expected.append(total / weight)
    voted = box_voting(found[keep], labels[keep], found, scores, labels, threshold)
    np.testing.assert_allclose(voted, expected, rtol=1e-5)


@pytest.mark.parametrize("most", [5, 1000])
def test_soft_nms_against_a_loop(random_boxes, most):
    found, scores, labels = candidates(random_boxes)
    left = [[score, k] for k, score in enumerate(scores.tolist())]
    expected = []
    while left and len(expected) < most:
        score, best = max(left, key=lambda pair: pair[0])
        if score < 0.1:
            break
        expected.append((best, score))
        left = [pair for pair in left if pair[1] != best]
        for pair in left:
            if labels[pair[1]] == labels[best]:
                pair[0] *= math.exp(-(iou(found[pair[1]].tolist(), found[best].tolist()) ** 2) / 0.5)
    keep, values = soft_nms(found, scores, labels, 0.5, 0.1, most)
    assert keep.tolist() == [k for k, _ in expected] and len(keep) in (5, *range(15, 41))
    np.testing.assert_allclose(values, [score for _, score in expected], rtol=1e-5)
    assert len(soft_nms(found[:0], scores[:0], labels[:0], 0.5, 0.1, most)[0]) == 0


def test_selection_with_them(random_boxes):
    """Both work on what passes the score, class by class."""
    predictions = Predictions(torch.rand(20, 3) ** 2, random_boxes(60, 40, 40, 12).reshape(20, 3, 4))
    rules = {"min_score": 0.2, "nms_iou": 0.3, "max_detections": 10}
    plain_, voted, soft = (
        select(predictions, **rules, **more) for more in ({}, {"vote_iou": 0.5}, {"soft_nms_sigma": 0.5})
    )
    assert torch.equal(plain_.scores, voted.scores) and not torch.equal(plain_.boxes, voted.boxes)
    assert (soft.scores[:-1] >= soft.scores[1:]).all() and len(soft.scores) == 10 > 0
    assert (soft.scores >= 0.2).all()


# Several scales


def test_the_two_scales_against_a_loop(random_boxes):
    factors, rois = [0.2, 0.4, 0.6, 0.8, 1.0], random_boxes(200, 1500, 2000, 5)
    expected = []
    for x1, y1, x2, y2 in rois.tolist():
        side = math.sqrt((x2 - x1) * (y2 - y1))
        sums = [abs(math.log(side * a / 224)) + abs(math.log(side * b / 224)) for a, b in pairwise(factors)]
        expected.append(sums.index(min(sums)))
    assert lower_scale(rois, factors).tolist() == expected and set(expected) == {0, 1, 2, 3}


def test_maxout_is_the_larger_of_the_two_scales(random_boxes):
    factors = (0.25, 0.5, 1.0)
    maps = [torch.randn(2, 3, round(40 * f), round(60 * f)) for f in factors]
    rois, index = random_boxes(30, 640, 960, 30), torch.arange(30) % 2

    def pool(features, rois, image_index):
        return ops.roi_align(features, rois, image_index, 3, 1 / 16, aligned=False)

    pooled = RoIPooler("align", 3)(FeatureMaps(maps, [16 / f for f in factors]), rois, index)
    for k, low in enumerate(lower_scale(rois, factors).tolist()):
        own, image = rois[k, None], index[k, None]
        both = [pool(maps[s], own * factors[s], image)[0] for s in (low, low + 1)]
        torch.testing.assert_close(pooled[k], torch.maximum(*both))


def test_images_are_resized_without_their_padding():
    images, sizes = pictures()
    small, small_sizes = resize_images(images, sizes, 0.5)
    assert small_sizes.tolist() == [[50, 66], [45, 66]] and small.shape == (2, 3, 50, 66)
    assert (small[1, :, 45:] == 0).all() and small.dtype == torch.uint8
    constant = torch.full_like(images, 77)
    assert (resize_images(constant, sizes, 0.5)[0][0] == 77).all()
    assert resize_images(images, sizes, 1)[0] is images


# Mirror images


def test_flipping_twice_changes_nothing(random_boxes):
    images, sizes = pictures()
    flipped = flip_images(images, sizes)
    assert torch.equal(flip_images(flipped, sizes), images) and not torch.equal(flipped, images)
    assert torch.equal(flipped[1, :, 10, 0], images[1, :, 10, 130]) and (flipped[1, :, 90:] == 0).all()
    found = random_boxes(9, 101, 131)
    torch.testing.assert_close(flip_boxes(flip_boxes(found, 131), 131), found)
    assert flip_boxes(torch.tensor([10.0, 1, 30, 5]), 100).tolist() == [70, 1, 90, 5]


# All together


def same(found, expected):
    """Two lists of detections."""
    assert sum(len(detections.scores) for detections in expected) > 20
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(a.boxes, b.boxes, rtol=1e-3, atol=1e-2)


def test_without_a_method_nothing_changes():
    images, sizes = pictures()
    same(
        TestTimeRCNN([plain(*KIND)], ALONE, short_side=101)(images, sizes),
        OptimizedRCNN(plain(*KIND), ALONE)(images, sizes),
    )


def test_an_ensemble_of_a_network_with_itself_changes_nothing():
    images, sizes = pictures()
    ensemble = TestTimeRCNN([plain(*KIND), plain(*KIND)], ALONE, short_side=101)
    same(ensemble(images, sizes), OptimizedRCNN(plain(*KIND), ALONE)(images, sizes))
    assert [len(own) for own in ensemble.propose(images, sizes, ensemble.see(images, sizes))] == [80, 80]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("refine", [False, True])
def test_flips_and_refinement_against_a_literal_version(flip, refine):
    images, sizes = pictures()
    model = plain(*KIND)

    def look(rois, mirrored):
        """Scores and boxes of one view."""
        seen, own = images, rois
        if mirrored:
            seen = flip_images(images, sizes)
            own = [torch.stack([131 - r[:, 2], r[:, 1], 131 - r[:, 0], r[:, 3]], 1) for r in rois]
        logits, deltas = model.roi_heads(model.features(seen, sizes), own, sizes)
        scores, decoded, start = logits.softmax(1)[:, :-1], [], 0
        for (height, _), r in zip(sizes.tolist(), own, strict=True):
            units = deltas[start : start + len(r)] * deltas.new_tensor([0.1, 0.1, 0.2, 0.2])
            box = boxes.clip(boxes.decode(units, r[:, None]), height, 131)
            decoded.append(flip_boxes(box, 131) if mirrored else box)
            start += len(r)
        return scores.split([len(r) for r in rois]), decoded

    def views(rois):
        found = [look(rois, mirrored) for mirrored in ([False, True] if flip else [False])]
        return [
            Predictions(sum(f[0][i] for f in found) / len(found), sum(f[1][i] for f in found) / len(found))
            for i in range(len(rois))
        ]

    with torch.no_grad():
        rois = model.propose(model.score_anchors(model.features(images, sizes)), sizes)
        predictions = views(rois)
        if refine:
            again = views([best_boxes(p) for p in predictions])
            predictions = [
                Predictions(torch.cat([a.scores, b.scores]), torch.cat([a.boxes, b.boxes]))
                for a, b in zip(predictions, again, strict=True)
            ]
        expected = [model.roi_heads.select(p) for p in predictions]
    same(TestTimeRCNN([plain(*KIND)], ALONE, short_side=101, flip=flip, refine=refine)(images, sizes), expected)


def test_the_box_to_pool_again_from_is_that_of_the_best_class():
    predictions = Predictions(torch.tensor([[0.1, 0.7], [0.5, 0.2]]), torch.arange(16.0).reshape(2, 2, 4))
    assert best_boxes(predictions).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_several_scales_pool_from_a_pyramid():
    """The largest scale is that of the images; proposals are sought at their own."""
    images, sizes = pictures()
    network = TestTimeRCNN([plain(*KIND)], ALONE, short_side=50, scales=(101, 50, 75), flip=True, refine=True)
    assert network.models[0].scales == (50 / 101, 75 / 101, 1) and network.base == 50 / 101
    found = network(images, sizes)
    assert all(len(detections.scores) > 5 for detections in found)
    view, _ = views = network.see(images, sizes)
    assert [map_.shape[3] for map_ in view.features.maps] == [
        math.ceil(65 / 16),
        math.ceil(97 / 16),
        math.ceil(131 / 16),
    ]
    for own, (height, width) in zip(network.propose(images, sizes, views), sizes.tolist(), strict=True):
        assert (
            (own[:, 2] <= width + 1e-3).all() and (own[:, 3] <= height + 1e-3).all() and own[:, 2].max() > width / 2
        )
    detections, proposals = network.detect_and_propose(images, sizes, 7)
    assert [len(own) for own in proposals] == [7, 7] and len(detections) == 2


def test_a_list_of_one_scale_is_one_scale():
    images, sizes = pictures()
    one = TestTimeRCNN([plain(*KIND)], ALONE, short_side=101, scales=(101,))
    same(one(images, sizes), OptimizedRCNN(plain(*KIND), ALONE)(images, sizes))
