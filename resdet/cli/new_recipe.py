"""Look at a data set and write a recipe for it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill

import torch

from resdet.data.build import describe
from resdet.data.formats import FORMATS, find_format
from resdet.data.suggest import suggest, to_source
from resdet.errors import UserError
from resdet.io import write_text

TRAIN, VAL = ("trainval", "train"), ("test", "val", "valid")  # in the order in which they are preferred


def main(arguments: Sequence[str]) -> None:
    """ROOT [--output RECIPE] [--format FORMAT] [--train SPLIT] [--val SPLIT]: write a recipe for a data set"""
    options = parse(arguments)
    root, output = options.root, options.output or Path("configs") / f"{options.root.resolve().name}.py"
    if output.exists():
        raise UserError(f"{output} exists already: name another file with --output.")
    kind = options.format or find_format(root)[0]
    train, val = choose_splits(FORMATS[kind].splits(root), options.train, options.val, root)
    training = FORMATS[kind].read(root, train, ())
    print(describe(training, train))
    if not len(training.boxes):
        raise UserError(f"Nothing is annotated in {root}, {train}: there is nothing to learn.")
    if val != train:
        print(describe(FORMATS[kind].read(root, val, training.classes), val))
    gpu = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    config, reasons = suggest(training, kind, root, train, val, gpu)
    title = f"{root.resolve().name}: {len(training.classes)} classes, {len(training)} images to train on."
    text = "\n".join([title, "", *(fill(reason, 110) for reason in reasons)])
    write_text(output, f'"""{text}\n"""\n\n{to_source(replace(config, name=""))}')
    print(f"\n{text}\n\n{output} is written. Look at the data, then train:\n")
    print(f"    python tools/check_data.py {output}\n    python tools/train_det.py {output}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="new_recipe")
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the data set")
    parser.add_argument(
        "--output", type=Path, help="recipe to write; configs/NAME.py, with the folder's name, if not given"
    )
    parser.add_argument("--format", choices=FORMATS, help="it is found if not given")
    parser.add_argument("--train", metavar="SPLIT", help="training splits")
    parser.add_argument("--val", metavar="SPLIT", help="evaluation splits")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="what the training will run on"
    )
    return parser.parse_args(arguments)


def choose_splits(known: Sequence[str], train: str | None, val: str | None, root: Path) -> tuple[str, str]:
    """The splits to train and to evaluate on, of those that are `known` and where none is named."""
    if train is None:
        held_out = (val or ("test" if "test" in known else "val")) == "test"  # else trainval would hold its images
        train = next(
            (name for name in TRAIN[not held_out :] if name in known), known[0] if len(known) == 1 else None
        )
    if train is None:
        raise UserError(
            f"{root} has the splits {', '.join(known) or 'none'}: name those to use with --train and --val."
        )
    if val is None:
        val = next((name for name in VAL if name in known and name not in train.split("+")), train)
    return train, val
