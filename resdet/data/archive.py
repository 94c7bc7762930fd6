"""Data sets that come as one file: zip and tar archives."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from rich.progress import track

from resdet.data.text import decode
from resdet.errors import UserError, reason

SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
UTF8 = 0x800  # the flag of a zip archive's names that are UTF-8; others are of the machine that made it


def unpack(archive: Path) -> Path:
    """Unpack an archive into a folder of its name beside it, unless it is there → the folder.

    Raises UserError for a file that is not an archive or is damaged, and if there is no room for its content.
    """
    name = next((archive.name[: -len(s)] for s in SUFFIXES[::-1] if archive.name.lower().endswith(s)), "")
    is_zip = zipfile.is_zipfile(archive)
    if not is_zip and not tarfile.is_tarfile(archive):
        raise UserError(
            f"{archive} is neither a folder nor a zip or tar archive: pass the folder of the photographs."
        )
    folder = archive.with_name(name or f"{archive.name}_unpacked")
    if folder.is_dir():
        return folder
    try:
        with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
            place = Path(temporary, "content")
            place.mkdir()
            (_unzip if is_zip else _untar)(archive, place)
            place.rename(folder)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive} cannot be unpacked ({reason(error)}): copy it again.") from error
    except PermissionError as error:
        raise UserError(f"{archive.parent} is not writable: unpack {archive.name} elsewhere.") from error
    return folder


def _unzip(archive: Path, place: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        members = [member for member in file.infolist() if not member.is_dir()]
        _check_room(archive, place, sum(member.file_size for member in members))
        for member in track(members, f"Unpacking {archive.name}", transient=True):
            name = member.filename if member.flag_bits & UTF8 else _decoded(member.filename)
            path = place.joinpath(*_inside(archive, name.replace("\\", "/")))
            path.parent.mkdir(parents=True, exist_ok=True)
            with file.open(member) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)


def _decoded(name: str) -> str:
    """A name that zipfile took for code page 437, as the bytes that it was."""
    try:
        return decode(name.encode("cp437"))
    except UnicodeError:
        return name


def _untar(archive: Path, place: Path) -> None:
    with tarfile.open(archive) as file:
        members = [member for member in file.getmembers() if member.isfile()]
        _check_room(archive, place, sum(member.size for member in members))
        for member in track(members, f"Unpacking {archive.name}", transient=True):
            path = place.joinpath(*_inside(archive, member.name))
            path.parent.mkdir(parents=True, exist_ok=True)
            source = file.extractfile(member)
            if source is not None:
                with source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)


def _inside(archive: Path, name: str) -> tuple[str, ...]:
    """The parts of a member's path, which must lie in the archive's folder."""
    parts = tuple(part for part in PurePosixPath(name).parts if part not in ("/", "."))
    if ".." in parts or not parts:
        raise UserError(
            f"{archive} has the member {name!r}, which would lie outside its folder: it is not unpacked."
        )
    return parts


def _check_room(archive: Path, place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{archive} holds {needed / 2**30:.1f} GiB, but {place.parent.parent} has {free / 2**30:.1f} GiB left: "
            "unpack it elsewhere."
        )
