"""Every benchmark runs, with settings so small that what it measures means nothing."""

from __future__ import annotations

import re
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from programs import run_program

REPOSITORY = Path(__file__).parents[1]
BENCHMARKS = {path.stem: path for path in (REPOSITORY / "benchmarks").glob("*.py")}
INT8 = torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()
NUMBER = r"\d+(\.\d+)?"
# The arguments of each benchmark, and what it must print: a pattern for each row of its table.
CASES: dict[str, tuple[str, list[str]]] = {
    "annotations": (
        "--images 20 --boxes 700 --workers 1",
        [
            rf"20 images, 146 boxes, {NUMBER} MiB of JSON: {NUMBER} s",
            "1 workers, 700 boxes in 100 images:",
            *(rf"epoch {epoch}: {NUMBER} MiB private in a worker" for epoch in ("0.00", "0.50", "1.00", "1.50")),
        ],
    ),
    "cifar_training": (
        "--images 100 --batch-size 8 --steps 1 --rounds 1",
        [
            rf"train_cls: {NUMBER} images/s \(median\)",
            rf"plain loop: {NUMBER} images/s \(median\)",
            rf"train_cls / plain loop: {NUMBER} ",
        ],
    ),
    "detector": (
        "--depth 18 --short-side 64 --proposals 5 --rounds 1 --memory plain fast",
        [
            "ResNet-18 C4, 64×106, 5 proposals, tuned allocator",
            rf"plain +{NUMBER} s +1.00× +{NUMBER} GiB +the same \d+ detections",
            rf"fast +{NUMBER} s +{NUMBER}× +{NUMBER} GiB +(the same )?\d+ (of \d+ )?detections",
            rf"fast bf16 +{NUMBER} s +{NUMBER}× +– +(the same )?\d+ (of \d+ )?detections",
            *([rf"fast int8 +{NUMBER} s +{NUMBER}× +– +(the same )?\d+ (of \d+ )?detections"] * INT8),
        ],
    ),
    "evaluation": (
        "--images 3 --rounds 1",
        [
            *(
                rf"{name} +{NUMBER} s +\({NUMBER} to {NUMBER}\)"
                for name in (
                    *("VOC", "COCO, pycocotools", "COCO, faster-coco-eval"),
                    *("error analysis", "confusion matrix", "recall of 1000 proposals"),
                )
            ),
            r"their numbers differ by at most \d",
        ],
    ),
    "gpu": (
        "detectors --device cpu --size 64 96 --proposals 5 --rounds 1 --minutes 0.0001",
        [
            r"\| 64×96 pixels, 1 at a time \| type \| milliseconds an image \|",
            rf"\| (torchvision|resdet) \| float32 \| {NUMBER} \|",
            r"\| torchvision, compiled \| bfloat16 \| no time was left \|",
        ],
    ),
    "image_folder": (
        "--workers 1 --count 8 --batch-size 2 --rounds 1",
        [
            rf"8 files of {NUMBER} KiB, 1 workers",
            rf"decoding: {NUMBER} images/s \(median\)",
            rf"data path: {NUMBER} images/s \(median\)",
            rf"data path / decoding: {NUMBER} ",
        ],
    ),
    "layers": (
        "--size 64 96 --rounds 1 --rows 100 --side 64 tiny.py",
        [
            r"tiny, 64×96, fp32, \d+ threads: \d+ ms, \d+ GFLOP; limit \d+ GFLOP/s, \d+ ms",
            rf"-?{NUMBER} ms +{NUMBER} ms +{NUMBER}% +\d+ +\d+%  rpn.head.convs.0 \w+Conv2d",
            rf"-?{NUMBER} ms +{NUMBER}% +between the layers",
        ],
    ),
    "lineage": (
        "--depth 18 --short-side 64 --proposals 4 --rounds 1",
        [
            r"4 proposals of selective search, \d+×\d+ pixels",
            *(rf"{name} +{NUMBER} s, +{NUMBER}×" for name in ("R-CNN", "Fast R-CNN", "Faster R-CNN")),
        ],
    ),
    "operators": (
        "--regions 4 --channels 8 --boxes 80 --images 1 --rounds 1",
        [
            rf"{name} +{NUMBER} ms +{NUMBER} ms +{NUMBER}×"
            for name in (
                *("RoI align forward", "RoI align backward", "RoI pooling forward", "RoI pooling backward"),
                *("NMS at 0.7, 80 wanted", "NMS at 0.7, 13 wanted", "NMS at 0.7, 2 wanted"),
                *("batch norm 64×8×8 forward", "batch norm 64×8×8 backward"),
                *("Winograd 1×512×7×7", "Winograd 1×512×7×7, weights"),
            )
        ],
    ),
    "classifier_step": (
        "--depths 18 --images 2 --size 32 --rounds 1",
        [rf"ResNet-18, .*: {NUMBER} s; .* {NUMBER} s, ratio {NUMBER}; float32 .* {NUMBER} s, ratio {NUMBER}"],
    ),
    "training_step": (
        "--depths 18 --short-side 200 --regions 4 --rounds 1",
        [rf"ResNet-18, .*: {NUMBER} s; pooling first {NUMBER} s, .* {NUMBER} % of our step"],
    ),
    "vs_torchvision": (
        "tiny.py --model.norm sync_batch --model.pooling align --solver.steps 2 --solver.eval-every 0",
        [
            rf"2 (resdet|torchvision) +{NUMBER} s/step  loss {NUMBER}",
            rf"resdet +{NUMBER} s/step \(median\)  map07 {NUMBER}  map {NUMBER}  ap {NUMBER}",
            rf"torchvision +{NUMBER} s/step \(median\)  map07 {NUMBER}  map {NUMBER}  ap {NUMBER}",
            rf"torchvision / resdet, step by step: {NUMBER} \(median\)",
            *(rf"{name} +{NUMBER} s/image \(median\)" for name in ("resdet", "torchvision", "Detector")),
        ],
    ),
}


def test_every_benchmark_is_tested() -> None:
    assert set(CASES) == set(BENCHMARKS)


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("name", CASES)
def test_a_benchmark_runs(name: str, forkserver: ForkServerContext, tmp_path: Path) -> None:
    arguments, rows = CASES[name]
    status, printed = run_program(forkserver, [str(BENCHMARKS[name]), *arguments.split()], tmp_path)
    assert status == 0, printed
    lines = [line.strip() for line in printed.splitlines()]
    for row in rows:
        assert any(re.match(row, line) for line in lines), f"{row!r} is not in\n{printed}"


def test_a_program_that_fails_says_why(forkserver: ForkServerContext, tmp_path: Path) -> None:
    """A benchmark that breaks is seen, with its traceback."""
    program = tmp_path / "fails.py"
    program.write_text("1 / 0")
    status, printed = run_program(forkserver, [str(program)], tmp_path)
    assert status == 1 and "ZeroDivisionError" in printed
