"""Prepare a detector for int8, in which it runs faster on CPUs.

    resdet quantize runs/mine
    resdet quantize runs/mine --data 'photos/*.jpg'
    resdet quantize torchvision/fasterrcnn_resnet50_fpn --data photos --output int8.safetensors

Runs the detector on some of its training images, or on other images of the same kind, and writes the scales of its
layers beside its weights, into the same file; in other precisions it stays what it was. The processor needs int8
products (AVX512-VNNI or AMX). Then `resdet detect --precision int8` uses the scales, and `resdet eval-det
--solver.precision int8` measures what they cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to prepare, and with which images."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or weights file of the detector, or a name that `resdet zoo` lists."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[IMAGE ...]")] = ()
    """Image files, patterns such as 'photos/*.jpg', or folders, instead of the images that it was trained on."""
    max_images: int = 200
    """Maximum number of images to run the detector on."""
    ranges: Literal["minmax", "percentile", "mse"] = "minmax"
    """How to choose the range of a layer's numbers: all of them, all but one in ten thousand, or the range of the
    smallest mean squared error."""
    output: Path | None = None
    """The .safetensors file to write, unless it is that of RUN."""


def main(arguments: Arguments) -> None:
    """Calibrate, and write."""
    from resdet.experiments.quantize import quantize

    quantize(
        arguments.source,
        arguments.data,
        arguments.output,
        max_images=arguments.max_images,
        ranges=arguments.ranges,
    )
