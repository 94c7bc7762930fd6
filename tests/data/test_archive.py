"""Data sets in archives: unpacked once, with the names that their makers gave, and nowhere else."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from resdet.data.archive import unpack

CONTENT = {"set/images/a b.jpg": b"image", "set/图.txt": b"label", "top.txt": b""}


def make_zip(path: Path, content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)


def make_tar(path: Path, content: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as file:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))


MAKERS = {"photos.zip": make_zip, "photos.tar.gz": make_tar, "photos.tgz": make_tar, "PHOTOS.ZIP": make_zip}


@pytest.mark.parametrize("name", MAKERS)
def test_an_archive_is_unpacked_beside_itself_once(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path / name, CONTENT)
    folder = unpack(tmp_path / name)
    assert folder == tmp_path / name.partition(".")[0]
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, folder.name]), "nothing else is left"
    (folder / "top.txt").write_text("mine")
    assert (unpack(tmp_path / name) / "top.txt").read_text() == "mine"


def test_names_of_a_chinese_windows_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Such an archive has the bytes of GBK, and no flag that says so."""
    make_zip(tmp_path / "a.zip", {"XXXX.jpg": b"1"})
    raw = (tmp_path / "a.zip").read_bytes().replace(b"XXXX", "照片".encode("gbk"))
    (tmp_path / "a.zip").write_bytes(raw)
    assert [path.name for path in unpack(tmp_path / "a.zip").iterdir()] == ["照片.jpg"]


@pytest.mark.parametrize("maker", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt"])
def test_a_member_outside_is_refused(tmp_path: Path, maker: Callable, name: str, refuses: Callable) -> None:
    path = tmp_path / "in/a.zip"
    path.parent.mkdir()
    maker(path, {"good.txt": b"", name: b""})
    with refuses(path, "evil.txt", "outside"):
        unpack(path)
    assert [p.name for p in path.parent.iterdir()] == ["a.zip"] and not (tmp_path / "evil.txt").exists()


def test_links_in_a_tar_are_not_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(member)
        file.addfile(tarfile.TarInfo("file"), io.BytesIO())
    assert [path.name for path in unpack(tmp_path / "a.tar").iterdir()] == ["file"]


def test_what_is_no_archive_or_a_damaged_one(tmp_path: Path, refuses: Callable) -> None:
    (tmp_path / "a.zip").write_bytes(b"no archive")
    with refuses(tmp_path / "a.zip", "neither a folder nor a zip or tar archive"):
        unpack(tmp_path / "a.zip")
    make_zip(tmp_path / "b.zip", {"a.txt": b"content" * 100})
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[40:45] = b"\xff" * 5
    (tmp_path / "b.zip").write_bytes(data)
    with refuses(tmp_path / "b.zip", "copy it again"):
        unpack(tmp_path / "b.zip")
    assert not (tmp_path / "b").exists()
