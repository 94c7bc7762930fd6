"""The command line of a subcommand: a dataclass whose fields are its arguments, read by tyro.

A subcommand that works on a recipe has every setting of it as an option too, with the recipe's values as defaults.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast

import tyro

from resdet.config import ClsConfig, DetConfig, check_config, load_config, recipe_names
from resdet.config.resume import check_resume
from resdet.errors import UserError

C = TypeVar("C", bound=DetConfig | ClsConfig)
A = TypeVar("A")
HELP = ("-h", "--help")


@dataclass(frozen=True, kw_only=True)
class RecipeArguments(Generic[C]):
    """The arguments of a subcommand that works on a recipe."""

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = ""
    """Recipe to use: a Python file, or the name of a recipe that comes with resdet."""
    config: Annotated[C, tyro.conf.arg(name="")]
    given: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The command line that was read."""

    def base(self) -> C:
        """The config that the settings on the command line change. Raises UserError if no recipe is given."""
        if not self.recipe:
            raise UserError(f"Recipe missing: pass a Python file, or one of {', '.join(recipe_names())}.")
        return load_config(self.recipe, (), type(self.config))

    def check(self) -> None:
        """Raise UserError for settings that cannot be used."""
        check_config(self.config)


@dataclass(frozen=True, kw_only=True)
class DetArguments(RecipeArguments[DetConfig]):
    """The arguments of a subcommand that works on a detector's recipe."""

    config: Annotated[DetConfig, tyro.conf.arg(name="")] = field(default_factory=DetConfig)


@dataclass(frozen=True, kw_only=True)
class ClsArguments(RecipeArguments[ClsConfig]):
    """The arguments of a subcommand that works on a classifier's recipe."""

    config: Annotated[ClsConfig, tyro.conf.arg(name="")] = field(default_factory=ClsConfig)


@dataclass(frozen=True, kw_only=True)
class TrainArguments(RecipeArguments[C]):
    """The arguments of a subcommand that trains."""

    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder to resume, exactly where training stopped, instead of starting from a recipe."""

    def base(self) -> C:
        """The recipe's config, or that of the run to resume. Raises UserError if there is neither, or both."""
        if self.resume is None:
            return super().base()
        if self.recipe:
            raise UserError(f"--resume uses the settings of {self.resume}: leave out the recipe {self.recipe}.")
        from resdet.experiments.runs import saved_config

        # The folder may have been moved, or the command be given in another directory: its present place counts.
        return saved_config(self.resume, type(self.config))

    def check(self) -> None:
        """Raise UserError for settings that cannot be used, or cannot change when a run is resumed."""
        super().check()
        if self.resume is not None:
            check_resume(self.base(), self.config, self.resume)


def parse(kind: type[A], arguments: Sequence[str], prog: str, manual: str, base: object = None) -> A:
    """Read `arguments` as a `kind`; prints help or an error and exits where that is all there is to do.

    Args:
        kind: a dataclass of arguments
        arguments: the command line after the command's name
        prog: name of the command, for help
        manual: what help says before the arguments
        base: the config that settings change; None takes the one that the arguments name

    Raises UserError for what cannot be used.
    """

    def read(arguments: Sequence[str], **options: Any) -> Any:
        """tyro's reading of the arguments."""
        # Without AvoidSubcommands, a config that may be of two types would become two subcommands.
        typed = cast(Any, tyro.conf.AvoidSubcommands)[kind]
        # Indented, the lines of the manual stay lines.
        description = textwrap.indent(manual, " ")
        return tyro.cli(typed, args=list(arguments), prog=prog, description=description, **options)

    if not issubclass(kind, RecipeArguments):
        return read(arguments)
    words = [argument for argument in arguments if argument not in HELP]
    asks_for_help = len(words) < len(arguments)
    if base is None:
        first = kind(**_required(kind, None), recipe=_first_word(words))
        with contextlib.suppress(SystemExit):  # the second reading reports errors
            quiet = {"return_unknown_args": True, "console_outputs": False}
            first, _ = read(words, default=kind(**_required(kind, tyro.MISSING)), **quiet)
        try:
            base = first.base()
        except UserError:
            if not asks_for_help:
                raise
            base = first.config  # help shows the defaults
    default = kind(**_required(kind, tyro.MISSING) | {"config": base})
    parsed = replace(read(["--help"] if asks_for_help else words, default=default), given=tuple(words))
    parsed.check()
    return parsed


def _required(kind: type[Any], value: object) -> dict[str, Any]:
    """`value` for each required argument."""
    return {field.name: value for field in fields(kind) if field.default is field.default_factory is MISSING}


def _first_word(arguments: Sequence[str]) -> str:
    return next((argument for argument in arguments if not argument.startswith("-")), "")
