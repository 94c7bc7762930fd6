"""Files from the web: resumed after a break, checked against the digits in their names, never half there."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from resdet.errors import UserError, reason, remedy

TIMEOUT = 30.0  # seconds, of a connection to open, and of a stall
TRIES = 5
PAUSE = 1.0  # seconds after the first try; after the second twice as many, and so on
CHUNK = 1 << 18
Digest = Literal["sha256", "md5"]
logger = logging.getLogger(__name__)


class _BrokenError(Exception):
    """Why a connection failed; `is_final` if another try would fail too."""

    def __init__(self, why: str, is_final: bool = False) -> None:
        super().__init__(why)
        self.is_final = is_final


def download(address: str, path: Path, digest: Digest) -> None:
    """Download `address` to the file `path`, which is there as a whole or not at all.

    What arrived before a break stays beside it as PATH.part, and the next call continues there. Only one process at
    a time may download a file.

    Args:
        address: begins with http:// or https://
        path: its name holds the first digits of the file's digest, as `check_digits` says
        digest: whose digits these are

    Raises UserError if the file cannot be had or written, or if it is not the right one.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _receive(address, part, path)
        check_digits(part, path.name, digest, f"What {address} sent")
        os.replace(part, path)
        _tag_of(part).unlink(missing_ok=True)
    except OSError as error:
        what_helps = remedy(error) or "check the disk"
        raise UserError(f"Cannot write {part} ({reason(error)}): {what_helps}, or set RESDET_HOME.") from error


def check_digits(path: Path, name: str, digest: Digest, what: str) -> None:
    """Remove the file `path`, and raise UserError, unless its digest begins with the digits at the end of `name`.

    The digits are those of fasterrcnn-258fb6c6.pth or model_final_b275ba.pkl; they find damage, not malice.

    Args:
        what: what the file is, as the message calls it
    """
    match = re.search(r"[-_]([0-9a-f]{6,64})\.\w+$", name)
    expected = match[1] if match else ""
    found = hashlib.new(digest, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    if not found.hexdigest().startswith(expected):
        path.unlink()
        begin = found.hexdigest()[: len(expected)]
        raise UserError(
            f"{what} is damaged or another file (its {digest.upper()} begins with {begin}, not {expected}) and was "
            "removed: try again, or download it elsewhere."
        )


def _receive(address: str, part: Path, path: Path) -> None:
    """Download to `part`, in as many tries as it takes. Raises UserError if the last one fails."""
    for number in range(1, TRIES + 1):
        try:
            return _receive_rest(address, part)
        except _BrokenError as error:
            if error.is_final or number == TRIES:
                raise UserError(
                    f"Cannot download {address} ({error}): check the connection, or download it elsewhere and put "
                    f"it at {path}."
                ) from error
            logger.info(f"The download failed ({error}): trying again.")
            time.sleep(PAUSE * number)


def _receive_rest(address: str, part: Path) -> None:
    """Download what `part` does not have yet: all of it, if the server does not send a part of the same file."""
    start = part.stat().st_size if part.is_file() else 0
    with _open(address, start, part) as response:
        if response.status != 206:
            start = 0
        total = start + (response.length or 0)
        here = f", {start / 1e6:.0f} MB are here" if start else ""
        logger.info(f"Downloading {address} ({total / 1e6:.0f} MB{here})")
        _tag_of(part).write_text(response.headers.get("ETag") or "", encoding="utf-8")
        with part.open("ab" if start else "wb") as file, _bar() as bar:
            task = bar.add_task("", total=total or None, completed=start)
            for chunk in _chunks(response):
                file.write(chunk)
                bar.advance(task, len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if total > part.stat().st_size:
        raise _BrokenError(f"it ended after {part.stat().st_size:,} of {total:,} bytes")


def _open(address: str, start: int, part: Path) -> HTTPResponse:
    """The server's answer, from byte `start` on if its status is 206. Raises _BrokenError."""
    request = urllib.request.Request(address, headers={"User-Agent": "resdet"})  # some refuse urllib's own
    if start:
        request.add_header("Range", f"bytes={start}-")
        tag = _tag_of(part).read_text(encoding="utf-8") if _tag_of(part).is_file() else ""
        if tag.startswith('"'):  # a weak one says nothing of bytes
            request.add_header("If-Range", tag)
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # no byte from `start` on: it is another file's part
            part.unlink(missing_ok=True)
        raise _BrokenError(f"HTTP {error.code} {error.reason}", _is_final(error.code)) from error
    except (OSError, HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        raise _BrokenError(reason(cause) if isinstance(cause, BaseException) else str(cause)) from error
    if address.startswith("https:") and not response.url.startswith("https:"):
        response.close()
        raise _BrokenError(f"it leads to {response.url}, which is not encrypted", is_final=True)
    if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        response.close()
        part.unlink(missing_ok=True)
        raise _BrokenError("it sent another part of the file than asked for")
    return response


def _is_final(status: int) -> bool:
    """Whether asking again would give the same answer."""
    return status < 500 and status not in (408, 416, 425, 429)


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """The content as it arrives. Raises _BrokenError."""
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _BrokenError(reason(error)) from error


def _tag_of(part: Path) -> Path:
    """The file with the ETag of what `part` holds."""
    return part.with_suffix(".etag")


def _bar() -> Progress:
    """A progress bar on standard error, if that is a terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
