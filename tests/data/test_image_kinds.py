"""Every kind of image file, in every orientation, whole or cut off: what is probed, and what is read."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from resdet.data import image_file
from resdet.data.image_file import MAX_PIXELS, ImageHeader
from resdet.data.images import IMAGE_SUFFIXES, decode_image, is_image_name, probe_header, probe_image, read_image

HEIGHT, WIDTH = 48, 64
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([4 * X, 5 * Y, 2 * (X + Y)], axis=-1).astype(np.uint8)
GREY16 = (1000 * X + 13 * Y).astype(np.uint16)
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}
ORIENTED = {"jpg": "exif", "png": "exif", "webp": "exif", "avif": "exif", "tif": "tiff"}
MODES = {
    "jpg": ("RGB", "L", "CMYK"),
    "png": ("RGB", "RGBA", "L", "LA", "P", "P transparent", "1", "I;16"),
    "webp": ("RGB", "RGBA", "L"),
    "bmp": ("RGB", "RGBA", "L", "P", "1"),
    "tif": ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F"),
    "gif": ("P", "L"),
    "jp2": ("RGB", "RGBA", "L", "I;16"),
    "avif": ("RGB", "RGBA"),
    "ppm": ("RGB", "L", "1", "I;16"),
}
KINDS = [
    pytest.param(ending, mode, marks=pytest.mark.skipif(ending == "avif" and not features.check("avif"), reason=""))
    for ending, modes in MODES.items()
    for mode in modes
]


def picture(mode: str) -> Image.Image:
    """A smooth picture with no symmetry."""
    image = Image.fromarray(RGB)
    if mode in ("RGBA", "LA"):
        image = image.convert(mode[:-1])
        image.putalpha(Image.fromarray((3 * Y).astype(np.uint8)))
        return image
    if mode == "I;16":
        return Image.fromarray(GREY16)
    if mode == "F":
        return Image.fromarray((X / (WIDTH - 1)).astype(np.float32))
    return image.quantize(64) if mode.startswith("P") else image.convert(mode)


def expected(mode: str) -> np.ndarray:
    """(H, W, 3) uint8: by which rule each of them becomes RGB."""
    if mode == "I;16":
        return np.dstack([(GREY16 >> 8).astype(np.uint8)] * 3)
    if mode == "F":
        return np.dstack([np.round(255 * X / (WIDTH - 1)).astype(np.uint8)] * 3)
    return np.asarray(picture(mode).convert("RGB"))


def content(ending: str, mode: str, orientation: int = 1) -> bytes:
    """A file, as nearly lossless as its kind can be."""
    options: dict[str, object] = {
        "jpg": {"quality": 98},
        "webp": {"lossless": True, "exact": True},
        "avif": {"quality": 100},
    }.get(ending, {})
    if ORIENTED.get(ending) == "exif":
        exif = Image.Exif()
        exif[0x010F], exif[0x0112] = "maker", orientation
        options["exif"] = exif
    elif ORIENTED.get(ending) == "tiff":
        options["tiffinfo"] = {0x0112: orientation}
    if mode == "P transparent":
        options["transparency"] = bytes(range(0, 256, 4))
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(ending, ending.upper())
    picture(mode).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def close(image: np.ndarray, other: np.ndarray, tolerance: int) -> bool:
    return image.shape == other.shape and np.abs(image.astype(int) - other).max() <= tolerance


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ending, mode", KINDS)
def test_probing_and_reading_agree_in_every_orientation(tmp_path: Path, ending: str, mode: str) -> None:
    path = tmp_path / f"a.{ending}"
    upright = expected(mode)
    for orientation in TURNS if ending in ORIENTED else (1,):
        path.write_bytes(content(ending, mode, orientation))
        image = read_image(path)
        assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
        assert probe_header(path) == ImageHeader(HEIGHT, WIDTH, orientation)
        assert probe_image(path) == image.shape[:2]
        tolerance = {"jpg": 4, "avif": 12, "ppm": 1}.get(ending, 0)
        assert close(image, TURNS[orientation](upright), tolerance), orientation


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
@pytest.mark.parametrize("ending, mode", KINDS)
def test_what_is_cut_off_is_refused(
    tmp_path: Path, ending: str, mode: str, share: float, refuses: Callable[..., object]
) -> None:
    data = content(ending, mode)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(data[: int(share * len(data))])
    with refuses(path):
        read_image(path)
    if ending in ("jpg", "png"):
        with refuses(path):
            probe_image(path)


@pytest.mark.parametrize("ending", ["png", "tif", "jp2"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_lose_the_lower_eight(ending: str, channels: int) -> None:
    values = np.dstack([GREY16, 2 * GREY16, 3 * GREY16, 5 * GREY16])[:, :, :channels]  # BGRA, with overflows
    data = cv2.imencode(f".{ending}", values)[1].tobytes()
    rgb = values[:, :, [0, 0, 0] if channels == 1 else [2, 1, 0]]
    assert close(decode_image(data, "x"), (rgb >> 8).astype(np.uint8), 1 if ending == "jp2" else 0)


def test_exif_behind_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    data = content("png", "RGB", 6)
    start, end = data.index(b"eXIf") - 4, data.index(b"IDAT") - 4
    behind = data.index(b"IEND") - 4
    path = tmp_path / "a.png"
    path.write_bytes(data[:start] + data[end:behind] + data[start:end] + data[behind:])
    assert probe_header(path) == (HEIGHT, WIDTH, 6)
    assert (read_image(path) == TURNS[6](RGB)).all()


def test_floats_that_are_no_pixels_are_refused(tmp_path: Path, refuses: Callable[..., object]) -> None:
    path = tmp_path / "elevation.tif"
    Image.fromarray(np.linspace(-9999, 312, 99, dtype=np.float32).reshape(9, 11)).save(path)
    with refuses(path, "from -9999 to 312", "[0, 1]"):
        read_image(path)


def test_the_first_of_several_frames_or_pages_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    for ending in ("tif", "webp", "png"):
        path = tmp_path / f"a.{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
        assert (read_image(path) == RGB).all()


# Large images


@pytest.mark.filterwarnings("error")
def test_one_bound_for_all_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: Callable[..., object]
) -> None:
    """Pillow would warn of the second, and refuse the third, some kinds of files only while it decodes them."""
    for ending, scale in product(("png", "tif", "webp", "gif", "jp2"), (1, 10, 30)):
        path = tmp_path / f"{scale}.{ending}"
        Image.new("L", (100 * scale, 100)).save(path, compression="tiff_lzw")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)
        assert probe_image(path) == read_image(path).shape[:2] == (100, 100 * scale)
        assert Image.MAX_IMAGE_PIXELS == 60_000
        monkeypatch.setattr(image_file, "MAX_PIXELS", 9999)
        for reader in (probe_image, read_image):
            with refuses(path, f"{100 * scale}×100 pixels", "tiles"):
                reader(path)
        monkeypatch.undo()


def test_aerial_photographs_are_within_the_bound() -> None:
    assert 20_000 * 10_000 < MAX_PIXELS < Image.MAX_IMAGE_PIXELS * 6


# Names


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_names_of_images_are_known_in_any_case(suffix: str) -> None:
    for ending in (suffix, suffix.upper(), suffix.title(), suffix.swapcase()):
        assert is_image_name(Path(f"a.b{ending}"))
    assert not is_image_name(Path(suffix))


@pytest.mark.parametrize("name", ["a.txt", "a.mp4", "a.jpg.json", "jpg", "a.heic", "a.npy"])
def test_other_names_are_not_images(name: str) -> None:
    assert not is_image_name(Path(name))


def test_each_suffix_is_one_that_can_be_read(tmp_path: Path) -> None:
    """Whatever the name: the content decides."""
    for suffix in IMAGE_SUFFIXES:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content("png", "RGB"))
        assert (read_image(path) == RGB).all()


# Files that are something else


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "data, word",
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "ffmpeg"),
        (b"II*\0\x08\0\0\0", "TIFF"),
    ],
)
def test_what_a_file_is_instead_is_said(
    tmp_path: Path, data: bytes, word: str, refuses: Callable[..., object]
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    for reader in (probe_image, read_image):
        with refuses(path, word):
            reader(path)


def test_an_older_opencv_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """IMREAD_COLOR_RGB came with 4.11; nothing of the package may need it."""
    monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB", raising=False)
    assert close(decode_image(content("jpg", "RGB"), "x"), RGB, 4)
    package = Path(sys.modules["resdet"].__file__ or "").parent
    assert not [file for file in package.rglob("*.py") if "IMREAD_COLOR_RGB" in file.read_text(encoding="utf-8")]
