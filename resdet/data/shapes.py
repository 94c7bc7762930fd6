"""The embedded data set: drawn shapes in the VOC layout, for the demo and the tests.

Every image is a function of (seed, split, index) alone, so a set of 10 images opens the set of 1000. Shapes:
H, W height and width of the image, M pixels of a mask. A mask is (H, W) bool: the pixels a shape is given.
A box is the integers ``x1, y1, x2, y2`` around a mask in continuous coordinates: x2 − x1 counts its columns.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from resdet.config import SHAPES_CLASSES
from resdet.errors import UserError

SPLITS: Mapping[str, int] = {"train": 800, "val": 100}

VERSION = 1  # raise it with every change that moves a pixel, so that rendered sets are renewed
SIZES = ((240, 320), (320, 240), (256, 256), (208, 304), (288, 224))  # H, W
SCALES = (13, 30, 50, 84, 130)  # long side of a box, ± 15 %, pixels
SCALE_WEIGHTS = (0.03, 0.14, 0.41, 0.3, 0.12)
HUE_SPREAD = 9  # standard deviation of a class's hues, where the classes lie 30 apart
MOST = 8  # shapes in an image
EMPTY = 0.05  # of the images show no object
SMALL, FAINT = 16, 40  # shapes of a shorter long side (pixels), or of less contrast (0..441), are difficult
MIN_INSIDE, MAX_COVERED = 0.4, 0.6  # as are those with less in the image, or with more under later shapes


class Shape(NamedTuple):
    """One drawn object, and what its annotation says of it."""

    name: str
    mask: np.ndarray  # (H, W) bool: all of it that is inside the image, also where later shapes cover it
    box: tuple[int, int, int, int]
    truncated: bool
    difficult: bool


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """(H, W) float32 in [0, 1]: `cells` × `cells` random values, interpolated."""
    noise = cv2.resize(rng.random((cells, cells), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return noise.clip(0, 1)


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) float32: distance in pixels along a random direction."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    angle = rng.uniform(0, 2 * np.pi)
    return x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) float32: two colours not far apart, mixed by a pattern, under uneven light."""
    ramp, period = _ramp(rng, height, width), np.float32(rng.uniform(6, 36))
    match rng.choice(["clouds", "gradient", "stripes", "waves", "checker"]):
        case "clouds":
            pattern = _smooth_noise(rng, height, width, cells=int(rng.integers(4, 24)))
        case "gradient":
            pattern = (ramp - ramp.min()) / np.ptp(ramp)
        case "stripes":
            pattern = (ramp % period < period / 2).astype(np.float32)
        case "waves":
            pattern = 0.5 + 0.5 * np.sin(ramp * (2 * np.float32(np.pi) / period))
        case _:
            rows, columns = (np.arange(side, dtype=np.float32) // (period / 2) for side in (height, width))
            pattern = (rows[:, None] + columns) % 2
    light = 0.85 + 0.3 * _smooth_noise(rng, height, width, cells=3)
    shaded = light * pattern
    # Dull, as most grounds are beside the things that lie on them.
    colors = rng.uniform(60, 200) + rng.uniform(-20, 20, 3)
    changes = rng.uniform(-50, 50) + rng.uniform(-15, 15, 3)
    channels = zip(colors.astype(np.float32), changes.astype(np.float32), strict=True)
    return cv2.merge([color * light + change * shaded for color, change in channels])


def _draw_distractors(rng: np.random.Generator, image: np.ndarray) -> None:
    """Up to two lines and two bean-like blobs, which are not objects, on `image` (H, W, 3) in place."""
    size, theta = image.shape[1::-1], np.linspace(0, 2 * np.pi, 60, endpoint=False)
    for _ in range(rng.integers(3)):
        start, end = rng.uniform(0, size, (2, 2)).astype(int).tolist()
        cv2.line(image, start, end, rng.uniform(0, 255, 3).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    for _ in range(rng.integers(3)):
        (a, b), center = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0, size)
        radii = rng.uniform(6, 24) * (1 + 0.4 * np.sin(2 * theta + a) + 0.35 * np.sin(3 * theta + b))
        outline = center + np.stack([radii * np.cos(theta), radii * np.sin(theta)], 1)
        dull = rng.uniform(40, 215) + rng.uniform(-40, 40, 3)
        cv2.fillPoly(image, [outline.astype(np.int32)], dull.tolist(), cv2.LINE_AA)


def _star(points: int, inner: float = 1.0) -> np.ndarray:
    """(2 · points, 2): vertices on the unit circle and, between them, on the circle of radius `inner`."""
    theta, radius = np.arange(2 * points) * np.pi / points, np.tile([1.0, inner], points)
    return np.stack([radius * np.sin(theta), -radius * np.cos(theta)], 1)


def _cross(arm: float) -> np.ndarray:
    """(12, 2): a plus sign with arms `arm` wide to each side of the axes."""
    corner, quarter_turn = np.array([[arm, -1], [arm, -arm], [1, -arm]]), np.array([[0, 1], [-1, 0]])
    return np.concatenate([corner @ np.linalg.matrix_power(quarter_turn, turns) for turns in range(4)])


OUTLINES = {  # the contours of each class, (V, 2) each; a second one is a hole
    "circle": [_star(32)],
    "square": [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])],
    "triangle": [_star(3, 0.5)],  # this inner radius makes the sides straight
    "star": [_star(5, 0.42)],
    "ring": [_star(32), 0.55 * _star(32)],
    "cross": [_cross(0.3)],
}


def _pose(rng: np.random.Generator, name: str) -> list[np.ndarray]:
    """The contours of a class centred on 0: two in five squeezed, all turned, and given a size in pixels."""
    squeeze = rng.uniform(0.55, 1) if rng.random() < 0.4 else 1.0
    angle, size = rng.uniform(0, 2 * np.pi), rng.choice(SCALES, p=SCALE_WEIGHTS) * rng.uniform(0.85, 1.15)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = [(outline * [1, squeeze]) @ turn for outline in OUTLINES[name]]
    low, high = turned[0].min(0), turned[0].max(0)
    return [(outline - (low + high) / 2) * (size / (high - low).max()) for outline in turned]


def _fill(outlines: list[np.ndarray], center: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int]:
    """The (H, W) mask of contours around `center` (x, y), and its area without the image's borders."""
    margin = int(np.ptp(outlines[0], axis=0).max()) + 2
    canvas = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    cv2.fillPoly(canvas, [np.rint((o + center + margin) * 16).astype(np.int32) for o in outlines], 1, shift=4)
    return canvas[margin:-margin, margin:-margin].astype(bool), cv2.countNonZero(canvas)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return x, y, x + width, y + height


def _count(owner: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """(MOST,): how many pixels, of those in `mask`, show each shape."""
    histogram = cv2.calcHist([owner], [0], mask if mask is None else mask.view(np.uint8), [MOST + 1], [0, MOST + 1])
    return histogram.ravel()[1:]


def _place(rng: np.random.Generator, name: str, owner: np.ndarray) -> tuple[np.ndarray, int] | None:
    """A mask for a new shape and its area without borders, or nothing if no place is found.

    `owner` (H, W) says which shape is seen at each pixel, counted from 1; 0 is background. Four in five
    shapes lie inside the image, nine in ten leave the earlier ones well in sight.
    """
    outlines, size = _pose(rng, name), np.array(owner.shape[::-1])
    inset = np.minimum(np.ptp(outlines[0], axis=0) / 2 + 2, size / 2) if rng.random() < 0.8 else np.zeros(2)
    most = 0.8 if rng.random() < 0.07 else 0.1
    allowed = most * _count(owner)
    for _ in range(20):
        mask, area = _fill(outlines, rng.uniform(inset, size - inset), *owner.shape)
        x1, y1, x2, y2 = _box(mask)
        if (_count(owner, mask) <= allowed).all() and min(x2 - x1, y2 - y1) >= 6:
            return mask, area
    return None


def _contrast(pixels: np.ndarray, color: np.ndarray) -> float:
    """Distance (0..441) that three quarters of `pixels` (M, 3) keep from `color`, (3,) or (M, 3)."""
    distances = np.sort(np.linalg.norm(pixels - color, axis=1))
    return float(distances[len(distances) // 4])


def _color(rng: np.random.Generator, name: str) -> np.ndarray:
    """(3,) of a hue that is usual for the class: a hint like those of real things, since classes overlap."""
    hue = SHAPES_CLASSES.index(name) * 180 / len(SHAPES_CLASSES) + rng.normal(
        0, HUE_SPREAD
    )  # OpenCV counts hues to 180
    hsv = np.array([[[hue % 180, rng.uniform(130, 255), rng.uniform(120, 255)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float64)


def _paint(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, name: str) -> float:
    """Give the pixels of `mask` a colour with shading and texture, in place; returns the contrast reached."""
    under = image[mask]
    sample = np.s_[:: len(under) // 500 + 1]
    color = under.mean(0) + rng.normal(0, 12, 3)
    for _ in range(0 if rng.random() < 0.03 else 20):
        color = _color(rng, name)
        if _contrast(under[sample], color) >= 90:
            break
    height, width = mask.shape
    shade, texture = _ramp(rng, height, width)[mask], _smooth_noise(rng, height, width, cells=10)[mask]
    shade = 1 + np.float32(rng.uniform(0, 0.4)) * (shade - shade.mean()) / np.ptp(shade)
    texture = np.float32(rng.uniform(0, 40)) * (texture - 0.5)
    image[mask] = fill = shade[:, None] * color.astype(np.float32) + texture[:, None]
    return _contrast(under[sample], fill[sample])


def draw(seed: int, split: str, index: int) -> tuple[np.ndarray, list[Shape]]:
    """One image, (H, W, 3) uint8 in OpenCV's channel order, and its shapes from the lowest to the topmost."""
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    height, width = SIZES[rng.integers(len(SIZES))]
    image, owner = _background(rng, height, width), np.zeros((height, width), np.uint8)
    _draw_distractors(rng, image)
    drawn: list[tuple[str, np.ndarray, int, float]] = []  # name, mask, area without borders, contrast
    for name in [] if rng.random() < EMPTY else rng.choice(SHAPES_CLASSES, rng.integers(1, MOST + 1)).tolist():
        if place := _place(rng, name, owner):
            mask, area = place
            x1, y1, x2, y2 = _box(mask)
            contrast = _paint(rng, image[y1:y2, x1:x2], mask[y1:y2, x1:x2], name)
            drawn.append((name, mask, area, contrast))
            owner[mask] = len(drawn)
    shapes = []
    for (name, mask, area, contrast), seen in zip(drawn, _count(owner), strict=False):
        box, inside = _box(mask), np.count_nonzero(mask)
        hidden = inside < MIN_INSIDE * area or seen < (1 - MAX_COVERED) * inside
        small = max(box[2] - box[0], box[3] - box[1]) < SMALL
        shapes.append(Shape(name, mask, box, bool(inside < area), bool(hidden or small or contrast < FAINT)))
    image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.3, 0.8))
    grain = np.float32(rng.uniform(0, 20)) * (rng.random((height, width), np.float32) - 0.5)
    return cv2.add(image, cv2.merge([grain] * 3), dtype=cv2.CV_8U), shapes  # rounds, and clips to 0..255


def _annotation(filename: str, image: np.ndarray, shapes: list[Shape]) -> str:
    """The XML of one image as VOC writes it: boxes are 1-based and include their last pixel."""
    height, width, depth = image.shape
    objects = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose>"
        f"<truncated>{truncated:d}</truncated><difficult>{difficult:d}</difficult>"
        f"<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        "</object>\n"
        for name, _, (x1, y1, x2, y2), truncated, difficult in shapes
    )
    return (
        f"<annotation>\n<folder>shapes</folder>\n<filename>{filename}</filename>\n"
        f"<size><width>{width}</width><height>{height}</height><depth>{depth}</depth></size>\n"
        f"<segmented>0</segmented>\n{objects}</annotation>\n"
    )


def _write(root: Path, splits: Mapping[str, int], seed: int) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, count in splits.items():
        names = [f"{split}_{index:05d}" for index in range(count)]
        for index, name in enumerate(names):
            image, shapes = draw(seed, split, index)
            jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 90))[1]
            (root / f"JPEGImages/{name}.jpg").write_bytes(jpeg.tobytes())
            (root / f"Annotations/{name}.xml").write_text(_annotation(f"{name}.jpg", image, shapes))
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))


def render(root: str | Path, splits: Mapping[str, int] = SPLITS, seed: int = 0) -> None:
    """Write the set to the folder `root`; nothing is done where exactly this set is already.

    `splits` names the splits and how many images each has. The set is written beside `root` and renamed, so a
    half-rendered one is never found there.

    Raises:
        UserError: `root` holds something else, which is left alone
    """
    root = Path(root).absolute()
    stamp = root / "shapes.json"
    contents = json.dumps({"version": VERSION, "seed": seed, "splits": dict(splits)})
    if stamp.is_file() and stamp.read_text() == contents:
        return
    if root.exists() and not stamp.is_file() and not (root.is_dir() and not any(root.iterdir())):
        raise UserError(f"{root} does not hold the shapes data set: choose another folder.")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as temporary:
        new = Path(temporary, "new")
        _write(new, splits, seed)
        (new / stamp.name).write_text(contents)
        if root.exists():
            root.rename(Path(temporary, "old"))
        new.rename(root)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m resdet.data.shapes FOLDER")
    render(sys.argv[1])
