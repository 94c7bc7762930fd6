"""Which part of the package may import which: each of `LAYERS` may import those before it, and itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "resdet"
LAYERS = (
    ("errors", "mistaken", "precision", "types", "boxes", "seeds", "io", "pickles", "lettering"),
    ("config", "ops"),
    ("models",),
    ("engine",),
    ("data",),
    ("evaluation",),
    ("visualize",),
    ("inference",),
    ("experiments",),
    ("cli",),
)
LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def imports(path: Path) -> set[str]:
    """The parts of the package that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("resdet.")}


@pytest.mark.parametrize("part", [path.stem for path in PACKAGE.iterdir() if path.stem in LEVELS])
def test_no_part_imports_one_above_it(part: str) -> None:
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").is_file() else (PACKAGE / part).rglob("*.py")
    for file in files:
        above = {name for name in imports(file) if LEVELS[name] > LEVELS[part]}
        assert not above, f"{file} imports {above}"


def test_every_part_has_its_layer() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - {"__init__", "__main__"} == set(LEVELS)


def test_only_the_command_line_reads_its_arguments_or_prints() -> None:
    """Apart from files that are run by themselves, `python -m resdet.…`."""
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        if "cli" in file.relative_to(PACKAGE).parts or "__main__" in text + file.name:
            continue
        called = {
            node.func.id
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "print" not in called and "ArgumentParser" not in text and "argv" not in text, file
