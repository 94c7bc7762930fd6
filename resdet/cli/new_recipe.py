"""Look at a data set, and write a recipe for it.

    resdet new-recipe datasets/mine
    resdet new-recipe datasets/mine --format yolo --train train --val val --output configs/mine.py

The folder may hold any of the formats of datasets/README.md. The recipe names the classes, and proposes image size,
anchors and schedule with the reasons; it is a Python file like the others in configs/, to be read and changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from resdet.config import DataFormat


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The data set."""

    root: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
    """Folder of the data set."""
    output: Path | None = None
    """Recipe to write; defaults to configs/NAME.py, with the name of the folder."""
    format: DataFormat | None = None
    """Format of the data set; detected if not given."""
    train: str | None = None
    """Training splits, joined by "+"; defaults to train, or to trainval."""
    val: str | None = None
    """Validation splits, joined by "+"; defaults to val, valid or test."""
    split_file: Path | None = None
    """File that `resdet split` wrote, whose splits are used in place of the data set's own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that the recipe is for."""
    pretrained: bool | None = None
    """Whether to start from torchvision's ImageNet weights; by default, if they are cached or can be downloaded."""


def main(arguments: Arguments) -> None:
    """Write the recipe."""
    from resdet.experiments.new_recipe import write_recipe

    write_recipe(
        arguments.root,
        arguments.output,
        format=arguments.format,
        train=arguments.train,
        val=arguments.val,
        split_file=arguments.split_file,
        device=arguments.device,
        pretrained=arguments.pretrained,
    )
