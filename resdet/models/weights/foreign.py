"""Weights files of other programs: tensors by name, whatever container, wrappers and prefixes they come in.

What kind of file it is, its content says, not its name. No code that a file may hold is run.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from resdet.errors import UserError, listed, reason
from resdet.mistaken import mistaken_for
from resdet.pickles import read_pickle

WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),  # averaged weights, where a file has both
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params"),
    "blobs",
)
"""Keys under which training programs save a network; of those that a file has, the first one counts."""
TRAINING_STATE = {"classes", "progress", "model", "optimizer", "scaler", "average"}
"""The keys of a run's state.pt."""
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PLAIN_OBJECTS: list[Any] = [
    *(argparse.Namespace, np.dtype, np.ndarray, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}),
    *((np.zeros(0).__reduce__()[0], f"{core}.multiarray._reconstruct") for core in ("numpy.core", "numpy._core")),
    *((np.float64(0).__reduce__()[0], f"{core}.multiarray.scalar") for core in ("numpy.core", "numpy._core")),
]
"""What training programs save beside tensors, and what cannot run code: their arguments, and numpy's numbers."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a network in a file of torch.save, of safetensors, or in a pickle of arrays.

    They may lie under any of `WRAPPERS`, one inside another. Floating-point numbers become float32; what is not a
    tensor, and Detectron's momenta, are left out. Raises UserError.
    """
    content = read_content(path)
    if isinstance(content, dict) and content.keys() >= TRAINING_STATE:
        raise UserError(f"{path} is the state of a training run: pass the run folder {path.parent} instead.")
    content = _unwrapped(content)
    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in content.items()
        if isinstance(value, Tensor | np.ndarray) and isinstance(name, str) and not name.endswith("_momentum")
    }
    if not tensors:
        found = listed([str(key) for key in content]) or "nothing"
        raise UserError(f"{path} holds {found}, not tensors by name: save the network's state_dict() instead.")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def without_prefix(tensors: Mapping[str, Tensor], anchors: Iterable[str], path: Path) -> dict[str, Tensor]:
    """The tensors below the prefix that one of the names `anchors` has, without it; all of them if none is there.

    module.model.conv1.weight becomes conv1.weight, for instance. Raises UserError for several networks.
    """
    prefixes = sorted(
        {name.removesuffix(anchor) for anchor in anchors for name in tensors if f".{name}".endswith(f".{anchor}")}
    )
    if len(prefixes) > 1:
        raise UserError(
            f"{path} holds several networks ({listed(prefixes)}): save the state_dict() of one of them."
        )
    prefix = prefixes[0] if prefixes else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def read_content(path: Path) -> Any:
    """What a file of torch.save, of safetensors or of pickle holds. Raises UserError for all else."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise UserError(f"Weights file not found: {path}; train first, or pass a run folder or a file.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): copy it again, or pass another.") from error
    if is_safetensors(head, size):
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged ({reason(error)}): copy it again, or pass another.") from error
    if head.startswith((b"PK\x03\x04", LEGACY_TORCH)):
        return _read_torch(path)
    if head.startswith(b"\x80") or path.suffix in (".pkl", ".pickle"):
        return read_pickle(path)
    what = mistaken_for(head) or "is damaged or not a weights file: copy it again, or pass another"
    raise UserError(f"{path} {what}.")


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `head` is one of safetensors."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _read_torch(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(re.search(r"(^|/)code/", name) for name in names):
            raise UserError(f"{path} is a TorchScript program: save the state_dict() of the network instead.")
        if not any(name.endswith("data.pkl") for name in names):
            raise UserError(f"{path} is a zip archive: unpack it, and pass the weights file in it.")
    try:
        with path.open("rb") as file, torch.serialization.safe_globals(PLAIN_OBJECTS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken file makes torch raise has no end
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        if needed:
            raise UserError(
                f"{path} is a whole pickled object, which asks for {needed[1]} and could run code: save the "
                "network's state_dict() instead."
            ) from error
        raise UserError(f"{path} is damaged ({reason(error)}): copy it again, or pass another.") from error


def _unwrapped(content: Any) -> Mapping[Any, Any]:
    """The innermost dictionary below `WRAPPERS`, or below the only key that has one; empty if there is none."""
    while isinstance(content, Mapping):
        wrapped = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping) and content[key]]
        if not wrapped and not any(isinstance(value, Tensor | np.ndarray) for value in content.values()):
            wrapped = [value for value in content.values() if isinstance(value, Mapping)]
            wrapped = wrapped if len(wrapped) == 1 else []
        if not wrapped:
            return content
        content = wrapped[0]
    return {}
