"""The run folder: weights that others read, the state that a training resumes from, and writing both safely."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from resdet.config import DetConfig, from_dict, to_dict
from resdet.errors import UserError, reason
from resdet.nn.weights import from_torchvision, load_strictly, read_torch_file, torchvision_resnet

FORMAT = "resdet-detector-1"
CLASS_LAYERS = ("head.classify", "head.regress")  # what depends on the classes


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file, then put it in the place of `path`: at every moment one whole file.

    Raises UserError if the disk is full or the folder cannot be written; the old file is still there then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            write(temporary)
            temporary.chmod(mode)  # as the user's umask has it: safetensors writes files that only the owner reads
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError about its own counters.
        why = "not all of it could be written" if isinstance(error, RuntimeError) else reason(error)
        kept = ", the file that was there before is untouched" if path.exists() else ""
        raise UserError(f"Cannot write {path} ({why}): make room or choose another folder{kept}.") from error


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for a text."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@dataclass(frozen=True)
class ModelFile:
    """A detector as a file: its weights, and all that is needed to use them."""

    weights: dict[str, Tensor]
    classes: tuple[str, ...]
    config: DetConfig
    step: int


def save_model(path: Path, model: ModelFile) -> None:
    """Write `model` as safetensors with its classes and config as metadata."""
    metadata = {
        "format": FORMAT,
        "classes": json.dumps(model.classes),
        "config": json.dumps(to_dict(model.config)),
        "step": str(model.step),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.weights.items()}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(weights, temporary, metadata))


def load_model(path: str | Path) -> ModelFile:
    """Read a detector from its file, or from a run folder. Raises UserError for anything else."""
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"There are no weights {path}: train first, or pass a run folder or a .safetensors file.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or no safetensors file ({reason(error)}): copy it again, or pass another."
        ) from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is no detector of resdet, its metadata do not say so: pass a run folder.")
    try:
        config = from_dict(DetConfig, json.loads(metadata["config"]))
        return ModelFile(weights, tuple(json.loads(metadata["classes"])), config, int(metadata["step"]))
    except (KeyError, ValueError, UserError) as error:
        raise UserError(f"{path} cannot be used ({reason(error)}): use the resdet that wrote it.") from error


def start_from(model: nn.Module, config: DetConfig, classes: tuple[str, ...]) -> str:
    """Give the fresh detector `model` the weights that `config.weights` names; returns what came from where.

    A detector of resdet is taken whole; if it knows other classes, all but its two last layers. Anything else is
    taken for torchvision's ResNet and becomes trunk and conv5_x. Raises UserError if a name or shape disagrees.
    """
    source = config.weights
    if not source:
        if config.model.norm == "frozen":
            raise UserError(
                "Frozen batch normalisation needs trained statistics: pass --weights torchvision (or a file), or "
                "train from scratch with --model.norm group --model.freeze."
            )
        return "All weights start at random."
    own = model.state_dict()
    if source == "torchvision" or Path(source).suffix in (".pt", ".pth"):
        state = (
            torchvision_resnet(config.model.depth) if source == "torchvision" else read_torchvision(Path(source))
        )
        taken = {name.replace("conv5_x.", "head.conv5_x.", 1): t for name, t in state.items() if "fc." not in name}
        fresh = [name for name in own if not name.startswith(("trunk.", "head.conv5_x."))]
        story = f"trunk and conv5_x from {source}; RPN and the last layers start at random."
    else:
        file = load_model(source)
        fresh = [] if file.classes == classes else [n for n in own if n.startswith(CLASS_LAYERS)]
        taken = {name: tensor for name, tensor in file.weights.items() if name not in fresh}
        story = (
            f"all weights from {source}."
            if not fresh
            else (
                f"{source} knows other classes ({', '.join(file.classes)}): all but "
                f"{' and '.join(CLASS_LAYERS)} comes from it; these start at random."
            )
        )
    load_strictly(model, taken | {name: own[name] for name in fresh}, source)
    return story


def read_torchvision(path: Path) -> dict[str, Tensor]:
    """A ResNet that torchvision's users saved, under the names of `ResNet`."""
    if not path.is_file():
        raise UserError(f'There are no weights {path}: pass a file, a run folder, or "torchvision".')
    state = read_torch_file(path)
    try:
        return from_torchvision(state)
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write what a training needs to go on; plain tensors, numbers and containers only."""
    write_atomically(path, lambda temporary: torch.save(dict(state), temporary))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote. Raises UserError if there is nothing to resume from."""
    if not path.is_file():
        raise UserError(f"There is nothing to resume in {path.parent}: {path.name} is missing.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is damaged ({reason(error)}): copy it again, or start anew with --weights {path.parent}."
        ) from error
