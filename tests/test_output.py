"""What commands print, where nobody reads it, nothing can be written, or the encoding has few characters."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import pytest

from resdet.cli import main
from resdet.cli.output import output


@contextmanager
def closed_pipe(buffered: bool) -> Iterator[TextIO]:
    """Inside this block, standard output is a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    binary: Any = os.fdopen(writing, "wb", -1 if buffered else 0)
    stream = io.TextIOWrapper(binary, write_through=not buffered)
    with redirect_stdout(stream):
        yield stream
    stream.close()


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("length", [1, 100_000])
def test_a_command_ends_quietly_when_nobody_reads(buffered: bool, length: int) -> None:
    with closed_pipe(buffered) as stream:
        with pytest.raises(SystemExit) as caught, output(is_needed=True):
            print("a" * length)
        assert caught.value.code == 141 and sys.stdout is stream


@pytest.mark.parametrize("buffered", [True, False])
def test_training_goes_on_when_nobody_reads(buffered: bool, recipe: Path) -> None:
    with closed_pipe(buffered):
        main(["train-det", str(recipe), "--solver.steps", "2", "--solver.eval-every", "0"])
    assert (recipe.parent / "runs/tiny/curves.png").is_file()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("target", ["pipe", "/dev/full", "closed"])
def test_nothing_is_said_when_the_interpreter_ends(
    unbuffered: str, target: str, tools_environment: dict[str, str]
) -> None:
    reading, writing = os.pipe() if target == "pipe" else (None, os.open("/dev/full", os.O_WRONLY))
    if reading is not None:
        os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "resdet", *(["--help"] if target != "closed" else [])],
        env=tools_environment | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: os.close(1)) if target == "closed" else None,
    )
    os.close(writing)
    expected = {"pipe": (141, ""), "/dev/full": (1, "error: Cannot print: No space left on device.\n")}
    assert (ended.returncode, ended.stderr) == expected.get(target, (0, ""))


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", "2 x 3 -> -1, 2-3 \\u5b89 caf\\xe9 \\u1234..."),
        ("cp1252", "2 × 3 -> -1, 2–3 \\u5b89 caf\\xe9 \\u1234…"),
        ("utf-8", "2 × 3 → −1, 2–3 安 caf\\xe9 ሴ…"),
    ],
)
def test_every_encoding_takes_every_text(encoding: str, printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(content, encoding=encoding))
        stream = getattr(sys, name)
        with output(is_needed=True):
            print("2 × 3 → −1, 2–3 安 caf\udce9 ሴ…", file=getattr(sys, name))
        assert content.getvalue().decode(encoding) == f"{printed}\n" and stream.errors == "strict"
        content.truncate(content.seek(0))


def test_an_error_of_the_system_is_a_sentence(
    cli: Callable[..., Any], recipe: Path, assert_sentence: Callable[..., None]
) -> None:
    """Where a folder should be, there is a file."""
    (recipe.parent / "runs").write_text("")
    status, _, err = cli("check-data", recipe)
    assert status == 1
    assert_sentence(err.strip(), str(recipe.parent / "runs"))
