"""What an evaluation says of a detector: figures, tables, and a folder of files and plots."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.cells import cell_len
from torch import Tensor

from resdet.data.annotations import Annotations
from resdet.evaluation.coco import CocoResult, evaluate_coco, write_coco_results
from resdet.evaluation.confusion import confusion_matrix
from resdet.evaluation.errors import ErrorAnalysis, analyse_errors
from resdet.evaluation.plots import (
    plot_class_ap,
    plot_confusion,
    plot_error_gains,
    plot_precision_recall,
    plot_recall,
)
from resdet.evaluation.proposals import NUMBERS, THRESHOLDS, average_recall, proposal_overlaps, recall
from resdet.evaluation.voc import VocResult, evaluate_voc, write_voc_results
from resdet.io import write_text
from resdet.lettering import lettering, one_line
from resdet.types import Detections, Target


class Scores(NamedTuple):
    """The same detections by either metric; both work for any data set, whatever its format."""

    voc: VocResult
    coco: CocoResult

    def figures(self) -> dict[str, float]:
        """VOC's ``map07`` and ``map``, and COCO's 12 numbers; fractions of 1."""
        return {"map07": self.voc.map07, "map": self.voc.map, **self.coco.stats}


def targets_of(annotations: Annotations) -> list[Target]:
    """What is annotated, image by image."""
    return [annotations.target(index) for index in range(len(annotations))]


def score(detections: Sequence[Detections], annotations: Annotations, coco_max_dets: int = 100) -> Scores:
    """Score the detections of a data set, given image by image."""
    voc = evaluate_voc(detections, targets_of(annotations), len(annotations.classes))
    return Scores(voc, evaluate_coco(detections, annotations, max_dets=coco_max_dets))


class Analysis(NamedTuple):
    """Where the score is lost."""

    errors: ErrorAnalysis
    confusion: np.ndarray
    """(C + 1, C + 1), as of `confusion_matrix`"""
    overlaps: np.ndarray | None
    """(3, G) of 100, 300 and 1000 proposals, as of `proposal_overlaps`; nothing where there are no proposals"""


def analyse(
    detections: Sequence[Detections], annotations: Annotations, proposals: Sequence[Tensor] | None = None
) -> Analysis:
    """Errors, confusions, and how well the proposals (P, 4) of each image cover its objects."""
    targets, classes = targets_of(annotations), len(annotations.classes)
    return Analysis(
        analyse_errors(detections, targets, classes),
        confusion_matrix(detections, targets, classes),
        None if proposals is None else proposal_overlaps(proposals, targets),
    )


LONG, ENDS = 100, 30  # rows of a table of classes, and how many of either end are left of a longer one


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def class_table(scores: Scores, class_names: Sequence[str]) -> str:
    """A plain-text table in percent, one row a class, then the means; "-" without ground truth.

    Of more than 100 classes, the 30 best and the 30 worst by VOC's AP.
    """
    voc, coco = scores
    columns = (voc.ap07, voc.ap, coco.ap, coco.ap50)
    names = [one_line(name) for name in class_names]
    rows = list(zip(names, voc.positives.tolist(), *columns, strict=True))
    left_out = ""
    if len(rows) > LONG:
        best = [rows[label] for label in np.argsort(-voc.ap, kind="stable") if voc.positives[label]]
        rows = best[:ENDS] + best[max(ENDS, len(best) - ENDS) :]
        left_out = (
            f"the {len(rows)} best and worst of {len(best):,} classes with objects; metrics.json has them all"
        )
    means = (voc.map07, voc.map, coco.stats["ap"], coco.stats["ap50"])
    rows.append(("mean", int(voc.positives.sum()), *means))
    width = max(cell_len(name) for name in ("class", *(row[0] for row in rows)))
    lines = [f"{'class':<{width}}  positives    VOC07      VOC     COCO     AP50"]
    for name, count, *aps in rows:
        padded = name + " " * (width - cell_len(name))
        lines.append(f"{padded}  {count:>9}" + "".join(f"  {_percent(ap):>7}" for ap in aps))
    lines.insert(-1, "-" * len(lines[0]))
    return "\n".join(lines + [f"({left_out})"] * bool(left_out))


def coco_table(coco: CocoResult, images: int) -> str:
    """The 12 numbers in percent, six of precision over six of recall, and whether their limit left objects out."""
    lines, stats = [], coco.stats
    for names in (list(stats)[:6], list(stats)[6:]):
        lines.append("".join(f"{name:>11}" for name in names))
        lines.append("".join(f"{_percent(stats[name]):>11}" for name in names))
    if coco.crowded:
        lines.append(
            f"{coco.crowded:,} of {images:,} images have more than {coco.max_dets} objects of a class, but COCO's "
            f"figures count {coco.max_dets} detections of a class in an image; {coco.uncounted:,} detections were "
            "not counted: raise --test.coco-max-dets, and --test.max-detections for the detector."
        )
    return "\n".join(lines)


def analysis_table(analysis: Analysis) -> str:
    """What fixing each kind of error would gain, and the average recall of the proposals."""
    errors = analysis.errors
    lines = [f"{'error':<14}    count  AP50 gained"]
    for kind, gain in errors.gains.items():
        lines.append(f"{kind.replace('_', ' '):<14}  {errors.counts.get(kind, ''):>7}  {_percent(gain):>11}")
    if analysis.overlaps is not None:
        pairs = zip(NUMBERS, average_recall(analysis.overlaps).tolist(), strict=True)
        lines.append("proposals: " + ", ".join(f"AR@{number} {_percent(mean)}" for number, mean in pairs))
    return "\n".join(lines)


def metrics(scores: Scores, analysis: Analysis, annotations: Annotations) -> dict[str, Any]:
    """All figures as they are in metrics.json, except that what is not a number becomes null there.

    Of more than 100 classes, ``confusions`` lists what is not 0 in the matrix: row, column and count.
    """
    voc, coco = scores
    columns = {"positives": voc.positives, "voc07": voc.ap07, "voc": voc.ap, "ap": coco.ap, "ap50": coco.ap50}
    errors, overlaps = analysis.errors, analysis.overlaps
    found: dict[str, Any] = {
        "images": len(annotations),
        **scores.figures(),
        "coco_limit": {"max_dets": coco.max_dets, "crowded_images": coco.crowded, "uncounted": coco.uncounted},
        "errors": {
            kind: {"count": errors.counts.get(kind), "ap50_gain": gain} for kind, gain in errors.gains.items()
        },
        "per_class": {
            name: {column: values[label].item() for column, values in columns.items()}
            for label, name in enumerate(annotations.classes)
        },
    }
    if len(annotations.classes) <= LONG:
        found["confusion"] = analysis.confusion.tolist()
    else:
        places = np.argwhere(analysis.confusion)  # (P, 2)
        counts = analysis.confusion[tuple(places.T)]
        order = np.argsort(-counts, kind="stable")
        found["confusions"] = np.column_stack([places, counts])[order].tolist()
    if overlaps is not None:
        means, recalls = average_recall(overlaps).tolist(), recall(overlaps, THRESHOLDS).tolist()
        found["proposals"] = {"iou": THRESHOLDS.tolist()} | {
            str(number): {"ar": mean, "recall": values}
            for number, mean, values in zip(NUMBERS, means, recalls, strict=True)
        }
    return found


def _null(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _null(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_null(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_report(
    folder: Path, scores: Scores, analysis: Analysis, detections: Sequence[Detections], annotations: Annotations
) -> None:
    """metrics.json, the detections in COCO's and in VOC's format, and the plots."""
    classes = annotations.classes
    write_text(folder / "metrics.json", json.dumps(_null(metrics(scores, analysis, annotations)), indent=1) + "\n")
    write_coco_results(folder / "coco_results.json", detections, annotations)
    write_voc_results(folder / "voc", detections, [annotations.id(i) for i in range(len(annotations))], classes)
    with lettering(classes) as names:
        plot_precision_recall(scores.voc, names, folder / "precision_recall.png")
        plot_class_ap(scores.coco.ap, scores.coco.ap50, names, folder / "class_ap.png")
        plot_confusion(analysis.confusion, names, folder / "confusion.png")
    plot_error_gains(analysis.errors, folder / "errors.png")
    if analysis.overlaps is not None:
        plot_recall(analysis.overlaps, NUMBERS, folder / "proposal_recall.png")
