"""The report of an evaluation as one page for people: figures, classes, pictures."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resdet.evaluation.report import Scores
from resdet.io import write_text
from resdet.lettering import one_line

PICTURES = (
    ("detections.png", "Annotated (left) and detected (right)"),
    ("class_ap.png", "Average precision of each class"),
    ("precision_recall.png", "Precision and recall"),
    ("confusion.png", "What is taken for what"),
    ("errors.png", "What each kind of error costs"),
    ("proposal_recall.png", "How well the proposals cover the objects"),
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .75rem; border-bottom: 1px solid #ddd }
td, th { text-align: right } td:first-child, th:first-child { text-align: left }
img { max-width: 100%; border: 1px solid #ddd } .big { font-size: 2rem; margin: 0 } .note { color: #666 }
"""


def write_page(folder: Path, title: str, scores: Scores, classes: Sequence[str], images: int) -> Path:
    """Write ``report.html`` beside the pictures of an evaluation → the page.

    Args:
        folder: where the pictures are; those that are missing are left out
        title: a line of plain text
        classes: names in the order of the labels
        images: number of images
    """
    voc, coco = scores
    order = np.argsort(-np.nan_to_num(coco.ap50, nan=-1), kind="stable").tolist()
    rows = [(classes[k], int(voc.positives[k]), coco.ap50[k], coco.ap[k], voc.ap[k]) for k in order]
    rows.append(("mean", int(voc.positives.sum()), coco.stats["ap50"], coco.stats["ap"], voc.map))
    cells = "\n".join(
        f"<tr><td>{html.escape(one_line(name))}</td><td>{count:,}</td>"
        + "".join(f"<td>{_percent(v)}</td>" for v in values)
        + "</tr>"
        for name, count, *values in rows
    )
    figures = "\n".join(
        f'<h2>{html.escape(text)}</h2>\n<p><img src="{file}" alt="{html.escape(text)}"></p>'
        for file, text in PICTURES
        if (folder / file).is_file()
    )
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p class="big">AP50 {_percent(coco.stats["ap50"])}</p>
<p class="note">{images:,} images, {int(voc.positives.sum()):,} objects, figures in percent. AP50 counts a box as
right if it overlaps an object of its class with an IoU of 0.5 or more; AP is the mean over IoUs from 0.5 to 0.95
(COCO); VOC is the area under the curve of precision and recall (PASCAL VOC). metrics.json has all figures.</p>
<table><tr><th>class</th><th>objects</th><th>AP50</th><th>AP</th><th>VOC</th></tr>
{cells}
</table>
{figures}
</body></html>
"""
    write_text(folder / "report.html", text)
    return folder / "report.html"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"
