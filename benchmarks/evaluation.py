"""Time to score a data set: VOC's rules, COCO's by either library in turns, and the analyses.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --images 500 --rounds 3
    python benchmarks/evaluation.py --images 5 --rounds 1

5,000 images of 80 classes, about 7 objects and 100 detections each, of which some match. Every time counts all that
evaluate_voc or evaluate_coco does, from tensors to numbers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from resdet.data.annotations import Annotations
from resdet.evaluation.coco import evaluate_coco
from resdet.evaluation.confusion import confusion_matrix
from resdet.evaluation.errors import analyse_errors
from resdet.evaluation.proposals import proposal_overlaps
from resdet.evaluation.report import targets_of
from resdet.evaluation.voc import evaluate_voc
from resdet.types import Detections

CLASSES, DETECTIONS, OBJECTS, PROPOSALS = 80, 100, 7, 1000
SIDES = np.array([640.0, 480.0])


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) boxes inside the image, sides from 4 pixels up, most of them small."""
    sides = 4 + rng.random((count, 2)) ** 2 * (SIDES - 4)
    corner = rng.random((count, 2)) * (SIDES - sides)
    return np.concatenate([corner, corner + sides], 1)


def random_annotations(rng: np.random.Generator, images: int) -> Annotations:
    """About OBJECTS objects an image; one in a hundred is a crowd region."""
    counts = rng.poisson(OBJECTS, images)
    boxes = random_boxes(rng, counts.sum())
    return Annotations(
        classes=tuple(f"class {label}" for label in range(CLASSES)),
        category_ids=np.arange(1, CLASSES + 1),
        ids=np.array([b"%d" % i for i in range(images)], dtype=bytes),
        files=np.array([b""] * images, dtype=bytes),
        sizes=np.tile(SIDES[::-1].astype(np.int32), (images, 1)),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes,
        labels=rng.integers(0, CLASSES, counts.sum()),
        difficult=rng.random(counts.sum()) < 0.01,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1) * 0.7,
        skipped=(),
    )


def random_detections(rng: np.random.Generator, annotations: Annotations) -> list[Detections]:
    """Of each image DETECTIONS: about three near each object, often of its class, and others anywhere."""
    detections = []
    for i in range(len(annotations)):
        own = slice(annotations.offsets[i], annotations.offsets[i + 1])
        near = np.repeat(annotations.boxes[own], 3, axis=0)[:DETECTIONS]
        sides = near[:, 2:] - near[:, :2]
        near = near + 0.1 * rng.standard_normal(near.shape) * np.tile(sides, 2)
        near = near[(near[:, 2:] > near[:, :2]).all(1)]
        rest = DETECTIONS - len(near)
        labels = rng.integers(0, CLASSES, DETECTIONS)
        true = np.repeat(annotations.labels[own], 3)[: len(near)]
        labels[: len(true)] = np.where(rng.random(len(true)) < 0.7, true, labels[: len(true)])
        boxes = torch.from_numpy(np.concatenate([near, random_boxes(rng, rest)])).float()
        scores = torch.from_numpy(np.concatenate([rng.random(len(near)), rng.random(rest) ** 4])).float()
        order = scores.argsort(descending=True)
        detections.append(Detections(boxes[order], scores[order], torch.from_numpy(labels)[order]))
    return detections


def main() -> None:
    """Print a row for each evaluation: the median, and the fastest and slowest of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    annotations = random_annotations(rng, options.images)
    detections = random_detections(rng, annotations)
    targets = targets_of(annotations)
    proposals = [torch.from_numpy(random_boxes(rng, PROPOSALS)).float() for _ in range(options.images)]
    runs: dict[str, Callable[[], object]] = {
        "VOC": lambda: evaluate_voc(detections, targets, CLASSES),
        "COCO, pycocotools": lambda: evaluate_coco(detections, annotations, "pycocotools").stats,
        "COCO, faster-coco-eval": lambda: evaluate_coco(detections, annotations, "faster-coco-eval").stats,
        "error analysis": lambda: analyse_errors(detections, targets, CLASSES),
        "confusion matrix": lambda: confusion_matrix(detections, targets, CLASSES),
        "recall of 1000 proposals": lambda: proposal_overlaps(proposals, targets),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        print(f"{name:26} {statistics.median(times):8.2f} s   ({min(times):.2f} to {max(times):.2f})")
    slow, fast = results["COCO, pycocotools"], results["COCO, faster-coco-eval"]
    ratios = [a / b for a, b in zip(seconds["COCO, pycocotools"], seconds["COCO, faster-coco-eval"], strict=True)]
    print(f"pycocotools / faster-coco-eval, median of the rounds: {statistics.median(ratios):.1f}×")
    difference = np.abs(np.array(list(slow.values())) - list(fast.values())).max()
    print(f"their numbers differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
