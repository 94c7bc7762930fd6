"""Computing in a process that was forked: gunicorn --preload, multiprocessing's fork, PyTorch's data workers.

A thread that has computed in parallel keeps a record of OpenMP's threads, and its first parallel loop in a child
process would wait for them for ever, since a fork copies the record but not the threads. Any other thread of the
child starts with threads of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_fresh_thread: ThreadPoolExecutor | None = None  # only in a process that was forked


def _after_fork() -> None:
    global _fresh_thread
    _fresh_thread = ThreadPoolExecutor(1, "resdet")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def safe_after_fork(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: in a forked process, what the thread that was forked asks for is computed by another thread."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        if _fresh_thread is None or threading.current_thread() is not threading.main_thread():
            return function(*args, **kwargs)
        return _fresh_thread.submit(function, *args, **kwargs).result()

    return wrapped
