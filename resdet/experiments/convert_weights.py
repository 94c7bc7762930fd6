"""Convert detectors from and to detectron2."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from resdet.config import ModelConfig
from resdet.errors import UserError
from resdet.io import write_atomically
from resdet.models.layers.pixel_norm import STYLES
from resdet.models.weights.detectron2 import (
    BASES,
    LOGITS,
    detectron2_settings,
    from_detectron2_detector,
    to_detectron2_detector,
)
from resdet.models.weights.foreign import read_tensors, without_prefix
from resdet.models.weights.resdet import ModelFile, is_own, load_model, save_model
from resdet.models.weights.zoo import find

logger = logging.getLogger(__name__)


def import_weights(source: Path, output: Path, classes: tuple[str, ...]) -> None:
    """Write detectron2's detector `source` as a model file of resdet, and report what was found.

    Args:
        source: .pkl or .pth file of detectron2, or a detector of the zoo
        output: .safetensors file to write
        classes: class names, unless they are COCO's or VOC's

    Raises UserError if the file holds another network.
    """
    _check_suffix(output, ".safetensors")
    if find(source):
        file = load_model(source)
        save_model(output, replace(file, config=replace(file.config, name=output.stem)))
        logger.info(f"{output} is ready to detect, to evaluate, or to start training from.")
        return
    if is_own(source):
        raise UserError(f"{source} is a detector of resdet already: to convert it, pass --to detectron2.")
    state = without_prefix(read_tensors(source), [LOGITS], source)
    weights, config = from_detectron2_detector(state, classes, str(source))
    config = replace(config, name=output.stem)
    save_model(output, ModelFile(weights, config.data.classes, config, step=0))
    model, style = config.model, STYLES[config.model.style]
    scales = ", ".join(f"{scale:g}" for scale in model.anchor_scales)
    logger.info(
        f"{source}: detectron2's Faster R-CNN, {backbone_name(model)}, {len(config.data.classes)} classes."
    )
    logger.info(
        f"Its settings: {style.channels.upper()} minus the mean {', '.join(f'{mean:g}' for mean in style.mean)}; "
        f"stride in the {'first 1×1' if style.stride_in_1x1 else '3×3'}; anchors of {scales} pixels at the cells' "
        f"corners; RoI align {model.pool_size}×{model.pool_size}; "
        f"{config.test.post_nms_topk} proposals; images of {config.data.test_short_side} pixels."
    )
    logger.info(f"{output} is ready to detect, to evaluate, or to start training from.")


def backbone_name(model: ModelConfig) -> str:
    """As detectron2's model zoo has it, such as ResNet-50 FPN."""
    grouped = model.groups > 1
    width = f" {model.groups}×{model.width_per_group}d" if grouped else ""
    return f"{'ResNeXt' if grouped else 'ResNet'}-{model.depth}{width} {model.features.upper()}"


def export_weights(source: Path, output: Path) -> None:
    """Write resdet's detector `source` under detectron2's names, and report the settings it needs there.

    Args:
        source: run folder, weights file, or a detector of the zoo
        output: .pth or .pkl file to write

    Raises UserError if detectron2 does not have such a detector.
    """
    _check_suffix(output, ".pth", ".pkl")
    file = load_model(source)
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
