"""What a detector does wrong, and what fixing each kind of error would gain (TIDE: Bolya et al. 2020).

A detection that matches no object is, the first that applies (§2.2):

- localisation: it overlaps an object of its class by 0.1 to 0.5;
- confusion: it overlaps an object of another class by 0.5 or more;
- duplicate: it overlaps an object of its class by 0.5 or more, which a better detection has taken;
- background: it overlaps no object by more than 0.1;
- both: what is left, wrong in class and in place.

An object that no detection matches is missed, unless a localisation or confusion error aims at it. Shapes: D
detections and G objects of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resdet.evaluation.flat import flatten_both, overlap
from resdet.types import Detections, Target

KINDS = ("localisation", "confusion", "both", "duplicate", "background", "missed")
FOREGROUND, BACKGROUND = 0.5, 0.1
"""IoU from which a detection matches, and up to which it lies on background (§2.2)"""

# What a detection is, besides the first five of KINDS by position.
_HIT, _IGNORED = -1, -2


class ErrorAnalysis(NamedTuple):
    """What `analyse_errors` found."""

    ap50: float
    """COCO's AP at IoU 0.5, in fractions of 1, with ties in score in the order given; NaN without objects"""
    counts: dict[str, int]
    """errors of each of `KINDS`"""
    gains: dict[str, float]
    """what AP50 would gain if all errors of a kind were fixed and nothing else (§2.3), by kind; and likewise for
    ``false_positive``, all detections that match nothing, and ``false_negative``, all objects not matched"""


class _Table(NamedTuple):
    """The detections of a data set, image by image, best first, without those that COCO ignores."""

    labels: NDArray[np.int64]
    kinds: NDArray[np.int64]
    aims: NDArray[np.int64]
    """the object that a hit has matched, or that a localisation or confusion error aims at; −1 for none"""
    scores: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> _Table:
        return _Table(self.labels[rows], self.kinds[rows], self.aims[rows], self.scores[rows])


def analyse_errors(detections: Sequence[Detections], targets: Sequence[Target], num_classes: int) -> ErrorAnalysis:
    """Sort the errors of a data set into kinds; CPU tensors or arrays, image by image.

    Detections are matched by COCO's rules at IoU 0.5, difficult objects being its crowd regions.
    """
    found, truth = flatten_both(detections, targets, num_classes)
    kinds, aims = np.full(len(found.labels), _IGNORED), np.full(len(found.labels), -1)
    order = np.lexsort((-found.values, found.images))  # image by image, best first; stable
    ends = np.arange(1, len(detections))
    found_per_image = np.split(order, np.searchsorted(found.images[order], ends))
    truth_per_image = np.split(np.arange(len(truth.labels)), np.searchsorted(truth.images, ends))
    for own, objects in zip(found_per_image, truth_per_image, strict=True):
        difficult = truth.values[objects] > 0
        kinds[own], aim = _sort_image(
            found.boxes[own], found.labels[own], truth.boxes[objects], truth.labels[objects], difficult
        )
        aims[own] = np.append(objects, -1)[aim]
    table = _Table(found.labels, kinds, aims, found.values).take(order[kinds[order] != _IGNORED])
    return _mend(table, truth.labels, truth.values > 0, num_classes)


def _sort_image(
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    gt_boxes: NDArray[np.float64],
    gt_labels: NDArray[np.int64],
    difficult: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Kind (D,) of each detection of an image, given best first, and the object it has matched or aims at."""
    plain, crowd = np.flatnonzero(~difficult), np.flatnonzero(difficult)
    nothing = np.zeros((len(boxes), 1))  # a column more, so that rows have a maximum where there is no object
    iou = np.concatenate([overlap(boxes[:, None], gt_boxes[plain]), nothing], 1)  # (D, G + 1)
    same = np.concatenate([labels[:, None] == gt_labels[plain], nothing > 0], 1)
    in_class, beyond = iou * same, iou * ~same
    near, near_beyond = in_class.max(1), beyond.max(1)

    matched = _match(iou, same)
    hit, misplaced = matched >= 0, (near >= BACKGROUND) & (near < FOREGROUND)
    confused, background = near_beyond >= FOREGROUND, iou.max(1) <= BACKGROUND
    rules = {
        "localisation": misplaced,
        "confusion": confused,
        "duplicate": near >= FOREGROUND,
        "background": background,
    }
    numbers = [_HIT, *(KINDS.index(kind) for kind in rules)]
    kinds = np.select([hit, *rules.values()], numbers, KINDS.index("both"))  # the first that applies
    aims = np.select([hit, misplaced, confused], [matched, in_class.argmax(1), beyond.argmax(1)], -1)

    inside = overlap(boxes[:, None], gt_boxes[crowd], crowd=True) * (labels[:, None] == gt_labels[crowd])
    kinds[~hit & (inside >= FOREGROUND).any(1)] = _IGNORED
    return kinds, np.append(plain, -1)[aims]


def _match(iou: NDArray[np.float64], same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(D,): the object that each detection, best first, takes of those left: the nearest, the last in a tie."""
    rows, columns = np.nonzero((iou >= FOREGROUND) & same)
    order = np.lexsort((-columns, -iou[rows, columns], rows))
    matched, taken = np.full(len(iou), -1), set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if matched[row] < 0 and column not in taken:
            matched[row] = column
            taken.add(column)
    return matched


def _mend(
    table: _Table, gt_labels: NDArray[np.int64], difficult: NDArray[np.bool_], num_classes: int
) -> ErrorAnalysis:
    """AP50 as it is, and with the errors of each kind fixed in turn (§2.3)."""
    positives = np.bincount(gt_labels[~difficult], minlength=num_classes)
    hit = table.kinds == _HIT
    covered = np.zeros(len(gt_labels), bool)
    covered[table.aims[table.aims >= 0]] = True
    missed = np.bincount(gt_labels[~difficult & ~covered], minlength=num_classes)
    hits_per_class = np.bincount(table.labels[hit], minlength=num_classes)

    def ap50(table: _Table, left: NDArray[np.int64] = positives) -> float:
        return _mean_ap(table, left, positives > 0)

    def without(wrong: NDArray[np.bool_]) -> _Table:
        return table.take(np.flatnonzero(~wrong))

    now = ap50(table)
    fixed = {
        kind: ap50(_corrected(table, number, gt_labels) if kind in KINDS[:2] else without(table.kinds == number))
        for number, kind in enumerate(KINDS[:-1])
    }
    fixed["missed"] = ap50(table, positives - missed)
    fixed["false_positive"] = ap50(without(~hit))
    fixed["false_negative"] = ap50(table, hits_per_class)
    counts = {kind: int((table.kinds == number).sum()) for number, kind in enumerate(KINDS)}
    counts["missed"] = int(missed.sum())
    return ErrorAnalysis(now, counts, {kind: value - now for kind, value in fixed.items()})


def _corrected(table: _Table, number: int, gt_labels: NDArray[np.int64]) -> _Table:
    """The best error of this kind that aims at an object which is not matched becomes its hit; the others go."""
    wrong, hit = table.kinds == number, table.kinds == _HIT
    free = wrong & ~np.isin(table.aims, table.aims[hit])
    order = np.flatnonzero(free)
    order = order[np.argsort(-table.scores[order], kind="stable")]
    best = order[np.unique(table.aims[order], return_index=True)[1]]
    labels, kinds = table.labels.copy(), table.kinds.copy()
    labels[best], kinds[best] = gt_labels[table.aims[best]], _HIT
    return _Table(labels, kinds, table.aims, table.scores).take(np.flatnonzero(kinds != number))


def _mean_ap(table: _Table, positives: NDArray[np.int64], classes: NDArray[np.bool_]) -> float:
    """Mean over `classes` (C,) of COCO's 101-point AP; one of which nothing is left to find counts as 0."""
    if not classes.any():
        return float("nan")
    table = table.take(np.lexsort((-table.scores, table.labels)))  # stable
    ends = np.searchsorted(table.labels, np.arange(len(positives) + 1))
    recalls = np.linspace(0, 1, 101)
    total = 0.0
    for label in np.flatnonzero(classes & (positives > 0)):
        true = np.cumsum(table.kinds[ends[label] : ends[label + 1]] == _HIT)
        precision = np.maximum.accumulate((true / np.arange(1, len(true) + 1))[::-1])[::-1]
        reached = np.searchsorted(true / positives[label], recalls)
        total += np.append(precision, 0.0)[reached].mean()
    return total / int(classes.sum())
