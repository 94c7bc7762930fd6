"""Pixels of any type and layout → RGB, 8 bits a channel: one rule for arrays, tensors, and files through Pillow.

- uint8 is taken as it is, bool as black and white.
- 16 bits, as arrays or files hold them, lose the lower 8.
- Other integers must lie in [0, 255].
- Floats must lie in [0, 1], and become 255 times as much, rounded.
- Grey becomes three equal channels; transparency is left out.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from resdet.data.image_file import ImageError, exif_orientation
from resdet.errors import reason

FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
"""EXIF orientation → OpenCV's code of the flip; those from 5 on are transposed before."""
OVERSHOOT = 1e-3  # by which arithmetic may take a float out of [0, 1]
DIRECT_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "F")  # of Pillow's images, whose arrays are pixels as they are


def array_pixels(array: np.ndarray, name: object) -> np.ndarray:
    """(H, W), or (H, W, C) with up to 4 channels: grey or RGB, with or without transparency → (H, W, 3) uint8.

    Raises ImageError, which calls the image `name`, for other shapes, for values that cannot be pixels, and for
    16 bits of which only the lower 8 are used: these would become black.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= 4) or not array.size:
        remedy = (
            "transpose it to (H, W, 3)" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else "pass (H, W, 3)"
        )
        raise ImageError(f"{name} is an array of shape {tuple(array.shape)}, which is not an image: {remedy}.")
    if array.dtype == np.uint16 and 0 < array.max() <= 255:
        raise ImageError(f"{name} has pixels up to {array.max()} of 65535: pass 8-bit pixels as uint8.")
    return _rgb(_eight_bits(array, name))


def tensor_pixels(tensor: Tensor, name: object) -> np.ndarray:
    """`array_pixels` of a tensor on any device, which may be (C, H, W) too; three channels are looked for first."""
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    array = tensor.detach().cpu().numpy()
    if array.ndim == 3:
        first, last = array.shape[0], array.shape[2]
        if first == 3 or (last != 3 and first in (1, 4)):
            array = array.transpose(1, 2, 0)
    return array_pixels(array, name)


def pillow_pixels(image: Image.Image, name: object) -> np.ndarray:
    """(H, W, 3) uint8 of an image of Pillow's, turned as its EXIF data says. Raises ImageError."""
    try:
        _load(image)
        if image.mode.startswith("I"):
            array = np.array(image)
            of_file = image.format is not None  # whose pixels had 16 bits, also where Pillow holds them in 32
            array = array.astype(np.uint16) if of_file and (array == array.astype(np.uint16)).all() else array
        elif image.mode in DIRECT_MODES:
            array = np.array(image)
        else:  # palettes by way of RGBA, since Pillow warns of transparent colours otherwise
            array = np.array(image.convert("RGBA" if image.mode in ("P", "PA") else "RGB"))
    except Exception as error:  # a damaged file, one above Pillow's limit, a colour space without a conversion
        raise ImageError(f"{name} cannot be read: {reason(error)}.") from error
    return turned(_rgb(_eight_bits(array, name)), exif_orientation(image.info.get("exif")))


def _load(image: Image.Image) -> None:
    """`image.load()`, without the mapping of a file into memory: with it, Pillow garbles TIFFs that it turns."""
    if isinstance(image, TiffImageFile):
        name, image.filename = image.filename, ""
        image.load()
        image.filename = name
    else:
        image.load()


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, 3) as it is stored → upright, by EXIF's orientation from 1 to 8."""
    image = cv2.transpose(image) if orientation >= 5 else image
    return cv2.flip(image, FLIPS[orientation]) if orientation in FLIPS else image


def _rgb(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) → (H, W, 3)"""
    image = image[:, :, None] if image.ndim == 2 else image
    return np.ascontiguousarray(image[:, :, :3] if image.shape[2] >= 3 else image[:, :, [0, 0, 0]])


def _eight_bits(array: np.ndarray, name: object) -> np.ndarray:
    """The same numbers as uint8. Raises ImageError for those that cannot be pixels."""
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind not in "iuf":
        raise ImageError(f"{name} is an array of {array.dtype}, which is not an image: pass uint8.")
    if array.dtype == np.uint16 or array.dtype == np.dtype(">u2"):
        return (array >> 8).astype(np.uint8)
    low, high, most = array.min(), array.max(), 1 + OVERSHOOT if kind == "f" else 255
    if not (low >= -OVERSHOOT and high <= most):  # which is false for NaN too
        right = "floats must lie in [0, 1]" if kind == "f" else "integers must lie in [0, 255]"
        raise ImageError(f"{name} has pixels from {low:g} to {high:g}, but {right}: scale them, or pass uint8.")
    return array.astype(np.uint8) if kind != "f" else (array.clip(0, 1) * 255).round().astype(np.uint8)
