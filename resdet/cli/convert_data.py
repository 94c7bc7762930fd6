"""Write a data set in another format."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from resdet.data.build import describe
from resdet.data.formats import FORMATS, convert, find_format
from resdet.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """ROOT OUTPUT --to FORMAT [--splits NAME …]: write a data set in another format, and say what it cannot hold"""
    options = parse(arguments)
    kind = options.format or find_format(options.root)[0]
    splits = options.splits or FORMATS[kind].splits(options.root)
    if not splits:
        raise UserError(f"No split of {options.root} was found: name them with --splits.")
    if options.output.resolve() == options.root.resolve():
        raise UserError(f"{options.output} is the data set itself: choose another folder.")

    read = FORMATS[kind].read
    classes = tuple(options.classes)
    if not classes:  # a split may lack objects of a class
        classes = tuple(dict.fromkeys(name for split in splits for name in read(options.root, split).classes))
    for split in splits:
        annotations = read(options.root, split, classes, other_classes="ignore")
        print(describe(annotations, split))
        for what in convert(annotations, options.to, options.output, split, options.link):
            print(f"  {options.to} cannot hold {what}.")
    print(f"{options.output} has {', '.join(splits)} in the format {options.to}.")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="convert_data")
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the data set")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder of the new one")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format to write")
    parser.add_argument("--format", choices=FORMATS, help="format of ROOT; it is found if not given")
    parser.add_argument("--splits", nargs="+", metavar="NAME", help="splits to convert; all if not given")
    parser.add_argument("--classes", nargs="+", default=(), metavar="CLASS", help="in this order; all if not given")
    parser.add_argument("--link", action="store_true", help="link to the images instead of copying them")
    return parser.parse_args(arguments)
