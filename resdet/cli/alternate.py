"""Train a Faster R-CNN in four alternating steps (Faster R-CNN §3.2).

    resdet alternate bccd_r18
    resdet alternate voc07_vgg16 --solver.steps 40000 --solver.milestones 30000

Each step is trained with these settings: an RPN; then RoI heads, from the same initial weights, on that RPN's
proposals; then an RPN on the backbone of these heads, which stays fixed; then the heads again, on that backbone.
The folder runs/RECIPE_alternating holds a run folder for each step: in the last one, 4_head, RPN and RoI heads
share their backbone, in 2_head they do not. Given the same settings again, an interrupted run continues where it
stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from resdet.cli.arguments import DetArguments
from resdet.config import DetConfig


@dataclass(frozen=True, kw_only=True)
class Arguments(DetArguments):
    """A recipe, whose steps have a folder of their own."""

    def base(self) -> DetConfig:
        """The recipe's config with another name."""
        config = super().base()
        return replace(config, name=f"{config.name}_alternating")


def main(arguments: Arguments) -> None:
    """Train the four steps."""
    from resdet.experiments.alternate import alternate
    from resdet.experiments.runs import run_folder

    alternate(arguments.config, run_folder(arguments.config))
