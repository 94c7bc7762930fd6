"""The pictures of an evaluation. All are written as the suffix of their path says (PNG, PDF …)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resdet.evaluation.errors import KINDS, ErrorAnalysis
from resdet.evaluation.proposals import average_recall, recall
from resdet.evaluation.voc import VocCurve, VocResult, interpolate

# As many curves as an eye tells apart and a legend holds; the curves of further classes are grey, as many as show
# where the others lie.
_NAMED_CURVES, _GREY_CURVES = 20, 100
_COLORS = [colormaps["tab10"](i) for i in range(10)]  # solid, then the same dashed


def plot_precision_recall(result: VocResult, class_names: Sequence[str], path: Path | str) -> None:
    """The interpolated curves of VOC's rules, class by class.

    The area under each curve is the AP in the legend, which lists the classes from the best down.
    """
    if len(class_names) != len(result.curves):
        raise ValueError(f"There are {len(class_names)} class names for {len(result.curves)} curves.")
    axes = _axes(9.5, 6.5, f"mAP {result.map:.3f}, by the 11-point rule {result.map07:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
    best_first = [c for c in np.argsort(-result.ap, kind="stable") if result.positives[c]]
    rest = best_first[_NAMED_CURVES:]
    for label in rest[:: -(-len(rest) // _GREY_CURVES) or 1]:
        axes.plot(*_staircase(result.curves[label]), drawstyle="steps-pre", color="0.85", linewidth=0.8)
    for rank, label in enumerate(best_first[:_NAMED_CURVES]):
        axes.plot(
            *_staircase(result.curves[label]),
            drawstyle="steps-pre",
            color=_COLORS[rank % 10],
            linestyle="-" if rank < 10 else "--",
            linewidth=1.6,
            label=f"{result.ap[label]:.3f}  {class_names[label]}",
        )
    if best_first:
        title = "AP" if len(best_first) <= _NAMED_CURVES else f"AP, {_NAMED_CURVES} best of {len(best_first)}"
        axes.legend(title=title, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, alignment="left")
    _save(axes, path)


def _axes(width: float, height: float, title: str) -> Axes:
    """Axes with a grid behind, in a figure of this many inches."""
    axes = Figure(figsize=(width, height), layout="constrained").add_subplot()
    axes.set_title(title, loc="left")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _save(axes: Axes, path: Path | str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _figure(axes).savefig(path, dpi=130)


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes of `_axes` have one"
    return figure


def _staircase(curve: VocCurve) -> tuple[np.ndarray, np.ndarray]:
    """Recalls and precisions of the interpolated curve, from recall 0 down to precision 0 at its end."""
    if not len(curve.recall):
        return np.zeros(1), np.zeros(1)
    precision = interpolate(curve.precision)
    return np.concatenate([[0], curve.recall, curve.recall[-1:]]), np.concatenate([precision[:1], precision, [0]])


# As many bars as can be told apart and named.
_BARS = 80


def plot_class_ap(
    ap: NDArray[np.float64], ap50: NDArray[np.float64], class_names: Sequence[str], path: Path | str
) -> None:
    """COCO's AP of each class as a bar, best class first, with a tick at its AP50; (C,) each, NaN is left out.

    Of more than 80 classes, the 40 best and the 40 worst.
    """
    order = [label for label in np.argsort(-ap, kind="stable") if not np.isnan(ap[label])]
    title = "COCO's AP, class by class"
    if len(order) > _BARS:
        title = f"COCO's AP: the {_BARS // 2} best and the {_BARS // 2} worst of {len(order):,} classes"
        order = order[: _BARS // 2] + order[-_BARS // 2 :]
    axes = _axes(7, 1.2 + 0.22 * max(len(order), 3), title)
    rows = np.arange(len(order))
    axes.barh(rows, ap[order], height=0.7, color=_COLORS[0], label="AP, IoU .5 to .95")
    axes.plot(ap50[order], rows, "|", color="0.2", markersize=9, markeredgewidth=2, label="AP50")
    axes.set_yticks(rows, [class_names[label] for label in order], fontsize=8)
    axes.set(xlim=(0, 1), ylim=(len(order) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=2)
    _save(axes, path)


def plot_recall(overlaps: NDArray[np.float64], numbers: Sequence[int], path: Path | str) -> None:
    """Recall against IoU of proposals (Faster R-CNN, Fig. 4); (N, G) as of `proposal_overlaps`."""
    axes = _axes(6.5, 5, f"{overlaps.shape[1]} objects, whatever their classes")
    thresholds = np.linspace(0.5, 1, 101)
    curves, means = recall(overlaps, thresholds), average_recall(overlaps)
    for number, curve, mean, color in zip(numbers, curves, means, _COLORS, strict=False):
        axes.plot(thresholds, curve, color=color, linewidth=1.8, label=f"{number} proposals, AR {mean:.3f}")
    axes.set(xlim=(0.5, 1), ylim=(0, 1.01), xlabel="IoU with the object", ylabel="recall")
    axes.legend(frameon=False)
    _save(axes, path)


def plot_error_gains(errors: ErrorAnalysis, path: Path | str) -> None:
    """What fixing each kind of error would gain, as bars with the number of errors beside them."""
    axes = _axes(7.5, 3.6, f"What AP50 ({100 * errors.ap50:.1f}) would gain if these errors were fixed")
    names = [*KINDS, "false_positive", "false_negative"]
    values = np.array([100 * errors.gains[name] for name in names])
    rows = np.array([*range(len(KINDS)), len(KINDS) + 0.6, len(KINDS) + 1.6])
    axes.barh(rows, values, height=0.7, color=[*_COLORS[: len(KINDS)], "0.6", "0.6"])
    ends = np.nan_to_num(values)
    most = max(1.0, ends.max())
    for row, name, value, end in zip(rows, names, values, ends, strict=True):
        count = f"  {errors.counts[name]:,} errors" if name in errors.counts else ""
        axes.text(max(end, 0) + 0.01 * most, row, f"{value:+.1f}{count}", va="center", fontsize=9)
    axes.set_yticks(rows, [*KINDS, "all false positives", "all false negatives"])
    axes.set(xlim=(min(0.0, ends.min()), 1.3 * most), ylim=(rows[-1] + 0.6, -0.6), xlabel="points of AP50")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    _save(axes, path)


# Above so many classes, numbers in a confusion matrix cannot be read, and above so many, names.
_NUMBERED_CLASSES, _NAMED_CLASSES = 20, 90


def plot_confusion(matrix: NDArray[np.int64], class_names: Sequence[str], path: Path | str) -> None:
    """(C + 1, C + 1) as of `confusion_matrix`: each row as shares of its sum, with percentages up to 20 classes.

    Of more than 90 classes, those that are most often taken for another class, or another class for them.
    """
    names, title = [*class_names, "nothing"], "Confusion matrix"
    sums = np.maximum(matrix.sum(1, keepdims=True), 1)
    if len(class_names) > _NAMED_CLASSES:
        title += f" of the {_NAMED_CLASSES} most confused of {len(class_names):,} classes"
        kept = [*_most_confused(matrix, _NAMED_CLASSES), len(class_names)]
        names, matrix, sums = [names[label] for label in kept], matrix[np.ix_(kept, kept)], sums[kept]
    classes = len(names) - 1
    shares = matrix / sums
    side = min(16.0, max(4.5, 1.5 + (0.45 if classes <= _NUMBERED_CLASSES else 0.15) * classes))
    axes = _axes(side + 0.8, side, title)
    axes.grid(visible=False)
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))  # shows small shares too
    # Lines around the background's row and column, which are of another nature.
    axes.axhline(classes - 0.5, color="0.5", linewidth=0.8)
    axes.axvline(classes - 0.5, color="0.5", linewidth=0.8)
    if classes <= _NUMBERED_CLASSES:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            color = "white" if shares[row, column] > 0.35 else "0.1"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    size = 9 if classes <= _NUMBERED_CLASSES else 6
    axes.set_xticks(range(classes + 1), names, rotation=90, fontsize=size)
    axes.set_yticks(range(classes + 1), names, fontsize=size)
    axes.set(xlabel="detected", ylabel="annotated")
    _figure(axes).colorbar(picture, label="share of the row", shrink=0.6)
    _save(axes, path)


def _most_confused(matrix: NDArray[np.int64], most: int) -> list[int]:
    """Labels, rising, of the classes that are most often taken for another class, or another for them."""
    rows, columns = np.nonzero(matrix[:-1, :-1])
    other = rows != columns
    rows, columns = rows[other], columns[other]
    count = np.zeros(len(matrix) - 1, np.int64)
    for labels in (rows, columns):
        np.add.at(count, labels, matrix[rows, columns])
    return sorted(np.argsort(-count, kind="stable")[:most].tolist())
