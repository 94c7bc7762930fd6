"""Tables, metrics.json and plots of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from evaluation_cases import annotations_of, join, random_boxes, random_case
from rich.cells import cell_len

from resdet.evaluation import report
from resdet.types import Detections, Target

BOX, OTHER = [10.0, 10.0, 20.0, 20.0], [30.0, 30.0, 40.0, 40.0]


def small_case() -> tuple[list[Detections], list[Target]]:
    """Of two objects of class 0 one is found; class 1 is missed, class 2 does not occur."""
    found = Detections(torch.tensor([BOX, BOX]), torch.tensor([0.9, 0.8]), torch.tensor([0, 2]))
    objects = torch.tensor([BOX, OTHER, [70.0, 70.0, 80.0, 80.0]])
    return [found], [Target(objects, torch.tensor([0, 0, 1]), torch.zeros(3).bool())]


def test_tables() -> None:
    detections, targets = small_case()
    annotations = annotations_of(targets, 3)
    scores = report.score(detections, annotations)
    # Class 0: precision 1 up to recall ½: VOC07 6/11, area ½, COCO 51/101.
    assert report.class_table(scores, ["cat", "dog", "cow"]).splitlines() == [
        "class  positives    VOC07      VOC     COCO     AP50",
        "cat            2    54.55    50.00    50.50    50.50",
        "dog            1     0.00     0.00     0.00     0.00",
        "cow            0        -        -        -        -",
        "----------------------------------------------------",
        "mean           3    27.27    25.00    25.25    25.25",
    ]
    lines = report.coco_table(scores.coco, 1).splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["25.25", "25.25", "25.25", "25.25", "-", "-"]
    assert lines[2].split() == ["ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"]
    analysis = report.analyse(detections, annotations, [torch.tensor([BOX, OTHER])])
    table = report.analysis_table(analysis).splitlines()
    assert [line.split() for line in table[1:3]] == [["localisation", "0", "0.00"], ["confusion", "1", "0.00"]]
    assert table[-1] == "proposals: AR@100 66.67, AR@300 66.67, AR@1000 66.67"


def random_report(classes: int, folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    detections, targets = join([random_case(rng, images=4) for _ in range(classes // 3)])
    annotations = annotations_of(targets, classes)
    proposals = [torch.from_numpy(random_boxes(rng, 50, 8)) for _ in targets]
    analysis = report.analyse(detections, annotations, proposals)
    report.write_report(folder, report.score(detections, annotations), analysis, detections, annotations)
    return json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)  # no NaN


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [3, 30])
def test_the_folder(classes: int, tmp_path: Path) -> None:
    figures = random_report(classes, tmp_path / "new")
    assert np.shape(figures["confusion"]) == (classes + 1, classes + 1)
    assert np.shape([figures["proposals"][n]["recall"] for n in ("100", "300", "1000")]) == (3, 10)
    assert figures["errors"]["false_positive"]["count"] is None
    known = [row["ap"] for row in figures["per_class"].values() if row["ap"] is not None]
    assert figures["ap"] == pytest.approx(np.mean(known)) and set(figures["per_class"]["class 0"]) == {
        *("positives", "voc07", "voc", "ap", "ap50")
    }
    for name in ("precision_recall", "class_ap", "confusion", "errors", "proposal_recall"):
        assert cv2.imread(str(tmp_path / f"new/{name}.png")).std() > 1


@pytest.mark.filterwarnings("error")
def test_a_report_of_nothing(tmp_path: Path) -> None:
    annotations = annotations_of([], 2)
    analysis = report.analyse([], annotations, [])
    report.write_report(tmp_path, report.score([], annotations), analysis, [], annotations)
    figures = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert figures["images"] == 0 and figures["map07"] is None and figures["ap"] is None
    assert (tmp_path / "coco_results.json").read_text() == "[]\n"


@pytest.mark.filterwarnings("error")
def test_a_report_of_very_many_classes_stays_short(tmp_path: Path) -> None:
    """LVIS has 1203 classes."""
    classes = 1203
    rng = np.random.default_rng(0)
    detections, targets = [], []
    for _ in range(40):
        boxes, labels = (
            torch.from_numpy(random_boxes(rng, 60, 90)).float(),
            torch.from_numpy(rng.integers(0, classes, 60)),
        )
        targets.append(Target(boxes, labels, torch.zeros(60).bool()))
        wrong = torch.where(torch.arange(60) % 3 == 0, (labels + 1) % classes, labels)
        detections.append(Detections(boxes, torch.linspace(1, 0.3, 60), wrong))
    annotations = annotations_of(targets, classes)
    scores, analysis = report.score(detections, annotations), report.analyse(detections, annotations)
    report.write_report(tmp_path, scores, analysis, detections, annotations)
    for name in ("precision_recall", "class_ap", "confusion"):
        assert max(cv2.imread(str(tmp_path / f"{name}.png")).shape) < 3000
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert len(figures["per_class"]) == classes
    counted = np.zeros((classes + 1, classes + 1), int)
    for row, column, count in figures["confusions"]:
        counted[row, column] = count
    assert (counted == analysis.confusion).all() and counted.any()
    table = report.class_table(scores, annotations.classes).splitlines()
    assert len(table) == 1 + 30 + 30 + 3 and f"of {(scores.voc.positives > 0).sum():,} classes" in table[-1]


def test_a_table_of_names_of_all_kinds_keeps_its_columns() -> None:
    detections, targets = small_case()
    scores = report.score(detections, annotations_of(targets, 3))
    lines = report.class_table(scores, ["安全帽", "x" * 500, "a\nb\x1b[31m"]).splitlines()
    assert len(lines) == 6 and len({cell_len(line) for line in lines}) == 1 and len(lines[0]) < 90
