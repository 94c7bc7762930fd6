"""Look at a data set before training on it: what is broken, doubled or odd, and whether the recipe suits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resdet.config import DetConfig, load_config
from resdet.data.check import Finding, summary
from resdet.errors import UserError
from resdet.experiments.check_data import check_data

SHOWN = 3  # sentences of a kind


def main(arguments: Sequence[str]) -> None:
    """RECIPE [--setting VALUE …]: look for what is wrong with a data set"""
    found = check_data(parse(arguments))
    report(found.findings, found.figures)
    print(f"All of it, and pictures, are in {found.folder}.")


def parse(arguments: Sequence[str]) -> DetConfig:
    """The recipe whose data are to be looked at."""
    if not arguments or arguments[0].startswith("-"):
        raise UserError("Name a recipe first, as in `check_data configs/bccd_r18.py --data.root DIR`.")
    return load_config(arguments[0], arguments[1:])


def report(findings: Sequence[Finding], figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a summary."""
    for split, figure in figures.items():
        sizes = ", ".join(f"{count} from {edge}" for edge, count in figure["sizes"].items() if count)
        classes = sorted(figure["classes"].items(), key=lambda item: -item[1])
        more = f" and {len(classes) - 8} more" if len(classes) > 8 else ""
        print(f"{split}:")
        print(f"  classes: {', '.join(f'{name} {count}' for name, count in classes[:8])}{more}")
        print(f"  sizes in pixels of the resized image (square root of the area): {sizes}")
        print(
            "  anchors reach "
            + ", ".join(f"IoU {iou} with {100 * part:.1f} %" for iou, part in figure["anchor_iou"].items())
            + " of the objects"
        )
    print(summary(findings, SHOWN))
