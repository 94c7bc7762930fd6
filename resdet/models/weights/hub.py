"""Detectors on Hugging Face's hub, which keeps what it downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resdet.errors import UserError, reason

PREFIX = "hf:"
"""How names begin: hf:USER/REPOSITORY, or hf:USER/REPOSITORY@REVISION."""
FILE = "model.safetensors"


def hub() -> Any:
    """The package huggingface_hub. Raises UserError if it is not installed."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            "Hugging Face's hub needs the package huggingface_hub: pip install 'resdet[hub]'."
        ) from error
    return huggingface_hub


def hub_file(name: str) -> Path:
    """The weights file of the detector that is called `name`, downloaded on its first use. Raises UserError."""
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    try:
        return Path(hub().hf_hub_download(repository, FILE, revision=revision or None))
    except (OSError, ValueError) as error:  # the package's own errors are among these
        raise UserError(
            f"Cannot get {FILE} of {name} ({reason(error)}): check the name and the connection; private ones need "
            "`hf auth login`."
        ) from error
