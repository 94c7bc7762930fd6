"""Convert detectors from and to detectron2."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from resdet.errors import UserError
from resdet.io import write_atomically
from resdet.models.layers.pixel_norm import STYLES
from resdet.models.weights.detectron2 import detectron2_settings, from_detectron2_detector, to_detectron2_detector
from resdet.models.weights.resdet import ModelFile, load_model, save_model
from resdet.models.weights.strict import read_tensors


def main(arguments: Sequence[str]) -> None:
    """SOURCE OUTPUT [--classes NAME …] [--to detectron2]: convert a detector from detectron2, or to it"""
    options = parse(arguments)
    if options.to == "detectron2":
        export(options.source, options.output)
    else:
        convert(options.source, options.output, tuple(options.classes))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="convert_weights", description=main.__doc__)
    parser.add_argument("source", type=Path, help="detectron2's .pkl or .pth; with --to, a run folder or a file")
    parser.add_argument("output", type=Path, help="a .safetensors file; with --to, a .pth or .pkl file")
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="unless they are COCO's or VOC's")
    parser.add_argument("--to", choices=["resdet", "detectron2"], default="resdet", help="the toolkit to write for")
    return parser.parse_args(arguments)


def convert(source: Path, output: Path, classes: tuple[str, ...]) -> None:
    """Write detectron2's detector `source` as a model file of resdet, and say what was found."""
    if source.suffix not in (".pkl", ".pth", ".pt"):
        raise UserError(f"{source} is no .pkl or .pth of detectron2: to convert a detector of resdet, add --to.")
    _check_suffix(output, ".safetensors")
    if not source.is_file():
        raise UserError(f"There are no weights {source}: fetch them from detectron2's model zoo first.")
    state = read_tensors(source)
    weights, config = from_detectron2_detector(state, classes, str(source))
    config = replace(config, name=output.stem)
    save_model(output, ModelFile(weights, config.data.classes, config, step=0))
    model, style = config.model, STYLES[config.model.style]
    scales = ", ".join(f"{scale:g}" for scale in model.anchor_scales)
    print(f"{source}: detectron2's Faster R-CNN, ResNet-{model.depth} C4, {len(config.data.classes)} classes.")
    print(
        f"Set for it: {style.channels.upper()} images less {', '.join(f'{mean:g}' for mean in style.mean)}; "
        f"stride in the first 1×1; anchors of {scales} pixels at the cells' corners; RoI align 14×14; "
        f"{config.test.after_nms} proposals; images of {config.data.test_short_side} pixels."
    )
    print(f"{output} is ready for tools/detect.py, tools/eval_det.py and --weights.")


def export(source: Path, output: Path) -> None:
    """Write resdet's detector `source` under detectron2's names, and print the settings it needs there."""
    _check_suffix(output, ".pth", ".pkl")
    file = load_model(source)
    state = to_detectron2_detector(file.weights, file.config.model, str(source))
    write_atomically(output, lambda temporary: _write(temporary, state, pickled=output.suffix == ".pkl"))
    print(f"{output} is written. detectron2 needs configs/Base-RCNN-C4.yaml and these settings for it:")
    for key, value in detectron2_settings(file.config, file.classes).items():
        print(f'  {key} "{value}"')


def _write(path: Path, state: dict[str, Tensor], pickled: bool) -> None:
    content = {"__author__": "resdet", "matching_heuristics": False}
    if pickled:
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, **content}))
    else:
        torch.save({"model": state, **content}, path)


def _check_suffix(path: Path, *suffixes: str) -> None:
    if path.suffix not in suffixes:
        raise UserError(f"{path} must end in {' or '.join(suffixes)}: name another file to write.")
