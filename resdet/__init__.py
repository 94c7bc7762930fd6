"""resdet: Faster R-CNN on a ResNet, as the papers wrote it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resdet.config import load_config
    from resdet.errors import UserError
    from resdet.inference.detector import Detector

__version__ = "0.1.0"
__all__ = ["Detector", "UserError", "__version__", "load_config"]


_HOMES = {"Detector": "resdet.inference.detector", "UserError": "resdet.errors", "load_config": "resdet.config"}


def __getattr__(name: str) -> Any:
    """Import on first use: neither a recipe nor ``resdet --help`` needs torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
