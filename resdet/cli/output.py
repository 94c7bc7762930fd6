"""What a command prints to: a terminal, file or pipe of any encoding, which may be full or closed."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

CLOSED = 141  # exit status of a program that writes to a closed pipe: 128 and SIGPIPE
_ASCII = str.maketrans({"×": "x", "→": "->", "−": "-", "–": "-", "—": "-", "…": "...", "·": "."})


def _spell(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: our own signs in ASCII, other characters and bytes of file names as numbers."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_ASCII)
    return text.encode("ascii", "backslashreplace").decode().replace("\\udc", "\\x"), error.end


codecs.register_error("resdet", _spell)


class _Stream:
    """A text stream that may be closed at its other end: then it is silent, or ends the program without a word."""

    def __init__(self, stream: Any, is_needed: bool) -> None:
        self.stream, self.is_needed = stream, is_needed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write `text` → its length."""
        try:
            self.stream.write(text)
        except OSError as error:
            self._silence(error)
        return len(text)

    def flush(self) -> None:
        """Write what has been held back."""
        try:
            self.stream.flush()
        except OSError as error:
            self._silence(error)

    def _silence(self, error: OSError) -> None:
        with suppress(OSError, ValueError):  # not a file
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())  # else Python would try, and complain, again at its end
            os.close(null)
        if self.is_needed:
            sys.exit(CLOSED if error.errno == errno.EPIPE else f"error: Cannot print: {error.strerror}.")


@contextmanager
def output(is_needed: bool) -> Iterator[None]:
    """Inside this block, what is printed can be written in any encoding.

    Args:
        is_needed: whether the program ends when nobody reads its standard output any more, as with ``| head -1``
    """
    streams = [(sys.stdout, redirect_stdout, is_needed), (sys.stderr, redirect_stderr, False)]
    with ExitStack() as stack:
        for stream, redirect, needed in streams:
            if stream is None:  # closed from the start
                stream = stack.enter_context(open(os.devnull, "w"))
            if hasattr(stream, "reconfigure"):
                stack.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="resdet")
            wrapped: Any = _Stream(stream, needed)
            stack.enter_context(redirect(wrapped))
            stack.callback(wrapped.flush)
        yield
