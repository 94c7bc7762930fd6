"""Recipes, overrides, and the way of a config through JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from resdet.config import (
    ClsConfig,
    DataConfig,
    DetConfig,
    SolverConfig,
    find_recipe,
    from_dict,
    load_config,
    override,
    recipe_names,
    recipes,
    to_dict,
    with_settings,
)
from resdet.models.weights.initial import NORMLESS
from resdet.models.weights.load import load_model

REPOSITORY = Path(__file__).parents[1]
RECIPES = sorted((REPOSITORY / "configs").rglob("*.py"))
HEAD = "from resdet.config import *\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Text → a recipe file."""

    def write(text: str) -> Path:
        path = tmp_path / "mine.py"
        path.write_text(HEAD + text)
        return path

    return write


def test_there_are_recipes() -> None:
    assert {"shapes_r18", "voc07_r101"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_survives_json(path: Path) -> None:
    kind = ClsConfig if re.match("cifar|imagenet", path.stem) else DetConfig
    config = load_config(path, (), kind)
    assert config.name == path.stem
    assert from_dict(kind, json.loads(json.dumps(to_dict(config)))) == config
    assert config.solver.batch_size % config.solver.accumulate == 0
    if isinstance(config, DetConfig):
        needs = config.model.norm == "frozen" and config.model.backbone not in NORMLESS
        assert not needs or config.init_weights, "frozen statistics must come from somewhere"
        assert len(set(config.data.classes)) == len(config.data.classes)


def test_a_name_is_kept_and_may_be_overridden(recipe: Callable[[str], Path]) -> None:
    path = recipe("config = DetConfig(name='other')")
    assert load_config(path).name == "other"
    assert load_config(path, ["--name", "third"]).name == "third"


# Overrides


def test_overrides_change_what_they_name_and_nothing_else(recipe: Callable[[str], Path]) -> None:
    path = recipe("config = DetConfig(solver=SolverConfig(steps=7), data=DataConfig(root='here'))")
    arguments = ["--solver.lr", "2e-3", "--data.short-sides", "480", "600", "--model.freeze", "--seed", "5"]
    config = load_config(path, arguments)
    plain = load_config(path)
    assert config == dataclasses.replace(
        plain,
        seed=5,
        solver=dataclasses.replace(plain.solver, lr=2e-3),
        data=dataclasses.replace(plain.data, short_sides=(480, 600)),
        model=dataclasses.replace(plain.model, freeze=()),
    )
    assert config.solver.steps == 7 and config.data.root == "here"


@pytest.mark.parametrize(
    "arguments, group, name, value",
    [
        (["--data.short_sides", "480"], "data", "short_sides", (480,)),
        (["--data.classes"], "data", "classes", ()),
        (["--data.classes", "a cat", "dog"], "data", "classes", ("a cat", "dog")),
        (["--data.no-group-by-aspect"], "data", "group_by_aspect", False),
        (["--data.difficult"], "data", "difficult", True),
        (["--data.other-classes", "ignore"], "data", "other_classes", "ignore"),
        (["--model.depth", "50"], "model", "depth", 50),
        (["--roi.background-iou", "0.1", "0.5"], "roi", "background_iou", (0.1, 0.5)),
        (["--model.anchor-scales", "64", "12.5"], "model", "anchor_scales", (64, 12.5)),
        (["--solver.precision=bf16"], "solver", "precision", "bf16"),
        (["--test.metric", "map"], "test", "metric", "map"),
    ],
)
def test_an_override_of_each_kind(arguments: list[str], group: str, name: str, value: object) -> None:
    assert getattr(getattr(override(DetConfig(), arguments), group), name) == value


def flat(text: str) -> str:
    """What stands in a frame on a terminal, without the frame."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--solver.lrr", "1"], ["--solver.lrr", "--solver.lr"]),
        (["--solver.step", "1"], ["--solver.step", "--solver.steps"]),
        (["--lr", "1"], ["--lr", "--solver.lr"]),
        (["--solver.lr", "fast"], ["--solver.lr", "'fast'"]),
        (["--model.depth", "19"], ["--model.depth", "'19'", "'18'"]),
        (["--roi.background-iou", "0.1"], ["--roi.background-iou"]),
        (["something"], ["something"]),
    ],
)
def test_a_wrong_override_ends_the_program_with_a_suggestion(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(RECIPES[0], arguments)
    assert caught.value.code == 2
    said = flat(capsys.readouterr().err)
    assert all(word in said for word in words), said
    assert "Traceback" not in said


# Settings by their names


def test_settings_are_changed_by_their_names() -> None:
    config = with_settings(DetConfig(), {"seed": 5, "solver.lr": 2e-3, "test.refine": True, "model.freeze": ()})
    arguments = ["--seed", "5", "--solver.lr", "2e-3", "--test.refine", "--model.freeze"]
    assert config == override(DetConfig(), arguments)
    assert with_settings(config, {}) == config
    assert with_settings(ClsConfig(), {"loss.mixup": 0.2}) == override(ClsConfig(), ["--loss.mixup", "0.2"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"solver.lrr": 1.0}, ["DetConfig has no setting 'solver.lrr'", "'solver.lr'?"]),
        ({"solver": SolverConfig()}, ["DetConfig has no setting 'solver'"]),
        ({"seed.low": 1}, ["'seed.low'"]),
        ({"": 1}, ["''"]),
        ({"solver.lr": "fast"}, ["solver.lr is 'fast'", "float"]),
        ({"solver.steps": 0}, ["solver.steps is 0", "at least 1"]),
        ({"data.proposals": "a.npz"}, ["data.proposals is 'a.npz'", "tuple[str, ...]"]),
        ({"rpn.background_iou": 0.9}, ["rpn.background_iou 0.9"]),
    ],
)
def test_settings_that_a_config_cannot_have(
    changes: dict[str, Any], words: list[str], refuses: Callable[..., object]
) -> None:
    with refuses(*words):
        with_settings(DetConfig(), changes)


# Recipes that are none


def test_a_missing_recipe_lists_those_that_come_with_resdet(refuses: Callable[..., object]) -> None:
    for missing in ("configs/nope.py", "nope", "configs", "elsewhere/voc07_r101.py", "/configs/voc07_r101.py"):
        with refuses(f"not found: {missing};", *recipe_names()):
            load_config(missing)


@pytest.mark.parametrize("name", ["lineage/rcnn_r18", "rcnn_r18", "configs/lineage/rcnn_r18.py", "rcnn_r18.py"])
def test_a_recipe_is_found_by_name_in_every_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = REPOSITORY / "configs/lineage/rcnn_r18.py"
    assert load_config(name) == load_config(own) and find_recipe(name) == own


def test_a_file_goes_before_a_recipe_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/voc07_r101.py").write_text(HEAD + "config = DetConfig(seed=7)")
    (tmp_path / "voc07_r50").mkdir()
    assert load_config("configs/voc07_r101.py").seed == 7
    assert load_config("voc07_r50") == load_config(REPOSITORY / "configs/voc07_r50.py"), "a folder is no recipe"


def test_an_installed_package_brings_its_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "resdet/recipes/deep").mkdir(parents=True)
    (tmp_path / "resdet/recipes/deep/one.py").write_text(HEAD + "config = DetConfig(seed=7)")
    monkeypatch.setattr(recipes, "_PACKAGE", tmp_path / "resdet")
    assert recipe_names() == ["one"]
    assert load_config("configs/deep/one.py").seed == load_config("one").seed == 7


@pytest.mark.parametrize(
    "text, words",
    [
        ("", ["`config = DetConfig(...)`"]),
        ("config = DataConfig()", ["`config = DetConfig(...)`"]),
        ("config = DetConfig", ["`config = DetConfig(...)`"]),
        ("config = DetConfig(init_wieghts='a')", ["DetConfig has no setting 'init_wieghts'", "'init_weights'?"]),
        ("config = DetConfig(data=DataConfig(rooot='a'))", ["DataConfig has no setting 'rooot'", "'root'?"]),
        ("config = DetConfig(xyzzy=1)", ["DetConfig has no setting 'xyzzy'"]),
        ("config = DetConfig(seed='1')", ["sets seed to '1'", "must be int"]),
        ("config = DetConfig(data=DataConfig(classes='cat'))", ["data.classes to 'cat'", "tuple[str, ...]"]),
        ("config = DetConfig(data=DataConfig(short_sides=600))", ["data.short_sides to 600", "tuple[int, ...]"]),
        ("config = DetConfig(data=DetConfig())", ["sets data to", "DataConfig"]),
        (
            "config = DetConfig(data=DataConfig(classes=('cat', 5)))",
            ["data.classes to ('cat', 5)", "tuple[str, ...]"],
        ),
        ("config = DetConfig(model=ModelConfig(depth=19))", ["model.depth to 19", "Literal[18, 34, 50, 101, 152]"]),
        ("config = DetConfig(solver=SolverConfig(accumulate=0))", ["sets solver.accumulate to 0", "at least 1"]),
        ("config = DetConfig(seed=True)", ["sets seed to True", "at least 0"]),
        ("config = DetConfig(data=DataConfig(short_sides=()))", ["data.short_sides to ()", "at least 1 value"]),
        (
            "config = DetConfig(roi=RoIConfig(background_iou=(0.5, 0.1)))",
            ["cannot be used: roi.background_iou 0.5 0.1"],
        ),
        ("config = DetConf()", ["NameError", "'DetConf'"]),
        ("config = (", ["SyntaxError", "line 2"]),
        ("import no_such_module", ["ModuleNotFoundError", "'no_such_module'"]),
        ("raise ValueError('first\\nsecond')", ["ValueError: first."]),
        ("raise ValueError('first. Second\\nthird')", ["ValueError: first"]),
        ("open('no such file')", ["No such file"]),
        ("\0", ["SyntaxError"]),
    ],
)
def test_a_broken_recipe_is_named_with_its_fault(
    recipe: Callable[[str], Path], text: str, words: list[str], refuses: Callable[..., object]
) -> None:
    path = recipe(text)
    with refuses(path, *words):
        load_config(path)


def test_a_recipe_that_is_no_text(tmp_path: Path, refuses: Callable[..., object]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xff\xfe\x80\x81")
    with refuses(path):
        load_config(path)


# Dictionaries


def test_from_dict_refuses_what_it_does_not_know(refuses: Callable[..., object]) -> None:
    with refuses("DetConfig", "'colour'"):
        from_dict(DetConfig, to_dict(DetConfig()) | {"colour": 1})
    with refuses("SolverConfig", "'colour'"):
        from_dict(DetConfig, {"solver": {"colour": 1}})


def test_from_dict_fills_in_defaults_and_makes_tuples() -> None:
    config = from_dict(DetConfig, {"solver": {"milestones": [1, 2]}, "data": {"classes": []}})
    assert config == DetConfig(solver=SolverConfig(milestones=(1, 2)), data=DataConfig(classes=()))
    assert hash(config) == hash(DetConfig(solver=SolverConfig(milestones=(1, 2)), data=DataConfig(classes=())))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (5, ["5"]),
        ([], ["[]"]),
        ({"data": 5}, ["data is 5", "DataConfig"]),
        ({"data": None}, ["data is None", "DataConfig"]),
        ({"model": {"norm": True}}, ["model.norm is True", "Literal['frozen', 'group', 'batch', 'sync_batch']"]),
        ({"model": {"freeze": 1}}, ["model.freeze is 1", "tuple[str, ...]"]),
        ({"model": {"freeze": ["conv1", 1]}}, ["model.freeze is ('conv1', 1)", "tuple[str, ...]"]),
        ({"roi": {"box_stds": [0.1, 0.1, 0.2]}}, ["roi.box_stds", "tuple[float, float, float, float]"]),
        ({"roi": {"box_stds": [0.1, 0.1, 0.2, 0]}}, ["roi.box_stds", "each value must be at least 0.001"]),
        ({"solver": {"steps": 1.5}}, ["solver.steps is 1.5", "int"]),
        ({"solver": {"lr": math.nan}}, ["solver.lr is nan", "at least 0"]),
    ],
)
def test_from_dict_refuses_what_a_damaged_file_may_hold(
    values: Any, words: list[str], refuses: Callable[..., object]
) -> None:
    with refuses(*words):
        from_dict(DetConfig, values)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"config": "5"}, ["5"]),
        ({"config": '{"data": 5}'}, ["data is 5"]),
        ({"config": '{"model": {"norm": true}}'}, ["model.norm is True"]),
        ({"config": '{"model": {"anchor_scales": 7}}'}, ["model.anchor_scales is 7"]),
        ({"config": '{"model": {"anchor_scales": []}}'}, ["model.anchor_scales is ()"]),
        ({"config": '{"data": {"test_short_side": 0}}'}, ["data.test_short_side is 0"]),
        ({"config": '{"roi": {"box_stds": [NaN, 1, 1, 1]}}'}, ["roi.box_stds is (nan, 1, 1, 1)"]),
        ({"classes": "5"}, ["classes"]),
        ({"classes": '["a", 5]'}, ["classes"]),
    ],
)
def test_weights_with_damaged_settings(
    changed: dict[str, str], words: list[str], tmp_path: Path, refuses: Callable[..., object]
) -> None:
    path = tmp_path / "model.safetensors"
    metadata = {"format": "resdet-detector-5", "classes": "[]", "config": "{}", "step": "1"}
    save_file({"a": torch.zeros(1)}, path, metadata)
    assert load_model(path).config == DetConfig()
    save_file({"a": torch.zeros(1)}, path, metadata | changed)
    with refuses(path, "cannot be used", *words):
        load_model(path)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DetConfig().seed = 1  # type: ignore[misc]
