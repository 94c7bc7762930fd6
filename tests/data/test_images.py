"""The reader of images against Pillow: colours, rotation, and files that must be refused in one sentence."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from resdet.data.image_file import JPEG_SCAN, TAIL
from resdet.data.images import ImageError, probe_header, probe_image, read_image

HEIGHT, WIDTH = 48, 64


def gradient() -> Image.Image:
    """A smooth picture with no symmetry, which JPEG hardly changes."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return Image.fromarray(np.stack([4 * x, 5 * y, 2 * (x + y)], axis=-1).astype(np.uint8))


def noise() -> Image.Image:
    """A picture whose JPEG is larger than the tail that `probe_image` looks at."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def jpeg(image: Image.Image, **options: object) -> bytes:
    """An encoded image."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def with_segment(data: bytes, payload: bytes) -> bytes:
    """A JPEG with an APP1 segment more, right at its start."""
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def save(path: Path, data: bytes) -> Path:
    """Write, return the path."""
    path.write_bytes(data)
    return path


def assert_reads_like_pillow(path: Path, tolerance: int) -> None:
    """Both readers agree with each other on the size, and with Pillow on the colours."""
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"), dtype=int)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.shape == expected.shape and image.flags.c_contiguous
    assert probe_image(path) == image.shape[:2]
    assert np.abs(image - expected).max() <= tolerance


# Kinds of images


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_png_of_each_kind(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    gradient().convert(mode).save(path)
    assert_reads_like_pillow(path, 0)


def test_transparent_pixels_keep_their_colour(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = gradient()
    image.putalpha(0)
    image.save(path)
    assert (read_image(path) == np.asarray(gradient())).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.png"
    values = np.linspace(0, 65535, HEIGHT * WIDTH * channels).reshape(HEIGHT, WIDTH, channels).astype(np.uint16)
    cv2.imwrite(str(path), values)  # BGR
    image = read_image(path)
    assert image.dtype == np.uint8 and probe_image(path) == image.shape[:2]
    assert np.abs(image.astype(float) - values[:, :, ::-1] / 257).max() <= 1


@pytest.mark.parametrize("mode, tolerance", [("RGB", 4), ("L", 1), ("CMYK", 4)])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_each_kind(tmp_path: Path, mode: str, tolerance: int, progressive: bool) -> None:
    path = save(tmp_path / "a.jpg", jpeg(gradient().convert(mode), progressive=progressive))
    assert Image.open(path).mode == mode
    assert_reads_like_pillow(path, tolerance)


@pytest.mark.parametrize("name", ["ünï cödé 猫.jpg", "two words.jpg", "a'b\"c.jpg"])
def test_any_name(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, jpeg(gradient()))
    assert_reads_like_pillow(path, 4)
    assert read_image(str(path)).shape == (HEIGHT, WIDTH, 3)


# Rotation


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_exif_orientation_is_applied_once(tmp_path: Path, orientation: int, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient().save(path, exif=exif, quality=95)
    assert_reads_like_pillow(path, 4)
    assert probe_image(path) == ((WIDTH, HEIGHT) if orientation in (5, 6, 7, 8) else (HEIGHT, WIDTH))
    assert probe_header(path) == (HEIGHT, WIDTH, orientation if 1 <= orientation <= 8 else 1)


def test_an_orientation_that_only_xmp_states_is_seen_by_neither_reader(tmp_path: Path) -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    path = save(tmp_path / "a.jpg", with_segment(jpeg(gradient()), xmp))
    assert ImageOps.exif_transpose(Image.open(path)).size == (HEIGHT, WIDTH), "Pillow would turn it"
    assert probe_image(path) == read_image(path).shape[:2] == (HEIGHT, WIDTH)


@pytest.mark.filterwarnings("ignore:.*EXIF.*")
@pytest.mark.parametrize(
    "exif", [b"", b"garbage....", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\x05\x01\x12"]
)
def test_damaged_exif_is_as_good_as_none(tmp_path: Path, exif: bytes) -> None:
    path = save(tmp_path / "a.jpg", with_segment(jpeg(gradient()), b"Exif\0\0" + exif))
    assert probe_image(path) == read_image(path).shape[:2] == (HEIGHT, WIDTH)


# Ends of files


@pytest.mark.parametrize(
    "garbage",
    [b"\0", b"garbage" * 99, bytes(2 * TAIL), b"\xff\xda" + b"x" * 99, b"\xff\xda" + b"x" * 2 * TAIL, b"\xff\xd8"],
    ids=["a byte", "text", "many zeros", "a scan", "a long scan", "a start"],
)
def test_what_follows_the_end_of_a_jpeg_does_not_matter(tmp_path: Path, garbage: bytes) -> None:
    path = save(tmp_path / "a.jpg", jpeg(gradient()) + garbage)
    assert_reads_like_pillow(path, 4)


def with_thumbnail() -> bytes:
    """A JPEG with a whole JPEG in its EXIF segment, start and end markers and all."""
    tiff = b"II*\0\x08\0\0\0" + b"\0\0" + b"\0\0\0\0"
    return with_segment(jpeg(noise()), b"Exif\0\0" + tiff + jpeg(gradient()))


JPEGS = {
    "small": lambda: jpeg(gradient()),
    "baseline": lambda: jpeg(noise()),
    "progressive": lambda: jpeg(noise(), progressive=True),
    "small progressive": lambda: jpeg(gradient(), progressive=True),
    "restarts": lambda: jpeg(noise(), restart_marker_rows=2),
    "thumbnail": with_thumbnail,
}


@pytest.mark.parametrize("make", JPEGS.values(), ids=JPEGS)
def test_a_whole_jpeg_is_accepted(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = save(tmp_path / "a.jpg", make())
    assert probe_image(path) == read_image(path).shape[:2]


@pytest.mark.parametrize("make", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("block", [1, 512])
def test_a_truncated_jpeg_is_refused(
    tmp_path: Path, make: Callable[[], bytes], share: float, block: int, refuses: Callable[..., object]
) -> None:
    """Also where a disk's block was filled up with zeros."""
    data = make()
    data = data[: int(len(data) * share)]
    path = save(tmp_path / "a.jpg", data + bytes(-len(data) % block))
    for reader in (probe_image, read_image):
        with refuses(path):
            reader(path)


@pytest.mark.parametrize("make", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize(
    "end", [b"", b"\xff", bytes(500), b"\xff" + bytes(500)], ids=["none", "half", "0", "half 0"]
)
def test_only_the_end_marker_may_be_missing(tmp_path: Path, make: Callable[[], bytes], end: bytes) -> None:
    data = make()
    whole, path = save(tmp_path / "whole.jpg", data), save(tmp_path / "a.jpg", data[:-2] + end)
    assert (read_image(path) == read_image(whole)).all()
    assert probe_image(path) == probe_image(whole)


def test_a_scan_less_is_a_truncated_jpeg(tmp_path: Path, refuses: Callable[..., object]) -> None:
    data = jpeg(noise(), progressive=True)
    path = save(tmp_path / "a.jpg", data[: data.rindex(JPEG_SCAN)])
    for reader in (probe_image, read_image):
        with refuses(path, "truncated"):
            reader(path)


def test_the_remedy_for_a_truncated_jpeg(tmp_path: Path, refuses: Callable[..., object]) -> None:
    path = save(tmp_path / "a.jpg", jpeg(noise())[:-20])
    for reader in (probe_image, read_image):
        with refuses(path, "truncated", "copy the file again"):
            reader(path)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_truncated_or_altered_png_is_refused(
    tmp_path: Path, share: float, refuses: Callable[..., object]
) -> None:
    buffer = io.BytesIO()
    noise().save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    cut = int(share * len(data))
    cut_off = save(tmp_path / "cut.png", bytes(data[:cut]))
    data[cut] ^= 255
    altered = save(tmp_path / "altered.png", bytes(data))
    for path in (cut_off, altered):
        for reader in (probe_image, read_image):
            with refuses(path):
                reader(path)


# No images at all


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A PNG of a few bytes that claims ten thousand million pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(999))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def bad_profile() -> bytes:
    """A PNG whose EXIF, written as hexadecimal text, is no such thing."""
    buffer = io.BytesIO()
    gradient().save(buffer, "PNG")
    text = _chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  8\nxyz!\n")
    return buffer.getvalue()[:33] + text + buffer.getvalue()[33:]


NO_IMAGES = {
    "empty": b"",
    "text": b"<html>404 not found</html>",
    "two bytes": b"\xff\xd8",
    "bomb": bomb(),
    "zeros": bytes(999),
}


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES)
@pytest.mark.parametrize("reader", [probe_image, read_image])
def test_what_is_no_image_is_refused(
    tmp_path: Path, data: bytes, reader: Callable[[Path], object], refuses: Callable[..., object]
) -> None:
    path = save(tmp_path / "a.jpg", data)
    with refuses(path):
        reader(path)


@pytest.mark.parametrize("reader", [probe_image, read_image])
def test_missing_files_and_folders_are_refused(
    tmp_path: Path, reader: Callable[[Path], object], refuses: Callable[..., object]
) -> None:
    with refuses(tmp_path / "a.jpg", "No such file"):
        reader(tmp_path / "a.jpg")
    with refuses(tmp_path, "directory"):
        reader(tmp_path)


def test_damaged_exif_of_a_png_is_as_good_as_none(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", bad_profile())
    assert probe_header(path) == (HEIGHT, WIDTH, 1) and read_image(path).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_damage_never_ends_in_another_error(tmp_path: Path) -> None:
    """Bytes of the headers changed at random: each reader returns, or raises ImageError."""
    generator = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    original = np.frombuffer(jpeg(gradient(), exif=exif), np.uint8)
    for _ in range(100):
        data = original.copy()
        data[generator.integers(2, 300, 3)] = generator.integers(0, 256, 3)
        path = save(tmp_path / "a.jpg", data.tobytes())
        for reader in (probe_image, read_image):
            try:
                reader(path)
            except ImageError as error:
                assert str(path) in str(error)
