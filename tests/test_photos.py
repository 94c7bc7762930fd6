"""`resdet train PHOTOS`: from a folder, or an archive, of annotated photographs to a detector and its report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resdet.config import load_config
from resdet.experiments import photos

TINY = [
    "--model.rpn-channels",
    "16",
    "--data.short-sides",
    "48",
    "--data.test-short-side",
    "48",
    "--data.max-side",
    "64",
    "--roi.batch-size-per-image",
    "8",
    "--rpn.pre-nms-topk",
    "100",
    "--rpn.post-nms-topk",
    "20",
    "--solver.steps",
    "2",
    "--solver.warmup-steps",
    "0",
    "--solver.milestones",
    "1",
    "--solver.batch-size",
    "2",
    "--solver.eval-every",
    "1",
    "--solver.precision",
    "fp32",
    "--test.pre-nms-topk",
    "100",
    "--test.post-nms-topk",
    "10",
    "--pretrained",
    "False",
]


@pytest.fixture
def flat(tmp_path: Path, shapes_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ten drawn images with their XML files beside them, and nothing else; the present folder is empty."""
    folder = tmp_path / "in" / "my photos"
    folder.mkdir(parents=True)
    for path in [*(shapes_root / "JPEGImages").iterdir(), *(shapes_root / "Annotations").iterdir()]:
        shutil.copy(path, folder)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    photos.plan.cache_clear()
    yield folder
    shutil.rmtree(tmp_path / "here")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_one_command_leaves_model_recipe_splits_and_report(flat: Path, cli: Callable[..., Any]) -> None:
    before = files(flat)
    status, out, err = cli("train", flat, *TINY, "--name", "mine")
    assert (status, err) == (0, "") and files(flat) == before, "photographs stay as they are"
    run = Path("runs/mine")
    assert {"model.safetensors", "recipe.py", "splits.json", "eval/report.html", "data/report.json"} <= files(run)
    splits = json.loads((run / "splits.json").read_text())
    assert len(splits["train"]) == 8 and len(splits["val"]) == 2
    for word in ("format voc", "from scratch", "AP50", str(run), "resdet detect"):
        assert word in out
    config = load_config(run / "recipe.py")
    assert config.solver.steps == 2 and config.data.split_file == str(run / "splits.json"), (
        "flags are in the recipe"
    )
    assert "2 images" in (run / "eval/report.html").read_text()


def test_a_run_is_resumed_and_not_replaced(flat: Path, cli: Callable[..., Any], complains: Callable) -> None:
    cli("train", flat, *TINY)
    run = Path("runs/my photos")
    complains(["train", flat, *TINY], run, "--resume")
    status, out, err = cli("train", "--resume", run, "--solver.steps", 3)
    assert (status, err) == (0, "") and "step 3/3" in out and "report.html" in out


def test_a_dry_run_writes_nothing(flat: Path, cli: Callable[..., Any]) -> None:
    status, out, err = cli("train", flat, *TINY, "--dry-run")
    assert (status, err) == (0, "") and "config = DetConfig(" in out and "Nothing was written" in out
    assert files(Path()) == set()


def test_an_archive_with_one_folder_inside(flat: Path, cli: Callable[..., Any]) -> None:
    archive = shutil.make_archive(str(flat.parents[1] / "photos"), "zip", flat.parent)
    status, out, _ = cli("train", archive, *TINY, "--dry-run")
    root = flat.parents[1] / "photos" / "my photos"
    assert status == 0 and f"{root} is annotated" in out and 'split_file="runs/photos/splits.json"' in out


def test_folders_that_name_no_split_are_split_together(flat: Path, cli: Callable[..., Any]) -> None:
    for number, path in enumerate(sorted(flat.glob("*.jpg"))):
        folder = flat / f"camera {number % 2}"
        folder.mkdir(exist_ok=True)
        for file in (path, path.with_suffix(".xml")):
            file.rename(folder / file.name)
    status, out, _ = cli("train", flat, *TINY, "--dry-run")
    assert status == 0 and "10 images, 10 of them independent" in out and 'train="train"' in out


def test_splits_that_are_there_are_used_and_test_images_are_for_the_end(
    flat: Path, shapes_root: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    root = Path(shutil.copytree(shapes_root, tmp_path / "set"))
    lists = root / "ImageSets/Main"
    names = (lists / "val.txt").read_text().split()
    (lists / "val.txt").write_text("\n".join(names[:1]))
    (lists / "test.txt").write_text("\n".join(names[1:]))
    status, out, err = cli("train", root, *TINY)
    assert (status, err) == (0, "") and "6 images" in out and not Path("runs/set/splits.json").exists()
    config = load_config("runs/set/recipe.py")
    assert (config.data.train, config.data.val, config.data.split_file) == ("train", "val", "")
    page = Path("runs/set/eval/report.html").read_text()
    assert "set on test" in page and "3 images" in page


def test_photographs_that_cannot_be_used(flat: Path, complains: Callable, tmp_path: Path) -> None:
    complains(["train", tmp_path / "no"], tmp_path / "no", "not found")
    complains(["train", flat / "train_00000.jpg"], "neither a folder nor a zip or tar archive")
    complains(["train"], "PHOTOS")
    for path in flat.glob("*.xml"):
        path.unlink()
    complains(["train", flat], flat, "no annotations")
