"""The recipes that come with resdet: configs/ of a checkout, which an installed package holds as resdet/recipes."""

from __future__ import annotations

from pathlib import Path

from resdet.errors import UserError

_PACKAGE = Path(__file__).parents[1]


def recipe_folder() -> Path:
    """The folder of the recipes that come with resdet, wherever it is used from."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def recipe_names() -> list[str]:
    """The names of the recipes that come with resdet, sorted: bccd_r101, bccd_r18, …"""
    return sorted(path.stem for path in recipe_folder().rglob("*.py"))


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe.

    Args:
        recipe: a Python file, or the name of a recipe that comes with resdet, with or without folder and suffix:
            ``voc07_r101`` and ``configs/voc07_r101.py`` work in every directory

    Raises UserError if there is neither.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    wanted = path.parts if path.suffix == ".py" else (*path.parts[:-1], f"{path.name}.py")
    for shipped in recipe_folder().rglob("*.py"):
        parts = ("configs", *shipped.relative_to(recipe_folder()).parts)
        if parts[-len(wanted) :] == wanted:
            return shipped
    raise UserError(
        f"Recipe not found: {recipe}; pass a Python file, or the name of a recipe that comes with resdet: "
        f"{', '.join(recipe_names())}."
    )
