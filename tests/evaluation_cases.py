"""Random data sets for the tests of the evaluation: small, and full of the cases in which evaluators differ."""

import numpy as np
import torch

from resdet.data.annotations import Annotations
from resdet.types import Detections, Target


def random_boxes(rng, count, size):
    """Few places in a small image, on quarter pixels, so that overlaps, duplicates and ties abound."""
    corner = rng.integers(0, 4 * size, (count, 2)) / 4
    extent = np.where(rng.random((count, 1)) < 0.2, 1.0, rng.integers(1, 4 * size, (count, 2)) / 4)
    boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
    if count:
        boxes = np.where(rng.random((count, 1)) < 0.3, boxes[rng.integers(0, count, count)], boxes)
    return boxes


def random_case(rng, images=None, most_detections=24):
    """Detections and targets of a few images of 3 classes; the case's chances may leave any of them empty.

    Ties in score, only difficult objects, and boxes of one pixel occur in many.
    """
    images = rng.integers(0, 7) if images is None else images
    most_boxes, most_detections = rng.integers(0, 9), rng.integers(0, most_detections + 1)
    size, difficult_share, levels = rng.integers(1, 9), rng.choice([0, 0.3, 0.3, 1]), rng.choice([2, 8, 1000])
    detections, targets = [], []
    for _ in range(images):
        boxes = random_boxes(rng, rng.integers(0, most_boxes + 1), size)
        labels = rng.integers(0, 3, len(boxes))
        targets.append(Target(*map(torch.from_numpy, (boxes, labels, rng.random(len(boxes)) < difficult_share))))
        near = np.concatenate([boxes, boxes + rng.integers(-1, 2, boxes.shape) / 4]).astype(np.float32)
        near = near[((near[:, 2:] - near[:, :2]) > 0).all(axis=1)]
        pool = np.concatenate([near, random_boxes(rng, 4, size)])
        chosen = rng.integers(0, len(pool), rng.integers(0, most_detections + 1))
        scores = (rng.integers(0, levels, len(chosen)) / levels).astype(np.float32)
        likely = np.concatenate([labels, labels, rng.integers(0, 3, len(pool))])[chosen]
        detections.append(Detections(*map(torch.from_numpy, (pool[chosen], scores, likely))))
    return detections, targets


def join(cases):
    """Cases of as many images each as one data set: the classes of case k are 3k, 3k + 1 and 3k + 2."""
    joined = []
    for parts in zip(*(detections for detections, _ in cases), strict=True):
        labels = torch.cat([part.labels + 3 * k for k, part in enumerate(parts)])
        joined.append(Detections(*(torch.cat(column) for column in list(zip(*parts, strict=True))[:2]), labels))
    truths = []
    for parts in zip(*(targets for _, targets in cases), strict=True):
        boxes, _, difficult = (torch.cat(column) for column in zip(*parts, strict=True))
        truths.append(Target(boxes, torch.cat([part.labels + 3 * k for k, part in enumerate(parts)]), difficult))
    return joined, truths


def scaled(detections, targets, factor):
    """The same with boxes so many times as large."""
    return (
        [found._replace(boxes=found.boxes * factor) for found in detections],
        [target._replace(boxes=target.boxes * factor) for target in targets],
    )


def annotations_of(targets, num_classes, rng=None, numeric=True):
    """Annotations whose category numbers, image numbers and areas are unlike positions, labels and boxes.

    `rng` draws areas smaller than the boxes', as those of masks are.
    """
    count = len(targets)
    numbers = [7 * (count - i) + 3 for i in range(count)]  # falling
    boxes = np.concatenate([np.zeros((0, 4)), *(np.asarray(t.boxes, np.float64) for t in targets)])
    shares = 1 if rng is None else rng.choice([0.25, 0.5, 1], len(boxes))
    return Annotations(
        classes=tuple(f"class {label}" for label in range(num_classes)),
        category_ids=np.arange(num_classes) * 3 % (3 * num_classes - 1) + 2,
        ids=np.array([b"%d" % n if numeric else b"img_%d" % n for n in numbers], dtype=bytes),
        files=np.array([b"%d.jpg" % n for n in numbers], dtype=bytes),
        sizes=np.full((count, 2), 1000, np.int32),
        offsets=np.cumsum([0, *(len(t.boxes) for t in targets)], dtype=np.int64),
        boxes=boxes,
        labels=np.concatenate([np.zeros(0, np.int64), *(np.asarray(t.labels) for t in targets)]),
        difficult=np.concatenate([np.zeros(0, bool), *(np.asarray(t.difficult) for t in targets)]),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1) * shares,
        skipped=(),
    )
