"""The one reader of images: upright, RGB, 8 bits a channel, whatever a file holds.

OpenCV decodes the common kinds, Pillow the others and what has other colours; both give the same pixels.
"""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
from PIL.ImageFile import ImageFile

from resdet.data.image_file import (
    JPEG_START,
    ImageError,
    ImageHeader,
    exceeds_limit,
    header_of,
    lifted_limit,
    open_image,
    refuse_truncated,
    whole_jpeg,
)
from resdet.data.pixels import pillow_pixels, turned
from resdet.errors import reason

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".mpo"),
)
"""What the names of image files end in, in any mixture of upper and lower case."""
BY_OPENCV = ("JPEG", "MPO", "PNG", "WEBP", "BMP")  # Pillow's names; it needs up to twice as long for these


def is_image_name(path: Path) -> bool:
    """Whether a file is an image, by its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file, upright; of several frames or pages, the first.

    Raises ImageError for a file that is missing, not an image, truncated, or larger than `MAX_PIXELS`.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ImageError(f"{path} cannot be read: {reason(error)}.") from error
    return decode_image(data, path)


def decode_image(data: bytes, name: object) -> np.ndarray:
    """`read_image` for a file's content; errors call it `name`."""
    try:
        if data.startswith(JPEG_START):
            data = whole_jpeg(data, name)
        file = io.BytesIO(data)
        image = open_image(file, name)
        if not _is_common(image):
            refuse_truncated(file, image.format, name)  # Pillow does not miss the end of a PNG
            with lifted_limit() if exceeds_limit(image) else nullcontext():  # TIFF's reader looks at it again
                return pillow_pixels(image, name)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            raise ImageError(f"{name} is damaged: copy the file again.")
        return turned(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), header_of(image, file).orientation)
    except (MemoryError, cv2.error) as error:
        raise ImageError(f"{name} cannot be decoded ({reason(error)}): cut it into tiles.") from error


def _is_common(image: ImageFile) -> bool:
    """Whether OpenCV decodes this kind of image, in all its versions, to the pixels that Pillow gives."""
    still = image.format != "WEBP" or not getattr(image, "is_animated", False)
    return image.format in BY_OPENCV and image.mode in ("L", "RGB", "RGBA") and still


def probe_image(path: str | Path) -> tuple[int, int]:
    """Height and width of the upright image, as `probe_header` finds them. Raises ImageError."""
    return probe_header(path).upright


def probe_header(path: str | Path) -> ImageHeader:
    """Size and orientation of an image, from the file's head; of JPEG and PNG, the end is looked for too.

    Raises ImageError as `read_image` does, as far as that can be seen without decoding.
    """
    try:
        with open(path, "rb") as file:
            image = open_image(file, path)
            header = header_of(image, file)
            refuse_truncated(file, image.format, path)
            return header
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {reason(error)}.") from error
