"""Writing files: a full disk, an error or an interruption at any moment leaves the old file whole."""

from __future__ import annotations

import errno
import random
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from torch import Tensor

from resdet import io
from resdet.config import DetConfig
from resdet.engine.checkpoint import save_state
from resdet.io import name_parts, write_atomically, write_text
from resdet.models.weights.resdet import ModelFile, save_model


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file can grow beyond `limit` bytes: a full disk, as near as a test gets to one."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # Python ignores the signal SIGXFSZ from its start
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def big(step: int) -> dict[str, Tensor]:
    """A megabyte."""
    return {"a": torch.full((250_000,), float(step))}


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "model": lambda path, step: save_model(path, ModelFile(big(step), ("cat", "dog"), DetConfig(), step)),
    "state": lambda path, step: save_state(path, big(step)),
    "text": lambda path, step: write_text(path, f"{step}" * 1_000_000),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("limit", [0, 1000, 300_000, 999_000])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, write: Callable[[Path, int], None], limit: int, refuses: Callable[..., object]
) -> None:
    path = tmp_path / "file"
    write(path, 1)
    old = path.read_bytes()
    with small_files(limit), refuses(path, "free some space", "that was there before is untouched"):
        write(path, 2)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"
    write(path, 2)
    assert path.read_bytes() != old


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_nothing_where_nothing_was(
    tmp_path: Path, write: Callable[[Path, int], None], refuses: Callable[..., object]
) -> None:
    with small_files(1000), refuses(tmp_path / "file", "free some space"):
        write(tmp_path / "file", 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_others_may_read_what_the_umask_lets_them(write: Callable[[Path, int], None], tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write(tmp_path / "file", 1)
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("when", ["write", "fsync", "replace"])
def test_an_error_at_each_stage_leaves_the_old_file(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch, refuses: Callable[..., object]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(temporary: Path) -> None:
        temporary.write_text("half of the ne")
        if when == "write":
            fail()

    if when != "write":
        monkeypatch.setattr(io.os, when, fail)
    with refuses(path, "No space left on device", "free some space", "untouched"):
        write_atomically(path, write)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    write_text(path, "old")

    def write(temporary: Path) -> None:
        assert temporary.parent == path.parent, "a rename works within one file system only"
        temporary.write_text("new")
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_an_interruption_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path: Path, refuses: Callable[..., object]) -> None:
    (tmp_path / "file").write_text("not a folder")
    with refuses(tmp_path / "file" / "run" / "config.json", "another folder"):
        write_text(tmp_path / "file" / "run" / "config.json", "{}")


def test_a_folder_in_the_place_of_the_file(tmp_path: Path, refuses: Callable[..., object]) -> None:
    (tmp_path / "config.json").mkdir()
    with refuses(tmp_path / "config.json"):
        write_text(tmp_path / "config.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# Names in file names


def test_plain_names_stay_as_they_are() -> None:
    plain = ["aeroplane", "tvmonitor", "Traffic light", "no-helmet", "a_1.5", "安全帽", "con", "", "."]
    assert name_parts(plain) == plain


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["Cabinet/shelf", "../up", "a\\b"], ["Cabinet%2Fshelf", "..%2Fup", "a%5Cb"]),
        (["100%", "100%25"], ["100%25", "100%2525"]),
        (["Cat", "cat", "CAT", "dog"], ["%43at", "cat", "%43%41%54", "dog"]),
        (["é", "e\u0301"], ["%C3%A9", "e%CC%81"]),
        (["\0", "a\nb", "\ud800"], ["%00", "a%0Ab", "%ED%A0%80"]),
    ],
)
def test_other_names_are_percent_encoded(names: list[str], parts: list[str]) -> None:
    assert name_parts(names) == parts


def test_each_name_has_its_own_file_everywhere() -> None:
    """Random names of few characters: distinct as macOS and Windows compare them, and reversible if short."""
    generator = random.Random(0)
    for _ in range(300):
        size = generator.choice([2, 5, 300])
        alphabet = generator.choice(["aA%/", "aAß4Ss", "é\u0301eE.", "安\ud800:~"])
        names = ["".join(generator.choices(alphabet, k=generator.randrange(size))) for _ in range(10)]
        names = list(dict.fromkeys(names))
        parts = name_parts(names)
        assert len({unicodedata.normalize("NFD", part).casefold() for part in parts}) == len(names)
        for name, part in zip(names, parts, strict=True):
            assert len(part.encode()) <= 120 and not set(part) & set('<>:"/\\|?*\0')
            assert "~" in part or unquote(part, errors="surrogatepass") == name
