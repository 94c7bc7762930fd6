"""Convert a data set to another format."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from resdet.config import DataFormat
from resdet.data.build import describe
from resdet.data.convert import convert
from resdet.data.formats import FORMATS, find_format
from resdet.data.tree import Tree
from resdet.errors import UserError

logger = logging.getLogger(__name__)


def convert_data(
    root: Path,
    output: Path,
    to: DataFormat,
    *,
    format: DataFormat | None = None,
    splits: Sequence[str] = (),
    classes: Sequence[str] = (),
    link: bool = False,
) -> None:
    """Write the data set in `root` to `output` in another format, and report what that cannot represent.

    Args:
        root: folder of the data set
        output: folder to write to
        to: format to write
        format: format of the data set; detected if not given
        splits: splits to convert; empty takes all
        classes: class names to convert, in the order of the labels; empty takes all
        link: link to the images instead of copying them

    Raises UserError if the data set cannot be read, or `output` is the same folder.
    """
    kind = format or find_format(root)[0]
    splits = splits or FORMATS[kind].splits(Tree(root))
    if not splits:
        raise UserError(f"No splits found in {root}: pass their names with --splits.")
    if output.resolve() == root.resolve():
        raise UserError(f"{output} is the data set itself: choose another folder.")

    read = FORMATS[kind].read
    if not classes:  # a split may lack objects of a class
        classes = tuple(dict.fromkeys(name for split in splits for name in read(root, split).classes))
    parts = {split: read(root, split, tuple(classes), other_classes="ignore") for split in splits}
    lost = convert(parts, to, output, link)
    for split, part in parts.items():
        logger.info(describe(part, split))
        for what in lost[split]:
            logger.info(f"  {to} cannot represent {what}.")
    logger.info(f"{output} holds {', '.join(splits)} in the format {to}.")
