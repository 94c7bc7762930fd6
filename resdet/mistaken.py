"""Files that are something else than their names say: what they are, and what to do about it."""

from __future__ import annotations

import re

KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"$", "is empty: copy it again"),
    (rb"version https://git-lfs", "is a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (rb"(?i)\s*<(!doctype html|html)", "is a web page, saved in place of the file: download it again"),
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "is a HEIC photo: convert it to JPEG"),
    (
        rb"....ftyp(?!avi[fs])|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xba\xb3]",
        "is a video: extract its frames, for instance with `ffmpeg -i VIDEO frames/%06d.jpg`",
    ),
)
"""How a file begins, and what it is then."""


def mistaken_for(head: bytes) -> str:
    """What a file that begins with `head` is, and what to do: the rest of a sentence, empty if it is not known."""
    return next((what for start, what in KINDS if re.match(start, head, re.DOTALL)), "")
