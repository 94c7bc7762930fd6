"""Messages, help and docs use the field's words, in plain English."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from resdet.cli import COMMANDS, load, usage
from resdet.config import ClsConfig, DetConfig
from resdet.config.check import settings

REPOSITORY = Path(__file__).parents[1]
AVOIDED = {
    r"\btrunks?\b": "backbone",
    r"\b(before|after)[-_]nms\b": "pre_nms_topk, post_nms_topk",
    r"\b(mine|mining) (the )?hardest\b|--roi\.mining": "ohem",
    r"\bslips? of the pen\b": "typos",
    r"\btrouble\b": "error",
    r"\bmend": "fix",
    r"(?<![Tt]here )\b(is|are) no (?!longer|more|such)\w": "is not a …",
    r"\bThere (is|are) no\b": "… not found",
    r"\bends here\b": "finished",
    r"\b[Gg]o(es)? on with\b": "continue",
    r"\ba training\b(?! (run|image|step|data|set|split|loop|process))": "a training run",
    r"\b[Tt]rainings\b": "training runs",
    r"\bknows? other\b": "has different …",
    r"\bLetters:": "Shapes:",
    r"\blearnt by heart\b": "memorized",
}


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of what a file prints, logs or raises."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0]).rpartition(".")[2]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
        else:
            continue
        if name.endswith(("Error", "error")) or name in (
            "print",
            "info",
            "warning",
            "message",
            "Finding",
            "append",
        ):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value


def check(text: str, where: str) -> None:
    for pattern, better in AVOIDED.items():
        found = re.search(pattern, text)
        assert not found, f"{where}: {found and found.group()!r}, better {better!r}"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "resdet").rglob("*.py")), ids=lambda path: path.stem)
def test_messages(path: Path) -> None:
    for line, text in messages(path):
        check(text, f"{path}, line {line}")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "resdet").rglob("*.py")), ids=lambda path: path.stem)
def test_docstrings(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            check(node.value.value, f"{path}, line {node.lineno}")


@pytest.mark.parametrize("path", ["README.md", "CONVENTIONS.md", "datasets/README.md", "docs"])
def test_documentation(path: str) -> None:
    place = REPOSITORY / path
    for page in place.glob("*.md") if place.is_dir() else [place]:
        check(page.read_text(encoding="utf-8"), str(page))


def test_help_and_names() -> None:
    check(usage(), "resdet --help")
    for command in COMMANDS:
        check(load(command).__doc__ or "", f"resdet {command} --help")
    for config in (DetConfig(), ClsConfig()):
        for name, _, _ in settings(config):
            check(name, "settings")
            assert name.rpartition(".")[2] not in ("batch", "body", "learn", "mining", "soft_nms", "weights"), name
