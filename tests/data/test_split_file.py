"""The file of splits: what is read through it, and what it may not hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resdet.config import SHAPES_CLASSES, DataConfig
from resdet.data.annotations import Annotations
from resdet.data.build import read_all, read_annotations
from resdet.data.convert import convert
from resdet.data.formats import FORMATS
from resdet.data.split_file import read_split_file, relative_files, write_split_file
from resdet.data.voc import read_voc


@pytest.fixture(scope="module", params=["voc", "coco", "yolo"])
def data(request: pytest.FixtureRequest, shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """The drawn images in each format, 6 in train and 4 in val."""
    root = tmp_path_factory.mktemp("formats") / request.param
    convert(
        {split: read_voc(shapes_root, split, SHAPES_CLASSES) for split in ("train", "val")},
        request.param,
        root,
        False,
    )
    return DataConfig(format=request.param, root=str(root), classes=SHAPES_CLASSES)


def with_file(data: DataConfig, tmp_path: Path, content: Any) -> DataConfig:
    """The data set with a file of splits."""
    path = tmp_path / "splits.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return DataConfig(data.format, data.root, split_file=str(path), classes=data.classes)


def contents(annotations: Annotations) -> dict[str, Any]:
    """What is annotated in each file."""
    return {
        annotations.file(index): [field.tolist() for field in annotations.target(index)]
        for index in range(len(annotations))
    }


def test_images_come_from_the_whole_data_set_in_the_order_of_the_list(data: DataConfig, tmp_path: Path) -> None:
    whole = read_all(data, SHAPES_CLASSES)
    files = relative_files(whole, Path(data.root))
    assert len(files) == 10 and all(not Path(file).is_absolute() for file in files)
    splits = {
        "a": [files[7], f"./{files[2]}"],
        "b": files[3:5],
        "rest": [files[0], files[1], *files[5:7], *files[8:]],
    }
    config = with_file(data, tmp_path, splits)
    for names, expected in (("a", [7, 2]), ("b+a", [3, 4, 7, 2])):
        part = read_annotations(config, names, SHAPES_CLASSES)
        assert relative_files(part, Path(data.root)) == [files[place] for place in expected]
        assert part.skipped == ()
        assert contents(part) == {file: value for file, value in contents(whole).items() if file in contents(part)}
    assert len(read_annotations(config, "a+b+rest", ())) == 10


def test_what_is_not_there_and_what_is_in_no_list_is_reported(data: DataConfig, tmp_path: Path) -> None:
    files = relative_files(read_all(data), Path(data.root))
    config = with_file(data, tmp_path, {"train": [files[0], "gone.jpg"], "val": [files[1]]})
    part = read_annotations(config, "train", SHAPES_CLASSES)
    assert len(part) == 1 and len(part.skipped) == 2
    assert "gone.jpg" in part.skipped[0] and "8 images" in part.skipped[1] and files[2] in part.skipped[1]


WRONG = {
    "no JSON": ("{", ["cannot be read", "resdet split"]),
    "a list": ([["a.jpg"]], ["is not a split file", "resdet split"]),
    "a name for a list": ({"train": "a.jpg"}, ["is not a split file"]),
    "numbers": ({"train": [1]}, ["is not a split file"]),
    "twice in a list": ({"train": ["a.jpg", "./a.jpg"], "val": []}, ["a.jpg", "twice in train"]),
    "in two lists": ({"train": ["a.jpg"], "val": ["b/../a.jpg"]}, ["a.jpg", "in train and in val"]),
    "another split": ({"training": ["a.jpg"], "val": []}, ["'train'", "training, val"]),
    "no split": ({}, ["'train'", "none"]),
    "no image": ({"train": [], "val": ["a.jpg"]}, ["the list is empty"]),
    "other images": ({"train": ["a.jpg", "b.jpg"]}, ["a.jpg is missing", "resdet split"]),
}


@pytest.mark.parametrize("content, words", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file(
    content: Any, words: list[str], shapes_root: Path, tmp_path: Path, refuses: Callable[..., Any]
) -> None:
    config = with_file(DataConfig(root=str(shapes_root), classes=SHAPES_CLASSES), tmp_path, content)
    with refuses(config.split_file, *words):
        read_annotations(config, "train", SHAPES_CLASSES)


def test_a_missing_file_and_a_missing_data_set(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    with refuses(tmp_path / "no.json", "No such file", "resdet split"):
        read_split_file(tmp_path / "no.json")
    for name in FORMATS:
        data = DataConfig(name, str(tmp_path / "nowhere"), split_file="x.json", source="the shop")  # type: ignore[arg-type]
        with refuses(name, tmp_path / "nowhere", "the shop"):
            read_annotations(data, "train", ())


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    splits = {"train": ["b/ü.jpg", "a 1.jpg"], "val": []}
    write_split_file(tmp_path / "deep/splits.json", splits)
    assert read_split_file(tmp_path / "deep/splits.json") == {"train": ["a 1.jpg", "b/ü.jpg"], "val": []}


def test_an_image_of_several_lists_comes_once(shapes_root: Path, tmp_path: Path) -> None:
    """VOC's train, val and trainval."""
    root = tmp_path / "voc"
    shutil.copytree(shapes_root, root)
    lists = root / "ImageSets/Main"
    (lists / "all.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text())
    whole = read_all(DataConfig(root=str(root)))
    assert len(whole) == len(set(contents(whole))) == 10 and whole.skipped == ()


def test_other_objects_of_an_image_that_is_listed_again_are_reported(tmp_path: Path, shapes_root: Path) -> None:
    """Two files of COCO with the same images under other numbers, and without boxes in the second."""
    root = tmp_path / "coco"
    convert({"val": read_voc(shapes_root, "val", SHAPES_CLASSES)}, "coco", root, link=True)
    (root / "val").rename(root / "images")
    content = json.loads((root / "annotations/instances_val.json").read_text())
    content["images"] = [item | {"id": item["id"] + 100} for item in content["images"]]
    content["annotations"] = []
    (root / "annotations/instances_val2.json").write_text(json.dumps(content))
    whole = read_all(DataConfig("coco", str(root)))
    assert len(whole) == len(whole.skipped) == 4 and (whole.offsets[1:] > whole.offsets[:-1]).all()
    assert whole.file(0) in whole.skipped[0]
