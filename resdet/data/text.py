"""Text files as people's tools write them: UTF-8, with or without a mark, UTF-16, or a code page of old."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from resdet.errors import UserError, reason

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
CHINESE = re.compile(rb"(?:[\x00-\x7f]|[\xa1-\xf7][\xa1-\xfe])*")  # every letter of GB 2312 is two high bytes
HEAD = 1 << 16  # bytes in which a file shows that it is not text
BINARY = re.compile(rb"\x00|[\x01-\x08\x0e-\x19\x1b-\x1f]")  # never in text but for Ctrl-Z


def read_head(path: Path, size: int) -> bytes:
    """The first bytes of a file, in which it shows what it is; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


def read_text(path: Path) -> str:
    """The content of a text file. Raises UserError for a file that is missing, or no text."""
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}.") from error
    except UnicodeError as error:
        raise UserError(f"{path} is not a text file: save it as UTF-8.") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without blanks at their ends. Raises UserError."""
    return [line for _, line in numbered_lines(path)]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The same with their numbers, counted from 1 with the blank ones."""
    lines = enumerate(read_text(path).splitlines(), 1)
    return [(number, line.strip()) for number, line in lines if line.strip("\x1a \t")]


def decode(data: bytes) -> str:
    """Bytes as text: as their mark says, else each line as UTF-8, or with Chinese (GB 18030) or Western letters.

    Raises UnicodeError for bytes that are not text.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data.decode(encoding)
    if BINARY.search(data, 0, HEAD):
        raise UnicodeError("binary data")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(map(_decode_line, data.splitlines(keepends=True)))


def _decode_line(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("gb18030" if CHINESE.fullmatch(line) else "cp1252", errors="replace")
