"""Check a data set before training on it.

    resdet check-data bccd_r18
    resdet check-data voc07_r101 --data.format coco --data.root DIR --data.train train

Opens every image and reads every annotation of a recipe. Finds unreadable images, images of another size than
stated, missing and duplicate images, images in both splits (also as a copy of another size or compression), boxes
outside the image or without area, images with more objects than the recipe lets a detector find, and class names
that look misspelled; counts classes and sizes, and how many
objects the recipe's anchors reach. Prints a summary, and writes into runs/NAME/data: report.json, histograms.png,
and worst.png with images to look at.
"""

from __future__ import annotations

from dataclasses import dataclass

from resdet.cli.arguments import DetArguments


@dataclass(frozen=True, kw_only=True)
class Arguments(DetArguments):
    """The recipe whose data are checked."""


def main(arguments: Arguments) -> None:
    """Check, and print a summary."""
    from resdet.experiments.check_data import check_data, summarize

    found = check_data(arguments.config)
    print(summarize(found))
    print(f"The full report, with pictures, is in {found.folder}.")
