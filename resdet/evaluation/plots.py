"""The picture of an evaluation: precision against recall, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from resdet.evaluation.voc import VocCurve, VocResult, interpolate

# As many curves as an eye tells apart and a legend holds; the curves of further classes are grey.
_NAMED_CURVES = 20
_COLORS = [colormaps["tab10"](i) for i in range(10)]  # solid, then the same dashed


def plot_precision_recall(result: VocResult, class_names: Sequence[str], path: Path | str) -> None:
    """Write a picture (PNG, or what the suffix of `path` says) of the interpolated curves.

    The area under each curve is the AP in the legend, which lists the classes from the best down.
    """
    if len(class_names) != len(result.curves):
        raise ValueError(f"There are {len(class_names)} class names for {len(result.curves)} curves.")
    figure = Figure(figsize=(9.5, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
    axes.set_title(f"mAP {result.map:.3f}, by the 11-point rule {result.map07:.3f}", loc="left")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

    best_first = [c for c in np.argsort(-result.ap, kind="stable") if result.positives[c]]
    for label in best_first[_NAMED_CURVES:]:
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
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _staircase(curve: VocCurve) -> tuple[np.ndarray, np.ndarray]:
    """Recalls and precisions of the interpolated curve, from recall 0 down to precision 0 at its end."""
    if not len(curve.recall):
        return np.zeros(1), np.zeros(1)
    precision = interpolate(curve.precision)
    return np.concatenate([[0], curve.recall, curve.recall[-1:]]), np.concatenate([precision[:1], precision, [0]])
