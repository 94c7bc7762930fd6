"""torchvision's fasterrcnn_resnet50_fpn in torch and in other runtimes, and in resdet."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from resdet.config import COCO_CLASSES, DetConfig
from resdet.models.build import build_detector
from resdet.models.faster_rcnn import FasterRCNN
from resdet.models.weights.strict import load_strictly
from resdet.models.weights.torchvision_detector import COCO_NUMBERS, from_torchvision_detector
from resdet.types import Detections
from sides import (
    CALIBRATION_IMAGES,
    Comparison,
    Run,
    Sides,
    data_of,
    has_int8,
    images_to_calibrate,
    make_lively,
    resdet_run,
)


def torchvision_detector(proposals: int, size: tuple[int, int]) -> Any:
    """fasterrcnn_resnet50_fpn with random weights, which does not resize images of this size."""
    torch.manual_seed(0)
    limits = {"rpn_pre_nms_top_n_test": proposals, "rpn_post_nms_top_n_test": proposals}
    limits |= {"min_size": size[0], "max_size": size[1]}
    network = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **limits).eval()
    predictor = network.roi_heads.box_predictor
    make_lively(network, network.rpn.head.cls_logits, predictor.cls_score)
    with torch.no_grad():  # numbers that no class has are never found
        never = sorted({*range(1, 91)} - {*COCO_NUMBERS})
        predictor.cls_score.weight[never], predictor.cls_score.bias[never] = 0, -100
    return network


def converted(proposals: int, size: tuple[int, int]) -> tuple[FasterRCNN, DetConfig]:
    """The same in resdet."""
    theirs = torchvision_detector(proposals, size)
    weights, config = from_torchvision_detector(theirs.state_dict(), COCO_CLASSES, "torchvision")
    test = replace(config.test, pre_nms_topk=proposals, post_nms_topk=proposals)
    config = replace(config, test=test, data=data_of(size))
    network = build_detector(config, len(COCO_CLASSES))
    load_strictly(network, weights, "torchvision")
    return network.eval().to(memory_format=torch.channels_last), config


def fpn(proposals: int, size: tuple[int, int]) -> Comparison:
    """torchvision's detector in torch and in other runtimes, and in resdet."""

    def theirs() -> Any:
        return torchvision_detector(proposals, size)

    def ours() -> FasterRCNN:
        return converted(proposals, size)[0]

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
        "resdet": lambda: resdet_run(ours(), "fp32", size),
        "resdet bf16": lambda: resdet_run(ours(), "bf16", size),
    }
    if has_int8():
        sides["resdet int8"] = lambda: resdet_run(ours(), "int8", size)
    runtimes: Sides = {
        "onnxruntime": lambda: onnxruntime_run(export()),
        "openvino": lambda: openvino_run(export(), "f32"),
        "openvino bf16": lambda: openvino_run(export(), "bf16"),
    }
    if find_spec("nncf"):
        runtimes["openvino int8"] = lambda: openvino_run(int8_by_nncf(export(), size), "bf16")
    kits = "onnx", "onnxruntime", "openvino"
    installed = {name: find_spec(name) is not None for name in kits}
    sides |= {name: make for name, make in runtimes.items() if installed["onnx"] and installed[name.split()[0]]}
    return Comparison(sides, ours, COCO_CLASSES, converted(proposals, size)[1])


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


def int8_by_nncf(path: Path, size: tuple[int, int]) -> Path:
    """The exported network with what NNCF can make int8; pooling stays, as images may have no region of a level."""
    import nncf  # type: ignore[import-not-found]
    import onnx  # type: ignore[import-not-found]

    exported, output = onnx.load(str(path)), path.with_stem("int8")
    name = exported.graph.input[0].name
    images = nncf.Dataset([{name: (image[0].float() / 255).numpy()} for image in images_to_calibrate(size)])
    left_out = nncf.IgnoredScope(patterns=["/roi_heads/box_roi_pool/.*"])
    found = nncf.quantize(exported, images, subset_size=CALIBRATION_IMAGES, ignored_scope=left_out)
    onnx.save(found, str(output))
    return output


def openvino_run(path: Path, precision: str) -> Run:
    """OpenVINO in f32 or bf16, which layers that are int8 already do not heed."""
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
