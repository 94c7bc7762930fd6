"""Selective search: like regions are joined step by step, and every join is a proposal (Uijlings et al. 2013).

In its fast mode: two colour spaces, two sizes of the first regions, two measures of similarity. Those first regions
are scikit-image's (Felzenszwalb and Huttenlocher 2004). Shapes: n first regions, D bins of a histogram.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np

WIDTH = 500  # pixels; images are made this wide (Fast R-CNN's settings)
SPACES = (cv2.COLOR_RGB2HSV, cv2.COLOR_RGB2LAB)
SCALES = (50, 100)  # k of the first regions, and their least size in pixels
COLOR_BINS, TEXTURE_BINS, ORIENTATIONS = 25, 10, 8


class Regions(NamedTuple):
    """What the joining needs to know of the first regions."""

    boxes: np.ndarray
    """(n, 4) pixels"""
    sizes: np.ndarray
    """(n,) in shares of the image"""
    colors: np.ndarray
    """(n, D) histograms of the channels, each row of sum 1"""
    textures: np.ndarray
    """(n, D) histograms of derivatives, each row of sum 1"""
    pairs: np.ndarray
    """(E, 2) which regions touch"""


def selective_search(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB → (P, 4) float32 proposals in its pixels, large regions mostly first (§4.3)."""
    from skimage.segmentation import felzenszwalb

    factor = min(1.0, WIDTH / image.shape[1])
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    generator = np.random.default_rng(0)
    found, ranks = [np.zeros((0, 4))], [np.zeros(0)]
    for space, scale in product(SPACES, SCALES):
        pixels = cv2.cvtColor(small, space)
        regions = describe(felzenszwalb(pixels, scale=scale, sigma=0.8, min_size=scale), pixels)
        for with_color in (True, False):
            boxes = join(regions, with_color)
            found.append(boxes)
            ranks.append(np.arange(len(boxes), 0, -1) * generator.random(len(boxes)))  # the last join is first
    boxes = np.concatenate(found)[np.argsort(np.concatenate(ranks))]
    _, first = np.unique(boxes, axis=0, return_index=True)
    scale_back = np.array([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]] * 2)
    return (boxes[np.sort(first)] * scale_back).astype(np.float32)


def describe(labels: np.ndarray, pixels: np.ndarray) -> Regions:
    """(H, W) region of each pixel, 0 to n − 1, and (H, W, 3) uint8 → the regions."""
    count, (height, width) = int(labels.max()) + 1, labels.shape
    rows, columns = np.indices(labels.shape)
    low, high = np.full((count, 2), np.inf), np.zeros((count, 2))
    points = np.stack([columns, rows], 2).reshape(-1, 2)
    np.minimum.at(low, labels.ravel(), points)
    np.maximum.at(high, labels.ravel(), points + 1)
    one = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()])
    other = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()])
    touching = one != other
    codes = np.unique((np.minimum(one, other) * count + np.maximum(one, other))[touching])
    return Regions(
        np.concatenate([low, high], 1),
        np.bincount(labels.ravel(), minlength=count) / (height * width),
        histograms(labels, pixels.astype(np.float32) / 256, COLOR_BINS),
        histograms(labels, derivatives(pixels), TEXTURE_BINS),
        np.stack(np.divmod(codes, count), 1),
    )


def derivatives(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) → (H, W, C·8) in [0, 1): Gaussian derivatives (σ = 1) towards eight sides, from 0 up."""
    smooth = cv2.GaussianBlur(pixels.astype(np.float32) / 256, (0, 0), 1)
    down, right = np.gradient(smooth, axis=(0, 1))
    angles = np.arange(ORIENTATIONS) * (2 * np.pi / ORIENTATIONS)
    sides = [np.cos(angle) * right + np.sin(angle) * down for angle in angles]
    strongest = 0.5  # from black to white within a pixel, smoothed by σ = 1, is 0.4
    return np.clip(np.concatenate(sides, 2) / strongest, 0, 0.999)


def histograms(labels: np.ndarray, values: np.ndarray, bins: int) -> np.ndarray:
    """(H, W) in 0 to n − 1, (H, W, C) in [0, 1) → (n, C·bins): of each region, each row of sum 1."""
    count, channels = int(labels.max()) + 1, values.shape[2]
    places = (values * bins).astype(np.int64) + bins * np.arange(channels)
    places += (labels * (bins * channels))[:, :, None]
    table = np.bincount(places.ravel(), minlength=count * channels * bins).reshape(count, -1)
    return table / table.sum(1, keepdims=True)


def join(regions: Regions, with_color: bool) -> np.ndarray:
    """The two most similar neighbours become one region, until there is one alone (§4.1, §4.2).

    Args:
        with_color: similar in colour, texture, size and fill; or in all but colour

    Returns:
        (2n − 1, 4): the boxes of the first regions, then of all that were made of them
    """
    count = len(regions.sizes)

    def grown(first: np.ndarray) -> np.ndarray:
        return np.concatenate([first, np.zeros((count - 1, *first.shape[1:]))])

    boxes, sizes, textures = grown(regions.boxes), grown(regions.sizes), grown(regions.textures)
    colors = grown(regions.colors) if with_color else None
    area = (regions.boxes[:, 2] * regions.boxes[:, 3]).max()  # of the image, whose last corner is in some box

    def similarity(one: int | np.ndarray, others: np.ndarray) -> np.ndarray:
        """Of a region, or of several, with as many others."""
        alike = np.minimum(textures[one], textures[others]).sum(-1)
        if colors is not None:
            alike += np.minimum(colors[one], colors[others]).sum(-1)
        low, high = np.minimum(boxes[one], boxes[others]), np.maximum(boxes[one], boxes[others])
        span = high[..., 2:] - low[..., :2]
        both = sizes[one] + sizes[others]
        fill = 1 - (span.prod(-1) / area - both)
        return alike + (1 - both) + fill

    neighbours: list[set[int]] = [set() for _ in range(count)]
    for a, b in regions.pairs.tolist():
        neighbours[a].add(b)
        neighbours[b].add(a)
    first, second = regions.pairs.T
    queue = list(zip((-similarity(first, second)).tolist(), first.tolist(), second.tolist(), strict=True))
    heapify(queue)
    alive = set(range(count))
    while queue:
        _, a, b = heappop(queue)
        if a not in alive or b not in alive:
            continue
        new, total = len(neighbours), sizes[a] + sizes[b]
        for table in (textures, colors):
            if table is not None:
                table[new] = (sizes[a] * table[a] + sizes[b] * table[b]) / total
        boxes[new] = *np.minimum(boxes[a, :2], boxes[b, :2]), *np.maximum(boxes[a, 2:], boxes[b, 2:])
        sizes[new] = total
        around = (neighbours[a] | neighbours[b]) - {a, b}
        neighbours.append(around)
        alive -= {a, b}
        alive.add(new)
        others = sorted(around)
        for other, value in zip(others, similarity(new, np.array(others, np.int64)).tolist(), strict=True):
            neighbours[other] -= {a, b}
            neighbours[other].add(new)
            heappush(queue, (-value, other, new))
    return boxes[: len(neighbours)]
