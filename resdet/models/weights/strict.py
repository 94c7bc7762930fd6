"""Tensors by name: read without running code, and loaded only if every name and shape agrees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resdet.errors import UserError, listed, reason
from resdet.pickles import read_pickle


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `network`; every name and shape must agree.

    Raises UserError that lists what is missing, unexpected or of another shape. A module's own count of batches
    seen may be absent.
    """
    check_names(network.state_dict(), state, source)
    network.load_state_dict(dict(state), strict=False)


def check_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError that lists what `state` lacks of `own`, has besides it, or has in another shape."""
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    complaints = [
        f"{title} {listed(names)}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if complaints:
        raise UserError(f"{source} does not fit this network: {'; '.join(complaints)}.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `torch.save` file or of a pickle of arrays (.pkl), read without running any code in it.

    They may lie under the key "model" (detectron2's and torchvision's training runs) or "blobs" (Detectron's, whose
    momenta are left out).
    """
    content = read_pickle(path) if path.suffix == ".pkl" else _read_torch(path)
    for key in ("model", "blobs"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if isinstance(content, dict):
        content = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in content.items()
            if not str(name).endswith("_momentum")
        }
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise UserError(f"{path} is not a plain dictionary of tensors: save a state_dict instead.")
    return content


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as plain weights ({reason(error)}): pass a state_dict written by torch.save."
        ) from error
