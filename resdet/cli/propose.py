"""Make region proposals for the images of a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from resdet.config import DetConfig, load_config
from resdet.experiments.propose import MOST, Method, propose


def main(arguments: Sequence[str]) -> None:
    """RECIPE --method METHOD --output FILE [--weights RUN|FILE] [--most N]: make region proposals for its images"""
    options, config = parse(arguments)
    propose(config, options.method, options.output, options.most, options.edges)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, DetConfig]:
    """The options of the command, and the recipe whose images are meant."""
    parser = argparse.ArgumentParser(prog="propose")
    parser.add_argument("recipe", type=Path, metavar="RECIPE")
    parser.add_argument("--method", choices=get_args(Method), required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="a .npz file to write")
    parser.add_argument("--most", type=int, default=MOST, metavar="N", help="proposals kept for an image")
    parser.add_argument("--edges", metavar="FILE", help="edge-boxes: the model of OpenCV's structured edges")
    options, settings = parser.parse_known_args(arguments)
    return options, load_config(options.recipe, settings)
