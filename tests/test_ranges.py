"""The ranges of the settings, and settings that contradict each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import cv2
import numpy as np
import pytest

from resdet.config import ClsConfig, DetConfig, from_dict, override, to_dict
from resdet.config.check import RESNET_DEPTHS, settings
from resdet.config.ranges import AtLeast, Range
from resdet.errors import UserError
from resdet.models.backbones.resnet import ARCHITECTURES

KINDS: tuple[type[Any], ...] = (DetConfig, ClsConfig)


def numbers(hint: Any, rules: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The rules of each number that a value of this type holds."""
    if get_origin(hint) is Annotated:
        yield from numbers(get_args(hint)[0], get_args(hint)[1:])
    elif get_origin(hint) is tuple:
        for item in get_args(hint):
            yield from numbers(item)
    elif hint in (int, float):
        yield rules


NUMERIC = [
    pytest.param(kind, name, hint, id=f"{kind.__name__}.{name}")
    for kind in KINDS
    for name, hint, _ in settings(kind())
    if list(numbers(hint))
]


def with_value(config: Any, name: str, value: object) -> dict[str, Any]:
    """The config as a dictionary, with another value; that of a tuple replaces its first, or only, number."""
    values = to_dict(config)
    *sections, last = name.split(".")
    place = values
    for section in sections:
        place = place[section]
    before = place[last]
    place[last] = [value, *before[1:]] if isinstance(before, tuple) else value
    return values


def test_there_are_numbers_in_every_section() -> None:
    sections = {kind: {p.values[1].rpartition(".")[0] for p in NUMERIC if p.values[0] is kind} for kind in KINDS}
    assert sections == {
        DetConfig: {"", "data", "model", "rpn", "roi", "solver", "test"},
        ClsConfig: {"", "data", "model", "loss", "solver", "test"},
    }


@pytest.mark.parametrize(("kind", "name", "hint"), NUMERIC)
def test_every_number_has_a_range_and_what_is_outside_is_refused(
    kind: type, name: str, hint: Any, refuses: Callable[..., object]
) -> None:
    for rules in numbers(hint):
        assert len(rules) == 1, f"{name} has no range"
        (range_,) = rules
        assert isinstance(range_, Range) and -math.inf < range_.low < range_.high < math.inf
    (range_,) = next(numbers(hint))
    assert isinstance(range_, Range)
    number = float if "float" in str(hint) else int
    for value in (number(-1), number(1e30), math.nan, math.inf, -math.inf, True):
        with refuses(f"{name} is ", repr(value)):
            from_dict(kind, with_value(kind(), name, value))
    if 0 not in range_:
        with refuses(f"{name} is ", "0"):
            from_dict(kind, with_value(kind(), name, number(0)))


@pytest.mark.parametrize(("kind", "name", "hint"), NUMERIC)
def test_the_ends_of_every_range_are_accepted_or_contradict_another_setting(
    kind: type, name: str, hint: Any, assert_sentence: Callable[..., None]
) -> None:
    (range_,) = next(numbers(hint))
    assert isinstance(range_, Range)
    for value in {range_.low, range_.high, 0}:
        if value in range_:
            try:
                from_dict(kind, with_value(kind(), name, value))
            except UserError as error:
                assert_sentence(str(error), name)
                assert str(range_) not in str(error)


@pytest.mark.parametrize(
    ("range_", "inside", "outside", "text"),
    [
        (Range(1, 3), (1, 2, 3), (0, 0.99, 3.01), "at least 1 and at most 3"),
        (Range(0, 1, open_low=True), (1e-9, 1), (0, 1.1), "more than 0 and at most 1"),
        (Range(0, 1, open_high=True), (0, 0.99), (-0.1, 1), "at least 0 and less than 1"),
        (Range(2, 3, or_zero=True), (0, 2), (1, 4), "0, or at least 2 and at most 3"),
    ],
)
def test_a_range(range_: Range, inside: tuple[float, ...], outside: tuple[float, ...], text: str) -> None:
    assert all(value in range_ for value in inside)
    assert not any(value in range_ for value in (*outside, math.nan, math.inf, True))
    assert str(range_) == text


def test_a_tuple_that_must_hold_something() -> None:
    assert (1,) in AtLeast(1) and () not in AtLeast(1)
    assert (str(AtLeast(1)), str(AtLeast(2))) == ("at least 1 value", "at least 2 values")


FPN = ("--model.features", "fpn", "--model.box-head", "conv_fc", "--model.pooling", "align")
FPN += ("--model.anchor-scales", "32", "64", "128", "256", "512")


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (DetConfig, ["--solver.plateau", "0"], ["solver.plateau is 0", "at least 1"]),
        (DetConfig, ["--seed", "-1"], ["seed is -1", "at least 0"]),
        (DetConfig, ["--solver.accumulate", "0"], ["solver.accumulate is 0", "at least 1"]),
        (DetConfig, ["--solver.lr", "nan"], ["solver.lr is nan"]),
        (DetConfig, ["--data.workers", str(10**12)], ["data.workers", "at most 256"]),
        (DetConfig, ["--data.short-sides"], ["data.short_sides is ()", "must hold at least 1 value"]),
        (DetConfig, ["--data.short-sides", "600", "0"], ["data.short_sides is (600, 0)", "each value"]),
        (DetConfig, ["--model.anchor-scales"], ["model.anchor_scales"]),
        (DetConfig, ["--test.soft-nms-sigma", "1e-9"], ["test.soft_nms_sigma is 1e-09", "0, or at least 0.001"]),
        (DetConfig, ["--rpn.background-iou", "0.8"], ["rpn.background_iou 0.8", "rpn.foreground_iou 0.7"]),
        (DetConfig, ["--roi.background-iou", "0.5", "0.1"], ["roi.background_iou 0.5 0.1"]),
        (DetConfig, ["--roi.foreground-iou", "0.4"], ["roi.background_iou ends at 0.5", "roi.foreground_iou 0.4"]),
        (
            DetConfig,
            ["--model.norm", "sync_batch", "--model.pool-size", "2", "--model.conv5-stride", "2"],
            ["model.pool_size 2", "sync_batch"],
        ),
        (DetConfig, ["--model.groups", "32", "--model.depth", "18"], ["model.groups is 32", "18 layers"]),
        (DetConfig, ["--model.norm", "group", "--model.width-per-group", "8"], ["32 groups", "8 channels"]),
        (
            DetConfig,
            [*FPN, "--model.head-norm", "group", "--model.fpn-channels", "48"],
            ["32 groups", "48 channels"],
        ),
        (DetConfig, ["--model.features", "fpn"], ["model.features fpn", "--model.box-head conv_fc"]),
        (DetConfig, ["--model.features", "dc5"], ["model.features dc5", "--model.box-head conv_fc"]),
        (DetConfig, [*FPN, "--model.backbone", "vgg16"], ["model.features fpn", "resnet or plain", "vgg16"]),
        (DetConfig, [*FPN, "--model.pooling", "pyramid"], ["model.pooling pyramid", "--model.pooling align"]),
        (DetConfig, [*FPN, "--model.anchor-scales", "32", "64"], ["model.anchor_scales has 2 sizes", "5 levels"]),
        (DetConfig, [*FPN, "--test.scales", "300", "600"], ["its own scales", "test.scales"]),
        (ClsConfig, ["--data.short-sides", "480", "256"], ["data.short_sides 480 256", "ascending"]),
        (ClsConfig, ["--test.scales"], ["test.scales is ()"]),
        (ClsConfig, ["--model.depth", "20"], ["model.depth is 20", "18, 34, 50"]),
        (ClsConfig, ["--model.family", "cifar", "--model.depth", "21"], ["model.depth is 21", "6n + 2"]),
        (
            ClsConfig,
            ["--model.family", "cifar", "--model.bottleneck", "--model.depth", "26"],
            ["model.depth is 26", "9n + 2"],
        ),
        (ClsConfig, ["--model.family", "cifar", "--model.norm", "group", "--model.depth", "20"], ["model.norm"]),
        (ClsConfig, ["--data.size", "32", "--solver.batch-size", "1"], ["data.size 32", "solver.batch_size"]),
    ],
)
def test_an_override_that_cannot_work_is_refused(
    kind: type, arguments: list[str], words: list[str], refuses: Callable[..., object]
) -> None:
    with refuses(*words):
        override(kind(), arguments)


def test_the_depths_of_an_imagenet_network_are_those_that_can_be_built() -> None:
    assert set(ARCHITECTURES) == set(RESNET_DEPTHS)


# Trainings at the ends of the ranges


def at_the_ends(kind: type, end: str, sections: str, kept: Sequence[str] = ()) -> list[str]:
    """Arguments that take the numbers of these sections, but those kept, to an end of their range: low or high."""
    arguments = []
    for name, hint, value in settings(kind()):
        ends = [str(end_of(rules[0], end)) for rules in numbers(hint)]
        if ends and name.partition(".")[0] in sections.split() and name not in kept:
            arguments += [f"--{name}", *(ends if isinstance(value, tuple) else ends[:1])]
    return arguments


def end_of(range_: Any, end: str) -> float:
    """The first or last number of a range, or one near it if the end itself is left out."""
    if end == "high":
        return 0.999 if range_.open_high else range_.high
    return 0 if range_.or_zero else 0.001 if range_.open_low else range_.low


@pytest.mark.parametrize("schedule", ["steps", "cosine", "plateau"])
def test_a_training_at_the_low_ends_of_the_solver_s_ranges(
    schedule: str, recipe: Path, cli: Callable[..., Any]
) -> None:
    low = at_the_ends(DetConfig, "low", "solver", ["solver.steps"])
    status, _, err = cli("train-det", recipe, *low, "--solver.schedule", schedule, "--solver.steps", 2)
    assert (status, err) == (0, "")
    status, _, err = cli("train-det", "--resume", recipe.parent / "runs/tiny", "--solver.steps", 3)
    assert (status, err) == (0, "")


@pytest.mark.parametrize("every", ["eval", "log", "save"])
def test_a_training_of_one_step(every: str, recipe: Path, cli: Callable[..., Any]) -> None:
    low = at_the_ends(DetConfig, "low", "solver")
    more = ("--solver.schedule", "plateau", "--solver.patience", 1, f"--solver.{every}-every", 1)
    status, _, err = cli("train-det", recipe, *low, *more)
    assert (status, err) == (0, "")


def test_a_detector_at_the_low_ends(recipe: Path, cli: Callable[..., Any]) -> None:
    kept = ["model.maxout", "model.width_per_group"]  # which must end with 1, and be divided by 32
    low = at_the_ends(DetConfig, "low", "data model rpn roi test", kept)
    more = ("--roi.background-iou", 0, 0.001, "--solver.steps", 2)
    status, _, err = cli("train-det", recipe, *low, *more)
    assert (status, err) == (0, "")


def test_a_detector_at_the_high_ends(recipe: Path, cli: Callable[..., Any]) -> None:
    """But for what would take hours or all memory."""
    large = ["data.short_sides", "data.test_short_side", "data.max_side", "data.workers", "test.scales"]
    large += [f"solver.{name}" for name in ("lr", "steps", "batch_size", "accumulate")]
    high = at_the_ends(DetConfig, "high", "seed data rpn roi solver test", large)
    more = ("--rpn.background-iou", 1, "--roi.background-iou", 0, 1, "--solver.steps", 2)
    status, _, err = cli("train-det", recipe, *high, *more)
    assert (status, err) == (0, "")


def test_the_highest_learning_rate_ends_in_a_sentence(recipe: Path, complains: Callable[..., None]) -> None:
    high = at_the_ends(DetConfig, "high", "solver", ["solver.steps", "solver.batch_size", "solver.accumulate"])
    complains(["train-det", recipe, *high, "--solver.clip-norm", 0, "--solver.warmup-steps", 0], "diverged")


CLASSIFIER = """
from resdet.config import ClsConfig, ClsDataConfig, ClsModelConfig, SolverConfig

config = ClsConfig(
    device="cpu",
    runs={runs!r},
    data=ClsDataConfig(root={root!r}, short_sides=(36, 48), workers=0),
    model=ClsModelConfig(depth=18),
    solver=SolverConfig(lr=0.01, steps=2, batch_size=2, precision="fp32"),
)
"""


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A recipe for two classes of four images."""
    for split, name, number in product(("train", "val"), ("bright", "dark"), range(4)):
        path = tmp_path / "images" / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((40, 50, 3), 200 if name == "bright" else 20 + number, np.uint8))
    path = tmp_path / "bright.py"
    path.write_text(CLASSIFIER.format(runs=str(tmp_path / "runs"), root=str(tmp_path / "images")))
    return path


def test_a_classifier_at_the_low_ends(classifier: Path, cli: Callable[..., Any]) -> None:
    low = at_the_ends(ClsConfig, "low", "data loss solver test", ["solver.steps", "solver.batch_size"])
    status, _, err = cli("train-cls", classifier, *low, "--solver.schedule", "plateau")
    assert (status, err) == (0, "")
    for views in ("1-crop", "10-crop", "dense"):
        status, _, err = cli(
            "eval-cls", classifier, "--weights", classifier.parent / "runs/bright", *low, "--test.views", views
        )
        assert (status, err) == (0, "")


def test_a_classifier_at_the_high_ends(classifier: Path, cli: Callable[..., Any]) -> None:
    """But for what would take hours or all memory."""
    large = ["data.size", "data.workers", "data.held_out"]
    high = at_the_ends(ClsConfig, "high", "data loss test", large)
    status, _, err = cli("train-cls", classifier, *high, "--data.size", 40)
    assert (status, err) == (0, "")


def test_a_cifar_network_at_the_low_ends(classifier: Path, cli: Callable[..., Any]) -> None:
    low = at_the_ends(ClsConfig, "low", "data model loss solver test", ["solver.steps"])
    status, _, err = cli("train-cls", classifier, *low, "--model.family", "cifar", "--model.pixel_mean", "pixel")
    assert (status, err) == (0, "")
