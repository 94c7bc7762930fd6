"""Seconds per image of the fast detector against what people would use instead, and whether they find the same.

    python benchmarks/detector.py
    python benchmarks/detector.py --short-side 800 --proposals 1000 --allocator stock
    python benchmarks/detector.py --network fpn --rounds 3
    python benchmarks/detector.py --depth 18 --short-side 64 --proposals 5 --rounds 1 --memory plain

c4: the plain side is the network as it trains, eager, in float32, with torchvision's operators and torch's own
normalisation; the fast side is `resdet.inference.optimize`, in float32 and in bfloat16. All have the random weights
of one ResNet-101 with the C4 head that detectron2 made common (RoI align 14×14, stride in the first 1×1).

fpn: torchvision's fasterrcnn_resnet50_fpn with random weights on an image of 800×1333: eager as people run it,
channels-last, and channels-last under bfloat16 autocast; its ONNX export in ONNX Runtime and OpenVINO, where these
are installed; and the detector converted to resdet, in float32 and in bfloat16.

The sides take turns; medians, and ratios to the first side's median, are printed. Peak memory is that of a process
of its own for each, which loads ours from a file with `Detector`, as users do. The allocator is stock, or tuned to
keep what is freed, as resdet's commands tune it.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from resdet.config import COCO_CLASSES, VOC_CLASSES, DataConfig, Depth, DetConfig
from resdet.engine.runtime import Runtime, keep_freed_memory
from resdet.inference.optimize import OptimizedRCNN
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.layers.norm import FrozenBatchNorm2d
from resdet.models.weights.resdet import ModelFile, save_model
from resdet.models.weights.strict import load_strictly
from resdet.models.weights.torchvision_detector import COCO_NUMBERS, from_torchvision_detector
from resdet.ops import library
from resdet.types import Detections

Run = Callable[[Tensor, Tensor], list[Detections]]
Sides = dict[str, Callable[[], Run]]
"""by their names, how to make them"""
OURS = {"fast": "fp32", "fast bf16": "bf16", "resdet": "fp32", "resdet bf16": "bf16"}
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


class Comparison(NamedTuple):
    """What is compared."""

    sides: Sides
    model: Callable[[], ModelFile[DetConfig]]
    """ours"""


def resdet_run(model: FasterRCNN, dtype: torch.dtype, keep: bool = True) -> Run:
    """The fast detector."""
    return OptimizedRCNN(model, Runtime(0, 1, torch.device("cpu"), dtype), keep=keep)


@torch.no_grad()
def make_lively(network: nn.Module, objectness: nn.Module, classes: nn.Module) -> None:
    """Random weights whose normalisations and scores are not trivial."""
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
            module.weight.uniform_(0.3, 0.6)
            module.bias.normal_(0, 0.1)
    nn.init.normal_(objectness.weight, std=0.1)  # type: ignore[arg-type]
    nn.init.normal_(classes.weight, std=0.5)  # type: ignore[arg-type]


# A ResNet with detectron2's C4 head


def c4(depth: Depth, proposals: int, size: tuple[int, int]) -> Comparison:
    """The network as it trains, and as it detects."""
    config = DetConfig()
    model = replace(config.model, depth=depth, style="msra", pooling="align_v2", pool_size=14, conv5_stride=2)
    config = replace(config, model=model, test=replace(config.test, post_nms_topk=proposals), data=data_of(size))

    @cache
    def network() -> FasterRCNN:
        torch.manual_seed(0)
        made = build_detector(config, len(VOC_CLASSES))
        assert made.rpn is not None
        make_lively(made, made.rpn.head.objectness_logits, made.roi_heads.box_predictor.cls_score)
        return made.eval().to(memory_format=torch.channels_last)

    sides: Sides = {
        "plain": lambda: partial(plain, network()),
        "fast": lambda: resdet_run(network(), torch.float32),
        "fast bf16": lambda: resdet_run(network(), torch.bfloat16),
    }
    return Comparison(sides, lambda: ModelFile(network().state_dict(), VOC_CLASSES, config, 0))


def data_of(size: tuple[int, int]) -> DataConfig:
    """That images of this height and width are not resized."""
    return DataConfig(test_short_side=min(size), max_side=max(size))


@torch.no_grad()
def plain(network: FasterRCNN, images: Tensor, sizes: Tensor) -> list[Detections]:
    """The network as it trains, with torchvision's operators."""
    own = set(library.DEVICES)
    library.DEVICES.clear()
    try:
        return network(images, sizes)
    finally:
        library.DEVICES.update(own)


# torchvision's fasterrcnn_resnet50_fpn


def fpn(proposals: int, size: tuple[int, int]) -> Comparison:
    """torchvision's detector in torch and in other runtimes, and in resdet."""

    def theirs() -> nn.Module:
        torch.manual_seed(0)
        limits = {"rpn_pre_nms_top_n_test": proposals, "rpn_post_nms_top_n_test": proposals}
        limits |= {"min_size": size[0], "max_size": size[1]}  # nothing is resized
        network = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **limits).eval()
        predictor = network.roi_heads.box_predictor
        make_lively(network, network.rpn.head.cls_logits, predictor.cls_score)
        with torch.no_grad():  # numbers that no class has are never found
            never = sorted({*range(1, 91)} - {*COCO_NUMBERS})
            predictor.cls_score.weight[never], predictor.cls_score.bias[never] = 0, -100
        return network

    def converted() -> ModelFile[DetConfig]:
        weights, config = from_torchvision_detector(theirs().state_dict(), COCO_CLASSES, "torchvision")
        test = replace(config.test, pre_nms_topk=proposals, post_nms_topk=proposals)
        return ModelFile(weights, COCO_CLASSES, replace(config, test=test, data=data_of(size)), 0)

    def ours(dtype: torch.dtype) -> Run:
        file = converted()
        network = build_detector(file.config, len(file.classes))
        load_strictly(network, file.weights, "torchvision")
        return resdet_run(network.eval().to(memory_format=torch.channels_last), dtype, keep=False)

    def channels_last(autocast: bool) -> Run:
        return partial(eager, theirs().to(memory_format=torch.channels_last), autocast)

    @cache
    def export() -> Path:
        """torchvision's own ONNX export, for images of this size."""
        path = Path(tempfile.mkdtemp()) / "fasterrcnn_resnet50_fpn.onnx"
        torch.onnx.export(theirs(), ([torch.rand(3, *size)],), str(path), opset_version=17, dynamo=False)
        return path

    sides: Sides = {
        "torchvision": lambda: partial(eager, theirs(), False),
        "torchvision channels-last": lambda: channels_last(False),
        "torchvision channels-last bf16": lambda: channels_last(True),
        "resdet": lambda: ours(torch.float32),
        "resdet bf16": lambda: ours(torch.bfloat16),
    }
    runtimes: Sides = {
        "onnxruntime": lambda: onnxruntime_run(export()),
        "openvino": lambda: openvino_run(export(), "f32"),
        "openvino bf16": lambda: openvino_run(export(), "bf16"),
    }
    installed = {name: importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime", "openvino")}
    sides |= {name: make for name, make in runtimes.items() if installed["onnx"] and installed[name.split()[0]]}
    return Comparison(sides, converted)


@torch.no_grad()
def eager(network: nn.Module, autocast: bool, images: Tensor, sizes: Tensor) -> list[Detections]:
    """torchvision's detector on an image in [0, 1]."""
    image = images[0].float() / 255
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        (found,) = network([image])
    return [from_numbers(found["boxes"], found["scores"], found["labels"])]


def from_numbers(boxes: Tensor, scores: Tensor, numbers: Tensor) -> Detections:
    """COCO's numbers of the classes → positions among its 80 classes."""
    place = torch.zeros(91, dtype=torch.int64)
    place[COCO_NUMBERS] = torch.arange(len(COCO_NUMBERS))
    return Detections(boxes.float(), scores.float(), place[numbers])


def onnxruntime_run(path: Path) -> Run:
    """ONNX Runtime."""
    import onnxruntime  # type: ignore[import-not-found]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(images: Tensor, sizes: Tensor) -> list[Detections]:
        found = session.run(None, {given.name: (images[0].float() / 255).numpy()})
        return [ordered(*map(torch.from_numpy, found))]

    return run


def openvino_run(path: Path, precision: str) -> Run:
    """OpenVINO in f32 or bf16."""
    import openvino  # type: ignore[import-not-found]

    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.Core().compile_model(str(path), "CPU", settings)

    def run(images: Tensor, sizes: Tensor) -> list[Detections]:
        found = model({0: (images[0].float() / 255).numpy()})
        return [ordered(*(torch.from_numpy(found[n].copy()) for n in range(3)))]

    return run


def ordered(*found: Tensor) -> Detections:
    """The three outputs of the exported network, whatever their order."""
    boxes = next(tensor for tensor in found if tensor.dim() == 2)
    scores = next(tensor for tensor in found if tensor.dim() == 1 and tensor.is_floating_point())
    labels = next(tensor for tensor in found if tensor.dim() == 1 and not tensor.is_floating_point())
    return from_numbers(boxes, scores, labels)


# Measuring


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
    sides, model = fpn(proposals, size) if pyramid else c4(options.depth, proposals, size)
    if options.save:
        save_model(options.save, model())
        return
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
