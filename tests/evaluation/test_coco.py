"""resdet.evaluation.coco against pycocotools driven by hand with what COCO's files hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_cases import annotations_of, join, random_case, scaled
from reference_evaluation import coco_files, run_pycocotools

from resdet.data.annotations import Annotations
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


def crowd(objects: int, classes: int) -> tuple[list[Detections], list[Target]]:
    """An image with so many objects in a row, of classes in turn, all of them found."""
    left = torch.arange(objects).float() * 10
    boxes = torch.stack([left, torch.zeros(objects), left + 8, torch.full((objects,), 8.0)], 1)
    labels = torch.arange(objects) % classes
    scores = torch.linspace(1, 0.5, objects)
    return [Detections(boxes, scores, labels)], [Target(boxes, labels, torch.zeros(objects).bool())]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_crowd_counts_up_to_the_limit(backend: Backend) -> None:
    """The limit is for each class in each image; perfect detections of all are right if it lets them."""
    detections, targets = (field * 2 for field in crowd(250, 2))
    annotations = annotations_of(targets, 2)
    standard = evaluate_coco(detections, annotations, backend)
    assert standard.stats["ar100"] == pytest.approx(100 / 125) and standard.stats["ap"] < 0.82
    assert (standard.crowded, standard.uncounted) == (2, 2 * 2 * 25)
    for limit in (125, 10_000):
        result = evaluate_coco(detections, annotations, backend, limit)
        assert result.stats["ap"] == result.stats[f"ar{limit}"] == 1 and list(result.stats)[-4] == f"ar{limit}"
        assert result.ap.tolist() == [1, 1] and (result.crowded, result.uncounted) == (0, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_limit_that_no_image_reaches_changes_nothing(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    detections, targets = random_case(rng, images=6)
    annotations = annotations_of(targets, 3, rng)
    standard, higher = (evaluate_coco(detections, annotations, backend, limit) for limit in (100, 500))
    assert list(standard.stats.values()) == pytest.approx(list(higher.stats.values()), abs=0, nan_ok=True)


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


def images_of_one_object(ids: Sequence[str]) -> tuple[list[Target], Annotations]:
    """Images of these identifiers, each with an object of class 0 at the same place."""
    _, (target,) = one_image()
    targets = [target] * len(ids)
    return targets, replace(annotations_of(targets, 2), ids=np.array([name.encode() for name in ids], dtype=bytes))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("ids", "first"),
    [
        (("9", "10"), 0),  # numbers, if all are
        (("010", "9"), 0),  # else texts: 010 is not how a number is written
        (("10", "9", "x"), 0),
        (("9", "10", "x"), 1),
        (("10", "9"), 1),
        (("-1", "+2"), 1),
    ],
)
def test_equal_scores_are_ranked_by_identifier(backend: Backend, ids: Sequence[str], first: int) -> None:
    """A hit before two misses of the same score has precision 1, behind them ⅓."""
    _, annotations = images_of_one_object(ids)
    hit = Detections(torch.tensor([[10.0, 10, 20, 20]]), torch.tensor([0.5]), torch.tensor([0]))
    miss = hit._replace(boxes=hit.boxes + 50)
    none = Detections(hit.boxes[:0], hit.scores[:0], hit.labels[:0])
    for place in range(2):
        detections = [hit if index == place else miss if index < 2 else none for index in range(len(ids))]
        ap50 = evaluate_coco(detections, annotations, backend).ap50[0]
        reached = 101 // len(ids) + 1  # recalls 0, .01, … up to a half or a third
        assert ap50 == pytest.approx(reached / 101 * (1 if place == first else 1 / 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sizes_are_those_of_the_areas_and_not_of_the_boxes(backend: Backend) -> None:
    """COCO's ranges: small up to 32², medium up to 96², large beyond; a detection's area is its box's."""
    detections, targets = one_image()
    annotations = annotations_of(targets, 2)
    for area, name in ((32.0**2 - 1, "small"), (32.0**2 + 1, "medium"), (96.0**2 + 1, "large")):
        stats = evaluate_coco(detections, replace(annotations, areas=np.array([area])), backend).stats
        assert stats[f"ap_{name}"] == pytest.approx(1)
        others = {"small", "medium", "large"} - {name}
        assert all(np.isnan(stats[f"ap_{other}"]) for other in others)
        assert stats[f"ar_{name}"] == pytest.approx(1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_average_precisions_of_each_class(backend: Backend) -> None:
    """IoU 0.6 is a hit at 0.5, 0.55 and 0.6; a class without objects has none."""
    box = torch.tensor([[0.0, 0, 100, 100], [200, 200, 300, 300]])
    target = Target(box, torch.tensor([0, 2]), torch.tensor([False, False]))
    found = Detections(torch.tensor([[0.0, 0, 100, 61], [200, 200, 300, 300]]), torch.ones(2), torch.tensor([0, 2]))
    result = evaluate_coco([found], annotations_of([target], 3), backend)
    np.testing.assert_allclose(result.ap, [0.3, np.nan, 1])
    np.testing.assert_allclose(result.ap50, [1, np.nan, 1])
    wanted = {"ap": 0.65, "ap50": 1, "ap75": 0.5, "ap_large": 0.65, "ar1": 0.65, "ar100": 0.65, "ar_large": 0.65}
    assert {name: result.stats[name] for name in wanted} == pytest.approx(wanted)


# Results files


@pytest.mark.parametrize(
    ("ids", "written"),
    [(("7", "12"), [7, 12]), (("7", "012"), ["7", "012"]), (("a", "7"), ["a", "7"]), (("²", "7"), ["²", "7"])],
)
def test_the_results_file_to_the_letter(tmp_path: Path, ids: Sequence[str], written: list[object]) -> None:
    """Identifiers are numbers only if all are written as such, as the tools need them."""
    targets, annotations = images_of_one_object(ids)
    first = Detections(
        torch.tensor([[1.5, 2, 4, 8], [0, 0, 1, 1]]), torch.tensor([0.25, 0.75]), torch.tensor([1, 0])
    )
    second = Detections(torch.tensor([[5.0, 5, 6, 7]]), torch.tensor([0.5]), torch.tensor([0]))
    write_coco_results(tmp_path / "results.json", [first, second], annotations)
    categories = annotations.category_ids.tolist()
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {"image_id": written[0], "category_id": categories[1], "bbox": [1.5, 2, 2.5, 6], "score": 0.25},
        {"image_id": written[0], "category_id": categories[0], "bbox": [0, 0, 1, 1], "score": 0.75},
        {"image_id": written[1], "category_id": categories[0], "bbox": [5, 5, 1, 2], "score": 0.5},
    ]
    read = read_coco_results(str(tmp_path / "results.json"), annotations)
    assert read[0].scores.tolist() == [0.75, 0.25] and read[0].labels.tolist() == [0, 1]
    assert read[1].boxes.tolist() == second.boxes.tolist()
    assert [part.dtype for part in read[1]] == [torch.float32, torch.float32, torch.int64]
    write_coco_results(tmp_path / "results.json", [first, second], annotations)  # again
    assert len(targets) == len(read) == 2


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
        ('{"images": []}', ["a dict, not a list of results", "not annotations"]),
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
                ({"bbox": [1, 2, 3, -4]}, ["negative size"]),
                ({"bbox": [1, 2, 3, 4, 5]}, ["[1, 2, 3, 4, 5]"]),
                ({"bbox": [1, -1e30, 3, 4]}, ["finite"]),
                ({"bbox": [1, True, 3, 4]}, ["finite"]),
                ({"category_id": True}, ["category True"]),
                ({"category_id": 3}, ["category 3", "it has 2."]),
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


def test_a_result_without_extent_is_read(tmp_path: Path) -> None:
    """And one of whole numbers, or far outside the image."""
    _, targets = one_image()
    path = tmp_path / "results.json"
    boxes = [[1, 2, 0, 4], [1, 2, 3, 0], [-5, -6.5, 1e6, 1]]
    path.write_text(json.dumps([GOOD | {"bbox": box, "score": 1} for box in boxes]))
    (found,) = read_coco_results(path, annotations_of(targets, 1))
    assert found.boxes.tolist() == [[1, 2, 1, 6], [1, 2, 4, 2], [-5, -6.5, 999_995, -5.5]]
    assert found.scores.tolist() == [1, 1, 1] and found.labels.tolist() == [0, 0, 0]


def test_reading_for_no_image(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    assert read_coco_results(tmp_path / "results.json", annotations_of([], 1)) == []


def test_results_of_a_file_come_best_first(tmp_path: Path) -> None:
    _, targets = one_image()
    path = tmp_path / "results.json"
    path.write_text(json.dumps([GOOD, {**GOOD, "score": 0.75, "image_id": "10"}, {**GOOD, "score": 1}]))
    (found,) = read_coco_results(path, annotations_of(targets, 1))
    assert found.scores.tolist() == [1, 0.75, 0.5]
    torch.testing.assert_close(found.boxes, torch.tensor([[1.0, 2, 4, 6]] * 3))
