"""Look at a data set, and write a recipe for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill

import torch

from resdet.config import DataConfig, DataFormat
from resdet.data.build import describe, read_annotations
from resdet.data.formats import FORMATS, find_format
from resdet.data.split_file import read_split_file
from resdet.data.suggest import suggest, to_source
from resdet.errors import UserError
from resdet.io import write_text

TRAIN, VAL = ("trainval", "train"), ("test", "val", "valid")  # in the order in which they are preferred
logger = logging.getLogger(__name__)


def write_recipe(
    root: Path,
    output: Path | None = None,
    *,
    format: DataFormat | None = None,
    train: str | None = None,
    val: str | None = None,
    split_file: Path | None = None,
    device: str = "auto",
) -> Path:
    """Write a recipe for the data set in `root`, with the reasons for what it proposes → the recipe.

    Args:
        root: folder of the data set
        output: recipe to write; None takes configs/NAME.py, with the folder's name
        format: format of the data set; detected if not given
        train: training splits; trainval or train if not given
        val: validation splits; test, val or valid if not given
        split_file: what `resdet split` wrote, whose splits are used in place of the data set's own
        device: auto, cpu or cuda: what the recipe is for

    Raises UserError if the recipe exists, or the data set cannot be used.
    """
    name = root.resolve().name
    output = output or Path("configs") / f"{name}.py"
    if output.exists():
        raise UserError(f"{output} already exists: pass another file with --output.")
    kind = format or find_format(root)[0]
    known = list(read_split_file(split_file)) if split_file else FORMATS[kind].splits(root)
    train, val = choose_splits(known, train, val, root)
    data = DataConfig(format=kind, root=str(root), split_file=str(split_file or ""))  # type: ignore[arg-type]
    training = read_annotations(data, train, ())
    logger.info(describe(training, train))
    if not len(training.boxes):
        raise UserError(f"The split {train} of {root} has no annotated objects: there is nothing to train on.")
    if val != train:
        logger.info(describe(read_annotations(data, val, training.classes), val))
    gpu = torch.cuda.is_available() if device == "auto" else device == "cuda"
    config, reasons = suggest(training, kind, root, train, val, gpu)
    config = replace(config, name="", data=replace(config.data, split_file=data.split_file))
    title = f"{name}: {len(training.classes)} classes, {len(training)} training images."
    text = "\n".join([title, "", *(fill(reason, 110) for reason in reasons)])
    write_text(output, f'"""{text}\n"""\n\n{to_source(config)}')
    logger.info(f"\n{text}\n\nWrote {output}. Check the data, then train:\n")
    logger.info(f"    resdet check-data {output}\n    resdet train-det {output}")
    return output


def choose_splits(known: Sequence[str], train: str | None, val: str | None, root: Path) -> tuple[str, str]:
    """The splits to train and to evaluate on, of those that are `known` and where none is named."""
    if train is None:
        held_out = (val or ("test" if "test" in known else "val")) == "test"  # else trainval would hold its images
        train = next(
            (name for name in TRAIN[not held_out :] if name in known), known[0] if len(known) == 1 else None
        )
    if train is None:
        raise UserError(f"{root} has the splits {', '.join(known) or 'none'}: choose with --train and --val.")
    if val is None:
        val = next((name for name in VAL if name in known and name not in train.split("+")), train)
    return train, val
