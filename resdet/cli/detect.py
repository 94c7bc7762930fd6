"""Detect objects in images, and draw them.

    resdet detect photo.jpg --weights runs/shapes_r18
    resdet detect folder/ --weights model.safetensors --min-score 0.7 --output pictures
    resdet detect 'photos/*.png' --weights runs/shapes_r18 --device cpu

Writes a picture for each image, in the sub-folder in which the image lies, and detections.json: for each file a
list of class, score and box (x1, y1, x2, y2 in pixels). Bytes of a name that are not UTF-8 appear as \\xNN there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from resdet.config import Precision


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to detect, and with what."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """Image files, patterns such as 'photos/*.jpg', or folders, which are searched with all that is below them."""
    weights: str
    """Run folder or weights file of the detector, or a name that `resdet zoo` lists."""
    output: Path = Path("detections")
    """Folder to write to."""
    min_score: float = 0.5
    """Minimum score of a detection, from 0 to 1."""
    device: str = "auto"
    """Device to run on: auto, cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """Precision of convolutions and matrix products; auto uses bf16 where the processor supports it, and int8 needs
    a detector that `resdet quantize` has prepared."""


def main(arguments: Arguments) -> None:
    """Detect, draw and write."""
    from resdet.experiments.detect import detect

    detect(
        arguments.images,
        arguments.weights,
        arguments.output,
        min_score=arguments.min_score,
        device=arguments.device,
        precision=arguments.precision,
    )
