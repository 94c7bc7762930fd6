"""What is installed: the package with its recipes, wherever it is used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
RECIPES = {str(path.relative_to(REPOSITORY / "configs")) for path in (REPOSITORY / "configs").rglob("*.py")}
BUILD = """
import setuptools.build_meta as backend
print(backend.build_sdist("dist"), backend.build_wheel("dist"))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and a source distribution, made without the compiled operators."""
    pytest.importorskip("setuptools", "77")
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for folder in ("resdet", "configs"):
        shutil.copytree(REPOSITORY / folder, source / folder, ignore=ignored)
    for file in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / file, source)
    (source / "configs/later").mkdir()
    (source / "configs/later/mine.py").write_text("# a recipe in a folder that is new")
    environment = os.environ | {"RESDET_BUILD": "0"}
    built = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=source, env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return source / "dist"


def test_a_wheel_has_every_recipe(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"resdet/recipes/{name}" for name in [*RECIPES, "later/mine.py"]} <= names
    modules = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "resdet").rglob("*.py")}
    assert {*modules, "resdet/py.typed"} <= names and not any("configs" in name for name in names)


def test_a_source_distribution_has_every_recipe_and_the_sources_of_the_operators(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    sources = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "resdet/ops/csrc").rglob("*.*")}
    assert {f"configs/{name}" for name in [*RECIPES, "later/mine.py"]} | sources <= names


def test_recipes_are_found_by_name_in_an_empty_folder(
    built: Path, tmp_path: Path, tools_environment: dict[str, str]
) -> None:
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    code = "import resdet; print(resdet.__file__); from resdet.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "train-det", "shapes_r18"],
        cwd=tmp_path / "empty",
        env=tools_environment | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert ended.stdout.startswith(str(tmp_path / "site"))
    assert "datasets/shapes was not found" in ended.stderr or "not found: datasets/shapes" in ended.stderr
