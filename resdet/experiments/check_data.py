"""Look at a data set before training on it: what is broken, doubled or odd, and whether the config suits it."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track

from resdet.config import DetConfig
from resdet.data.annotations import Annotations
from resdet.data.build import describe, read_annotations
from resdet.data.check import (
    Finding,
    best_overlap,
    check_annotations,
    check_crowds,
    resized_boxes,
    size_histogram,
    summary,
)
from resdet.data.duplicates import fingerprint, twins
from resdet.data.images import ImageError, read_image
from resdet.experiments.runs import run_folder
from resdet.io import write_text
from resdet.models.build import build_anchors, strides_of
from resdet.visualize import contact_sheet, draw_finding, plot_data, save_image

SIZES = (0, 16, 32, 64, 128, 256, 512)  # pixels of the resized image; square roots of areas
SHOWN = 3  # sentences of a kind in the summary
WORST = 16  # pictures of the sheet
logger = logging.getLogger(__name__)


class DataReport(NamedTuple):
    """What was found in a data set."""

    findings: list[Finding]
    figures: dict[str, Any]
    """Of each split: counts of classes and sizes, and how well the anchors cover the objects."""
    folder: Path
    """Where all of it, and pictures, lie."""


def check_data(config: DetConfig) -> DataReport:
    """Read and open all that a config trains and evaluates on; the report goes into the run's folder ``data``.

    Raises UserError if the data cannot be read at all.
    """
    splits = read_splits(config)
    for split, part in splits.items():
        logger.info(describe(part, split))
    crowds = check_crowds(splits, config.test.max_detections, config.test.coco_max_dets)
    findings = [*check_annotations(splits), *crowds, *check_images(splits)]
    figures, folder = measure(splits, config), run_folder(config) / "data"
    write(folder, findings, figures, splits)
    return DataReport(findings, figures, folder)


def read_splits(config: DetConfig) -> dict[str, Annotations]:
    """The training and the validation data of a recipe, by their names; objects of other classes are left out."""
    data = replace(config.data, other_classes="ignore")
    training = read_annotations(data, data.train, data.classes)
    if data.val == data.train:
        return {data.train: training}
    return {data.train: training, data.val: read_annotations(data, data.val, training.classes)}


def check_images(splits: Mapping[str, Annotations]) -> list[Finding]:
    """Open every image: those that cannot be read, whose size is another, or that look like another one."""
    places = [(split, index) for split, annotations in splits.items() for index in range(len(annotations))]

    def look(place: tuple[str, int]) -> np.ndarray | Finding:
        """The fingerprint of an image, or what is wrong with it."""
        split, index = place
        file, size = splits[split].file(index), tuple(splits[split].sizes[index].tolist())
        try:
            image = read_image(file)
        except ImageError as error:
            return Finding("unreadable image", split, str(error), index)
        if image.shape[:2] != size:
            shape = f"{image.shape[1]}×{image.shape[0]}"
            return Finding("other size", split, f"{file} has {shape} pixels, not {size[1]}×{size[0]}.", index)
        return fingerprint(image)

    with ThreadPoolExecutor(4) as pool:
        looked = list(track(pool.map(look, places), "Opening images", len(places), transient=True))
    good = [(place, seen) for place, seen in zip(places, looked, strict=True) if isinstance(seen, np.ndarray)]
    found = [seen for seen in looked if isinstance(seen, Finding)]
    for a, b in twins(np.array([seen for _, seen in good], np.uint32).reshape(-1, 8)):
        (split, index), (other_split, other) = good[a][0], good[b][0]
        file, twin = splits[split].file(index), splits[other_split].file(other)
        if file != twin:  # one file in two splits is reported without opening it
            kind = "same picture twice" if split == other_split else "same picture in two splits"
            found.append(Finding(kind, split, f"{file} looks like {twin} of {other_split}.", index))
    return found


def measure(splits: Mapping[str, Annotations], config: DetConfig) -> dict[str, Any]:
    """Counts of classes and sizes, and how well the recipe's anchors cover the objects, for each split."""
    anchors, strides = build_anchors(config.model), strides_of(config.model)
    figures = {}
    for split, part in splits.items():
        short_side = max(config.data.short_sides) if split == config.data.train else config.data.test_short_side
        boxes, sizes = resized_boxes(part, short_side, config.data.max_side)
        overlap = best_overlap(boxes, sizes, anchors, strides)
        counts = np.bincount(part.labels, minlength=len(part.classes))
        figures[split] = {
            "images": len(part),
            "objects": len(boxes),
            "difficult": int(part.difficult.sum()),
            "images_without_objects": int((np.diff(part.offsets) == 0).sum()),
            "classes": dict(zip(part.classes, counts.tolist(), strict=True)),
            "sizes": dict(zip(map(str, SIZES), size_histogram(boxes, SIZES), strict=True)),
            "anchor_iou": {str(iou): share(overlap >= iou) for iou in (0.3, 0.5, 0.7)},
        }
    return figures


def share(true: np.ndarray) -> float:
    """The share of an array that is true; NaN for an empty one."""
    return float(true.mean()) if len(true) else float("nan")


def write(
    folder: Path,
    findings: Sequence[Finding],
    figures: Mapping[str, Any],
    splits: Mapping[str, Annotations],
) -> None:
    """report.json with everything, histograms.png, and worst.png with images of which something was found."""
    content = {"splits": figures, "findings": [finding._asdict() for finding in findings]}
    write_text(folder / "report.json", json.dumps(content, indent=1) + "\n")
    plot_data(figures, folder / "histograms.png")
    pictures = []
    for finding in spread([finding for finding in findings if finding.image >= 0]):
        annotations = splits[finding.split]
        boxes = annotations.boxes[finding.box : finding.box + 1] if finding.box >= 0 else np.empty((0, 4))
        try:
            file = Path(annotations.file(finding.image))
            pictures.append(draw_finding(read_image(file), boxes, f"{finding.kind}: {file.name}"))
        except ImageError:
            continue
    if pictures:
        save_image(folder / "worst.png", contact_sheet(pictures))


def spread(findings: Sequence[Finding]) -> list[Finding]:
    """At most `WORST` of them, of every kind in turn."""
    turns: dict[str, int] = Counter()
    ranked = []
    for finding in findings:
        ranked.append((turns[finding.kind], finding))
        turns[finding.kind] += 1
    return [finding for _, finding in sorted(ranked, key=lambda pair: pair[0])[:WORST]]


def summarize(report: DataReport) -> str:
    """What was found, for people to read: the figures of each split, and the first few findings of each kind."""
    lines = []
    for split, figure in report.figures.items():
        sizes = ", ".join(f"{count} from {edge}" for edge, count in figure["sizes"].items() if count)
        classes = sorted(figure["classes"].items(), key=lambda item: -item[1])
        more = f" and {len(classes) - 8} more" if len(classes) > 8 else ""
        reached = ", ".join(f"IoU {iou}: {100 * part:.1f} %" for iou, part in figure["anchor_iou"].items())
        lines += [
            f"{split}:",
            f"  objects per class: {', '.join(f'{name} {count}' for name, count in classes[:8])}{more}",
            f"  object sizes in pixels of the resized image (square root of the area): {sizes}",
            f"  objects that an anchor overlaps with {reached}",
        ]
    return "\n".join([*lines, summary(report.findings, SHOWN)])
