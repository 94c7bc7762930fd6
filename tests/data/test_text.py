"""Text files in the encodings that people's tools write."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resdet.data.text import decode, numbered_lines, read_head, read_lines, read_text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("cat\ndog\n", "ascii"),
        ("Übung 猫\n", "utf-8"),
        ("Übung 猫\n", "utf-8-sig"),
        ("Übung 猫\n", "utf-16"),
        ("Übung 猫\n", "utf-16-be"),
        ("grüner Löwenzahn\n", "cp1252"),
        ("naïve café – “quoted”\n", "cp1252"),
        ("数据\r\n苹果\r\n", "gb18030"),
        ("", "utf-8"),
    ],
)
def test_each_encoding_is_read(tmp_path: Path, text: str, encoding: str) -> None:
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (tmp_path / "a.txt").write_bytes(mark + text.encode(encoding))
    assert read_text(tmp_path / "a.txt") == text


def test_lines_of_several_encodings_are_read_one_by_one() -> None:
    """As of files whose names came from several machines."""
    lines = ["Übung".encode(), "Übung".encode("cp1252"), "数据".encode("gb18030"), b"plain"]
    assert decode(b"\n".join(lines)) == "Übung\nÜbung\n数据\nplain"


def test_lines_without_blank_ones_and_with_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf one \r\n\r\n\t\r\n\ttwo words\t\r\n\x1a")
    assert read_lines(tmp_path / "a.txt") == ["one", "two words"]
    assert numbered_lines(tmp_path / "a.txt") == [(1, "one"), (4, "two words")]


@pytest.mark.parametrize("data", [b"\x00", b"\x89PNG\r\n\x1a\n\x00", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\xff\xfea"])
def test_what_is_not_text_is_refused(tmp_path: Path, data: bytes, refuses: Callable[..., Any]) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with refuses(tmp_path / "a.txt", "not a text file", "UTF-8"):
        read_text(tmp_path / "a.txt")


def test_what_cannot_be_read_is_refused(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    with refuses(tmp_path / "no.txt", "No such file"):
        read_text(tmp_path / "no.txt")
    with refuses(tmp_path, "cannot be read"):
        read_text(tmp_path)
    assert read_head(tmp_path / "no.txt", 9) == read_head(tmp_path, 9) == b""
