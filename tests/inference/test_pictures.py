"""Everything that a detector takes as an image: the same pixels by every way, or a sentence on what to do."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resdet.data.images import read_image
from resdet.inference.pictures import each_picture, is_picture, to_pixels

Y, X = np.mgrid[:30, :40]
RGB = np.stack([6 * X, 8 * Y, 3 * (X + Y)], axis=-1).astype(np.uint8)
GREY = np.dstack([RGB[..., 0]] * 3)
ALPHA = (7 * Y).astype(np.uint8)
TENSOR = torch.from_numpy(RGB)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


FILES: dict[str, Callable[[Path], object]] = {
    "photo.jpg": lambda path: Image.fromarray(RGB).save(path, quality=90, exif=exif(6)),
    "grey.jpg": lambda path: Image.fromarray(RGB).convert("L").save(path),
    "cmyk.jpg": lambda path: Image.fromarray(RGB).convert("CMYK").save(path),
    "progressive.JPEG": lambda path: Image.fromarray(RGB).save(path, progressive=True),
    "palette.png": lambda path: Image.fromarray(RGB).quantize(99).save(path, transparency=bytes(range(99))),
    "grey_alpha.png": lambda path: Image.merge("LA", [Image.fromarray(ALPHA)] * 2).save(path, exif=exif(5)),
    "bilevel.png": lambda path: Image.fromarray(RGB).convert("1").save(path),
    "sixteen.png": lambda path: Image.fromarray((1500 * X + Y).astype(np.uint16)).save(path),
    "sixteen.pgm": lambda path: Image.fromarray((1500 * X + Y).astype(np.uint16)).save(path),
    "scan.tif": lambda path: Image.fromarray(ALPHA).save(path, tiffinfo={274: 6}),
    "scan_rgb.tif": lambda path: Image.fromarray(RGB).save(path, tiffinfo={274: 7}, compression="tiff_lzw"),
    "float.tif": lambda path: Image.fromarray((X / 40).astype(np.float32)).save(path),
    "a.webp": lambda path: Image.fromarray(RGB).save(path, exif=exif(8)),
    "a.gif": lambda path: Image.fromarray(RGB).quantize(99).save(path),
}


@pytest.fixture(params=FILES)
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / request.param
    FILES[request.param](path)
    return path


@pytest.mark.filterwarnings("error::UserWarning")
def test_every_way_to_a_file_gives_the_same_pixels(path: Path) -> None:
    data, expected = path.read_bytes(), read_image(path)
    read_before = io.BytesIO()
    read_before.write(data)
    for image in (str(path), path, data, bytearray(data), memoryview(data), io.BytesIO(data), read_before):
        assert is_picture(image)
        assert np.array_equal(to_pixels(image), expected)
    with path.open("rb") as file, path.open("rb", buffering=0) as unbuffered:
        for image in (file, unbuffered):
            assert is_picture(image) and np.array_equal(to_pixels(image), expected)
    for source in (path, io.BytesIO(data)):
        with Image.open(source) as opened:
            assert is_picture(opened) and np.array_equal(to_pixels(opened), expected)
            assert np.array_equal(to_pixels(opened), expected), "once more, now that it is loaded"


def test_a_file_inside_an_archive(tmp_path: Path) -> None:
    FILES["photo.jpg"](tmp_path / "a.jpg")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.jpg", "a.jpg")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("a.jpg") as file:
        assert np.array_equal(to_pixels(file), read_image(tmp_path / "a.jpg"))


def test_pillow_s_images_are_left_as_they_are(tmp_path: Path) -> None:
    FILES["photo.jpg"](tmp_path / "a.jpg")
    image = Image.open(tmp_path / "a.jpg")
    assert to_pixels(image).shape == (40, 30, 3)
    assert image.size == (40, 30) and image.getexif()[0x0112] == 6


SAME: dict[str, tuple[Any, np.ndarray]] = {
    "rgb": (RGB, RGB),
    "a mirrored view": (RGB[:, ::-1], np.ascontiguousarray(RGB[:, ::-1])),
    "by columns": (np.asfortranarray(RGB), RGB),
    "rgba": (np.dstack([RGB, ALPHA]), RGB),
    "grey": (RGB[..., 0], GREY),
    "grey, one channel": (RGB[..., :1], GREY),
    "grey and alpha": (np.dstack([RGB[..., 0], ALPHA]), GREY),
    "float32": ((RGB / 255).astype(np.float32), RGB),
    "float64": (RGB / 255, RGB),
    "float16": ((RGB / 255).astype(np.float16), RGB),
    "float, a little beyond": (RGB / 255 * 1.0000001, RGB),
    "16 bits": (RGB.astype(np.uint16) * 257, RGB),
    "16 bits, other byte order": ((RGB.astype(np.uint16) * 257).astype(">u2"), RGB),
    "black, 16 bits": (np.zeros_like(RGB, dtype=np.uint16), np.zeros_like(RGB)),
    "int64": (RGB.astype(np.int64), RGB),
    "bool": (RGB > 99, (RGB > 99).astype(np.uint8) * 255),
    "tensor (H, W, 3)": (TENSOR, RGB),
    "tensor (3, H, W)": (TENSOR.permute(2, 0, 1), RGB),
    "tensor, float": (TENSOR.permute(2, 0, 1) / 255, RGB),
    "tensor, half": ((TENSOR.permute(2, 0, 1) / 255).half(), RGB),
    "tensor, with a gradient": ((TENSOR / 255).requires_grad_(), RGB),
    "tensor (1, H, W)": (TENSOR[..., :1].permute(2, 0, 1), GREY),
    "tensor (4, H, W)": (torch.from_numpy(np.dstack([RGB, ALPHA])).permute(2, 0, 1), RGB),
    "tensor (H, W)": (TENSOR[..., 0], GREY),
    "Pillow, float": (Image.fromarray((RGB[..., 0] / 255).astype(np.float32)), GREY),
    "Pillow, 32 bits": (Image.fromarray(RGB[..., 0]).convert("I"), GREY),
}


@pytest.mark.parametrize("image, expected", SAME.values(), ids=SAME)
def test_pixels_of_every_type_and_layout(image: Any, expected: np.ndarray) -> None:
    assert is_picture(image)
    found = to_pixels(image)
    assert found.dtype == np.uint8 and found.flags.c_contiguous and np.array_equal(found, expected)


def test_half_precision_keeps_eight_bits_nearly() -> None:
    found = to_pixels((TENSOR.permute(2, 0, 1) / 255).bfloat16())
    assert np.abs(found.astype(int) - RGB).max() <= 1


def test_three_channels_are_looked_for_first() -> None:
    """A tensor of one row, in either layout."""
    row = TENSOR[:1]
    assert np.array_equal(to_pixels(row), RGB[:1]) and np.array_equal(to_pixels(row.permute(2, 0, 1)), RGB[:1])


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "None": (None, ("cv2.imread", "check its path")),
    "number": (7, ("a file, its bytes",)),
    "class": (object(), ("a file, its bytes",)),
    "dictionary": ({"image": RGB}, ("dictionary",)),
    "list of lists": (RGB.tolist(), ("a list", "array", "flat list")),
    "(3, H, W)": (RGB.transpose(2, 0, 1), ("(3, 30, 40)", "transpose it to (H, W, 3)")),
    "five channels": (np.zeros((9, 9, 5), np.uint8), ("(9, 9, 5)", "pass (H, W, 3)")),
    "empty": (np.zeros((0, 9, 3), np.uint8), ("(0, 9, 3)",)),
    "one axis": (np.zeros(9, np.uint8), ("(9,)",)),
    "five axes": (np.zeros((2, 2, 2, 2, 3), np.uint8), ("(2, 2, 2, 2, 3)",)),
    "0 to 255 as floats": (RGB.astype(np.float32), ("from 0 to", "[0, 1]")),
    "normalised": ((RGB / 255 - 0.5) / 0.25, ("from -2", "[0, 1]")),
    "NaN": (np.full((9, 9, 3), np.nan), ("[0, 1]",)),
    "negative": (RGB.astype(int) - 99, ("from -99", "[0, 255]")),
    "8 bits as 16": (RGB.astype(np.uint16), ("of 65535", "uint8")),
    "complex": (RGB * 1j, ("complex128",)),
    "text": (np.full((9, 9, 3), "a"), ()),
    "tensor": (torch.zeros(7, 9, 9), ("(7, 9, 9)",)),
    "URL": ("https://example.org/a.jpg", ("https://example.org/a.jpg", "download it")),
    "URL as Path": (Path("https://example.org/a.jpg"), ("download it",)),
    "data URL": ("data:image/png;base64,iVBORw0KGgo", ("bytes",)),
    "pattern": ("photos/*.jpg", ("glob.glob('photos/*.jpg')",)),
    "missing": ("nowhere.jpg", ("nowhere.jpg", "No such file")),
    "no name": ("\0", ()),
    "no bytes": (b"", ("empty",)),
    "web page": (b"<!doctype html>", ("web page",)),
    "text file": (io.StringIO("photo"), ("'rb'",)),
}


@pytest.mark.parametrize("image, words", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("inside", [False, True])
def test_what_is_not_an_image_gets_a_sentence(
    image: Any, words: tuple[str, ...], inside: bool, refuses: Callable[..., Any]
) -> None:
    with refuses(*words):
        images = [RGB, image] if inside else image
        for name, one in each_picture(images) if inside or not is_picture(image) else [("The image", image)]:
            to_pixels(one, name)


def test_a_folder_is_explained(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    with refuses(tmp_path, "glob"):
        to_pixels(tmp_path)


def test_a_closed_file_is_explained(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    FILES["a.gif"](tmp_path / "a.gif")
    with (tmp_path / "a.gif").open("rb") as file:
        pass
    with refuses("a.gif", "closed file"):
        to_pixels(file)


def test_the_place_of_a_bad_image_is_named(refuses: Callable[..., Any]) -> None:
    with refuses("Image 2 is None"):
        for name, image in each_picture([RGB, RGB, None]):
            to_pixels(image, name)


def several() -> Iterator[np.ndarray]:
    yield from (RGB, GREY)


@pytest.mark.parametrize(
    "images",
    [
        [RGB, GREY],
        (RGB, GREY),
        several(),
        np.stack([RGB, GREY]),
        torch.from_numpy(np.stack([RGB, GREY])),
        torch.from_numpy(np.stack([RGB, GREY])).permute(0, 3, 1, 2) / 255,
        [TENSOR.permute(2, 0, 1), Image.fromarray(GREY)],
        np.fromiter([RGB, GREY], dtype=object),
    ],
)
def test_several_images_in_every_container(images: Any) -> None:
    assert not is_picture(images)
    found = [to_pixels(image, name) for name, image in each_picture(images)]
    assert len(found) == 2 and all(np.array_equal(a, b) for a, b in zip(found, (RGB, GREY), strict=True))


def test_names_in_an_array(path: Path) -> None:
    names = np.array([str(path)] * 2)
    assert not is_picture(names)
    assert [to_pixels(image).shape for _, image in each_picture(names)] == [read_image(path).shape] * 2
