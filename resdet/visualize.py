"""Pictures: boxes on images, sheets of them, and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resdet.data.resize import resize
from resdet.evaluation.stages import Stages
from resdet.io import write_atomically
from resdet.lettering import lettering, one_line, report_numbers
from resdet.types import Detections, Target

# Colours of the classes, RGB, told apart on light and on dark ground; reused from the start for more classes.
PALETTE = (
    *((230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (0, 190, 190)),
    *((240, 50, 230), (170, 110, 40), (128, 128, 0), (0, 0, 128), (255, 190, 0), (128, 0, 0)),
)
MOST_BARS = 40  # classes of a histogram
JPEG_SIDE = 65_500  # pixels, the most that libjpeg writes
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_detections(
    image: np.ndarray, detections: Detections, classes: Sequence[str], min_score: float = 0.5
) -> np.ndarray:
    """(H, W, 3) uint8 RGB → a copy with the boxes scored at least `min_score`, named, worst first."""
    canvas = image.copy()
    scale = max(0.4, min(canvas.shape[:2]) / 1000)
    names = _picture_names(tuple(classes))
    for box, score, label in reversed(list(zip(*(t.tolist() for t in detections), strict=True))):
        if score >= min_score:
            _draw_box(canvas, box, PALETTE[label % len(PALETTE)], f"{names[label]} {score:.2f}", scale)
    return canvas


def draw_target(image: np.ndarray, target: Target, classes: Sequence[str]) -> np.ndarray:
    """(H, W, 3) uint8 RGB → a copy with the annotated boxes, difficult ones marked with a question mark."""
    canvas = image.copy()
    scale = max(0.4, min(canvas.shape[:2]) / 1000)
    names = _picture_names(tuple(classes))
    for box, label, difficult in zip(*(t.tolist() for t in target), strict=True):
        _draw_box(canvas, box, PALETTE[label % len(PALETTE)], names[label] + "?" * difficult, scale)
    return canvas


def draw_finding(image: np.ndarray, boxes: np.ndarray, text: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB, (n, 4) → a copy with these boxes, also where they leave it, and what is wrong."""
    beyond = max(0, *(-boxes[:, :2]).ravel(), *(boxes[:, 2:] - image.shape[1::-1]).ravel()) if len(boxes) else 0
    margin = min(round(beyond), max(image.shape)) + 1
    canvas = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
    scale = max(0.4, min(canvas.shape[:2]) / 1000)
    for box in (boxes + margin).tolist():
        _draw_box(canvas, box, PALETTE[0], "", scale)
    line = "".join(char if _is_drawn(char) else ascii(char)[1:-1] for char in one_line(text))
    _draw_box(canvas, (0, 0, 0, 0), (0, 0, 0), line, scale)
    return canvas


@cache
def _picture_names(classes: tuple[str, ...]) -> list[str]:
    """What pictures show of each class: its name, or its number if the name has characters that OpenCV lacks."""
    names = [one_line(name) for name in classes]
    hidden = [label for label, name in enumerate(names) if not all(map(_is_drawn, name))]
    report_numbers({label: classes[label] for label in hidden}, "pictures", "OpenCV lacks some of their characters")
    for label in hidden:
        names[label] = f"#{label}"
    return names


@cache
def _is_drawn(char: str) -> bool:
    """Whether OpenCV draws a character, not question marks in its place: OpenCV 4 has ASCII only."""

    def drawn(text: str) -> bytes:
        canvas = np.zeros((40, 120), np.uint8)
        return cv2.putText(canvas, text, (5, 30), FONT, 0.7, 255).tobytes()

    return char.isascii() or drawn(char) not in [drawn("?" * count) for count in range(1, 5)]


def _draw_box(canvas: np.ndarray, box: Sequence[float], color: tuple[int, ...], text: str, scale: float) -> None:
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = (round(c) for c in box)
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color, max(1, round(2 * scale)))
    (w, h), below = cv2.getTextSize(text, FONT, scale, 1)
    left, bottom = max(0, min(x1, width - w)), max(h + below, min(y1, height))
    cv2.rectangle(canvas, (left, bottom - h - below), (left + w, bottom), color, cv2.FILLED)
    cv2.putText(canvas, text, (left, bottom - below // 2), FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)


def contact_sheet(images: Sequence[np.ndarray], columns: int = 4, side: int = 480) -> np.ndarray:
    """Images of any sizes (RGB) → one picture, whose rows are as high as their images, and cells `side` wide."""
    cells = [resize(image, side, side - 4) for image in images]
    rows = [cells[first : first + columns] for first in range(0, len(cells), columns)]
    heights = [4 + max(cell.shape[0] for cell in row) for row in rows]
    sheet = np.full((sum(heights), columns * side, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        y = sum(heights[:number])
        for x, cell in enumerate(row):
            sheet[y : y + cell.shape[0], x * side : x * side + cell.shape[1]] = cell
    return sheet


def save_image(path: Path, image: np.ndarray, comment: bytes = b"") -> None:
    """Write (H, W, 3) uint8 RGB as the kind of file that the ending of `path` names, a JPEG with a `comment`.

    What is larger than a JPEG can be is scaled down.
    """
    if path.suffix.lower() in (".jpg", ".jpeg") and max(image.shape) > JPEG_SIDE:
        image = resize(image, JPEG_SIDE, JPEG_SIDE)
    encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    if comment:
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        encoded = encoded[:2] + segment + encoded[2:]
    write_atomically(path, lambda temporary: temporary.write_bytes(encoded))


def plot_detection(rows: Sequence[dict[str, float]], path: Path) -> None:
    """The lines of a detector's metrics.jsonl → a picture: loss terms on the left, mAP on the right."""
    figure, right = _figure_with_loss(rows)
    titles = {
        "map07": "VOC2007, 11 points",
        "map": "VOC, area under the curve",
        "ap50": "COCO, AP50",
        "ap": "COCO, AP",
    }
    for name, title in titles.items():
        right.plot(*_series(rows, name), ".-", label=title)
    right.set(ylabel="mAP", title="Validation", ylim=(0, 1))
    _finish(figure, path)


def plot_classification(rows: Sequence[dict[str, float]], path: Path) -> None:
    """The lines of a classifier's metrics.jsonl → a picture: loss on the left, errors on the right."""
    figure, right = _figure_with_loss(rows)
    steps, errors = _series(rows, "error")
    right.plot(steps, [100 * error for error in errors], linewidth=1, label="training, top-1")
    for name, title in (("top1", "validation, top-1"), ("top5", "validation, top-5")):
        steps, shares = _series(rows, name)
        right.plot(steps, [100 - 100 * share for share in shares], ".-", label=title)
    right.set(ylabel="error (%)", title="Error")
    right.set_ylim(bottom=0)
    _finish(figure, path)


def plot_errors(panels: Mapping[str, Mapping[str, Sequence[dict[str, float]]]], path: Path) -> None:
    """Panel → network → lines of its metrics.jsonl → a picture: training errors dashed, test errors solid.

    He et al. 2015, Fig. 6.
    """
    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    worst = 0.0  # of the networks' last test errors, which are all to be seen
    for axes, (title, networks) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for number, (label, rows) in enumerate(networks.items()):
            steps, errors = _series(rows, "error")
            axes.plot(steps, [100 * error for error in errors], "--", color=f"C{number}", linewidth=0.8)
            steps, shares = _series(rows, "top1")
            axes.plot(steps, [100 - 100 * share for share in shares], color=f"C{number}", linewidth=2, label=label)
            worst = max([worst, *(100 - 100 * share for share in shares[-1:])])
        axes.set(title=title, ylabel="error (%): training dashed, test solid")
    axes.set_ylim(0, min(100, 2 * worst) or 100)
    _finish(figure, path)


def plot_responses(deviations: Mapping[str, Sequence[float]], path: Path) -> None:
    """Network → standard deviation of each layer's response → a picture: in the network's order, and sorted.

    He et al. 2015, Fig. 7.
    """
    figure = Figure(figsize=(9, 7), layout="constrained")
    original, ranked = figure.subplots(2, 1)
    for label, values in deviations.items():
        style = "--" if "plain" in label else "-"
        original.plot(range(1, len(values) + 1), values, style, label=label)
        ranked.plot(range(1, len(values) + 1), sorted(values, reverse=True), style, label=label)
    original.set(title="Standard deviation of the layers' responses", ylabel="std")
    ranked.set(title="The same, sorted", ylabel="std")
    _finish(figure, path, "layer")


def plot_study(results: Mapping[str, tuple[float, Stages]], path: Path) -> None:
    """Detector → mAP and seconds of its stages → a picture: both as bars, the stages one upon the other."""
    figure = Figure(figsize=(12, 1.8 + 0.5 * len(results)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    labels, (values, stages) = list(results), zip(*results.values(), strict=True)
    bars = left.barh(labels, [100 * value for value in values], color="C0")
    left.bar_label(bars, fmt="%.1f", padding=3)
    left.set(xlabel="VOC07 mAP (%)", title="Accuracy", xlim=(0, 105))
    ends = [0.0] * len(labels)
    for name, seconds in zip(Stages._fields, zip(*stages, strict=True), strict=True):
        right.barh(labels, seconds, left=ends, label=name)
        ends = [end + own for end, own in zip(ends, seconds, strict=True)]
    right.bar_label(right.containers[-1], [f"{end:.2f}" for end in ends], padding=3)
    right.set(xlabel="seconds an image", title="Time")
    right.margins(x=0.15)
    figure.legend(loc="outside lower right", ncols=len(Stages._fields))
    left.invert_yaxis()
    for axes in (left, right):
        axes.grid(alpha=0.3, axis="x")
        axes.set_axisbelow(True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def plot_data(splits: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Split → what `check_data` measured → a picture: objects of each class and of each size, for each split."""
    classes = list(next(iter(splits.values()))["classes"])
    with lettering(classes, *splits) as texts:
        figure = Figure(figsize=(12, 4 * len(splits)), layout="constrained")
        for (left, right), figures, title in zip(
            figure.subplots(len(splits), 2, squeeze=False), splits.values(), texts[len(classes) :], strict=True
        ):
            _plot_classes(left, list(figures["classes"].values()), texts[: len(classes)], title)
            edges = list(figures["sizes"])
            names = [f"{a}–{b}" for a, b in pairwise(edges)] + [f"{edges[-1]}–"]
            right.bar(names, figures["sizes"].values(), color="C1")
            right.set(title=f"{title}: sizes", xlabel="square root of the area, pixels of the resized image")
        for axes in figure.axes:
            axes.grid(alpha=0.3, axis="y")
            axes.set_axisbelow(True)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)


def _plot_classes(axes: Axes, counts: Sequence[int], names: Sequence[str], title: str) -> None:
    """A bar for each class, the most frequent first."""
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    shown = order[:MOST_BARS]
    axes.bar(range(len(shown)), [counts[label] for label in shown], color="C0")
    axes.set_xticks(range(len(shown)), [names[label] for label in shown])
    is_wide = len(shown) > 8 or len("".join(names[label] for label in shown)) > 60
    axes.tick_params(axis="x", labelrotation=90 if is_wide else 0)
    rest = len(order) - len(shown)
    axes.set(title=f"{title}: objects of a class" + (f", {rest:,} rarer classes left out" if rest else ""))


def _series(rows: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a figure, where it was logged."""
    own = [row for row in rows if name in row]
    return [row["step"] for row in own], [row[name] for row in own]


def _figure_with_loss(rows: Sequence[dict[str, float]]) -> tuple[Figure, Axes]:
    """A figure whose left half shows the loss and its terms, and the axes of its right half."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    terms = next((row for row in rows if "loss" in row), {})
    for name in terms:
        if name not in {"step", "error", "lr", "images_per_second", "data_wait", "seconds_left"}:
            left.plot(*_series(rows, name), label=name, linewidth=1)
    left.plot(*_series(rows, "val_loss"), "k.-", label="val_loss")
    left.set(ylabel="loss", title="Loss")
    left.set_ylim(bottom=0)
    return figure, right


def _finish(figure: Figure, path: Path, xlabel: str = "step") -> None:
    for axes in figure.axes:
        axes.set_xlabel(xlabel)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=100)
