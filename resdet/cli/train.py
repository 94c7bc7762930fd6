"""Train a detector on a folder of annotated photographs.

    resdet train photos
    resdet train photos.zip --name birds --solver.steps 2000
    resdet train photos --dry-run
    resdet train --resume runs/photos

Recognizes the format of the annotations by their content (VOC, COCO, YOLO, LabelMe, CSV, VIA, in the layouts of the
usual annotation tools), splits the photographs if they are not split, proposes a recipe with its reasons, checks
the data, trains, and evaluates. Leaves in runs/NAME: the model, the recipe, the list of the splits, and the report
(folder eval). The steps are commands of their own: split, new-recipe, check-data, train-det, eval-det.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from resdet.cli.arguments import DetArguments, TrainArguments
from resdet.config import DetConfig
from resdet.errors import UserError

if TYPE_CHECKING:
    from resdet.experiments.photos import Plan


@dataclass(frozen=True, kw_only=True)
class Arguments(DetArguments, TrainArguments[DetConfig]):
    """The photographs."""

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOS")] = ""
    """Folder of the photographs and their annotations, or a zip or tar archive of it."""
    dry_run: bool = False
    """Whether to stop before training: look at the photographs, propose and check, and write nothing."""
    pretrained: bool | None = None
    """Whether to start from torchvision's ImageNet weights; by default, if they are cached or can be downloaded."""

    def base(self) -> DetConfig:
        """The proposed recipe, or the config of the run to resume. Raises UserError if there is neither."""
        if self.resume is None and not self.recipe:
            raise UserError("PHOTOS missing: pass the folder of your photographs, or a zip or tar archive.")
        if self.resume is not None:
            return super().base()
        folder = self.run
        return replace(self.plan().proposal.config, name=folder.name, runs=str(folder.parent))

    @property
    def run(self) -> Path:
        """The run folder."""
        photos = Path(self.recipe)
        name = self.config.name or photos.resolve().name.partition(".")[0] or "photos"
        return Path(self.config.runs) / name

    def plan(self) -> Plan:
        """What is to be done with the photographs. Raises UserError if they cannot be used."""
        from resdet.experiments.photos import plan

        return plan(Path(self.recipe), self.run, self.config.device, self.pretrained)


def main(arguments: Arguments) -> None:
    """Plan, check, train and evaluate."""
    from resdet.engine.runtime import is_main
    from resdet.experiments.photos import train_photos

    resume = arguments.resume is not None
    made = None if resume else arguments.plan()
    if not arguments.dry_run:
        train_photos(arguments.config, made, resume)
    elif made and is_main():
        print(made.proposal.source(arguments.config))
        print("Nothing was written (--dry-run).")
