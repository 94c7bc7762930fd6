"""Detect objects in image files, and draw them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np

from resdet.config import Precision
from resdet.data.ahead import map_ahead
from resdet.data.find_images import FoundImage, find_images
from resdet.data.images import ImageError, read_image
from resdet.engine import runtime as runtimes
from resdet.errors import UserError, listed
from resdet.inference.detector import Detector, NamedDetections
from resdet.io import printable, write_text
from resdet.types import Detections
from resdet.visualize import draw_detections, save_image

logger = logging.getLogger(__name__)

DRAWN = b"drawn by resdet detect"
"""A comment in the pictures, by which they are told from photographs when their folder is searched again."""
RESULTS = "detections.json"
AHEAD = 3  # images that are read, and pictures that are drawn, beside the network


def detect(
    images: Iterable[str | os.PathLike[str]],
    weights: str,
    output: Path,
    *,
    min_score: float = 0.5,
    device: str = "auto",
    precision: Precision = "auto",
) -> Path:
    """Draw the detections on each image, and write all of them to detections.json → that file.

    Args:
        images: image files, folders of them, and patterns, as `find_images` takes them; those that cannot be read
            are reported and left out
        weights: a run folder, a weights file, or a detector of the zoo
        output: folder to write to, with the sub-folders in which the images lie
        min_score: minimum score of a detection
        device: auto, cpu, cuda or cuda:N
        precision: of the network

    Raises UserError if there is no detector in `weights`, or if no image can be read.
    """
    if not 0 <= min_score <= 1:
        raise UserError(f"The minimum score is {min_score}: it must lie between 0 and 1.")
    if output.exists() and not output.is_dir():
        raise UserError(f"{printable(output)} is a file: pass a folder to write to as --output.")
    found = photographs(images)
    runtimes.start(device, precision, detects=True)
    detector = Detector.load(weights, device, precision)
    results: dict[str, list[dict[str, object]]] = {}
    taken = {os.path.abspath(image.file) for image in found}  # an image must not be written over

    def seen() -> Iterator[tuple[Path, np.ndarray, NamedDetections]]:
        """Where each picture goes, the image, and what is in it; the next image is read meanwhile."""
        for (file, folder), pixels in zip(found, map_ahead(_read, found, AHEAD), strict=True):
            if isinstance(pixels, ImageError):
                logger.info(f"skipped: {printable(pixels)}")
                continue
            detections = detector(pixels)
            name = printable(file)
            results[name] = as_records(detections, min_score)
            found_here = [f"{record['class']} {record['score']:.2f}" for record in results[name]]
            logger.info(f"{name}: {', '.join(found_here) or 'no detections'}")
            path = unused(Path(os.path.abspath(output / folder / f"{file.stem}_detections.jpg")), taken)
            taken.add(str(path))
            yield path, pixels, detections

    for _ in map_ahead(lambda picture: draw(*picture, detector.classes, min_score), seen(), AHEAD):
        pass
    if not results:
        raise UserError("None of the images could be read.")
    path = output / RESULTS
    write_text(path, json.dumps(results, indent=1) + "\n")
    if len(results) < len(found):
        logger.info(f"Images that could not be read: {len(found) - len(results)} of {len(found)}")
    logger.info(f"Pictures and {RESULTS} are in {printable(output)}.")
    return path


def _read(image: FoundImage) -> np.ndarray | ImageError:
    """The pixels of an image, or why there are none."""
    try:
        return read_image(image.file)
    except ImageError as error:
        return error


def photographs(places: Iterable[str | os.PathLike[str]]) -> list[FoundImage]:
    """The images in `places` but those that `detect` drew; what is left out is counted. Raises UserError."""
    places = list(places)
    images, others = find_images(places)
    kept = [image for image in images if not is_drawn(image.file)]
    if len(kept) < len(images):
        logger.info(f"Left out, since an earlier detection drew them: {len(images) - len(kept)}")
    others = [file for file in others if file.name != RESULTS]
    if others:
        names = listed([printable(file) for file in others], most=3)
        logger.info(f"Left out, since they are not images by their names: {names}")
    if not kept:
        where = f" found in {listed([printable(place) for place in places])}" if places else " given"
        raise UserError(f"No image{where}: pass image files, or folders of them.")
    return kept


def is_drawn(file: Path) -> bool:
    """Whether `draw` wrote this file."""
    try:
        with file.open("rb") as opened:
            return DRAWN in opened.read(100)
    except OSError:
        return False  # reading it will say why


def draw(
    path: Path, image: np.ndarray, detections: NamedDetections, classes: Sequence[str], min_score: float
) -> None:
    """Write (H, W, 3) uint8 RGB with its detections as a JPEG."""
    picture = draw_detections(image, Detections(*detections[:3]), classes, min_score)
    save_image(path, picture, comment=DRAWN)


def unused(path: Path, used: Container[str]) -> Path:
    """`path`, or the first of NAME_2, NAME_3, … that is not among `used`: a.jpg and a.png need two pictures."""
    numbered = (path.with_stem(f"{path.stem}_{number}") for number in count(2))
    return next(name for name in chain([path], numbered) if str(name) not in used)


def as_records(detections: NamedDetections, min_score: float) -> list[dict[str, object]]:
    """Detections scored at least `min_score` as plain objects, for JSON."""
    boxes, scores = detections.boxes.tolist(), detections.scores.tolist()
    return [
        {"class": name, "score": round(score, 4), "box": [round(corner, 2) for corner in box]}
        for box, score, name in zip(boxes, scores, detections.names, strict=True)
        if score >= min_score
    ]
