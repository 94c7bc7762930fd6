"""Selective search against a literal version that looks at the pixels again and again."""

from __future__ import annotations

import numpy as np
import pytest

from resdet.data.selective_search import derivatives, describe, histograms, join, selective_search


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def touch(a, b):
    """Whether two masks have neighbouring pixels."""
    return bool(
        (a[:, 1:] & b[:, :-1]).any() or (b[:, 1:] & a[:, :-1]).any()
        or (a[1:] & b[:-1]).any() or (b[1:] & a[:-1]).any()
    )  # fmt: skip


def histogram(values, bins):
    """(pixels, C) in [0, 1) → (C·bins,)"""
    result = []
    for channel in values.T:
        counts = [0] * bins
        for value in channel:
            counts[int(value * bins)] += 1
        result += counts
    return np.array(result) / len(values) / values.shape[1]


def join_literally(labels, pixels, with_color):
    """Boxes, in the order of the joins."""
    masks = [labels == label for label in range(labels.max() + 1)]
    boxes, alive = [box_of(mask) for mask in masks], list(range(len(masks)))
    color, texture = pixels.astype(np.float32) / 256, derivatives(pixels)

    def similarity(a, b):
        a, b = masks[a], masks[b]
        x1, y1, x2, y2 = box_of(a | b)
        both = (a | b).sum() / labels.size
        value = np.minimum(histogram(texture[a], 10), histogram(texture[b], 10)).sum()
        if with_color:
            value += np.minimum(histogram(color[a], 25), histogram(color[b], 25)).sum()
        return value + (1 - both) + (1 - ((x2 - x1) * (y2 - y1) / labels.size - both))

    while len(alive) > 1:
        pairs = [(a, b) for a in alive for b in alive if a < b and touch(masks[a], masks[b])]
        a, b = max(pairs, key=lambda pair: similarity(*pair))
        masks.append(masks[a] | masks[b])
        boxes.append(box_of(masks[-1]))
        alive = [region for region in alive if region not in (a, b)] + [len(masks) - 1]
    return np.array(boxes)


@pytest.fixture
def regions():
    """A segmentation into 12 regions, none of them a rectangle, and noisy pixels."""
    random = np.random.default_rng(0)
    centers, points = random.uniform(0, 24, (12, 2)), np.stack(np.indices((20, 24)), 2)
    labels = ((points[:, :, None] - centers * [20 / 24, 1]) ** 2).sum(3).argmin(2)
    labels = np.unique(labels, return_inverse=True)[1].reshape(20, 24)
    pixels = random.integers(0, 256, (labels.max() + 1, 3))[labels] + random.integers(-20, 20, (20, 24, 3))
    return labels, pixels.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("with_color", [True, False])
def test_joining_against_masks(regions, with_color):
    labels, pixels = regions
    found = join(describe(labels, pixels), with_color)
    assert len(found) == 2 * (labels.max() + 1) - 1 > 15
    np.testing.assert_array_equal(found, join_literally(labels, pixels, with_color))


def test_histograms_against_a_loop(regions):
    labels, pixels = regions
    values = pixels.astype(np.float32) / 256
    found = histograms(labels, values, 25)
    for label in range(labels.max() + 1):
        np.testing.assert_allclose(found[label], histogram(values[labels == label], 25))


def test_derivatives_of_an_edge():
    """A vertical edge has them to the right, or to the left, at full strength in these two and none across."""
    pixels = np.zeros((20, 20, 1), np.uint8)
    pixels[:, 10:] = 255
    found = derivatives(np.dstack([pixels] * 3))[10, 9:11].reshape(2, 8, 3)[:, :, 0].max(0)
    assert found[0] > 0.5 and found[4] == 0 and found[2] < 1e-6 and found[1] == pytest.approx(found[0] / 2**0.5)


def test_one_colour_is_one_region():
    assert selective_search(np.full((30, 40, 3), 99, np.uint8)).tolist() == [[0, 0, 40, 30]]


def test_boxes_are_in_pixels_of_the_image():
    """Of one wider than the 500 pixels that are looked at; the same each time."""
    image = np.full((300, 1000, 3), 40, np.uint8)
    image[60:240, 300:700] = 220
    boxes = selective_search(image)
    assert np.abs(boxes - [300, 60, 700, 240]).max(1).min() < 12
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [1000, 300]).all() and boxes[:, 2].max() == 1000
    np.testing.assert_array_equal(boxes, selective_search(image))
