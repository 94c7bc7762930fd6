"""Draw detections on images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Container, Iterable, Sequence
from itertools import chain, count
from pathlib import Path

from resdet.data.images import ImageError, read_image
from resdet.engine import runtime as runtimes
from resdet.errors import UserError
from resdet.inference.detector import Detector, NamedDetections
from resdet.io import write_text
from resdet.types import Detections
from resdet.visualize import draw_detections, save_image


def main(arguments: Sequence[str]) -> None:
    """IMAGE|FOLDER … --weights RUN|FILE: draw the detections on images and write them as JSON"""
    options = parse(arguments)
    runtimes.start(options.device, options.precision)
    detector = Detector.load(options.weights, options.device, options.precision)
    found: dict[str, list[dict[str, object]]] = {}
    pictures: set[Path] = set()
    for file in expand(options.images):
        try:
            image = read_image(file)
        except ImageError as error:
            print(f"left out: {error}")
            continue
        detections = detector(image)
        picture = draw_detections(image, Detections(*detections[:3]), detector.classes, options.min_score)
        pictures.add(path := unused(options.output / f"{file.stem}_detections.jpg", pictures))
        save_image(path, picture)
        found[str(file)] = as_records(detections, options.min_score)
        names = [f"{record['class']} {record['score']:.2f}" for record in found[str(file)]]
        print(f"{file}: {', '.join(names) or 'nothing'}")
    if not found:
        raise UserError("None of the images could be read.")
    write_text(options.output / "detections.json", json.dumps(found, indent=1) + "\n")
    print(f"Pictures and detections.json are in {options.output}.")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="detect", description=main.__doc__)
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument("--weights", required=True, help="a run folder or a weights file")
    parser.add_argument("--output", type=Path, default=Path("detections"), help="folder for what is written")
    parser.add_argument("--min-score", type=float, default=0.5, help="worse detections are left out")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    return parser.parse_args(arguments)


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
