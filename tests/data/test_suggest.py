"""Recipes for data sets that nobody has trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import Picture, annotated

from resdet.config import SHAPES_CLASSES, DataConfig, DetConfig, ModelConfig, load_config
from resdet.data.suggest import Features, suggest, suggest_anchors, suggest_features, suggest_size, to_source
from resdet.experiments.new_recipe import choose_splits


def squares(side: float, short: int = 480, count: int = 50, aspect: float = 1.0) -> Any:
    """Images of one size, with boxes of about one size."""
    random = np.random.default_rng(0)
    corner, sides = (
        random.uniform(0, short / 2, (count, 2)),
        side * random.uniform(0.9, 1.1, (count, 2)) * [1, aspect],
    )
    return annotated([Picture("a", (short, short * 4 // 3), np.hstack([corner, corner + sides]))])


@pytest.mark.parametrize(
    ("side", "short", "low", "high"),
    [(200, 480, 256, 256), (40, 480, 304, 400), (10, 480, 720, 720), (10, 2000, 800, 800), (60, 64, 96, 96)],
)
def test_small_objects_get_large_images(side: float, short: int, low: int, high: int) -> None:
    short_side, max_side, reason = suggest_size(squares(side, short))
    assert low <= short_side <= high and max_side / short_side == pytest.approx(4 / 3, abs=0.1)
    assert str(short_side) in reason


@pytest.mark.parametrize("features", ["c4", "fpn"])
@pytest.mark.parametrize(("side", "aspect"), [(30, 1), (60, 1), (130, 1), (80, 4)])
def test_anchors_fit_the_objects(side: float, aspect: float, features: Features) -> None:
    own = squares(side, aspect=aspect)
    sizes = np.tile(own.sizes[0], (len(own.boxes), 1)).astype(float)
    scales, ratios, reason = suggest_anchors(own.boxes, sizes, features)
    root = side * aspect**0.5
    assert any(root / 1.5 < scale < root * 1.5 for scale in scales) and len(scales) == (
        5 if features == "fpn" else 3
    )
    assert len(ratios) == (5 if aspect == 4 else 3) and f"{scales[0]:g}" in reason


@pytest.mark.parametrize(
    ("side", "gpu", "features"), [(30, False, "fpn"), (60, False, "fpn"), (90, False, "c4"), (90, True, "fpn")]
)
def test_small_objects_and_gpus_get_a_pyramid(side: float, gpu: bool, features: Features) -> None:
    own = squares(side)
    chosen, reason = suggest_features(own.boxes, own.labels, gpu)
    assert chosen == features and (gpu or "1.5 times" in reason)


def test_one_class_of_small_objects_is_enough_for_a_pyramid() -> None:
    boxes = np.vstack([squares(100, count=95).boxes, squares(20, count=5).boxes])
    assert suggest_features(boxes, np.zeros(100, int), gpu=False)[0] == "c4"
    assert suggest_features(boxes, np.repeat([0, 1], [95, 5]), gpu=False)[0] == "fpn"


@pytest.mark.parametrize(("count", "limit"), [(100, 100), (101, 200), (1500, 2300)])
def test_crowds_may_be_found(count: int, limit: int) -> None:
    suggestion = suggest(
        squares(20, count=count), DataConfig(root="x", train="train", val="val"), gpu=False, pretrained=False
    )
    test = suggestion.config.test
    assert test.max_detections == test.coco_max_dets == limit and test.pre_nms_topk > test.post_nms_topk >= limit
    assert any(f"up to {count:,} objects" in reason for reason in suggestion.reasons) == (count > 100)


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("side", [60, 200])
def test_a_recipe_is_read_back_as_it_was_written(tmp_path: Path, gpu: bool, pretrained: bool, side: float) -> None:
    data = DataConfig(format="yolo", root="it's/here", train="train", val="train", split_file="a b.json")
    suggestion = suggest(squares(side), data, gpu, pretrained)
    path = tmp_path / "mine.py"
    path.write_text(to_source(suggestion.config))
    read = load_config(path, ["--name", ""])
    assert read == suggestion.config and read.model.norm == ("frozen" if pretrained else "sync_batch")
    assert read.data.split_file == "a b.json" and read.model.depth == (50 if gpu else 18)
    assert "memorized" in suggestion.reasons[-1]
    assert to_source(DetConfig(model=ModelConfig(depth=50))).count("\n") == 7


@pytest.mark.parametrize(
    ("known", "given", "chosen"),
    [
        (["test", "train", "trainval", "val"], (None, None), ("train", "val")),
        (["test", "trainval"], (None, None), ("trainval", "test")),
        (
            ["2007_test", "2007_trainval", "2007_train", "2007_val"],
            ("2007_trainval", None),
            ("2007_trainval", "2007_test"),
        ),
        (["test", "train", "trainval", "val"], (None, "test"), ("trainval", "test")),
        (["train", "val", "test"], ("train+val", None), ("train+val", "test")),
        (["train", "trainval", "val"], (None, None), ("train", "val")),
        (["test", "train", "trainval", "val"], (None, "val"), ("train", "val")),
        (["train", "valid", "test"], (None, None), ("train", "valid")),
        (["train", "val"], (None, None), ("train", "val")),
        (["train2017"], (None, None), ("train2017", "train2017")),
        (["a", "b"], ("a", "b"), ("a", "b")),
        (["train", "val"], ("train+val", None), ("train+val", "train+val")),
    ],
)
def test_splits(known: list[str], given: tuple[Any, Any], chosen: tuple[str, str]) -> None:
    assert choose_splits(known, *given, Path("root")) == chosen


def test_splits_that_must_be_named(refuses: Callable[..., Any]) -> None:
    with refuses("root", "a, b", "--train"):
        choose_splits(["a", "b"], None, None, Path("root"))


def test_the_command_writes_what_trains(
    shapes_root: Path, tmp_path: Path, cli: Callable[..., Any], complains: Callable[..., None]
) -> None:
    yolo = tmp_path / 'it\'s """\\new'
    cli("convert-data", shapes_root, yolo, "--to", "yolo", "--link")
    output = tmp_path / "mine.py"
    status, out, err = cli("new-recipe", yolo, "--output", output, "--device", "cpu")
    assert status == 0 and str(output) in out, err
    config = load_config(output)
    assert (config.data.format, config.data.train, config.data.val) == ("yolo", "train", "val")
    assert set(config.data.classes) == set(SHAPES_CLASSES) and config.name == "mine"
    small = [
        "--data.short-sides",
        "64",
        "--data.test-short-side",
        "64",
        "--solver.steps",
        "1",
        "--solver.precision",
        "fp32",
    ]
    status, out, err = cli("train-det", output, "--runs", tmp_path / "runs", "--device", "cpu", *small)
    assert status == 0, err
    complains(["new-recipe", yolo, "--output", output], output, "--output")
    complains(
        ["new-recipe", tmp_path / "runs", "--output", tmp_path / "new.py"], tmp_path / "runs", "not a data set"
    )
