"""Train a Faster R-CNN in four alternating steps, in place of RPN and head together (Faster R-CNN §3.2).

Several processes share each step. Later steps read what the main process has written after earlier ones, so that
several machines need a run folder that all of them see.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from resdet.cli import propose, train_det
from resdet.cli.run import go_on
from resdet.config import load_config
from resdet.engine.runtime import from_main, print_on_main
from resdet.errors import UserError
from resdet.models.build import build_network

STEPS = ("1_rpn", "2_head", "3_rpn", "4_head")


def main(arguments: Sequence[str]) -> None:
    """RECIPE [--setting VALUE …]: train a Faster R-CNN in four alternating steps, each with these settings"""
    recipe, folder, settings = parse(arguments)
    config = load_config(recipe, settings)
    if config.model.proposals != "rpn":
        raise UserError(f"{recipe} is given its proposals: alternating training is for a detector with an RPN.")
    with torch.device("meta"):
        stages = [name for name, _ in build_network(config.model).backbone.named_children()]
    shared = ("--model.freeze", *stages)
    rpn_alone = ("--learn", "rpn", "--solver.eval-every", "0")  # without a head there is nothing to compare

    def step(name: str, *own: str) -> str:
        print_on_main(f"— {name}")
        return str(go_on(train_det.main, (recipe, *settings, *own), folder, name))

    first = step(STEPS[0], *rpn_alone)
    proposals = folder / f"{STEPS[0]}.npz"
    if not from_main(proposals.exists):
        options = ("--method", "rpn", "--output", str(proposals), "--most", str(config.rpn.after_nms))
        propose.main([recipe, *settings, *options, "--weights", first])
    second = step(STEPS[1], "--learn", "head", "--data.proposals", str(proposals))
    third = step(STEPS[2], *rpn_alone, "--weights", second, *shared)
    last = step(STEPS[3], "--learn", "head", "--weights", third, *shared)
    print_on_main(f"Done. RPN and head share their trunk in {last}/model.safetensors.")


def parse(arguments: Sequence[str]) -> tuple[str, Path, list[str]]:
    """The recipe, the folder of the four runs, and the settings of all."""
    if not arguments or arguments[0].startswith("-"):
        raise UserError("Name a recipe first, such as configs/bccd_r18.py.")
    recipe, *rest = arguments
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--name", default=f"{Path(recipe).stem}_alternating")
    options, settings = parser.parse_known_args(rest)
    return recipe, Path(options.runs) / options.name, settings
