"""Writing files: so that they are always whole, and under names that every system takes."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError

from resdet.errors import UserError, reason, remedy


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
        what_helps = remedy(error) if isinstance(error, OSError) else ""
        kept = ", the file that was there before is untouched" if os.path.exists(path) else ""
        raise UserError(
            f"Cannot write {path} ({why}): {what_helps or 'free some space or choose another folder'}{kept}."
        ) from error


def printable(name: object) -> str:
    """A path, or a text with one in it, that can be written as UTF-8: bytes that are not become \\xNN."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write_text(path: Path, text: str) -> None:
    """Write `text` to the file `path` as UTF-8, atomically (`write_atomically`)."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


_FORBIDDEN = frozenset('<>:"/\\|?*%')  # by Windows, and the sign that begins an escape
_LONGEST = 120  # bytes of a name; encrypted home folders on Linux take 143 for a file's whole name


def name_parts(names: Sequence[str]) -> list[str]:
    """Names, such as those of classes, as parts of file names: each another file on every system.

    A name stays as it is unless it cannot: characters that cannot be printed or that Windows forbids are
    percent-encoded, as in ``Cabinet%2Fshelf``. Of names that differ only in case or in the form of their accents,
    which macOS and Windows take for one, all but small ASCII letters and digits are. `urllib.parse.unquote` gives
    the name back, except where one of more than 120 bytes was cut and ends in a digest.
    """
    folded = [unicodedata.normalize("NFC", name).casefold() for name in names]
    counts = Counter(folded)
    parts = (_name_part(name, counts[form] > 1) for name, form in zip(names, folded, strict=True))
    return [part if len(part.encode()) <= _LONGEST else _cut(name) for name, part in zip(names, parts, strict=True)]


def _name_part(name: str, strict: bool) -> str:
    def stays(char: str) -> bool:
        if strict:
            return char.isascii() and (char.islower() or char.isdecimal())
        return char.isprintable() and char not in _FORBIDDEN

    return "".join(char if stays(char) else _escape(char) for char in name)


def _cut(name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return _name_part(name, strict=True)[: _LONGEST - 17] + "~" + digest


def _escape(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
