"""The one error that a user meets, parts of its sentence, and the end that a signal asks for."""

import errno
import re
from collections.abc import Sequence


class UserError(Exception):
    """One clear sentence that names the file or the setting and says what to do; shown without a stack trace."""


class Stopped(BaseException):
    """A signal has ended the program in good order: what was done is saved, as the message says.

    Args:
        signal: its number
    """

    def __init__(self, signal: int, message: str = "") -> None:
        super().__init__(message)
        self.signal = signal


def reason(error: BaseException) -> str:
    """What a library's error says, inside a sentence: the system's words, or its type and first sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = re.split(r"[.!?](?:\s|$)|\n", str(error).strip())[0]
    if isinstance(error, UserError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


_REMEDIES = {
    "ENOSPC": "free some space",
    "EDQUOT": "free some of your quota",
    "EACCES": "change its permissions, or choose another place",
    "EPERM": "change its permissions, or choose another place",
    "EROFS": "choose a place that can be written",
    "ENAMETOOLONG": "choose a shorter name",
    "ENOENT": "create it, or pass another path",
    "ENOTDIR": "choose another folder",
    "EISDIR": "choose another name",
    "ELOOP": "pass another path",
    "EMFILE": "raise the limit with `ulimit -n 65536`, or use fewer data.workers",
    "ENFILE": "close other programs",
    "EIO": "check the disk",
    "ESTALE": "check the connection to the disk",
    "ETIMEDOUT": "check the connection to the disk",
}


def remedy(error: OSError) -> str:
    """What helps against an error of the system, inside a sentence; nothing if it is none that a user can fix."""
    return _REMEDIES.get(errno.errorcode.get(error.errno or 0, ""), "")
