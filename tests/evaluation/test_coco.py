"""resdet.evaluation.coco against pycocotools driven by hand with what COCO's files hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_cases import annotations_of, join, random_case, scaled
from reference_evaluation import coco_files, run_pycocotools

from resdet.evaluation.coco import (
    STATS,
    Backend,
    CocoResult,
    evaluate_coco,
    read_coco_results,
    write_coco_results,
)
from resdet.types import Detections, Target

BACKENDS = [
    "pycocotools",
    pytest.param(
        "faster-coco-eval",
        marks=pytest.mark.skipif(find_spec("faster_coco_eval") is None, reason="faster-coco-eval is not installed"),
    ),
]
Refuses = Callable[..., AbstractContextManager[None]]


def assert_equal(result: CocoResult, stats: np.ndarray, precision: np.ndarray, order: Sequence[int]) -> None:
    """Result against pycocotools' numbers, whose classes come by category number."""
    assert tuple(result.stats) == STATS
    np.testing.assert_allclose(list(result.stats.values()), np.where(stats < 0, np.nan, stats), rtol=0, atol=1e-9)
    precision = np.where(precision < 0, np.nan, precision)[..., 0, -1]  # (IoU, recall, category)
    np.testing.assert_allclose(result.ap[order], precision.mean((0, 1)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.ap50[order], precision[0].mean(0), rtol=0, atol=1e-9)


def test_two_thousand_random_cases_agree_with_pycocotools() -> None:
    """Classes do not touch each other, so one evaluation of many classes is as many cases."""
    rng = np.random.default_rng(0)
    detections, targets = join([random_case(rng, images=3) for _ in range(667)])
    annotations = annotations_of(targets, 2001, rng)
    result = evaluate_coco(detections, annotations)
    stats, precision = run_pycocotools(*coco_files(detections, annotations))
    assert_equal(result, stats, precision, np.argsort(annotations.category_ids).tolist())
    # The cases are worth something only if they reach every kind of outcome.
    ap = result.ap
    assert min(np.isnan(ap).sum(), (ap == 0).sum(), ((ap > 0) & (ap < 1)).sum()) > 200


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_twelve_numbers_agree_with_pycocotools(backend: Backend) -> None:
    """Data sets of their own: none with ground truth, none with detections, all sizes, many detections."""
    seen = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        case = random_case(rng, most_detections=300 if seed % 10 == 0 else 24)
        detections, targets = scaled(*case, factor=float(rng.choice([1, 8, 64])))
        annotations = annotations_of(targets, 3, rng, numeric=bool(seed % 2))
        result = evaluate_coco(detections, annotations, backend)
        expected = run_pycocotools(*coco_files(detections, annotations))
        assert_equal(result, *expected, np.argsort(annotations.category_ids).tolist())
        seen.append(list(result.stats.values()))
    assert (np.nanmax(seen, 0) > 0.1).all() and np.isnan(seen).any(0).all()


def one_image(**changes: object) -> tuple[list[Detections], list[Target]]:
    """A detection that hits the one object of an image."""
    box = torch.tensor([[10.0, 10, 20, 20]])
    target = Target(box, torch.tensor([0]), torch.tensor([False]))
    return [Detections(box, torch.tensor([0.5]), torch.tensor([0]))], [target._replace(**changes)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("error")
def test_by_hand(backend: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    detections, targets = one_image()
    stats = evaluate_coco(detections, annotations_of(targets, 2), backend).stats
    assert [stats[name] for name in ("ap", "ap50", "ap_small", "ar1")] == pytest.approx([1] * 4)
    assert np.isnan(stats["ap_medium"])
    detections, targets = one_image(difficult=torch.tensor([True]))
    assert np.isnan(list(evaluate_coco(detections, annotations_of(targets, 2), backend).stats.values())).all()
    assert np.isnan(evaluate_coco([], annotations_of([], 2), backend).ap).all()
    assert capfd.readouterr() == ("", "")


def test_unusable_input_is_refused(refuses: Refuses, monkeypatch: pytest.MonkeyPatch) -> None:
    detections, targets = one_image()
    with pytest.raises(ValueError, match="detections for 0 images but 1 are annotated"):
        evaluate_coco([], annotations_of(targets, 2))
    with pytest.raises(ValueError, match="detections for 0 images but 1 are annotated"):
        write_coco_results("unwritten.json", [], annotations_of(targets, 2))
    detections[0].scores.fill_(float("nan"))
    with pytest.raises(ValueError, match="score is not a finite number"):
        evaluate_coco(detections, annotations_of(targets, 2))
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)  # as where it is not installed
    detections, _ = one_image()
    assert evaluate_coco(detections, annotations_of(targets, 2)).stats["ap"] == pytest.approx(1)
    with refuses("pip install faster-coco-eval"):
        evaluate_coco(detections, annotations_of(targets, 2), "faster-coco-eval")


# Results files


def random_results(rng: np.random.Generator, numeric: bool = True):
    """Detections, best first, with float32 boxes of no round numbers, and annotations."""
    detections, targets = random_case(rng, images=6)
    detections = [
        Detections(found.boxes * 3.3333 + 0.1, *fields)
        for found in detections
        for order in [found.scores.argsort(descending=True, stable=True)]
        for fields in [(found.scores[order], found.labels[order])]
    ]
    return detections, annotations_of(targets, 3, rng, numeric)


@pytest.mark.parametrize("numeric", [True, False])
def test_results_round_trip_to_the_bit(tmp_path: Path, numeric: bool) -> None:
    for seed in range(20):
        detections, annotations = random_results(np.random.default_rng(seed), numeric)
        write_coco_results(tmp_path / "new/results.json", detections, annotations)
        read = read_coco_results(tmp_path / "new/results.json", annotations)
        torch.testing.assert_close(read, detections, rtol=0, atol=0)


def test_pycocotools_gets_the_same_numbers_from_the_file(tmp_path: Path) -> None:
    for seed in range(20):
        detections, annotations = random_results(np.random.default_rng(seed))
        path = tmp_path / "results.json"
        write_coco_results(path, detections, annotations)
        records = json.loads(path.read_text())
        truth, results = coco_files(detections, annotations)
        assert records == results
        if records:
            expected = run_pycocotools(truth, str(path))
            order = np.argsort(annotations.category_ids).tolist()
            assert_equal(evaluate_coco(detections, annotations, "pycocotools"), *expected, order)


GOOD = {"image_id": 10, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", ["cannot be read as JSON"]),
        ("[" * 100_000, ["cannot be read as JSON"]),
        ("\xff", ["cannot be read as JSON"]),
        ('{"images": []}', ["no list of results but a dict", "not annotations"]),
        ("[3]", ["result 0", "must have image_id, category_id, bbox and score"]),
        *(
            (json.dumps([GOOD, {**GOOD, **change}]), ["result 1", *words])
            for change, words in (
                ({"image_id": 4}, ["image 4", "not in the data set", "--data.val"]),
                ({"image_id": [3]}, ["image [3]", "not in the data set"]),
                ({"category_id": 1}, ["category 1", "not in the data set", "2"]),
                ({"category_id": [2]}, ["category [2]"]),
                ({"category_id": 2.5}, ["category 2.5"]),
                ({"score": float("nan")}, ["score nan", "finite"]),
                ({"score": None}, ["score None"]),
                ({"score": "0.5"}, ["score '0.5'"]),
                ({"bbox": [1, 2, 3]}, ["[1, 2, 3]"]),
                ({"bbox": 5}, ["bbox 5"]),
                ({"bbox": [1, 2, 3, float("inf")]}, ["inf"]),
                ({"bbox": [1, 2, 3, 10**400]}, ["finite"]),
                ({"bbox": [1, 2, -3, 4]}, ["negative size"]),
            )
        ),
        (json.dumps([{name: GOOD[name] for name in ("image_id", "bbox", "score")}]), ["must have", "category_id"]),
    ],
)
def test_a_bad_results_file(text: str, words: Sequence[str], tmp_path: Path, refuses: Refuses) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="latin-1")
    _, targets = one_image()
    with refuses(path, *words):
        read_coco_results(path, annotations_of(targets, 1))


def test_a_missing_results_file(tmp_path: Path, refuses: Refuses) -> None:
    with refuses(tmp_path / "none.json", "No such file"):
        read_coco_results(tmp_path / "none.json", annotations_of([], 1))


def test_results_of_a_file_come_best_first(tmp_path: Path) -> None:
    _, targets = one_image()
    path = tmp_path / "results.json"
    path.write_text(json.dumps([GOOD, {**GOOD, "score": 0.75, "image_id": "10"}, {**GOOD, "score": 1}]))
    (found,) = read_coco_results(path, annotations_of(targets, 1))
    assert found.scores.tolist() == [1, 0.75, 0.5]
    torch.testing.assert_close(found.boxes, torch.tensor([[1.0, 2, 4, 6]] * 3))
