"""Make region proposals for the training and validation images of a recipe.

    resdet propose bccd_r18 --method selective-search --output runs/bccd_selective_search.npz
    resdet propose bccd_r18 --method edge-boxes --edges model.yml.gz --output runs/edges.npz
    resdet propose bccd_r18 --method rpn --weights runs/bccd_r18 --output runs/rpn.npz

Selective search needs the extra `proposals`; EdgeBoxes needs OpenCV's extra modules and its structured-edge
model. To train a detector on the proposals, pass --model.proposals given --data.proposals FILE.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resdet.cli.arguments import DetArguments
from resdet.config import ProposalMethod


@dataclass(frozen=True, kw_only=True)
class Arguments(DetArguments):
    """How to find proposals."""

    method: ProposalMethod
    """Method that finds the proposals."""
    output: Path
    """Proposals file to write, a .npz file."""
    most: int = 2000
    """Maximum number of proposals per image."""
    weights: str = ""
    """For the method rpn: run folder or weights file of the detector whose RPN proposes, or a name that `resdet
    zoo` lists."""
    edges: str = ""
    """For the method edge-boxes: file of OpenCV's structured-edge model."""


def main(arguments: Arguments) -> None:
    """Make the proposals, and write them."""
    from resdet.experiments.propose import propose

    propose(
        arguments.config,
        arguments.method,
        arguments.output,
        most=arguments.most,
        weights=arguments.weights,
        edges=arguments.edges,
    )
