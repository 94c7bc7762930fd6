"""Full precision for the rules that work on boxes and scores, whatever the network around them computes in.

A bfloat16 number has 8 significant bits: a coordinate of 602.02 pixels becomes 604.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: `function` computes outside autocast, and is given float32 in place of half-precision tensors."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*map(_widen, args), **{name: _widen(value) for name, value in kwargs.items()})

    return wrapped


def _widen(value: Any) -> Any:
    """The same with every half-precision tensor in it as float32; double precision stays."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, list | tuple):
        parts = map(_widen, value)
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
