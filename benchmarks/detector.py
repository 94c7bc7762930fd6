"""Seconds per image of the fast detector against what people would use instead, and whether they find the same.

    python benchmarks/detector.py
    python benchmarks/detector.py --short-side 800 --proposals 1000 --allocator stock
    python benchmarks/detector.py --network fpn --rounds 3
    python benchmarks/detector.py --depth 18 --short-side 64 --proposals 5 --rounds 1 --memory plain

c4: the plain side is the network as it trains, eager, in float32, with torchvision's operators and torch's own
normalisation; the fast side is `resdet.inference.optimize`, in float32, bfloat16, and int8 where the processor
has int8 products. All have the random weights of one ResNet-101 with the C4 head that detectron2 made common (RoI
align 14×14, stride in the first 1×1).

fpn: torchvision's fasterrcnn_resnet50_fpn with random weights on an image of 800×1333: eager as people run it,
channels-last, and channels-last under bfloat16 autocast; its ONNX export in ONNX Runtime and OpenVINO, where these
are installed, and made int8 by NNCF, where that is; and the detector converted to resdet, in float32, bfloat16 and
int8. int8 is calibrated with a few random images, the same ones everywhere.

The sides take turns; medians, and ratios to the first side's median, are printed. Peak memory is that of a process
of its own for each, which loads ours from a file with `Detector`, as users do. The allocator is stock, or tuned to
keep what is freed, as resdet's commands tune it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import torch
from sides.c4 import c4
from sides.fpn import fpn

from resdet.config import Depth
from resdet.engine.runtime import keep_freed_memory
from resdet.models.weights.resdet import save_model
from resdet.types import Detections

OURS = {
    f"{name} {precision}".removesuffix(" fp32"): precision
    for name in ("fast", "resdet")
    for precision in ("fp32", "bf16", "int8")
}
"""precision of the sides that are ours"""
DETECT = """
import sys, resource, numpy
from resdet import Detector
path, precision, height, width = sys.argv[1:]
detector = Detector.load(path, device="cpu", precision=precision)
pixels = numpy.random.default_rng(0).integers(0, 256, (int(height), int(width), 3), "uint8")
for _ in range(2):
    detector(pixels)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def differences(found: Detections, expected: Detections) -> str:
    """How far detections are from those that are expected."""
    if not torch.equal(found.labels, expected.labels):
        alike = (found.labels[:, None] == expected.labels) & (
            (found.boxes[:, None] - expected.boxes).abs().amax(2) < 1
        )
        return f"{int(alike.any(0).sum())} of {len(expected.labels)} detections alike"
    scores = (found.scores - expected.scores).abs().max().item()
    boxes = (found.boxes - expected.boxes).abs().max().item()
    return f"the same {len(expected.labels)} detections, scores within {scores:.1e}, boxes within {boxes:.1e} px"


def peak(name: str, arguments: list[str], size: tuple[int, int]) -> float:
    """GiB that a process takes which does nothing else."""
    own = [sys.executable, __file__, *arguments]
    with tempfile.TemporaryDirectory() as folder:
        command = [*own, "--peak-of", name]
        if name in OURS:
            path = Path(folder, "model.safetensors")
            subprocess.run([*own, "--save", path], check=True, capture_output=True)
            command = [sys.executable, "-c", DETECT, str(path), OURS[name], *map(str, size)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Take turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["c4", "fpn"], default="c4")
    parser.add_argument("--depth", type=int, choices=get_args(Depth), default=101, help="of c4")
    parser.add_argument("--short-side", type=int, help="pixels; the longer side is 5/3 of it (600; of fpn 800)")
    parser.add_argument("--proposals", type=int, help="300; of fpn 1000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--allocator", choices=["tuned", "stock"], default="tuned")
    parser.add_argument(
        "--only", nargs="*", help="sides that take turns, the first of which the others are compared to"
    )
    parser.add_argument("--memory", nargs="*", help="sides whose peak memory is measured; by default torch's")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    pyramid = options.network == "fpn"
    proposals = options.proposals or (1000 if pyramid else 300)
    height = options.short_side or (800 if pyramid else 600)
    width = height * 5 // 3
    size = height, width
    comparison = fpn(proposals, size) if pyramid else c4(options.depth, proposals, size)
    if options.save:
        save_model(options.save, comparison.file())
        return
    sides = comparison.sides
    names = options.only or list(sides)
    exported = ("onnxruntime", "openvino")  # whose processes would export the network first
    of_torch = [name for name in names if not name.startswith(exported)]
    measured = of_torch if options.memory is None else options.memory
    # First, because a process's peak counts that of the one which started it.
    peaks = {} if options.peak_of else {name: peak(name, sys.argv[1:], size) for name in measured}
    if options.allocator == "tuned":
        keep_freed_memory()
    images, sizes = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8), torch.tensor([[height, width]])
    if options.peak_of:
        run = sides[options.peak_of]()
        for _ in range(2):
            run(images, sizes)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    runs = {name: sides[name]() for name in names}
    found = {name: run(images, sizes)[0] for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run(images, sizes)
            seconds[name].append(time.perf_counter() - started)
    title = "fasterrcnn_resnet50_fpn" if pyramid else f"ResNet-{options.depth} C4"
    print(
        f"{title}, {height}×{width}, {proposals} proposals, {options.allocator} allocator, "
        f"{torch.get_num_threads()} threads, medians of {options.rounds}"
    )
    median = {name: statistics.median(times) for name, times in seconds.items()}
    for name in names:
        memory = f"{peaks[name]:.1f} GiB" if name in peaks else "–"
        print(
            f"{name:30s} {median[name]:6.2f} s  {median[names[0]] / median[name]:5.2f}×  "
            f"{memory:8} {differences(found[name], found[names[0]])}"
        )


if __name__ == "__main__":
    main()
