"""Train a set of networks, and compare them in a table and in plots.

    resdet study degradation --solver.steps 8000 --solver.milestones 4000 6000
    resdet study shortcuts
    resdet study lineage --solver.steps 300 --solver.milestones 240

The studies of classifiers are degradation, depth, shortcuts and activations; those of detectors are lineage,
improvements, proposals, anchors, sharing and lambda. Settings apply to every network of a study; what the study
compares takes precedence. Given the same settings again, an interrupted study continues where it stopped.

The folder runs/STUDY holds a run folder for each network and table.md; for classifiers also errors.png (He et al.
2015, Fig. 6) and responses.png (Fig. 7), for detectors study.png, with accuracy and seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from resdet.cli.arguments import RecipeArguments, parse
from resdet.config import ClsConfig, DetConfig, load_config
from resdet.errors import UserError
from resdet.experiments.studies import STUDIES, Study


@dataclass(frozen=True, kw_only=True)
class Arguments(RecipeArguments[DetConfig | ClsConfig]):
    """Which study, and of what."""

    study: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")] = ""
    """Name of the study."""
    recipe: str = ""
    """Recipe to study instead of the study's own."""
    config: Annotated[DetConfig | ClsConfig, tyro.conf.arg(name="")] = field(default_factory=DetConfig)

    def to_run(self) -> Study:
        """The study, of the recipe given. Raises UserError if there is no such study."""
        if self.study not in STUDIES:
            problem = f"Study not found: {self.study}" if self.study else "Study missing"
            raise UserError(f"{problem}; pass one of {', '.join(STUDIES)}.")
        study = STUDIES[self.study]
        return study.of_recipe(self.recipe) if self.recipe else study

    def bases(self) -> dict[str, DetConfig | ClsConfig]:
        """The config of each recipe of the study, all in the study's folder."""
        study = self.to_run()
        name = f"{self.study}_{Path(self.recipe).stem}" if self.recipe else self.study
        return {recipe: replace(load_config(recipe, (), study.kind), name=name) for recipe in study.recipes}

    def base(self) -> DetConfig | ClsConfig:
        """The config of the first recipe."""
        return next(iter(self.bases().values()))


def main(arguments: Arguments) -> None:
    """Train the networks, and print the table."""
    from resdet.engine.runtime import is_main
    from resdet.experiments.runs import run_folder
    from resdet.experiments.study import run_study

    folder = run_folder(arguments.config)
    table = run_study(arguments.to_run(), configs(arguments), folder)
    if is_main():
        print(f"{table}\nThe table and its plots are in {folder}.")


def configs(arguments: Arguments) -> dict[str, DetConfig | ClsConfig]:
    """The config of each recipe, with the settings given, which every one of them must know."""
    return {
        recipe: parse(Arguments, arguments.given, "resdet study", __doc__ or "", base).config
        for recipe, base in arguments.bases().items()
    }
