"""Convert detectors from torchvision and detectron2, and to both."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from resdet.config import DetConfig, ModelConfig
from resdet.errors import UserError
from resdet.io import write_atomically
from resdet.models.layers.pixel_norm import STYLES
from resdet.models.weights.detector_file import read_detector
from resdet.models.weights.detectron2 import BASES, detectron2_settings, to_detectron2_detector
from resdet.models.weights.load import load_model
from resdet.models.weights.resdet import ModelFile, is_own, save_model
from resdet.models.weights.torchvision_detector import to_torchvision_detector, torchvision_call
from resdet.models.weights.zoo import find

logger = logging.getLogger(__name__)


def import_weights(source: Path, output: Path, classes: tuple[str, ...]) -> None:
    """Write another toolkit's detector `source` as a model file of resdet, and report what was found.

    Args:
        source: file of torchvision or detectron2, or a detector of the zoo
        output: .safetensors file to write
        classes: class names, unless they are COCO's or VOC's

    Raises UserError if the file holds another network.
    """
    _check_suffix(output, ".safetensors")
    in_zoo = find(source)
    if not in_zoo and is_own(source):
        raise UserError(
            f"{source} is a detector of resdet already: to convert it, pass --to torchvision or --to detectron2."
        )
    file = load_model(source) if in_zoo else read_detector(source, classes)
    save_model(output, replace(file, config=replace(file.config, name=output.stem)))
    for line in facts(file):
        logger.info(line)
    logger.info(f"{output} is ready to detect, to evaluate, or to start training from.")


def facts(file: ModelFile[DetConfig]) -> list[str]:
    """What a converted detector is, and what comes with it, in words."""
    config, model, style = file.config, file.config.model, STYLES[file.config.model.style]
    kit = "torchvision" if model.style == "torchvision" else "detectron2"
    pixels = f"{style.channels.upper()} minus the mean {', '.join(f'{mean:g}' for mean in style.mean)}"
    if style.std != (1, 1, 1):
        pixels += f", divided by {', '.join(f'{std:g}' for std in style.std)}"
    scales = ", ".join(f"{scale:g}" for scale in model.anchor_scales)
    lines = [
        f"{config.name}: {kit}'s Faster R-CNN, {backbone_name(model)}, {len(file.classes)} classes.",
        f"Its settings: {pixels}; stride in the {'first 1×1' if style.stride_in_1x1 else '3×3'}; anchors of "
        f"{scales} pixels at the cells' corners; RoI align {model.pool_size}×{model.pool_size}; "
        f"{config.test.post_nms_topk} proposals; images of {config.data.test_short_side} pixels.",
    ]
    if kit == "torchvision" and model.norm == "frozen" and model.norm_eps:
        lines.append(
            "If its training began with torchvision's fasterrcnn_resnet50_fpn for COCO, evaluate it with "
            "--model.norm-eps 0, which such detectors have: the file does not say so."
        )
    return lines


def backbone_name(model: ModelConfig) -> str:
    """As detectron2's model zoo has it, such as ResNet-50 FPN."""
    grouped = model.groups > 1
    width = f" {model.groups}×{model.width_per_group}d" if grouped else ""
    return f"{'ResNeXt' if grouped else 'ResNet'}-{model.depth}{width} {model.features.upper()}"


def export_weights(source: Path, output: Path, kit: Literal["torchvision", "detectron2"]) -> None:
    """Write resdet's detector `source` under another toolkit's names, and report what it needs there.

    Args:
        source: run folder, weights file, or a detector of the zoo
        output: .pth file to write; of detectron2 also .pkl
        kit: whose names

    Raises UserError if the toolkit does not have such a detector.
    """
    _check_suffix(output, *[".pth", ".pkl"][: 1 if kit == "torchvision" else 2])
    file = load_model(source)
    if kit == "torchvision":
        state = to_torchvision_detector(file.weights, file.config, file.classes, str(source))
        write_atomically(output, lambda temporary: torch.save(state, temporary))
        logger.info(f"Wrote {output}. It is the state_dict() of this detector of torchvision:")
        logger.info(f"  {torchvision_call(file.config, file.classes)}")
        return
    state = to_detectron2_detector(file.weights, file.config.model, str(source))
    write_atomically(output, lambda temporary: _write(temporary, state, pickled=output.suffix == ".pkl"))
    base = BASES[file.config.model.features]
    logger.info(f"Wrote {output}. For it, detectron2 needs configs/{base} and these settings:")
    for key, value in detectron2_settings(file.config, file.classes).items():
        logger.info(f'  {key} "{value}"')


def _write(path: Path, state: dict[str, Tensor], pickled: bool) -> None:
    content = {"__author__": "resdet", "matching_heuristics": False}
    if pickled:
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, **content}))
    else:
        torch.save({"model": state, **content}, path)


def _check_suffix(path: Path, *suffixes: str) -> None:
    if path.suffix not in suffixes:
        raise UserError(f"{path} must end in {' or '.join(suffixes)}: pass another file to write.")
