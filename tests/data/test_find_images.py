"""Files, folders and patterns → images, each once, in the order of the names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from resdet.data.find_images import find_images

FILES = (
    *("a.jpg", "b.PNG", "notes.txt", "clip.mp4", ".DS_Store", ".hidden.jpg", "sub/c.Jpeg", "sub/deeper/d.tif"),
    *(".thumbnails/e.jpg", "sub/.git/f.jpg", "sub/IMG.HEIC", "x[1].jpg"),
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(photos: Path, *places: str | Path) -> dict[str, str]:
    """File → folder, both below `photos`."""
    return {str(file.relative_to(photos)): str(folder) for file, folder in find_images(places).images}


def test_a_folder_is_searched_with_all_below_it(photos: Path) -> None:
    expected = {"a.jpg": ".", "b.PNG": ".", "x[1].jpg": ".", "sub/c.Jpeg": "sub", "sub/deeper/d.tif": "sub/deeper"}
    assert listed(photos, photos) == listed(photos, str(photos)) == expected
    assert list(listed(photos, photos)) == list(expected)
    others = find_images([photos]).others
    assert [path.name for path in others] == ["clip.mp4", "notes.txt", "IMG.HEIC"], "hidden files are not listed"


def test_a_file_is_taken_whatever_its_name(photos: Path) -> None:
    assert listed(photos, photos / "notes.txt", photos / ".hidden.jpg") == {"notes.txt": ".", ".hidden.jpg": "."}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", {"a.jpg": ".", "x[1].jpg": "."}),
        ("**/*.[jJ]*", {"a.jpg": ".", "sub/c.Jpeg": "sub", "x[1].jpg": "."}),
        ("s*", {"sub/c.Jpeg": ".", "sub/deeper/d.tif": "deeper"}),
        ("s*/*/d.*", {"sub/deeper/d.tif": "sub/deeper"}),
        ("x[1].jpg", {"x[1].jpg": "."}),
    ],
)
def test_a_pattern_is_expanded(
    photos: Path, pattern: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listed(photos, photos / pattern) == expected
    monkeypatch.chdir(photos)
    assert {str(file): str(folder) for file, folder in find_images([pattern]).images} == expected


def test_a_file_is_listed_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    places = ["a.jpg", str(photos), "./a.jpg", "*.jpg", "sub/../a.jpg"]
    assert len(find_images(places).images) == 5


def test_links_are_followed_and_end(photos: Path) -> None:
    (photos / "elsewhere").mkdir()
    os.symlink(photos, photos / "elsewhere/back")
    os.symlink(photos / "elsewhere", photos / "again")
    os.symlink(photos / "a.jpg", photos / "sub/link.jpg")
    assert set(listed(photos, photos)) > {"a.jpg", "sub/link.jpg"}


def test_a_missing_file_is_left_to_the_reader(photos: Path) -> None:
    assert listed(photos, photos / "gone.jpg") == {"gone.jpg": "."}


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("https://example.org/bus.jpg", ("https://example.org/bus.jpg", "download")),
        ("HTTP://example.org/a?b=c*", ("download",)),
        ("s3://bucket/a.jpg", ("download",)),
        ("rtsp://camera/1", ("download",)),
        ("https:/example.org/a.jpg", ("download",)),
        ("0", ("camera",)),
        ("clip.mp4", ("clip.mp4", "ffmpeg")),
        ("nothing/*.jpg", ("nothing/*.jpg", "pattern")),
    ],
)
def test_what_is_not_a_file_is_explained(
    photos: Path,
    place: str,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    refuses: Callable[..., object],
) -> None:
    monkeypatch.chdir(photos)
    with refuses(*words):
        find_images(["a.jpg", place])


def test_a_number_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").touch()
    assert [str(image.file) for image in find_images(["0"]).images] == ["0"]
