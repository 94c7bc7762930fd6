"""Look at a data set, and write a recipe for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import torch

from resdet.config import DataConfig, DataFormat, DetConfig
from resdet.data.annotations import Annotations
from resdet.data.build import describe, read_annotations
from resdet.data.formats import FORMATS, find_format
from resdet.data.split_file import read_split_file
from resdet.data.suggest import suggest, suggest_depth, to_source
from resdet.data.tree import Tree, split_word
from resdet.errors import UserError
from resdet.io import write_text
from resdet.models.weights.torchvision import can_be_had

logger = logging.getLogger(__name__)


class Proposal(NamedTuple):
    """A recipe for a data set."""

    config: DetConfig
    text: str
    """what the data set is, and a reason for each choice"""

    def source(self, config: DetConfig | None = None) -> str:
        """The Python file of the recipe, or of another `config` that was made from it."""
        text = self.text.replace("\\", r"\\").replace('"""', r"\"\"\"")  # a folder may have any name
        return f'"""{text}\n"""\n\n{to_source(replace(config or self.config, name=""))}'


def propose_recipe(
    name: str, data: DataConfig, training: Annotations, device: str = "auto", pretrained: bool | None = None
) -> Proposal:
    """Propose a recipe for these training images, with the reasons.

    Args:
        name: of the data set
        data: format, folder and splits
        training: the images of data.train
        device: auto, cpu or cuda: what the recipe is for
        pretrained: start from torchvision's ImageNet weights; None does so if they can be had

    Raises UserError if nothing is annotated.
    """
    if not len(training.boxes):
        raise UserError(
            f"The split {data.train} of {data.root} has no annotated objects: there is nothing to train on."
        )
    gpu = torch.cuda.is_available() if device == "auto" else device == "cuda"
    network = f"resnet{suggest_depth(gpu)}"
    chosen = can_be_had(network) if pretrained is None else pretrained
    config, reasons = suggest(training, data, gpu, chosen)
    if not chosen and pretrained is None:
        reasons.insert(
            1,
            f"torchvision's ImageNet weights of {network} are neither cached nor can they be downloaded here: with "
            "them the same photographs usually give a better detector.",
        )
    title = f"{name}: {len(training.classes)} classes, {len(training)} training images."
    return Proposal(config, "\n".join([title, "", *(fill(reason, 110) for reason in reasons)]))


def write_recipe(
    root: Path,
    output: Path | None = None,
    *,
    format: DataFormat | None = None,
    train: str | None = None,
    val: str | None = None,
    split_file: Path | None = None,
    device: str = "auto",
    pretrained: bool | None = None,
) -> Path:
    """Write a recipe for the data set in `root`, with the reasons for what it proposes → the recipe.

    Args:
        root: folder of the data set
        output: recipe to write; None takes configs/NAME.py, with the folder's name
        format: format of the data set; detected if not given
        train: training splits; train, or trainval, if not given
        val: validation splits; val, valid or test if not given
        split_file: what `resdet split` wrote, whose splits are used in place of the data set's own
        device, pretrained: as in `propose_recipe`

    Raises UserError if the recipe exists, or the data set cannot be used.
    """
    name = root.resolve().name
    output = output or Path("configs") / f"{name}.py"
    if output.exists():
        raise UserError(f"{output} already exists: pass another file with --output.")
    kind = format or find_format(root)[0]
    known = list(read_split_file(split_file)) if split_file else FORMATS[kind].splits(Tree(root))
    train, val = choose_splits(known, train, val, root)
    data = DataConfig(format=kind, root=str(root), train=train, val=val, split_file=str(split_file or ""))
    training = read_annotations(data, train, ())
    logger.info(describe(training, train))
    proposal = propose_recipe(name, data, training, device, pretrained)
    if val != train:
        logger.info(describe(read_annotations(data, val, training.classes), val))
    write_text(output, proposal.source())
    logger.info(f"\n{proposal.text}\n\nWrote {output}. Check the data, then train:\n")
    if val == train:
        logger.info(f"    resdet split {root}")
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
