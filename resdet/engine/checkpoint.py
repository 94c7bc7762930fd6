"""The state that a training run resumes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from resdet.errors import UserError, reason
from resdet.io import write_atomically


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write what a training run needs to continue; plain tensors, numbers and containers only."""
    write_atomically(path, lambda temporary: torch.save(dict(state), temporary))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote. Raises UserError if there is nothing to resume from."""
    if not path.is_file():
        raise UserError(f"Nothing to resume in {path.parent}: {path.name} was not found.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is damaged ({reason(error)}): copy it again, or start again with --init-weights {path.parent}."
        ) from error
