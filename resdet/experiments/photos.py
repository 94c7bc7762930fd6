"""From a folder of annotated photographs to a detector: splits, recipe, training, and a report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from resdet.config import DataConfig, DetConfig
from resdet.data.archive import unpack
from resdet.data.build import describe, read_all, read_annotations
from resdet.data.formats import find_format
from resdet.data.split_file import select_splits, write_split_file
from resdet.data.tree import ALL, is_hidden, split_word
from resdet.engine import runtime as runtimes
from resdet.errors import UserError
from resdet.evaluation.report import class_table
from resdet.experiments.check_data import check_data, summarize
from resdet.experiments.evaluate import evaluate
from resdet.experiments.new_recipe import Proposal, choose_splits, propose_recipe
from resdet.experiments.runs import check_start, run_folder
from resdet.experiments.split import make_splits
from resdet.experiments.train import train
from resdet.io import write_text

SPLITS, RECIPE = "splits.json", "recipe.py"  # in the run folder
logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What is to be done with photographs."""

    proposal: Proposal
    splits: Mapping[str, Sequence[str]]
    """paths of the images of each split, where the photographs had none"""


@cache
def plan(photos: Path, run: Path, device: str = "auto", pretrained: bool | None = None) -> Plan:
    """Look at photographs, say what is found, split them if they are not split, and propose a recipe.

    Nothing is written, but that an archive is unpacked beside itself. The main process does it for all.

    Args:
        photos: a folder, or a zip or tar archive
        run: the run folder in which the splits are to lie
        device, pretrained: as in `propose_recipe`

    Raises UserError if there are no annotated photographs, or too few.
    """
    return runtimes.from_main(lambda: _look(photos, run, device, pretrained))


def _look(photos: Path, run: Path, device: str, pretrained: bool | None) -> Plan:
    if not photos.exists():
        raise UserError(f"Photographs not found: {photos}; pass a folder, or a zip or tar archive.")
    root = only_folder(photos if photos.is_dir() else unpack(photos))
    kind, known = find_format(root)
    logger.info(f"{root} is annotated in the format {kind}; splits: {', '.join(known)}.")
    is_split = any(split_word(name) == "train" for name in known)
    train, val = choose_splits(known, None, None, root) if is_split else (ALL, ALL)
    data = DataConfig(format=kind, root=str(root), train=train, val=val)
    splits: dict[str, list[str]] = {}
    test = test_split(known, train, val)
    if val == train:
        whole = read_all(data)
        splits = make_splits(whole, root)
        path = run / SPLITS
        data = replace(data, train="train", val="val", split_file=str(path))
        training = select_splits(whole, root, splits, path, "train")
    else:
        training = read_annotations(data, train, ())
        logger.info(describe(training, train))
        held_out = "+".join([val, *([test] if test else [])])
        if set(read_annotations(data, held_out, ()).classes) - set(training.classes):
            data = replace(data, other_classes="ignore")  # what is not trained on cannot be found
        logger.info(describe(read_annotations(data, val, training.classes), val))
    proposal = propose_recipe(photos.name, data, training, device, pretrained)
    logger.info(f"\n{proposal.text}\n")
    return Plan(proposal, splits)


def only_folder(root: Path) -> Path:
    """The folder of a data set: archives often hold it as their only one."""
    while True:
        inside = [path for path in root.iterdir() if not is_hidden(path.name)]
        if len(inside) != 1 or not inside[0].is_dir():
            return root
        root = inside[0]


def train_photos(config: DetConfig, made: Plan | None, resume: bool = False) -> Path:
    """Train as planned, evaluate, and leave the recipe, the splits, the model and the report → the run folder.

    Args:
        config: the plan's recipe, with the settings that were changed
        made: what was planned; None if a run is resumed
        resume: continue where the run in that folder stopped

    Raises UserError for what cannot work, and if the training diverges.
    """
    folder = run_folder(config)
    if made:
        check_start(config, runtimes.start(config.device, config.solver.precision), resume)
        runtimes.from_main(lambda: write_plan(made, config))
        report = runtimes.from_main(lambda: summarize(check_data(config)))
        logger.info(report)
    train(config, resume)
    data = config.data
    known = [] if data.split_file else runtimes.from_main(lambda: find_format(Path(data.root))[1])
    test = test_split(known, data.train, data.val)
    found = evaluate(replace(config, data=replace(data, val=test or data.val)), str(folder))
    if found:
        logger.info(f"\n{class_table(found.scores, found.annotations.classes)}\n")
        if not test:
            logger.info(
                f"These are the images of {data.val}, by which the best checkpoint was chosen: on new ones "
                "expect a little less."
            )
        logger.info(f"The report is {found.folder / 'report.html'}, the recipe {folder / RECIPE}.")
        logger.info(f"Detect with the model:\n\n    resdet detect PHOTOS --weights {folder} --output detections")
    return folder


def write_plan(made: Plan, config: DetConfig) -> None:
    """Write the recipe, and the splits if these are new."""
    folder = run_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    if made.splits:
        write_split_file(folder / SPLITS, made.splits)
    write_text(folder / RECIPE, made.proposal.source(config))


def test_split(known: Sequence[str], train: str, val: str) -> str:
    """The split of images that nothing is chosen by; nothing if there is none."""
    used = {*train.split("+"), *val.split("+")}
    return next((name for name in known if split_word(name) == "test" and name not in used), "")
