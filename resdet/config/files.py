"""Configs from recipe files, the command line and JSON, and back."""

from __future__ import annotations

import dataclasses
import difflib
import re
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints, overload

import tyro

from resdet.config.check import check_config, settings
from resdet.config.classification import ClsConfig
from resdet.config.detection import DetConfig
from resdet.config.recipes import find_recipe
from resdet.errors import UserError, reason

T = TypeVar("T")
C = TypeVar("C", bound=DetConfig | ClsConfig)


@overload
def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DetConfig: ...
@overload
def load_config(path: str | Path, overrides: Sequence[str], kind: type[C]) -> C: ...


def load_config(path: str | Path, overrides: Sequence[str] = (), kind: type[Any] = DetConfig) -> Any:
    """The `config` of a recipe, with command-line overrides applied.

    Args:
        path: a Python file, or the name of a recipe that comes with resdet (`find_recipe`)
        overrides: as on the command line: ``["--solver.lr", "2e-3"]``
        kind: the type that the config must have, DetConfig or ClsConfig

    Raises UserError for a missing file or an unknown setting in it; an unknown override ends the program with
    tyro's message, which suggests the right spelling.
    """
    path = find_recipe(path)
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:
        raise UserError(f"The recipe {path} cannot be read: {_explain(error)}") from error
    if not isinstance(config, kind):
        raise UserError(f"The recipe {path} must define `config = {kind.__name__}(...)`.")
    check_config(config, f"The recipe {path}")
    if not config.name:
        config = dataclasses.replace(config, name=path.stem)
    return override(config, overrides)


def override(config: C, overrides: Sequence[str]) -> C:
    """`config` with command-line overrides applied. Raises UserError for a value that a setting cannot have."""
    changed = tyro.cli(tyro.conf.AvoidSubcommands[type(config)], default=config, args=list(overrides))  # type: ignore[misc]
    check_config(changed)
    return changed


def with_settings(config: C, changes: Mapping[str, Any]) -> C:
    """`config` with other values of some settings, such as ``{"solver.lr": 1e-3, "test.refine": True}``.

    Raises UserError for a setting that the config does not have, and for a value that a setting cannot have.
    """
    known = [name for name, _, _ in settings(config)]
    for name, value in changes.items():
        if name not in known:
            raise UserError(f"{type(config).__name__} has no setting {name!r}{_did_you_mean(name, known)}")
        config = _replace(config, name.split("."), value)
    check_config(config)
    return config


def _replace(config: Any, path: Sequence[str], value: Any) -> Any:
    """A config, or a section of one, with another value of the setting at the end of `path`."""
    name, *rest = path
    return dataclasses.replace(config, **{name: _replace(getattr(config, name), rest, value) if rest else value})


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain dictionaries, for JSON."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Any) -> T:
    """The inverse of `to_dict`, also after a way through JSON.

    Raises UserError for an unknown setting, and for a value that a setting cannot have.
    """
    if not isinstance(values, dict):
        raise UserError(f"A {cls.__name__} is read from names and values, not from {values!r}.")
    config = _revive(cls, values)
    check_config(config)
    return config


def _revive(hint: Any, value: Any) -> Any:
    """Dictionaries become configs and lists tuples; all else, and what should be otherwise, stays as it is."""
    if not dataclasses.is_dataclass(hint) or not isinstance(value, dict):
        return tuple(value) if isinstance(value, list) else value
    hints = get_type_hints(hint)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        name = hint.__name__  # type: ignore[union-attr]
        raise UserError(f"{name} has no setting {unknown[0]!r}: the config was written by another version.")
    return hint(**{name: _revive(hints[name], own) for name, own in value.items()})  # type: ignore[operator]


def _explain(error: Exception) -> str:
    """The error of a recipe file in one sentence; for a misspelt setting, with the nearest name."""
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if not match:
        return f"{reason(error)}."
    cls, name = match.groups()
    configs = vars(sys.modules[__package__])
    known = [field.name for field in dataclasses.fields(configs[cls])] if cls in configs else []
    return f"{cls} has no setting {name!r}{_did_you_mean(name, known)}"


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about an unknown `name`, with the known one that is spelt most like it."""
    near = difflib.get_close_matches(name, known, 1)
    return f", did you mean {near[0]!r}?" if near else "."
