"""Train a Faster R-CNN in four alternating steps, in place of RPN and head together (Faster R-CNN §3.2).

Several processes share each step. Later steps read what the main process has written after earlier ones, so that
several machines need a run folder that all of them see.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from resdet.config import DetConfig, with_settings
from resdet.engine.runtime import from_main
from resdet.errors import UserError
from resdet.experiments.propose import propose
from resdet.experiments.train import train_or_resume
from resdet.models.build import build_network

STEPS = ("1_rpn", "2_head", "3_rpn", "4_head")
logger = logging.getLogger(__name__)


def alternate(config: DetConfig, folder: Path) -> Path:
    """Train the four steps, each with the settings of `config`, or continue them → the run of the last one.

    Args:
        config: of a detector with an RPN; its `init_weights` are what the first and the second step start from
        folder: gets a run folder for each step

    Raises UserError for a detector without an RPN.
    """
    if config.model.proposals != "rpn":
        raise UserError("Alternating training needs a detector with an RPN: set --model.proposals rpn.")
    with torch.device("meta"):
        stages = [name for name, _ in build_network(config.model).backbone.named_children()]

    def step(name: str, settings: Mapping[str, Any]) -> str:
        logger.info(f"— {name}")
        return str(train_or_resume(with_settings(config, {**settings, "runs": str(folder), "name": name})))

    rpn = {"train_only": "rpn", "solver.eval_every": 0}  # without a head there is nothing to compare
    head, shared = {"train_only": "roi_heads"}, {"model.freeze": tuple(stages)}
    first = step(STEPS[0], rpn)
    proposals = folder / f"{STEPS[0]}.npz"
    if not from_main(proposals.exists):
        propose(config, "rpn", proposals, most=config.rpn.post_nms_topk, weights=first)
    second = step(STEPS[1], {**head, "data.proposals": (str(proposals),)})
    third = step(STEPS[2], {**rpn, **shared, "init_weights": second})
    last = step(STEPS[3], {**head, **shared, "init_weights": third})
    logger.info(f"Done. RPN and RoI heads share their backbone in {last}/model.safetensors.")
    return Path(last)
