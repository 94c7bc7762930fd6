"""Downloads from a server that breaks off, stalls, refuses, or sends another file."""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from web import Site, serve

from resdet.models.weights import download as module
from resdet.models.weights.download import check_digits, download

CONTENT = random.Random(1).randbytes(1_000_000)
NAME = f"detector-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
Refuses = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    with serve(Site({f"/a/{NAME}": CONTENT})) as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / NAME


def fetch(site: Site, path: Path) -> None:
    download(f"{site.address}/a/{NAME}", path, "sha256")


def is_whole(path: Path) -> bool:
    """The file is right, and nothing else is beside it."""
    return path.read_bytes() == CONTENT and os.listdir(path.parent) == [NAME]


def test_a_file_arrives_and_is_announced_with_its_size(
    site: Site, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fetch(site, path)
    assert is_whole(path) and site.asked == [(f"/a/{NAME}", "", "")]
    assert caplog.messages == [f"Downloading {site.address}/a/{NAME} (1 MB)"]


@pytest.mark.parametrize("fault", ["break", "stall"])
@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', ""])
def test_a_broken_download_continues_where_it_stopped(site: Site, path: Path, fault: str, tag: str) -> None:
    site.faults, site.tag = [fault, fault], tag
    fetch(site, path)
    assert is_whole(path)
    if_range = '"1"' if tag == '"1"' else ""
    assert [request[1:] for request in site.asked] == [
        ("", ""),
        ("bytes=500000-", if_range),
        ("bytes=750000-", if_range),
    ]


@pytest.mark.parametrize("ranges, tag", [(False, '"1"'), (True, '"2"')])
def test_a_download_starts_over_if_the_server_sends_all_of_it(
    site: Site, path: Path, ranges: bool, tag: str, refuses: Refuses
) -> None:
    """Since it sends no parts, or since it has another file now than when the download began."""
    site.faults, site.ranges = ["break", "404"], ranges
    with refuses("HTTP 404"):
        fetch(site, path)
    assert path.with_name(f"{NAME}.part").read_bytes() == CONTENT[:500_000]
    site.tag = tag
    fetch(site, path)
    assert is_whole(path) and site.asked[-1][1:] == ("bytes=500000-", '"1"')


@pytest.mark.parametrize("part, fault", [(CONTENT[:400_000], "shift"), (CONTENT + b"more", "")])
def test_a_download_starts_over_if_there_is_no_such_part(site: Site, path: Path, part: bytes, fault: str) -> None:
    path.parent.mkdir()
    path.with_name(f"{NAME}.part").write_bytes(part)
    site.faults = [fault]
    fetch(site, path)
    assert is_whole(path) and [request[1] for request in site.asked] == [f"bytes={len(part)}-", ""]


def test_a_server_that_fails_is_asked_again(site: Site, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site.faults = ["500", "503", "429"]
    fetch(site, path)
    assert is_whole(path) and len(site.asked) == 4
    assert caplog.messages[0] == "The download failed (HTTP 500 Internal Server Error): trying again."


@pytest.mark.parametrize(
    "faults, requests, words",
    [
        (["404"], 1, "HTTP 404 Not Found"),
        (["403"], 1, "HTTP 403"),
        (["500"] * 9, 5, "HTTP 500"),
        (["break"] * 9, 5, "it ended after 968,750 of 1,000,000 bytes"),
    ],
)
def test_what_cannot_be_had_is_named_with_the_place_for_a_file(
    site: Site, path: Path, faults: list[str], requests: int, words: str, refuses: Refuses
) -> None:
    site.faults = faults
    with refuses(f"Cannot download {site.address}/a/{NAME}", words, "put it", path):
        fetch(site, path)
    assert len(site.asked) == requests and not path.exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://", "http://127.0.0.1:port", "http://a b"])
def test_without_a_server(site: Site, path: Path, address: str, refuses: Refuses) -> None:
    with refuses(f"Cannot download {address}/a", "check the connection", path):
        download(f"{address}/a", path, "sha256")


def test_another_file_is_removed(site: Site, path: Path, refuses: Refuses) -> None:
    """A part of another file, for instance, where the server does not say which file it has."""
    path.parent.mkdir()
    path.with_name(f"{NAME}.part").write_bytes(b"another")
    with refuses(f"What {site.address}/a/{NAME} sent", "SHA256", NAME[-12:-4], "removed"):
        fetch(site, path)
    assert not list(path.parent.glob("*.part")) and not path.exists()
    fetch(site, path)
    assert is_whole(path)


def test_an_encrypted_address_must_not_lead_to_an_open_one(
    site: Site, path: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.faults = [f"to {site.address}/a/{NAME}"]
    fetch(site, path)  # as an address that was open before may
    path.unlink()
    urlopen = module.urllib.request.urlopen
    monkeypatch.setattr(
        module.urllib.request, "urlopen", lambda request, timeout: urlopen(f"{site.address}/a/{NAME}")
    )
    with refuses("not encrypted"):
        download(f"https://127.0.0.1/a/{NAME}", path, "sha256")
    assert not path.exists()


def test_a_folder_that_cannot_be_made(site: Site, tmp_path: Path, refuses: Refuses) -> None:
    (tmp_path / "file").write_text("")
    with refuses("Cannot write", tmp_path / "file", "set RESDET_HOME"):
        fetch(site, tmp_path / "file" / NAME)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full disk")
def test_a_full_disk_is_not_asked_again(site: Site, path: Path, refuses: Refuses) -> None:
    path.parent.mkdir()
    path.with_name(f"{NAME}.part").symlink_to("/dev/full")
    with refuses("No space left", "free some space", "set RESDET_HOME"):
        fetch(site, path)
    assert len(site.asked) == 1


@pytest.mark.parametrize("digest, name", [("md5", "model_final_{}.pkl"), ("sha256", "resnet50_v2_coco-{}.pth")])
def test_digits_are_those_at_the_end_of_the_name(
    tmp_path: Path, digest: module.Digest, name: str, refuses: Refuses
) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    digits = hashlib.new(digest, CONTENT).hexdigest()
    check_digits(path, name.format(digits[:6]), digest, "It")
    with refuses("It is damaged", digits[:6], "abcdef", "removed"):
        check_digits(path, name.format("abcdef"), digest, "It")
    assert not path.exists()
