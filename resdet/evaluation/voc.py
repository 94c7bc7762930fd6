"""Average precision by the rules of the PASCAL VOC development kit (VOCevaldet.m), and its results files.

Shapes: C classes, D detections and G ground-truth boxes of the whole data set, P pairs of the two that share
image and class. The kit measures 1-based inclusive boxes with "+1"; in our continuous pixels that is the
plain width x2 − x1, so both give the same overlaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from resdet.errors import UserError, reason
from resdet.evaluation.flat import Flat, flatten, flatten_both, overlap
from resdet.io import name_parts
from resdet.types import Detections, Target

# The recalls of the 2007 rule as exact tenths: np.arange(0, 1.1, 0.1), which other code uses, holds
# 0.30000000000000004 and so misses a recall of exactly 3/10.
_RECALLS_07 = np.arange(11) / 10


class VocCurve(NamedTuple):
    """Precision against recall of one class, one point for each detection that counts, best score first."""

    recall: NDArray[np.float64]
    """(D_c,) rising, in [0, 1]; NaN for a class without positives"""
    precision: NDArray[np.float64]
    """(D_c,) in [0, 1]"""
    scores: NDArray[np.float64]
    """(D_c,) falling: the threshold at which a point is reached"""


class VocResult(NamedTuple):
    """What `evaluate_voc` found, in fractions of 1."""

    ap: NDArray[np.float64]
    """(C,) area under the interpolated curve (VOC2010 and later); NaN for a class without positives"""
    ap07: NDArray[np.float64]
    """(C,) mean of 11 interpolated precisions (VOC2007); NaN likewise"""
    positives: NDArray[np.int64]
    """(C,) ground-truth boxes that are not difficult"""
    curves: tuple[VocCurve, ...]
    """one for each class"""

    @property
    def map(self) -> float:
        """Mean of `ap` over the classes that have positives; NaN if none has."""
        return _mean(self.ap)

    @property
    def map07(self) -> float:
        """Mean of `ap07` over the classes that have positives; NaN if none has."""
        return _mean(self.ap07)


def _mean(ap: NDArray[np.float64]) -> float:
    known = ap[~np.isnan(ap)]
    return float(known.mean()) if known.size else float("nan")


def interpolate(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D,) → (D,): the best precision at this recall or any higher one (Everingham et al. 2010, §4.2)."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def average_precision(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """(D,), (D,) → area under the interpolated curve; recall must rise (VOC2010 and later)."""
    return float(np.sum(np.diff(recall, prepend=0.0) * interpolate(precision)))


def average_precision_07(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """(D,), (D,) → mean interpolated precision at recalls 0, 0.1, …, 1; recall must rise (VOC2007)."""
    reached = np.searchsorted(recall, _RECALLS_07)  # (11,) first point of this recall or more; D for none
    return float(np.append(interpolate(precision), 0.0)[reached].mean())


def _assign(found: Flat, truth: Flat, num_classes: int, iou_threshold: float) -> NDArray[np.int64]:
    """(D,): the ground-truth box each detection overlaps most, the first in a tie; −1 below the threshold.

    As in the kit, a detection whose best box is taken does not fall back on its second best: each assignment
    is independent of all others.
    """
    truth_key = truth.images * num_classes + truth.labels  # (G,) one number for image and class
    by_key = np.argsort(truth_key, kind="stable")
    found_key = found.images * num_classes + found.labels  # (D,)
    start = np.searchsorted(truth_key[by_key], found_key, side="left")
    count = np.searchsorted(truth_key[by_key], found_key, side="right") - start

    pair_found = np.repeat(np.arange(len(found_key)), count)  # (P,)
    place_in_run = np.arange(len(pair_found)) - np.repeat(np.cumsum(count) - count, count)  # (P,)
    pair_truth = by_key[np.repeat(start, count) + place_in_run]  # (P,)
    overlaps = overlap(found.boxes[pair_found], truth.boxes[pair_truth])  # (P,)

    near = np.flatnonzero((overlaps >= iou_threshold) & (overlaps > 0))
    near = near[np.lexsort((-overlaps[near], pair_found[near]))]  # by detection, largest overlap first; stable
    matched, best = np.unique(pair_found[near], return_index=True)
    assigned = np.full(len(found_key), -1)
    assigned[matched] = pair_truth[near[best]]
    return assigned


def _curve(hits: NDArray[np.bool_], scores: NDArray[np.float64], positives: int) -> VocCurve:
    true_positives = np.cumsum(hits)
    recall = true_positives / positives if positives else np.full(len(hits), np.nan)
    return VocCurve(recall, true_positives / np.arange(1, len(hits) + 1), scores)


def evaluate_voc(
    detections: Sequence[Detections], targets: Sequence[Target], num_classes: int, iou_threshold: float = 0.5
) -> VocResult:
    """Score the detections of a data set, given image by image beside its targets; CPU tensors or arrays.

    By falling score (ties in the order given), the first detection assigned to a box is a true positive; a
    later one, or one without a box, is a false positive. One assigned to a difficult box is left out.
    """
    found, truth = flatten_both(detections, targets, num_classes)
    difficult = truth.values > 0
    positives = np.bincount(truth.labels[~difficult], minlength=num_classes)

    by_class = np.lexsort((-found.values, found.labels))  # class by class, falling score; stable
    assigned = _assign(found, truth, num_classes, iou_threshold)[by_class]
    counts = ~np.append(difficult, False)[assigned]  # −1 reads the appended False: no box, which counts
    by_class, assigned = by_class[counts], assigned[counts]
    boxes, first = np.unique(assigned, return_index=True)
    hits = np.zeros(len(assigned), dtype=bool)
    hits[first[boxes >= 0]] = True

    ends = np.searchsorted(found.labels[by_class], np.arange(1, num_classes))
    hits_per_class, scores_per_class = np.split(hits, ends), np.split(found.values[by_class], ends)
    curves = tuple(map(_curve, hits_per_class, scores_per_class, positives.tolist()))
    ap, ap07 = (
        np.array([rule(c.recall, c.precision) if n else np.nan for c, n in zip(curves, positives, strict=True)])
        for rule in (average_precision, average_precision_07)
    )
    return VocResult(ap, ap07, positives, curves)


def _results_files(folder: Path | str, class_names: Sequence[str]) -> list[Path]:
    return [Path(folder) / f"comp4_det_test_{part}.txt" for part in name_parts(class_names)]


def write_voc_results(
    folder: Path | str, detections: Sequence[Detections], image_ids: Sequence[str], class_names: Sequence[str]
) -> None:
    """Write the kit's results files, one a class: `image_id score x1 y1 x2 y2`, pixels 1-based inclusive.

    A class is part of its file's name as `resdet.io.name_parts` writes it: as it is, if it can be.
    """
    if len(detections) != len(image_ids):
        raise ValueError(f"There are detections for {len(detections)} images but {len(image_ids)} image ids.")
    found = flatten(detections, "scores", len(class_names), "detection")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for label, path in enumerate(_results_files(folder, class_names)):
        rows = np.flatnonzero(found.labels == label)
        images, scores, boxes = found.images[rows], found.values[rows], found.boxes[rows] + [1, 1, 0, 0]
        lines = [
            f"{image_ids[image]} {score:.6f} {x1:.2f} {y1:.2f} {x2:.2f} {y2:.2f}\n"
            for image, score, (x1, y1, x2, y2) in zip(images.tolist(), scores.tolist(), boxes.tolist(), strict=True)
        ]
        path.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def _read_results_file(path: Path, position: dict[str, int]) -> NDArray[np.float64]:
    """(n, 6): image position, score and corners in our continuous pixels, one row a line."""
    if not path.is_file():
        raise UserError(f"{path} is missing: VOC results have one file per class, which may be empty.")
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): copy it again.") from error
    rows = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        image_id, *numbers = line.rsplit(maxsplit=5) or [""]
        try:
            score, x1, y1, x2, y2 = map(float, numbers)
        except ValueError:
            raise UserError(
                f"{path}, line {number}: expected 'image_id score x1 y1 x2 y2', not {line!r}."
            ) from None
        if image_id not in position:
            raise UserError(
                f"{path}, line {number}: the image {image_id!r} is not in the data set; choose its images with "
                "--data.val."
            )
        rows.append((position[image_id], score, x1 - 1, y1 - 1, x2, y2))
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    bad = ~np.isfinite(table).all(axis=1)
    if bad.any():
        raise UserError(f"{path}, line {bad.argmax() + 1}: the score and the corners must be finite numbers.")
    bad = (table[:, 4:] < table[:, 2:4] - 0.02).any(axis=1)  # two hundredths: a box without area, as rounded
    if bad.any():
        raise UserError(f"{path}, line {bad.argmax() + 1}: x2 and y2 must not be less than x1 and y1.")
    return table


def read_voc_results(folder: Path | str, image_ids: Sequence[str], class_names: Sequence[str]) -> list[Detections]:
    """Read what `write_voc_results` wrote: the detections of each image, best score first, then by class.

    Raises UserError, with file and line, for something that is not a result of these images.
    """
    position = {image_id: i for i, image_id in enumerate(image_ids)}
    tables = [_read_results_file(path, position) for path in _results_files(folder, class_names)]
    table = np.concatenate([np.empty((0, 6)), *tables])
    labels = np.repeat(np.arange(len(tables)), [len(t) for t in tables])
    order = np.lexsort((-table[:, 1], table[:, 0]))  # by image, falling score; stable
    table, labels = table[order], labels[order]
    ends = np.searchsorted(table[:, 0], np.arange(1, len(image_ids)))
    parts = zip(np.split(table, ends), np.split(labels, ends), strict=True)
    return [
        Detections(torch.from_numpy(t[:, 2:]).float(), torch.from_numpy(t[:, 1]).float(), torch.from_numpy(c))
        for t, c in parts
    ][: len(image_ids)]
