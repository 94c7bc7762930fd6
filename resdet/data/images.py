"""The one reader of images: OpenCV, with the EXIF rotation applied."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from resdet.errors import UserError, reason

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""What the names of image files end in, in lower or upper case."""
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
JPEG_SEGMENT = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # a marker, but no restart and no stuffed byte of a scan
EXIF_ORIENTATION = 0x0112
XMP = ("xmp", "XML:com.adobe.xmp")
TAIL = 1 << 16  # bytes in which a JPEG's end is sought when the whole file is not read


def is_image_name(path: Path) -> bool:
    """Whether a file is an image, by its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES


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
    return decode_image(data, path)


def decode_image(data: bytes, path: str | Path) -> np.ndarray:
    """`read_image` for a file's content; `path` is named in errors."""
    _refuse_truncated(path, data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error:  # more pixels than OpenCV allows
        image = None
    if image is None:
        raise ImageError(f"{path} is not an image that OpenCV can read: replace it or remove it from the list.")
    return image


class ImageHeader(NamedTuple):
    """What the head of an image file says."""

    height: int
    """of the rows as they are stored, in pixels"""
    width: int
    """of the columns as they are stored, in pixels"""
    orientation: int
    """EXIF's, 1 to 8: how the stored rows are to be turned; 1 where the file states none"""

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the image that `read_image` returns."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def probe_image(path: str | Path) -> tuple[int, int]:
    """Height and width of the upright image, as `probe_header` finds them. Raises ImageError."""
    return probe_header(path).upright


def probe_header(path: str | Path) -> ImageHeader:
    """Size and orientation of an image, from the file's head; of a JPEG, the end is looked at too.

    Raises ImageError as `read_image` does, as far as that can be seen without decoding.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            for key in XMP:  # OpenCV knows no orientation but EXIF's, Pillow would look here too
                image.info.pop(key, None)
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        with open(path, "rb") as file:
            head = file.read(2)
            file.seek(max(0, file.seek(0, 2) - TAIL))
            tail = file.read()
            if head == JPEG_START and tail.rfind(JPEG_END) <= tail.rfind(JPEG_SCAN):
                file.seek(0)
                _refuse_truncated(path, file.read())
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image: replace it or remove it from the list.") from error
    except Exception as error:  # Pillow raises many kinds on damaged bytes
        raise ImageError(f"{path} cannot be read: {reason(error)}.") from error
    return ImageHeader(height, width, orientation if orientation in range(1, 9) else 1)


def _refuse_truncated(path: str | Path, data: bytes) -> None:
    """A JPEG without its end marker was cut off: OpenCV would fill the rest with grey and say nothing.

    Segments are skipped by their length, so that the end of a thumbnail in them does not count, and what follows
    the end is not looked at: phones put videos there.
    """
    position = len(JPEG_START)
    while data.startswith(JPEG_START):
        marker = JPEG_SEGMENT.search(data, position)
        if marker is None:
            raise ImageError(f"{path} is truncated: copy the file again.")
        if marker.group() == JPEG_END:
            return
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
