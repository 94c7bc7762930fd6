"""What an image file says of itself, without decoding it: its size, its orientation, and whether it is whole.

Pillow reads the heads of all kinds of files, so that every reader agrees on what an image is and how it stands.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import BinaryIO, NamedTuple

from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from resdet.errors import UserError, reason
from resdet.mistaken import mistaken_for

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "PPM", "AVIF")
"""Kinds of files that are read, by Pillow's names."""
MAX_PIXELS = 500_000_000
"""The largest image that any reader takes, 1.5 GB as RGB: aerial photographs pass, decompression bombs do not."""
JPEG_SEGMENT = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # a marker, but no restart and no stuffed byte of a scan
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
JPEG_FRAMES = [bytes([0xFF, code]) for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC)]
FILLER = bytes(5 * i % 251 + 1 for i in range(1, 4096))  # which no decoder takes for a marker
_LIMIT = threading.Lock()
TAIL = 1 << 16  # bytes in which a JPEG's end is sought first


class ImageError(UserError):
    """An image that cannot be used, and why."""


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


def open_image(file: BinaryIO, name: object) -> ImageFile:
    """Pillow's image of a file, not decoded yet; `name` is what errors call it.

    As `Image.open`, but with our own limit of pixels: Pillow's is a global that belongs to the host program.
    Raises ImageError.
    """
    Image.init()
    file.seek(0)
    head, damaged = file.read(64), ""
    for kind in FORMATS:
        factory, accepts = Image.OPEN.get(kind, (None, None))
        if factory is None or (accepts is not None and accepts(head[:16]) is not True):
            continue
        try:
            image = _opened(factory, file)
        except (SyntaxError, IndexError, TypeError, struct.error):  # as Pillow itself: another kind, or damaged
            damaged = f"is damaged or an unusual kind of {kind}: copy it again, or convert it to 8-bit RGB"
            continue
        except Exception as error:  # Pillow raises many kinds on damaged bytes
            raise ImageError(f"{name} cannot be read: {reason(error)}.") from error
        width, height = image.size
        if width * height > MAX_PIXELS:
            most = MAX_PIXELS // 1_000_000
            raise ImageError(f"{name} has {width}×{height} pixels, more than {most} million: cut it into tiles.")
        return image
    what = (
        damaged or mistaken_for(head) or "is not an image that can be read: replace it or remove it from the list"
    )
    raise ImageError(f"{name} {what}.")


def _opened(factory: Callable[..., ImageFile], file: BinaryIO) -> ImageFile:
    file.seek(0)
    try:
        return factory(file, "")
    except Image.DecompressionBombError:  # WebP's reader looks at the limit by itself
        file.seek(0)
        with lifted_limit():
            return factory(file, "")


@contextmanager
def lifted_limit() -> Iterator[None]:
    """Without Pillow's limit of pixels, where one of its readers insists on it; else it is the host program's."""
    with _LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def exceeds_limit(image: ImageFile) -> bool:
    """Whether Pillow would warn of an image's size, or refuse it."""
    width, height = image.size
    return width * height > (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)


def header_of(image: ImageFile, file: BinaryIO) -> ImageHeader:
    """Size and orientation of an image that was opened from `file` and not decoded yet."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # whose size Pillow has turned already
        tags = image.tag_v2
        return ImageHeader(int(tags[257]), int(tags[256]), _valid(tags.get(ExifTags.Base.Orientation, 1)))
    exif = image.info.get("exif")
    if image.format == "PNG" and exif is None:  # it may stand behind the pixels, where Pillow has not been yet
        file.seek(0)
        exif = next((content for kind, content in _png_chunks(file) if kind == b"eXIf"), None)
    return ImageHeader(height, width, exif_orientation(exif))


def exif_orientation(exif: bytes | None) -> int:
    """What a block of EXIF data states, 1 to 8; 1 where there is none, or none that can be read."""
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif)
        return _valid(tags.get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises many kinds on damaged bytes
        return 1


def _valid(orientation: object) -> int:
    return int(orientation) if orientation in range(1, 9) else 1  # type: ignore[call-overload]


def refuse_truncated(file: BinaryIO, kind: str | None, name: object) -> None:
    """Raise ImageError for a file that was cut off, as far as that can be seen without decoding its pixels."""
    if kind == "PNG":
        file.seek(0)
        if not any(chunk == b"IEND" for chunk, _ in _png_chunks(file, check=True)):
            raise ImageError(f"{name} is truncated or damaged: copy the file again.")
    if kind in ("JPEG", "MPO"):
        file.seek(max(0, file.seek(0, 2) - TAIL))
        tail = file.read()
        if tail.rfind(JPEG_END) <= tail.rfind(JPEG_SCAN):
            file.seek(0)
            whole_jpeg(file.read(), name)


# PNG


def _png_chunks(file: BinaryIO, check: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk; content is only read for EXIF data, or to `check` it.

    The chunks end where one is cut off, or is found to be altered.
    """
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if check or kind == b"eXIf":
            content = file.read(length)
            if file.read(4) != zlib.crc32(kind + content).to_bytes(4, "big") and kind[:1].isupper():
                return
        else:
            file.seek(length + 4, 1)
            content = b""
        yield kind, content


# JPEG


def whole_jpeg(data: bytes, name: object) -> bytes:
    """`data` with its end marker, which may be missing. Raises ImageError for a JPEG that was cut off before.

    OpenCV would fill the rest with grey and say nothing.
    """
    segments = list(_jpeg_segments(data))
    if segments and segments[-1][0] == JPEG_END:
        return data
    if not _has_all_scans(segments) or not _last_scan_is_whole(data, name):
        raise ImageError(f"{name} is truncated: copy the file again.")
    return data + JPEG_END


def _jpeg_segments(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Marker and content of each segment.

    Segments are skipped by their length, so that the end of a thumbnail in them does not count, and what follows
    the end is not looked at: phones put videos there.
    """
    position = 2
    while found := JPEG_SEGMENT.search(data, position):
        marker, start = found.group(), found.end()
        position = start + int.from_bytes(data[start : start + 2], "big")
        yield marker, data[start + 2 : position]
        if marker == JPEG_END:
            return


def _has_all_scans(segments: list[tuple[bytes, bytes]]) -> bool:
    """Whether every coefficient of every component is there with its last bit (ITU-T T.81, B.2.3 and G.1)."""
    missing: set[tuple[int, int]] | None = None
    for marker, content in segments:
        if marker in JPEG_FRAMES:
            missing = set(product(content[6::3], range(64)))
        elif marker == JPEG_SCAN and missing and len(content) > 3:
            first, last, precision = content[-3:]
            if precision & 15 == 0:
                missing -= set(product(content[1:-3:2], range(first, last + 1)))
    return missing == set()


def _last_scan_is_whole(data: bytes, name: object) -> bool:
    """Whether the pixels stay the same whatever follows `data`, as they do only if no bit is missing."""
    data = data.rstrip(b"\0")  # the rest of a disk's block
    data += b"\0" * data.endswith(b"\xff")  # how the scan's own 0xFF is written
    try:
        image, other = (open_image(io.BytesIO(data + end), name).tobytes() for end in (JPEG_END, FILLER + JPEG_END))
    except (OSError, SyntaxError):
        return False
    return image == other
