"""Failures of the machine, not of the program, in a sentence with the remedy."""

from __future__ import annotations

import errno
import re

from resdet.errors import remedy

_NO_MEMORY = re.compile(
    r"can.?t allocate|cannot allocate|unable to allocate|failed to allocate|bad_?alloc|out of memory"
    r"|insufficient memory|ALLOC_FAILED",
    re.IGNORECASE,
)
_AMOUNT = re.compile(
    r"(?:tried to allocate|unable to allocate|failed to allocate)\D{0,4}([\d.]+ ?\w+)", re.IGNORECASE
)


def explain(error: BaseException) -> str:
    """What to tell a user of an error for want of memory, space, rights, files or processes; nothing of others."""
    text = str(error)
    own = isinstance(error, (MemoryError, RuntimeError, OSError)) or type(error).__module__ == "cv2"
    if isinstance(error, MemoryError) or (own and _NO_MEMORY.search(text)):
        amount = _AMOUNT.search(text)
        return (
            f"Memory ran out{f' (for {_short(amount.group(1))} more)' if amount else ''}: use smaller images "
            "(data.short_sides, data.test_short_side, data.max_side; data.size of a classifier), smaller batches "
            "(solver.batch_size, or parts of them with solver.accumulate; test.batch_size), or fewer data.workers."
        )
    if isinstance(error, OSError) and (what_helps := remedy(error)):
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}{error.strerror}: {what_helps}."
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        how = re.search(r"killed by signal: \w+", text)
        return (
            f"A data loading process died{f' ({how.group()})' if how else ''}, most likely because memory ran out: "
            "use fewer data.workers (0 loads images in the training process), or smaller batches."
        )
    if isinstance(error, RuntimeError) and ("Too many open files" in text or "ancdata" in text):
        return f"Too many open files: {remedy(OSError(errno.EMFILE, ''))}."
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return "No more threads can be started: raise the limit with `ulimit -u`, or use fewer data.workers."
    return ""


def _short(amount: str) -> str:
    """Bytes in mebibytes; other units stay."""
    number, unit = amount.split(" ") if " " in amount else (amount, "bytes")
    return f"{int(number) / 2**20:,.0f} MiB" if unit == "bytes" and number.isdecimal() else amount
