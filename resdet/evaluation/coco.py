"""Average precision and recall by COCO's rules, and its results files.

The rules are those of COCO's own tools, pycocotools, or of faster-coco-eval, their translation into C++, which
gives the same numbers. Shapes: C classes, n boxes of the whole data set.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from resdet.data.annotations import Annotations
from resdet.errors import UserError, listed, reason
from resdet.evaluation.flat import Flat, flatten
from resdet.io import write_text
from resdet.types import Detections

Backend = Literal["auto", "pycocotools", "faster-coco-eval"]

# In the order in which COCO's tools print them; ar100 is named for the most detections that count.
STATS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


class CocoResult(NamedTuple):
    """What `evaluate_coco` found, in fractions of 1; NaN where there is nothing to be found."""

    stats: dict[str, float]
    """the 12 numbers, named as in `STATS`: AP at IoU .5:.95, .5 and .75, by size, and average recall"""
    ap: NDArray[np.float64]
    """(C,) at IoU .5:.95"""
    ap50: NDArray[np.float64]
    """(C,)"""
    max_dets: int
    """detections of a class in an image that count"""
    crowded: int
    """images with more objects of a class than that"""
    uncounted: int
    """detections that did not count, since there were more of their class in their image"""


def evaluate_coco(
    detections: Sequence[Detections],
    annotations: Annotations,
    backend: Backend = "auto",
    max_dets: int = 100,
) -> CocoResult:
    """Score the detections of a data set, given image by image; CPU tensors or arrays.

    Whatever the data set's format, a difficult object is evaluated as a crowd region, for COCO's tools know no
    other object that counts neither for nor against. Equal scores are ranked as those tools do with the files:
    by image identifier, then in the order given.

    Args:
        backend: auto takes faster-coco-eval where it is installed
        max_dets: detections of a class in an image that count, the best ones; 100 gives COCO's standard numbers

    Raises:
        ValueError: as many detections as images are needed, finite and of the annotations' classes
        UserError: faster-coco-eval is asked for and not installed
    """
    found = _flatten(detections, annotations)
    ids = _official_ids(annotations)
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    truth = _records(
        rank[annotations.owners],
        annotations.labels,
        annotations.boxes,
        annotations.areas,
        annotations.difficult.astype(int),
    )
    areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1)
    results = _records(rank[found.images], found.labels, found.boxes, areas, np.zeros(len(areas), int))
    for record, score in zip(results, found.values.tolist(), strict=True):
        record["score"] = score
    classes = len(annotations.classes)
    precision, recall = _run(backend, truth, results, len(ids), classes, max_dets)
    names = [f"ar{max_dets}" if name == "ar100" else name for name in STATS]
    per_class = np.where(precision > -1, precision, np.nan)[..., 0, -1]  # (T, R, C) of any size
    easy = ~annotations.difficult
    objects = _per_image_and_class(annotations.owners[easy], annotations.labels[easy], classes)
    found_ones = _per_image_and_class(found.images, found.labels, classes)
    return CocoResult(
        dict(zip(names, _twelve(precision, recall), strict=True)),
        per_class.mean((0, 1)),
        per_class[0].mean(0),
        max_dets,
        len(np.unique(objects[objects[:, 1] > max_dets, 0] // max(1, classes))),
        int((found_ones[:, 1] - max_dets).clip(0).sum()),
    )


def _per_image_and_class(images: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(n,), (n,) → (P, 2): image · C + class of each pair that occurs, and how often it does"""
    return np.stack(np.unique(images * classes + labels, return_counts=True), 1)


def _twelve(precision: np.ndarray, recall: np.ndarray) -> list[float]:
    """The 12 numbers, in the order of `STATS`; −1 in an array, and NaN in a mean, is for nothing to be found.

    Args:
        precision: (T, R, C, A, M): T IoUs, R recalls, A sizes (all, small, medium, large), M limits of detections
        recall: (T, C, A, M)
    """
    parts = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]
    parts += [precision[..., size, -1] for size in (1, 2, 3)]
    parts += [recall[..., 0, limit] for limit in (0, 1, 2)] + [recall[..., size, -1] for size in (1, 2, 3)]
    known = [part[part > -1] for part in parts]
    return [float(part.mean()) if part.size else float("nan") for part in known]


def _flatten(detections: Sequence[Detections], annotations: Annotations) -> Flat:
    if len(detections) != len(annotations):
        raise ValueError(f"There are detections for {len(detections)} images but {len(annotations)} are annotated.")
    return flatten(detections, "scores", len(annotations.classes), "detection")


def _run(
    backend: Backend,
    truth: list[dict],
    results: list[dict],
    num_images: int,
    num_classes: int,
    max_dets: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The tools' precisions and recalls, as `_twelve` takes them, for 1, 10 and `max_dets` detections."""
    if backend == "auto":
        backend = "faster-coco-eval" if find_spec("faster_coco_eval") else "pycocotools"
    # Imported here, since faster-coco-eval may be missing.
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        try:
            from faster_coco_eval import COCO
            from faster_coco_eval import COCOeval_faster as COCOeval
        except ImportError as error:
            raise UserError("faster-coco-eval is not installed: pip install faster-coco-eval.") from error
    sides = []
    with redirect_stdout(io.StringIO()):  # the tools print
        for records in (truth, results):
            side = COCO()
            side.dataset = {
                "images": [{"id": number} for number in range(num_images)],
                "categories": [{"id": label} for label in range(num_classes)],
                "annotations": records,
            }
            side.createIndex()
            sides.append(side)
        evaluator = COCOeval(*sides, "bbox")
        evaluator.params.maxDets = [1, 10, max_dets]
        evaluator.evaluate()
        evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


def _to_xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 4) corners → (n, 4) left, top, width, height"""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def _records(
    images: NDArray[np.int64],
    labels: NDArray[np.int64],
    boxes: NDArray[np.float64],
    areas: NDArray[np.float64],
    crowds: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """COCO's annotation records; numbered from 1, as the tools take 0 for "not matched"."""
    columns = (images, labels, _to_xywh(boxes), areas, crowds)
    return [
        {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": crowd}
        for number, (image, label, box, area, crowd) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]


def _official_ids(annotations: Annotations) -> list[int] | list[str]:
    """The images' identifiers as COCO's files have them: numbers if all are, and are written as numbers are."""
    ids = [annotations.id(index) for index in range(len(annotations))]
    if all(name.isdecimal() and str(int(name)) == name for name in ids):
        return [int(name) for name in ids]
    return ids


# Results files


def write_coco_results(path: Path | str, detections: Sequence[Detections], annotations: Annotations) -> None:
    """Write the results JSON that COCO's tools and servers read.

    Numbers have all their digits: what is read again is the same to the bit, and so is its evaluation.
    """
    found = _flatten(detections, annotations)
    ids, categories = _official_ids(annotations), annotations.category_ids[found.labels]
    columns = (found.images, categories, _to_xywh(found.boxes), found.values)
    rows = [
        json.dumps({"image_id": ids[image], "category_id": category, "bbox": box, "score": score})
        for image, category, box, score in zip(*(column.tolist() for column in columns), strict=True)
    ]
    write_text(Path(path), "[" + ",\n".join(rows) + "]\n")


def read_coco_results(path: Path | str, annotations: Annotations) -> list[Detections]:
    """Read a results JSON: the detections of each image, best score first; float32, as all boxes are here.

    Raises:
        UserError: it cannot be read, is not of these images and categories, or holds something else than detections
    """
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({reason(error)}): pass COCO's results JSON or a folder of VOC's "
            "text files."
        ) from error
    if not isinstance(records, list):
        raise UserError(
            f"{path} holds a {type(records).__name__}, not a list of results: pass COCO results, not annotations."
        )
    position = {annotations.id(index): index for index in range(len(annotations))}
    label_of = {category: label for label, category in enumerate(annotations.category_ids.tolist())}
    rows = [
        _read_record(record, f"{path}, result {i} (counted from 0),", position, label_of)
        for i, record in enumerate(records)
    ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    table[:, 5:] += table[:, 3:5]
    table = table[np.lexsort((-table[:, 2], table[:, 0]))]  # by image, falling score; stable
    parts = np.split(table, np.searchsorted(table[:, 0], np.arange(1, len(annotations))))
    return [
        Detections(
            torch.from_numpy(part[:, 3:]).float(),
            torch.from_numpy(part[:, 2]).float(),
            torch.from_numpy(part[:, 1]).long(),
        )
        for part in parts
    ][: len(annotations)]


def _read_record(
    record: Any, where: str, position: dict[str, int], label_of: dict[int, int]
) -> tuple[int, int, float, float, float, float, float]:
    """Image position, label, score, left, top, width and height."""
    if not isinstance(record, dict) or not {"image_id", "category_id", "bbox", "score"} <= record.keys():
        raise UserError(f"{where} must have image_id, category_id, bbox and score: correct it.")
    image, category, box, score = (record[name] for name in ("image_id", "category_id", "bbox", "score"))
    if str(image) not in position:
        raise UserError(
            f"{where} refers to the image {image!r}, which is not in the data set: pass the results of "
            "these images, or choose the images with --data.val."
        )
    if type(category) is not int or category not in label_of:
        raise UserError(
            f"{where} has category {category!r}, which is not in the data set: it has "
            f"{listed(list(map(str, label_of)))}."
        )
    numbers = [score, *box] if isinstance(box, list) else []
    if len(numbers) != 5 or not all(type(n) in (int, float) and abs(n) < 1e30 for n in numbers):
        raise UserError(f"{where} has score {score!r} and bbox {box!r}: they must be five finite numbers.")
    score, x, y, width, height = numbers
    if width < 0 or height < 0:
        raise UserError(f"{where} has a bbox of negative size, {box!r}: bbox is x, y, width, height.")
    return position[str(image)], label_of[category], score, x, y, width, height
