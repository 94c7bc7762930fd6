"""Writing files so that they are always whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from resdet.errors import UserError, reason


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replace the file `path` as a whole, so that a reader, or a run after a crash, never finds half of it.

    Args:
        path: the file to replace or to create; its folder is created too
        write: writes the content to the temporary file that it is given

    Raises UserError if the disk is full or the folder is not writable; the old file is untouched then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            write(temporary)
            temporary.chmod(mode)  # as the user's umask has it: safetensors writes files that only the owner reads
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError about its own counters.
        why = "not all of it could be written" if isinstance(error, RuntimeError) else reason(error)
        kept = ", the file that was there before is untouched" if path.exists() else ""
        raise UserError(f"Cannot write {path} ({why}): free some space or choose another folder{kept}.") from error


def printable(name: object) -> str:
    """A path, or a text with one in it, that can be written as UTF-8: bytes that are not become \\xNN."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write_text(path: Path, text: str) -> None:
    """Write `text` to the file `path` as UTF-8, atomically (`write_atomically`)."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
