"""Detect objects in image files, and draw them."""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterable
from itertools import chain, count
from pathlib import Path

from resdet.config import Precision
from resdet.data.images import ImageError, read_image
from resdet.engine import runtime as runtimes
from resdet.errors import UserError
from resdet.inference.detector import Detector, NamedDetections
from resdet.io import write_text
from resdet.types import Detections
from resdet.visualize import draw_detections, save_image

logger = logging.getLogger(__name__)


def detect(
    images: Iterable[Path],
    weights: str,
    output: Path,
    *,
    min_score: float = 0.5,
    device: str = "auto",
    precision: Precision = "auto",
) -> Path:
    """Draw the detections on each image, and write all of them to detections.json → that file.

    Args:
        images: image files, or folders of them; those that cannot be read are reported and left out
        weights: a run folder or a weights file
        output: folder to write to
        min_score: minimum score of a detection
        device: auto, cpu, cuda or cuda:N
        precision: of the network

    Raises UserError if there is no detector in `weights`, or if no image can be read.
    """
    runtimes.start(device, precision)
    detector = Detector.load(weights, device, precision)
    found: dict[str, list[dict[str, object]]] = {}
    pictures: set[Path] = set()
    for file in expand(images):
        try:
            image = read_image(file)
        except ImageError as error:
            logger.info(f"skipped: {error}")
            continue
        detections = detector(image)
        picture = draw_detections(image, Detections(*detections[:3]), detector.classes, min_score)
        pictures.add(path := unused(output / f"{file.stem}_detections.jpg", pictures))
        save_image(path, picture)
        found[str(file)] = as_records(detections, min_score)
        names = [f"{record['class']} {record['score']:.2f}" for record in found[str(file)]]
        logger.info(f"{file}: {', '.join(names) or 'no detections'}")
    if not found:
        raise UserError("None of the images could be read.")
    path = output / "detections.json"
    write_text(path, json.dumps(found, indent=1) + "\n")
    logger.info(f"Pictures and detections.json are in {output}.")
    return path


def expand(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, folders as the files in them."""
    return [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


def unused(path: Path, used: Container[Path]) -> Path:
    """`path`, or the first of NAME_2, NAME_3, … that is not among `used`: a.jpg and a.png need two pictures."""
    numbered = (path.with_stem(f"{path.stem}_{number}") for number in count(2))
    return next(name for name in chain([path], numbered) if name not in used)


def as_records(detections: NamedDetections, min_score: float) -> list[dict[str, object]]:
    """Detections scored at least `min_score` as plain objects, for JSON."""
    boxes, scores = detections.boxes.tolist(), detections.scores.tolist()
    return [
        {"class": name, "score": round(score, 4), "box": [round(corner, 2) for corner in box]}
        for box, score, name in zip(boxes, scores, detections.names, strict=True)
        if score >= min_score
    ]
