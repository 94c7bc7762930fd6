"""Detect objects in images, and draw them.

    resdet detect photo.jpg --weights runs/shapes_r18
    resdet detect folder/ --weights model.safetensors --min-score 0.7 --output pictures

Writes a picture for each image, and detections.json: for each file a list of class, score and box (x1, y1, x2, y2
in pixels).
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

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """Image files, or folders of them."""
    weights: str
    """Run folder or weights file of the detector."""
    output: Path = Path("detections")
    """Folder to write to."""
    min_score: float = 0.5
    """Minimum score of a detection."""
    device: str = "auto"
    """Device to run on: auto, cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """Precision of convolutions and matrix products; auto uses bf16 where the processor supports it."""


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
