"""Convert a data set to another format: VOC's, COCO's, YOLO's or LabelMe's.

    resdet convert-data datasets/bccd datasets/bccd_coco --to coco
    resdet convert-data datasets/coco128 datasets/coco128_yolo --to yolo --link

The data set may have any of the formats of datasets/README.md. Images are copied, or linked to. What the new format
cannot represent (COCO's mask areas and numbers, difficult objects in YOLO) is reported; segmentations, keypoints
and captions are not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from resdet.config import DataFormat


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The data set, and what to make of it."""

    root: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
    """Folder of the data set."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """Folder to write to."""
    to: DataFormat
    """Format to write."""
    format: DataFormat | None = None
    """Format of the data set; detected if not given."""
    splits: tuple[str, ...] = ()
    """Splits to convert; defaults to all."""
    classes: tuple[str, ...] = ()
    """Class names to convert, in the order of the labels; defaults to all."""
    link: bool = False
    """Whether to link to the images instead of copying them."""


def main(arguments: Arguments) -> None:
    """Convert."""
    from resdet.experiments.convert_data import convert_data

    convert_data(
        arguments.root,
        arguments.output,
        arguments.to,
        format=arguments.format,
        splits=arguments.splits,
        classes=arguments.classes,
        link=arguments.link,
    )
