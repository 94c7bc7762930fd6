"""Split a data set into training, validation and test images.

    resdet split datasets/mine
    resdet split datasets/mine --val 0.15 --test 0.15 --output mine_splits.json

Splits all images of the folder, whatever splits it has, by what is in them: the same files are split alike whatever
they are called, and few images change sides when others are added. Copies and near duplicates of an image stay with
it, and each class has its share in each split; a class with two images or more is in train and in val if possible.
No file is moved: the lists are written to a file, which --data.split-file makes recipes use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from resdet.config import DataFormat


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The data set, and the shares of its images."""

    root: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
    """Folder of the data set."""
    val: float = 0.2
    """Share of the images in val; at least one image is."""
    test: float = 0.0
    """Share of the images in test; 0 makes no such split."""
    output: Path | None = None
    """File to write the lists to; defaults to splits.json in the data set's folder."""
    format: DataFormat | None = None
    """Format of the data set; detected if not given."""


def main(arguments: Arguments) -> None:
    """Split."""
    from resdet.experiments.split import split_data

    split_data(arguments.root, arguments.output, format=arguments.format, val=arguments.val, test=arguments.test)
