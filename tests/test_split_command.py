"""`resdet split` on files: copies stay together, names do not matter, and recipes use the result."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from resdet.config import SHAPES_CLASSES, load_config
from resdet.data.build import read_annotations
from resdet.data.shapes import render


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 drawn images in two splits."""
    root = tmp_path_factory.mktemp("split") / "shapes"
    render(root, {"train": 25, "val": 15})
    return root


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(drawn, tmp_path / "mine"))


def splits_of(root: Path) -> dict[str, set[str]]:
    return {split: set(files) for split, files in json.loads((root / "splits.json").read_text()).items()}


def copy(root: Path, old: str, new: str, quality: int | None = None) -> None:
    """Another image of the list train, the same or of another size and compression, with the same objects."""
    images, xml = root / "JPEGImages", (root / "Annotations" / f"{old}.xml").read_text()
    if quality is None:
        shutil.copy(images / f"{old}.jpg", images / f"{new}.jpg")
    else:
        image = cv2.resize(cv2.imread(str(images / f"{old}.jpg")), None, fx=1.25, fy=1.25)
        cv2.imwrite(str(images / f"{new}.jpg"), image, (cv2.IMWRITE_JPEG_QUALITY, quality))
        start, end = xml.index("<size>"), xml.index("</size>") + len("</size>")
        xml = xml[:start] + xml[end:]
    (root / "Annotations" / f"{new}.xml").write_text(xml)
    with (root / "ImageSets/Main/train.txt").open("a") as file:
        file.write(f"{new}\n")


def test_the_whole_of_a_data_set_is_split_and_counted(root: Path, cli: Callable[..., Any]) -> None:
    status, out, err = cli("split", root)
    assert (status, err) == (0, "")
    found = splits_of(root)
    assert list(found) == ["train", "val"] and len(found["train"]) == 32 and len(found["val"]) == 8
    assert found["train"] | found["val"] == {f"JPEGImages/{path.name}" for path in (root / "JPEGImages").iterdir()}
    assert "40 images, 40 of them independent" in out and str(root / "splits.json") in out
    rows = {line.split()[0]: list(map(int, line.split()[-4:])) for line in out.splitlines() if line[-1:].isdigit()}
    assert set(SHAPES_CLASSES) <= set(rows) and [rows["all"][0], rows["all"][2]] == [32, 8]
    for number in (1, 3):
        assert rows["all"][number] == sum(rows[name][number] for name in SHAPES_CLASSES)
    for name in SHAPES_CLASSES:
        images = rows[name][0] + rows[name][2]
        assert abs(rows[name][2] - 0.2 * images) <= 1.5
    status, out, _ = cli("split", root, "--test", 0.2)
    assert status == 0 and "of the 40 images that" in out
    again = splits_of(root)
    assert again["val"] == found["val"] and 7 <= len(again["test"]) <= 9


def test_copies_stay_together(root: Path, cli: Callable[..., Any]) -> None:
    cli("split", root)
    held_out = sorted(Path(file).stem for file in splits_of(root)["val"])
    copy(root, held_out[0], "copy")
    copy(root, held_out[1], "small", 70)
    status, out, err = cli("split", root)
    assert (status, err) == (0, "") and "42 images, 40 of them independent" in out
    for images in splits_of(root).values():
        for pair in (("copy", held_out[0]), ("small", held_out[1])):
            assert len(images & {f"JPEGImages/{name}.jpg" for name in pair}) in (0, 2)


def test_names_do_not_matter(root: Path, cli: Callable[..., Any]) -> None:
    """Other names in another order give the same images to the same sides."""
    cli("split", root)
    stems = sorted(path.stem for path in (root / "JPEGImages").iterdir())
    renamed = {stem: f"{37 * place % 40:03}" for place, stem in enumerate(stems)}
    for old, new in renamed.items():
        (root / f"JPEGImages/{old}.jpg").rename(root / f"JPEGImages/{new}.jpg")
        (root / f"Annotations/{old}.xml").rename(root / f"Annotations/{new}.xml")
    for path in (root / "ImageSets/Main").iterdir():
        path.unlink()
    (root / "ImageSets/Main/everything.txt").write_text("\n".join(sorted(renamed.values())))
    before = splits_of(root)
    (root / "splits.json").unlink()
    cli("split", root)
    after = splits_of(root)
    for split, files in before.items():
        assert after[split] == {f"JPEGImages/{renamed[Path(file).stem]}.jpg" for file in files}


def test_what_cannot_be_read_is_named_and_left_out(root: Path, cli: Callable[..., Any]) -> None:
    image = root / "JPEGImages/train_00003.jpg"
    data = bytearray(image.read_bytes())
    data[200:-2] = bytes(len(data) - 202)  # a head and an end
    image.write_bytes(data)
    status, out, err = cli("split", root)
    assert (status, err) == (0, "") and image.name in out
    assert sum(map(len, splits_of(root).values())) == 39


def test_recipes_use_the_splits(root: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    """A proposed recipe names them, and the lists of the data set do not count."""
    output, recipe = tmp_path / "elsewhere/mine.json", tmp_path / "mine.py"
    assert cli("split", root, "--output", output)[0] == 0
    assert not (root / "splits.json").exists()
    status, out, err = cli("new-recipe", root, "--split-file", output, "--output", recipe)
    assert (status, err) == (0, "") and "train: 32 images" in out and "val: 8 images" in out
    data = load_config(recipe).data
    assert data.split_file == str(output)
    assert [len(read_annotations(data, split, data.classes)) for split in (data.train, data.val)] == [32, 8]
    status, _, err = cli("check-data", recipe, "--data.train", "trainval")
    assert status == 1 and "'trainval'" in err and "train, val" in err


def test_what_cannot_be_split(
    root: Path, complains: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shares in ((0, 0), (1, 0), (0.5, 0.5), (-0.1, 0), (0.5, -0.1), ("nan", 0)):
        complains(["split", root, f"--val={shares[0]}", f"--test={shares[1]}"], "--val", "--test")
    complains(["split", tmp_path / "nowhere"], tmp_path / "nowhere")
    (root / "ImageSets/Main/val.txt").unlink()
    (root / "ImageSets/Main/train.txt").write_text("train_00001\n")
    complains(["split", root], root, "1 independent image", "2 splits")
    copy(root, "train_00001", "copy")
    complains(["split", root], root, "1 independent image", "2 splits")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    complains(["split", root], root, "not writable", "--output")


def test_another_file_in_the_way_is_reported(root: Path, cli: Callable[..., Any]) -> None:
    (root / "splits.json").write_text("[]")
    status, out, _ = cli("split", root)
    assert status == 0 and "was not a split file" in out and len(splits_of(root)) == 2
