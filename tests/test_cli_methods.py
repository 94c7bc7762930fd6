"""The papers' methods as a user gives them: proposals, alternating training, test-time methods, studies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from resdet import Detector
from resdet.cli import read
from resdet.cli.study import configs
from resdet.config import DetConfig, load_config, with_settings
from resdet.data.build import read_annotations
from resdet.data.proposals import read_proposals
from resdet.experiments import study
from resdet.experiments.propose import edge_boxes
from resdet.experiments.runs import run_folder
from resdet.experiments.studies import STUDIES, Row, Study
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import save_model

GIVEN = ("--model.proposals", "given", "--data.proposals")


def proposals_of(path: Path, recipe: Path, split: str, most: int = 2000) -> list[np.ndarray]:
    """The boxes that a file holds for each image of a split."""
    config = load_config(recipe)
    annotations = read_annotations(config.data, split, config.data.classes)
    read = read_proposals([str(path)], annotations, most)
    return [read.of(index).numpy() for index in range(len(annotations))]


# Proposals


def test_selective_search_finds_the_objects(
    recipe: Path, cli: Callable[..., Any], complains: Callable[..., None], tmp_path: Path
) -> None:
    """And a detector is trained on them, and evaluated."""
    file = tmp_path / "proposals.npz"
    status, out, err = cli("propose", recipe, "--method", "selective-search", "--output", file, "--most", 300)
    assert status == 0 and f"{file} has proposals for 10 images" in out and "per image, " in out
    config = load_config(recipe)
    annotations = read_annotations(config.data, "train", config.data.classes)
    covered = []
    for index, own in enumerate(proposals_of(file, recipe, "train")):
        assert 5 < len(own) <= 300
        for x1, y1, x2, y2 in annotations.target(index).boxes.tolist():
            width = np.minimum(own[:, 2], x2) - np.maximum(own[:, 0], x1)
            height = np.minimum(own[:, 3], y2) - np.maximum(own[:, 1], y1)
            inside = width.clip(0) * height.clip(0)
            areas = (own[:, 2] - own[:, 0]) * (own[:, 3] - own[:, 1])
            covered.append((inside / (areas + (x2 - x1) * (y2 - y1) - inside)).max())
    assert np.mean(np.array(covered) > 0.5) > 0.6
    assert len(proposals_of(file, recipe, "val", most=7)[0]) == 7
    status, _, err = cli("train-det", recipe, "--name", "fast", *GIVEN, file)
    assert (status, err) == (0, "")
    losses = [json.loads(line) for line in (tmp_path / "runs/fast/metrics.jsonl").read_text().splitlines()]
    assert losses[0]["rpn_cls"] == 0 < losses[0]["roi_cls"]
    run = tmp_path / "runs/fast"
    status, out, err = cli("eval-det", recipe, "--weights", run, "--name", "e", *GIVEN, file)
    assert (status, err) == (0, "") and "VOC07" in out
    complains(["detect", recipe, "--weights", run], run, "resdet eval-det")
    complains(["propose", recipe, "--method", "rpn", "--output", file, "--weights", run], run, "no RPN")
    complains(["eval-det", recipe, "--weights", run, "--model.proposals", "given"], "resdet propose")


def test_the_proposals_of_an_rpn(
    recipe: Path, finished: Path, cli: Callable[..., Any], tmp_path: Path, complains: Callable[..., None]
) -> None:
    file = tmp_path / "rpn.npz"
    arguments = ("propose", recipe, "--method", "rpn", "--output", file)
    complains([*arguments], "--weights")
    assert cli(*arguments, "--weights", finished, "--most", 12)[0] == 0
    assert [len(own) for own in proposals_of(file, recipe, "val")] == [12] * 4


def test_edge_boxes_needs_opencv_s_extra_modules(
    recipe: Path, complains: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["propose", recipe, "--method", "edge-boxes", "--output", tmp_path / "x.npz"]
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    complains(arguments, "opencv-contrib-python-headless")
    monkeypatch.setattr(cv2, "ximgproc", SimpleNamespace(), raising=False)
    complains(arguments, "--edges")

    def refuse(model: str) -> None:
        raise cv2.error("modelFile.isOpened()")

    monkeypatch.setattr(cv2.ximgproc, "createStructuredEdgeDetection", refuse, raising=False)
    complains([*arguments, "--edges", recipe], recipe, "model.yml.gz")


def test_edge_boxes_become_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV's are x, y, width, height."""
    edges = SimpleNamespace(
        detectEdges=lambda image: image[:, :, 0],
        computeOrientation=lambda strength: strength,
        edgesNms=lambda strength, orientation: strength,
    )
    finder = SimpleNamespace(getBoundingBoxes=lambda *_: (np.array([[1, 2, 10, 20]]), np.array([0.5])))
    fake = SimpleNamespace(createStructuredEdgeDetection=lambda model: edges, createEdgeBoxes=lambda **_: finder)
    monkeypatch.setattr(cv2, "ximgproc", fake, raising=False)
    assert edge_boxes(np.zeros((30, 40, 3), np.uint8), "model").tolist() == [[1, 2, 11, 22]]


def test_selective_search_needs_its_package(
    recipe: Path, complains: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("resdet.experiments.propose.find_spec", lambda name: None)
    complains(
        ["propose", recipe, "--method", "selective-search", "--output", tmp_path / "x.npz"], "resdet[proposals]"
    )


# Alternating training


def test_alternating_training_shares_its_backbone(recipe: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    """What each of the four steps learns, and what it leaves alone (Faster R-CNN §3.2)."""
    arguments = ("alternate", recipe, "--runs", tmp_path / "runs", "--name", "four", "--solver.steps", 2)
    assert cli(*arguments)[::2] == (0, "")
    folder = tmp_path / "runs/four"
    first, second, third, fourth = (
        load_model(folder / step).weights for step in ("1_rpn", "2_head", "3_rpn", "4_head")
    )

    def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], part: str) -> bool:
        return all(torch.equal(a[name], b[name]) for name in a if name.startswith(part))

    assert same(first, second, "roi_heads.box_predictor") is False, "the second step learns a head"
    assert not same(first, second, "backbone."), "both from the start that they share"
    assert (
        same(second, third, "backbone.") and same(second, third, "roi_heads.") and not same(second, third, "rpn.")
    )
    assert (
        same(third, fourth, "backbone.") and same(third, fourth, "rpn.") and not same(third, fourth, "roi_heads.")
    )
    own = load_config(recipe)
    given = proposals_of(folder / "1_rpn.npz", recipe, "val", own.test.post_nms_topk)
    assert [len(boxes) for boxes in given] == [own.test.post_nms_topk] * 4
    before = (folder / "1_rpn/metrics.jsonl").read_text()
    shutil.rmtree(folder / "4_head")
    assert cli(*arguments)[::2] == (0, ""), "it goes on where it stopped"
    assert (folder / "1_rpn/metrics.jsonl").read_text() == before
    again = load_model(folder / "4_head").weights
    assert all(torch.equal(tensor, again[name]) for name, tensor in fourth.items())


def test_alternating_training_is_for_detectors_with_an_rpn(recipe: Path, complains: Callable[..., None]) -> None:
    complains(["alternate", recipe, "--model.proposals", "given"], "--model.proposals rpn", "RPN")
    complains(["alternate"], "Recipe missing")


# Test-time methods


def test_test_time_methods_are_switches_of_eval_det(
    recipe: Path, finished: Path, cli: Callable[..., Any], tmp_path: Path
) -> None:
    """Each of them, and all together."""
    switches = {
        "refine": ("--test.refine", "--test.vote-iou", "0.5"),
        "scales": ("--test.scales", "48", "64", "96"),
        "one_scale": ("--test.scales", "80"),
        "flip": ("--test.flip",),
        "soft": ("--test.soft-nms-sigma", "0.5"),
        "ensemble": ("--test.ensemble", str(finished)),
    }
    switches["all"] = tuple(word for name, words in switches.items() if name != "one_scale" for word in words)
    for name, words in switches.items():
        status, out, err = cli("eval-det", recipe, "--weights", finished, "--name", name, *words)
        assert (status, err) == (0, "") and "VOC07" in out
        figures = json.loads((tmp_path / "runs" / name / "eval/metrics.json").read_text())
        assert 0 <= figures["map07"] <= 1


def test_test_time_methods_are_switches_of_detector(finished: Path, shapes_root: Path) -> None:
    photo = next(iter(sorted(shapes_root.rglob("*.jpg"))))
    plain, flipped = (Detector.load(finished, precision="fp32", **test)(photo) for test in ({}, {"flip": True}))
    assert len(flipped.names) and not torch.equal(plain.scores, flipped.scores)


def test_an_ensemble_of_other_classes(finished: Path, tmp_path: Path, refuses: Callable[..., Any]) -> None:
    file = load_model(finished)
    save_model(tmp_path / "model.safetensors", replace(file, classes=file.classes[::-1]))
    with refuses(tmp_path, finished, "classes"):
        Detector.load(finished, ensemble=(str(tmp_path),))
    (tmp_path / "model.safetensors").unlink()


# Studies


def test_a_study_of_detectors(
    recipe: Path, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trains each once, tests each as its row says, and goes on where it stopped."""
    path, given = str(recipe), str(tmp_path / "found.npz")
    rows = {
        "plain one": Row(path, paper="48.4"),
        "flipped": Row(path, test={"test.flip": True}, run="plain_one"),
        "two": Row(path, ensemble=("plain_one",), run="plain_one"),
        "given": Row(path, {"model.proposals": "given", "data.proposals": (given,)}),
        "shared": Row(path, run="alternating", step="4_head", paper="69.9"),
        "unshared": Row(path, run="alternating", step="2_head"),
    }
    monkeypatch.setitem(STUDIES, "tiny", Study(DetConfig, rows, paper="their mAP"))
    arguments = ("study", "tiny", "--runs", tmp_path / "runs", "--solver.steps", 2)
    status, out, _ = cli(*arguments)
    assert status == 0
    table = (tmp_path / "runs/tiny/table.md").read_text()
    assert table in out and table.splitlines()[0].endswith("| their mAP |")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [line[0] for line in lines] == list(rows) and lines[0][-1] == "48.4" and lines[1][-1] == ""
    for line in lines:
        seconds = [float(cell) for cell in line[3:7]]
        assert all(value > 0 for value in seconds) and abs(sum(seconds[:3]) - seconds[3]) < 0.002
    assert cv2.imread(str(tmp_path / "runs/tiny/study.png")).std() > 1
    assert {p.name for p in (tmp_path / "runs/tiny").iterdir() if p.is_dir()} == {
        "plain_one",
        "given",
        "alternating",
    }
    before = (tmp_path / "runs/tiny/plain_one/metrics.jsonl").read_text()
    assert cli(*arguments)[0] == 0
    assert (tmp_path / "runs/tiny/plain_one/metrics.jsonl").read_text() == before


def test_a_study_of_another_recipe(
    recipe: Path,
    cli: Callable[..., Any],
    complains: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Has a folder of its own; a study that compares recipes refuses."""
    other = tmp_path / "other.py"
    other.write_text(recipe.read_text())
    monkeypatch.setitem(STUDIES, "tiny", Study(DetConfig, {"one": Row(str(tmp_path / "gone.py"))}))
    runs = tmp_path / "runs"
    assert cli("study", "tiny", "--recipe", other, "--runs", runs, "--solver.steps", 2)[0] == 0
    assert "| one |" in (runs / "tiny_other/table.md").read_text() and not (runs / "tiny").exists()
    for name in ("lineage", "degradation"):
        complains(["study", name, "--recipe", other], "compares recipes")
    rows = STUDIES["activations"].of_recipe("mine.py").rows
    assert {row.recipe for row in rows.values()} == {"mine.py"}
    assert rows["original"].train == {} and rows["BN after addition"].train == {"model.order": "norm_after"}


@pytest.mark.parametrize("name", STUDIES)
def test_the_recipes_of_a_study_know_their_settings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every directory; rows that share a run train it alike."""
    monkeypatch.chdir(tmp_path)
    arguments = read("study", [name, "--solver.steps", "7"])
    study, recipes = arguments.to_run(), configs(arguments)
    assert run_folder(arguments.config) == Path("runs") / name and set(recipes) == set(study.recipes)
    for row in study.rows.values():
        config = with_settings(recipes[row.recipe], {**row.train, **row.test})
        assert type(config) is study.kind and config.solver.steps == 7
        assert all(other.train == row.train for other in study.rows.values() if row.run and other.run == row.run)


def test_a_row_s_own_settings_go_before_the_user_s(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: Callable[..., Any]
) -> None:
    """And all of them are checked before anything is trained."""
    trained: list[DetConfig] = []
    monkeypatch.setattr(study, "compare_detectors", lambda _, configs, folder: trained.extend(configs.values()))
    config = load_config(recipe, ["--roi.batch_size_per_image", "4", "--solver.steps", "7"])
    rows = {"one": Row("it", {"roi.batch_size_per_image": 16}), "two": Row("it")}
    study.run_study(Study(DetConfig, rows), {"it": config}, tmp_path)
    assert [(own.roi.batch_size_per_image, own.solver.steps) for own in trained] == [(16, 7), (4, 7)]
    for wrong in (Row("it", {"roi.ohen": 16}), Row("it", test={"roi.ohen": 16})):
        with refuses("roi.ohen", "roi.ohem"):
            study.run_study(Study(DetConfig, {**rows, "three": wrong}), {"it": config}, tmp_path)
    assert len(trained) == 2
