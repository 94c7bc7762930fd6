"""Configs from recipe files, the command line and JSON, and back."""

from __future__ import annotations

import dataclasses
import difflib
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints, overload

import tyro
from typeguard import TypeCheckError, check_type

from resdet.config.classification import ClsConfig
from resdet.config.detection import DetConfig
from resdet.errors import UserError, reason

T = TypeVar("T")
C = TypeVar("C", DetConfig, ClsConfig)


@overload
def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DetConfig: ...
@overload
def load_config(path: str | Path, overrides: Sequence[str], kind: type[C]) -> C: ...


def load_config(path: str | Path, overrides: Sequence[str] = (), kind: type[Any] = DetConfig) -> Any:
    """The `config` of the recipe file `path`, with command-line overrides such as ``--solver.lr 2e-3``.

    `kind` is what it must be: DetConfig or ClsConfig. Raises UserError for a missing file or an unknown setting in
    it; an unknown override ends the program with tyro's message, which suggests the right spelling.
    """
    path = Path(path)
    if not path.is_file():
        recipes = ", ".join(sorted(str(p) for p in Path("configs").rglob("*.py")))
        raise UserError(f"There is no recipe {path}; those here are: {recipes or 'none'}.")
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:
        raise UserError(f"The recipe {path} cannot be read: {_explain(error)}") from error
    if not isinstance(config, kind):
        raise UserError(f"The recipe {path} must define `config = {kind.__name__}(...)`.")
    _check_types(config, path)
    if not config.name:
        config = dataclasses.replace(config, name=path.stem)
    return override(config, overrides)


def override(config: C, overrides: Sequence[str]) -> C:
    """`config` with command-line overrides applied."""
    return tyro.cli(tyro.conf.AvoidSubcommands[type(config)], default=config, args=list(overrides))  # type: ignore[misc]


def _check_types(config: Any, recipe: Path, section: str = "") -> None:
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(hint) and isinstance(value, hint):  # type: ignore[arg-type]
            _check_types(value, recipe, f"{name}.")
            continue
        try:
            check_type(value, hint)
        except TypeCheckError as error:
            kind = hint.__name__ if hint in (str, int, float, bool) else str(hint).replace("typing.", "")
            raise UserError(f"The recipe {recipe} sets {section}{name} to {value!r}: it must be {kind}.") from error


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain dictionaries, for JSON."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """The inverse of `to_dict`, also after a way through JSON. Raises UserError for an unknown setting."""
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"{cls.__name__} has no setting {unknown[0]!r}: the config was written by another version.")
    return cls(**{name: _revive(hints[name], value) for name, value in values.items()})


def _revive(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value


def _explain(error: Exception) -> str:
    """The error of a recipe file in one sentence; for a misspelt setting, with the nearest name."""
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if not match:
        return f"{reason(error)}."
    cls, name = match.groups()
    configs = vars(sys.modules[__package__])
    known = [field.name for field in dataclasses.fields(configs[cls])] if cls in configs else []
    near = difflib.get_close_matches(name, known, 1)
    return f"{cls} has no setting {name!r}" + (f", did you mean {near[0]!r}?" if near else ".")
