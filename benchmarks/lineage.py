"""Seconds per image from R-CNN to Faster R-CNN: proposals, backbone, regions (Faster R-CNN, Table 5).

    python benchmarks/lineage.py
    python benchmarks/lineage.py --depth 101 --image photo.jpg --rounds 5
    python benchmarks/lineage.py --short-side 100 --proposals 20 --rounds 1

R-CNN warps 2000 regions of selective search to 224×224 pixels and sends each through the whole network; Fast R-CNN
pools them from one map, Faster R-CNN pools 300 of its RPN. Random weights, the image resized to 600 pixels, in the
number type that `--precision auto` picks. The three take turns, after one round to warm up; medians, and ratios to
Faster R-CNN.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, get_args

import torch

from resdet.boxes import resize as resize_boxes
from resdet.config import Depth, DetConfig
from resdet.data.images import read_image
from resdet.data.resize import pad, resize
from resdet.data.selective_search import selective_search
from resdet.data.shapes import render
from resdet.engine import runtime as runtimes
from resdet.engine.runtime import Runtime
from resdet.evaluation.stages import time_stages
from resdet.inference.optimize import OptimizedRCNN
from resdet.models.build import build_detector
from resdet.types import Batch

METHODS: dict[str, dict[str, Any]] = {
    "R-CNN": {"proposals": "given", "pooling": "warp", "pool_size": 224, "conv5_stride": 2},
    "Fast R-CNN": {"proposals": "given"},
    "Faster R-CNN": {},
}


def make(settings: dict[str, Any], depth: Depth, runtime: Runtime) -> OptimizedRCNN:
    """A detector of the lineage, of which only the speed matters."""
    torch.manual_seed(0)
    config = DetConfig()
    model = replace(config.model, depth=depth, **settings)
    return OptimizedRCNN(build_detector(replace(config, model=model), 20), runtime)


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, choices=get_args(Depth), default=18)
    parser.add_argument("--short-side", type=int, default=600, help="pixels; the longer side is at most 5/3 of it")
    parser.add_argument("--proposals", type=int, default=2000, help="of selective search, at most")
    parser.add_argument("--image", type=Path, help="a photograph; a drawn image if none is given")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    runtime = runtimes.start("auto", "auto")
    with TemporaryDirectory() as folder:
        if options.image is None:
            render(Path(folder), {"train": 1})
        image = read_image(options.image or next(Path(folder).rglob("*.jpg")))
    started = perf_counter()
    found = torch.from_numpy(selective_search(image)[: options.proposals])
    searched = perf_counter() - started
    small = resize(image, options.short_side, options.short_side * 5 // 3)
    images, sizes = pad([small])
    plain = Batch(images, sizes, [], torch.tensor([image.shape[:2]]), [""], [0])
    print(f"{len(found)} proposals of selective search, {small.shape[0]}×{small.shape[1]} pixels, {runtime.dtype}")

    networks = {name: make(settings, options.depth, runtime) for name, settings in METHODS.items()}
    given = plain._replace(proposals=[resize_boxes(found, image.shape, small.shape)])
    trials = [
        (network, [plain if network.model.rpn else given] * (1 + options.rounds)) for network in networks.values()
    ]
    medians = dict(zip(METHODS, time_stages(trials), strict=True))
    for name, network in networks.items():
        if not network.model.rpn:
            medians[name] = medians[name]._replace(proposals=searched)
    for name, stages in medians.items():
        parts = ", ".join(f"{part} {value:.3f}" for part, value in stages._asdict().items())
        print(f"{name:13}{stages.total:8.2f} s, {stages.total / medians['Faster R-CNN'].total:6.1f}×  ({parts})")


if __name__ == "__main__":
    main()
