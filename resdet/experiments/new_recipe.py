"""Look at a data set, and write a recipe for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill

import torch

from resdet.config import DataFormat
from resdet.data.build import describe
from resdet.data.formats import FORMATS, find_format
from resdet.data.suggest import suggest, to_source
from resdet.data.tree import Tree, split_word
from resdet.errors import UserError
from resdet.io import write_text

logger = logging.getLogger(__name__)


def write_recipe(
    root: Path,
    output: Path | None = None,
    *,
    format: DataFormat | None = None,
    train: str | None = None,
    val: str | None = None,
    device: str = "auto",
) -> Path:
    """Write a recipe for the data set in `root`, with the reasons for what it proposes → the recipe.

    Args:
        root: folder of the data set
        output: recipe to write; None takes configs/NAME.py, with the folder's name
        format: format of the data set; detected if not given
        train: training splits; train, or trainval, if not given
        val: validation splits; val, valid or test if not given
        device: auto, cpu or cuda: what the recipe is for

    Raises UserError if the recipe exists, or the data set cannot be used.
    """
    name = root.resolve().name
    output = output or Path("configs") / f"{name}.py"
    if output.exists():
        raise UserError(f"{output} already exists: pass another file with --output.")
    kind = format or find_format(root)[0]
    train, val = choose_splits(FORMATS[kind].splits(Tree(root)), train, val, root)
    training = FORMATS[kind].read(root, train, ())
    logger.info(describe(training, train))
    if not len(training.boxes):
        raise UserError(f"The split {train} of {root} has no annotated objects: there is nothing to train on.")
    if val != train:
        logger.info(describe(FORMATS[kind].read(root, val, training.classes), val))
    gpu = torch.cuda.is_available() if device == "auto" else device == "cuda"
    config, reasons = suggest(training, kind, root, train, val, gpu)
    title = f"{name}: {len(training.classes)} classes, {len(training)} training images."
    text = "\n".join([title, "", *(fill(reason, 110) for reason in reasons)])
    write_text(output, f'"""{text}\n"""\n\n{to_source(replace(config, name=""))}')
    logger.info(f"\n{text}\n\nWrote {output}. Check the data, then train:\n")
    logger.info(f"    resdet check-data {output}\n    resdet train-det {output}")
    return output


def choose_splits(known: Sequence[str], train: str | None, val: str | None, root: Path) -> tuple[str, str]:
    """The splits to train and to evaluate on, of those that are `known` and where none is named.

    Validation data are preferred to test data, which are for the end; trainval has the images of val, and is taken
    only where nothing is evaluated on these.
    """
    chosen = train.split("+") if train else []
    if val is None:
        words = ["test"] if "trainval" in map(_plain, chosen) else ["val", "test"]
        free = [name for name in known if name not in chosen]
        val = next((name for word in words for name in free if split_word(name) == word), None)
    if train is None:
        named = [name for name in known if split_word(name) == "train" and name != val]
        joint = [name for name in named if _plain(name) == "trainval"]
        apart = [name for name in named if name not in joint]
        preferred = joint or apart if val and split_word(val) == "test" else apart or joint
        train = preferred[0] if len(preferred) == 1 else known[0] if len(known) == 1 else None
    if train is None:
        raise UserError(f"{root} has the splits {', '.join(known) or 'none'}: choose with --train and --val.")
    return train, val or train


def _plain(name: str) -> str:
    """The name of a split without its year."""
    return name.casefold().strip("0123456789_-")
