"""The one reader of images: OpenCV, with the EXIF rotation applied."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from resdet.errors import UserError

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
EXIF_ORIENTATION = 0x0112
TAIL = 1 << 16  # bytes in which a JPEG's end is sought when the whole file is not read


class ImageError(UserError):
    """An image that cannot be used, and why."""


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright; grey, CMYK, 16-bit and transparent images are converted.

    Raises ImageError for a file that is missing, no image, or truncated.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from error
    _refuse_truncated(path, data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ImageError(f"{path} is not an image that OpenCV can read: replace it or remove it from the list.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def probe_image(path: str | Path) -> tuple[int, int]:
    """Height and width of the upright image, from the file's head; its end is looked at, its pixels are not.

    Raises ImageError as `read_image` does, as far as that can be seen without decoding.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            rotated = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        with open(path, "rb") as file:
            head = file.read(2)
            file.seek(max(0, file.seek(0, 2) - TAIL))
            _refuse_truncated(path, head + file.read())
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image: replace it or remove it from the list.") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}.") from error
    return (width, height) if rotated else (height, width)


def _refuse_truncated(path: str | Path, data: bytes) -> None:
    """A JPEG whose last scan has no end was cut off: OpenCV would fill the rest with grey and say nothing."""
    if data.startswith(JPEG_START) and data.rfind(JPEG_END) <= data.rfind(JPEG_SCAN):
        raise ImageError(f"{path} is truncated: copy the file again.")
