"""How a training run ends early: by a signal, between two steps, so that what it has learned can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from resdet.engine.runtime import Runtime, mean
from resdet.errors import Stopped

# What ends a program: Ctrl-C, `kill`, schedulers and containers; a closed terminal. Windows has no SIGHUP.
SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]


class Interruption:
    """Inside this block, a signal raises Stopped where the state of a training run is whole.

    That is at once, or after what runs in `hold`. Several processes stop together, in `check`. A second signal
    raises KeyboardInterrupt at once.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.alone, self.received, self.is_whole = runtime.world == 1, 0, True
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # the only one that may set handlers
            ours = [
                number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN
            ]  # as under nohup
            self.previous = {number: signal.signal(number, self._receive) for number in ours}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received and self.alone:  # torchrun repeats a signal
            raise KeyboardInterrupt
        self.received = number
        if self.is_whole and self.alone:
            raise Stopped(number)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """In this block the state is not whole: signals wait, and so does the end of a data loading process."""
        with _without_news_of_children(bool(self.previous)):
            self.is_whole = False
            yield
            self.is_whole = True  # not after an error
        if self.received and self.alone:
            raise Stopped(self.received)

    def check(self) -> None:
        """Stop all processes if one has received a signal; all must call this."""
        if not self.alone and mean({"received": float(self.received > 0)})["received"]:
            raise Stopped(self.received or signal.SIGTERM)


@contextmanager
def _without_news_of_children(may_set: bool) -> Iterator[None]:
    """Turn off the handler with which torch raises an error, anywhere, when a data loading process has died.

    The next fetch from that process raises the error too.
    """
    number = getattr(signal, "SIGCHLD", None)  # Windows has none
    if number is None or not may_set:
        yield
        return
    handler = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, handler)
