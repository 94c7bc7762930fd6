"""What a detector takes as images: files by name, by content or open, images of Pillow's, arrays and tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from resdet.data.image_file import ImageError
from resdet.data.images import decode_image, read_image
from resdet.data.pixels import array_pixels, pillow_pixels, tensor_pixels
from resdet.errors import reason

Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray | Tensor
"""One image: a file, its content, or its pixels in RGB order (`resdet.data.pixels` has the rules)."""
URL = re.compile(r"(https?|ftp|s3|gs|rtsp|data):", re.IGNORECASE)


def is_picture(images: object) -> bool:
    """Whether this is one image; otherwise it is several."""
    if isinstance(images, np.ndarray | Tensor):
        several = images.ndim == 4 or (isinstance(images, np.ndarray) and images.dtype.kind in "OU")
        return not several
    return isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image) or _is_file(images)


def each_picture(images: object) -> Iterator[tuple[str, Any]]:
    """The images of a list, an iterator, or a 4-d array or tensor, each with the name that errors call it.

    Raises ImageError for what is not images.
    """
    if not isinstance(images, Iterable) or isinstance(images, Mapping):
        raise ImageError(f"The image {_what(images)}.")
    for number, image in enumerate(images):
        yield f"Image {number}", image


def to_pixels(image: object, name: str = "The image") -> np.ndarray:
    """(H, W, 3) uint8 RGB of one image, upright. Raises ImageError, which says what to do.

    Args:
        image: a `Picture`
        name: what errors call an image that is not a file of its own
    """
    if isinstance(image, str | os.PathLike):
        return _read(os.fspath(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), name)
    if isinstance(image, Image.Image):
        return pillow_pixels(image, name)
    if isinstance(image, Tensor):
        return tensor_pixels(image, name)
    if isinstance(image, np.ndarray):
        return array_pixels(image, name)
    if _is_file(image):
        return decode_image(_content(image, name), name)
    raise ImageError(f"{name} {_what(image)}.")


def _read(path: str | bytes) -> np.ndarray:
    """`read_image`, which explains what is not the name of a file."""
    name = os.fsdecode(path)
    if URL.match(name):
        raise ImageError(f"{name[:80]} is not a file: download it, and pass the file or its bytes.")
    if Path(name).is_dir():
        raise ImageError(f"{name} is a folder: pass its files, for instance sorted(Path({name!r}).glob('*.jpg')).")
    if re.search(r"[*?\[]", name) and not Path(name).exists():
        raise ImageError(f"{name} is a pattern of files: pass glob.glob({name!r}) instead.")
    return read_image(name)


def _is_file(image: object) -> bool:
    return hasattr(image, "read")


def _content(file: Any, name: str) -> bytes:
    """All of an open file, wherever it stands, as Pillow reads it too."""
    name = file.name if isinstance(getattr(file, "name", None), str) else name
    try:
        if getattr(file, "seekable", bool)():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"{name} cannot be read: {reason(error)}.") from error
    if not isinstance(content, bytes):
        raise ImageError(f"{name} reads as {type(content).__name__}, not as bytes: open it with mode 'rb'.")
    return content


def _what(image: object) -> str:
    """What this is instead of an image, and what to do: the rest of a sentence."""
    if image is None:
        return "is None, which cv2.imread returns for a file that is missing or not an image: check its path"
    if isinstance(image, Mapping):
        return "is a dictionary: pass the image that it holds"
    if isinstance(image, Iterable) and not hasattr(image, "shape"):
        return f"is a {type(image).__name__}: pass its pixels as an array, or several images as one flat list"
    return f"is a {type(image).__name__}: pass a file, its bytes, an image of Pillow's, an array or a tensor"
