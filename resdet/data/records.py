"""What the readers of all formats find, image by image, and the rules by which it becomes arrays.

A reader says what its files state. Everything that is the same in all formats is decided here: whether an image can
be used, what its pixels are like, which of its boxes lie inside it, and what to report of all the rest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from resdet.data.annotations import Annotations
from resdet.data.images import ImageError, ImageHeader, probe_header
from resdet.data.tree import Partners, Tree, listing, unique_names
from resdet.errors import UserError

Exif = Literal["auto", "upright", "stored"]
OtherClasses = Literal["error", "ignore"]
MANY_IMAGES = 20_000  # with stated sizes: of so many, only some are opened at first
SAMPLE = 1_000
FARTHEST = 1e9  # pixels; larger numbers are none
UPRIGHT, STORED, EITHER = 0, 1, 2  # which pixels a stated size is that of


@dataclass
class ImageRecord:
    """One image and what is annotated in it, as its files state it."""

    file: Path | None
    """None if it was not found"""
    where: str
    """the file that the annotations are in, for messages"""
    name: str = ""
    """what that file calls the image"""
    id: str = ""
    """where the format gives images one"""
    size: tuple[int, int] | None = None
    """height and width, where the format states them"""
    unit: str = "object"
    """what the places are: a line of a file, an object"""
    boxes: list[Sequence[float]] = field(default_factory=list)
    """x1, y1, x2, y2 in pixels, or in shares of the image's width and height"""
    names: list[str] = field(default_factory=list)
    """of the classes"""
    difficult: list[bool] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    """of masks in pixels, NaN where there is none"""
    places: list[int] = field(default_factory=list)
    """number of each object in its file, for messages"""
    dropped: list[str] = field(default_factory=list)
    """one sentence for each object that is none, or that no box can be taken from"""
    error: str = ""
    """why the image cannot be used, one sentence"""
    missing: str = ""
    """what to report if it was not found, one sentence, if there is more to say than that"""

    def add(
        self, box: Sequence[float], name: str, difficult: bool = False, area: float = math.nan, place: int = 0
    ) -> None:
        """Add an object."""
        self.boxes.append(box)
        self.names.append(name)
        self.difficult.append(difficult)
        self.areas.append(area)
        self.places.append(place or len(self.boxes) + len(self.dropped))

    @property
    def objects(self) -> int:
        """How many the file has."""
        return len(self.boxes) + len(self.dropped)


@dataclass
class Found:
    """What a reader finds in a split."""

    records: list[ImageRecord]
    classes: dict[str, int] = field(default_factory=dict)
    """name → number of each class, in the order of the labels; empty if only the objects name them"""
    fractions: bool = False
    """whether the boxes are in shares of the image's size"""
    stray: list[str] = field(default_factory=list)
    """one sentence for each object that belongs to no image"""
    notes: list[str] = field(default_factory=list)
    """what the user should know, one sentence each"""


def pair(records: Mapping[Path, ImageRecord], partners: Partners, images: Sequence[Path], kind: str) -> Found:
    """Give the records of files, each of one image, their images.

    Args:
        records: file → record, which has the name that the file gives its image
        partners: of these files
        images: those of the split; an image without a file gets a record, too
        kind: of the files, for messages
    """
    found = partners.images({file: record.name for file, record in records.items()})
    used: set[Path | None] = set()
    for file, record in records.items():
        record.file = found.get(file)
        if record.file in used and record.file:
            record.error = f"{file} describes {record.file}, as another file does: remove one of them."
        used.add(record.file)
    bare = [
        ImageRecord(image, "", str(image), error=f"{image} has no {kind} file: it counts as not annotated.")
        for image in images
        if image not in used
    ]
    return Found([*records.values(), *bare])


def read_splits(
    read: Callable[[Tree, str], Found],
    root: str | Path,
    splits: str,
    classes: tuple[str, ...],
    source: str,
    **rules: Any,
) -> Annotations:
    """The arrays of a data set whose splits are read one by one.

    Args:
        read: folder, split → what is found
        root: folder of the data set
        splits: names joined by "+"
        classes: in the order of the labels; empty takes all that the objects name, sorted
        source: where the data set comes from, for the message when it is missing
        rules: `other_classes` and `exif`, as in `assemble`

    Raises:
        UserError: data set or split missing, no usable image, unknown class
    """
    tree = Tree.of(root, source)
    return assemble([read(tree, split.strip()) for split in splits.split("+")], tree, splits, classes, **rules)


def assemble(
    parts: Sequence[Found],
    tree: Tree,
    splits: str,
    classes: tuple[str, ...] = (),
    *,
    other_classes: OtherClasses = "error",
    exif: Exif = "auto",
) -> Annotations:
    """The arrays of all that was found.

    Args:
        tree, splits: the data set, for messages
        classes: in the order of the labels; empty takes those of the data set, or else of its objects, sorted
        other_classes: "error" refuses an object of another class, "ignore" leaves it out
        exif: whether boxes are those of the upright image or of the pixels as stored; "auto" decides by the sizes

    Raises:
        UserError: no usable image, an object of another class, or a class named twice
    """
    records = [record for part in parts for record in part.records]
    where = f"{tree.root}, {splits},"
    headers, errors = _headers(records)
    frames, notes = _frames(records, headers, errors, exif)
    usable = [i for i, error in enumerate(errors) if not error]
    good = [records[i] for i in usable]
    bad = [(record, error) for record, error in zip(records, errors, strict=True) if error]
    if not good:
        raise UserError(f"No image of {where} can be used; first error: {bad[0][1] if bad else 'it lists none.'}")
    sizes = np.array([frames[i].upright for i in usable], np.int32)
    fractions = [part.fractions for part in parts for _ in part.records]
    objects = _objects(good, [frames[i] for i in usable], [fractions[i] for i in usable])
    solid = _solid(objects.boxes, sizes[objects.owner])
    stray = [sentence for part in parts for sentence in part.stray]
    skipped = [
        *(_with_objects(error, record.objects) for record, error in bad),
        *(sentence for record in good for sentence in record.dropped),
        *(_without_area(good[objects.owner[i]], objects, i) for i in np.flatnonzero(~solid).tolist()),
        *stray,
    ]
    if skipped and not solid.any() and sum(record.objects for record in records) + len(stray):
        raise UserError(f"No object of {where} can be used; first error: {skipped[0]}")

    known = _known_classes(parts)
    classes = classes or tuple(known) or tuple(sorted({objects.names[i] for i in np.flatnonzero(solid).tolist()}))
    if not classes:
        raise UserError(f"No objects are annotated in {where}: set data.classes.")
    label_of = label_names(classes)
    labels = np.array([label_of.get(name, -1) for name in objects.names], np.int64)
    others = np.flatnonzero(solid & (labels < 0)).tolist()
    if others and other_classes == "error":
        raise unknown_class(good[objects.owner[others[0]]].where, objects.names[others[0]], label_of)
    keep = solid & (labels >= 0)
    lost_objects = sum(record.objects for record in records) + len(stray) - int(keep.sum())
    offsets = np.concatenate([[0], np.cumsum(np.bincount(objects.owner[keep], minlength=len(good)))])
    files = [str(record.file) for record in good]
    return Annotations(
        classes=classes,
        category_ids=_category_ids(classes, known),
        ids=np.array([_id(name) for name in _ids(good, files)], dtype=bytes),
        files=np.array([file.encode("utf-8", "surrogateescape") for file in files], dtype=bytes),
        sizes=sizes,
        offsets=offsets.astype(np.int64),
        boxes=objects.boxes[keep],
        labels=labels[keep],
        difficult=objects.difficult[keep],
        areas=objects.areas[keep],
        skipped=tuple(skipped),
        notes=(
            *(note for part in parts for note in part.notes),
            *notes,
            *_hidden(tree),
            *_listed_twice(files),
            *_ignored([objects.names[i] for i in others]),
        ),
        left_out=(len(bad), lost_objects),
    )


# What to tell


def _with_objects(error: str, count: int) -> str:
    """Why an image is left out, and how many objects with it."""
    return f"{error.removesuffix('.')}; its {count} objects are left out too." if count else error


def _hidden(tree: Tree) -> list[str]:
    return [f"{tree.hidden} hidden images in {tree.root} are not part of the data set."] if tree.hidden else []


def _listed_twice(files: Sequence[str]) -> list[str]:
    twice = [file for file, count in Counter(files).items() if count > 1]
    return [f"{len(twice)} images are listed more than once: {listing(twice, 3)}."] if twice else []


def _ignored(names: Sequence[str]) -> list[str]:
    counts = [f"{name} ({count})" for name, count in Counter(names).most_common()]
    return [f"{len(names)} objects of other classes are ignored: {listing(counts)}."] if names else []


# Images


class Frame(NamedTuple):
    """The pixels that boxes are relative to."""

    upright: tuple[int, int]
    """height and width of the image as it is read"""
    annotated: tuple[int, int]
    """height and width that the boxes are relative to"""
    orientation: int
    """EXIF's, to be applied to the boxes; 1 where they are upright"""


def _headers(records: Sequence[ImageRecord]) -> tuple[list[ImageHeader | None], list[str]]:
    """What the files of the images say of their size, and why an image cannot be used, or nothing.

    Opening a hundred thousand images takes a while: where their sizes are stated, a sample is opened first, and the
    others only if one of these is not as stated.
    """

    outcomes: list[ImageHeader | str] = [record.error for record in records]
    usable = [i for i, record in enumerate(records) if not record.error]

    def look(chosen: Sequence[int]) -> None:
        with ThreadPoolExecutor(4) as pool:
            for i, outcome in zip(chosen, pool.map(_probe, [records[i] for i in chosen]), strict=True):
                outcomes[i] = outcome

    stated = {i: ImageHeader(*size, 1) for i in usable if (size := records[i].size) and records[i].file}
    if len(usable) > MANY_IMAGES and len(stated) == len(usable):
        sample = usable[:: len(usable) // SAMPLE]
        rest = sorted(set(usable) - set(sample))
        look(sample)
        if all(outcomes[i] == stated[i] for i in sample):
            for i in rest:
                outcomes[i] = stated[i]
        else:
            look(rest)
    else:
        look(usable)
    headers = [outcome if isinstance(outcome, ImageHeader) else None for outcome in outcomes]
    return headers, ["" if isinstance(outcome, ImageHeader) else outcome for outcome in outcomes]


def _probe(record: ImageRecord) -> ImageHeader | str:
    if record.file is None:
        return record.missing or f"The image {record.name} of {record.where} is missing."
    try:
        return probe_header(record.file)
    except ImageError as error:
        return str(error)


def _frames(
    records: Sequence[ImageRecord], headers: Sequence[ImageHeader | None], errors: list[str], exif: Exif
) -> tuple[list[Frame], list[str]]:
    """The frame of each image and what to tell; images that are not of the stated size get an error, in place."""
    kinds = [
        _kind(record.size, header) if header else None for record, header in zip(records, headers, strict=True)
    ]
    for i, (record, header, kind) in enumerate(zip(records, headers, kinds, strict=True)):
        if header and kind is None and record.size:
            height, width = header.upright
            errors[i] = (
                f"{record.where} describes an image of {record.size[1]}×{record.size[0]} pixels, but {record.file} "
                f"has {width}×{height}: correct the size, or copy the image again."
            )
    decided = Counter(kind for kind in kinds if kind in (UPRIGHT, STORED))
    undecided = STORED if decided[STORED] > decided[UPRIGHT] else UPRIGHT
    frames, turned = [], 0
    for header, kind in zip(headers, kinds, strict=True):
        if header is None:
            frames.append(Frame((0, 0), (0, 0), 1))
            continue
        chosen = {"upright": UPRIGHT, "stored": STORED, "auto": undecided if kind == EITHER else kind}[exif]
        if chosen == STORED and header.orientation > 1:
            turned += 1
            frames.append(Frame(header.upright, (header.height, header.width), header.orientation))
        else:
            frames.append(Frame(header.upright, header.upright, 1))
    notes = []
    if turned:
        notes.append(
            f"{turned} photographs are stored on their side and annotated as stored: their boxes are turned "
            "upright with them (data.exif)."
        )
    guessed = sum(
        kind == EITHER and header.orientation > 1 for header, kind in zip(headers, kinds, strict=True) if header
    )
    if guessed and exif == "auto" and not decided:
        notes.append(
            f"{guessed} photographs are stored on their side, and nothing says how they were annotated: they are "
            "taken as upright; if their boxes lie elsewhere, set --data.exif stored."
        )
    return frames, notes


def _kind(stated: tuple[int, int] | None, header: ImageHeader) -> int | None:
    """Whether an annotation's size is that of the upright image, of the pixels as stored, of both, or of neither.

    Tools that round differ by a pixel.
    """
    if stated is None:
        return EITHER
    upright, stored = (
        max(abs(a - b) for a, b in zip(stated, size, strict=True)) <= 1
        for size in (header.upright, (header.height, header.width))
    )
    if upright and stored:
        return EITHER
    return UPRIGHT if upright else STORED if stored else None


def turn(boxes: np.ndarray, sizes: np.ndarray, orientation: int) -> np.ndarray:
    """Boxes of the pixels as stored → boxes of the upright image.

    Args:
        boxes: (B, 4) x1, y1, x2, y2
        sizes: (B, 2) heights and widths as stored
        orientation: EXIF's, 1 to 8
    """
    x1, y1, x2, y2 = boxes.T
    height, width = sizes.T
    if orientation in (2, 3, 7, 8):  # left and right are changed
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 6, 7):  # top and bottom are changed
        y1, y2 = height - y2, height - y1
    if orientation >= 5:  # rows are columns
        x1, y1, x2, y2 = y1, x1, y2, x2
    return np.stack([x1, y1, x2, y2], 1)


# Objects


class Objects(NamedTuple):
    """The B objects of M images, as far as they have a box and a class."""

    owner: np.ndarray
    """(B,) position of the image of each"""
    names: list[str]
    """of the classes"""
    places: list[int]
    """number of each in its file"""
    boxes: np.ndarray
    """(B, 4) in pixels of the upright images"""
    difficult: np.ndarray
    """(B,) bool"""
    areas: np.ndarray
    """(B,) in square pixels"""


def box_array(records: Iterable[ImageRecord]) -> np.ndarray:
    """(B, 4) the boxes of all records, as they are stated."""
    values = (value for record in records for box in record.boxes for value in box)
    return np.fromiter(values, np.float64).reshape(-1, 4)


def _objects(records: Sequence[ImageRecord], frames: Sequence[Frame], fractions: Sequence[bool]) -> Objects:
    """The objects of M images, with the frame of each image and whether its boxes are fractions of that."""
    owner = np.repeat(np.arange(len(records)), [len(record.boxes) for record in records])
    boxes = box_array(records)
    boxes[~(np.abs(boxes) < FARTHEST)] = np.nan
    annotated = np.array([frame.annotated for frame in frames], np.float64)[owner]  # (B, 2)
    orientation = np.array([frame.orientation for frame in frames])[owner]
    boxes = np.where(np.array(fractions)[owner, None], boxes * np.tile(annotated[:, ::-1], 2), boxes)
    for value in np.unique(orientation[orientation > 1]).tolist():
        own = orientation == value
        boxes[own] = turn(boxes[own], annotated[own], value)
    areas = np.fromiter((area for record in records for area in record.areas), np.float64)
    return Objects(
        owner,
        [name for record in records for name in record.names],
        [place for record in records for place in record.places],
        boxes,
        np.fromiter((flag for record in records for flag in record.difficult), bool),
        np.where(np.isfinite(areas) & (areas > 0), areas, (boxes[:, 2:] - boxes[:, :2]).prod(1)),
    )


def _solid(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(B,) whether some of each box lies in its image, for (B, 2) heights and widths; not if it is not finite."""
    low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], sizes[:, ::-1])
    return np.isfinite(boxes).all(1) & (high > low).all(1)


def _without_area(record: ImageRecord, objects: Objects, index: int) -> str:
    """What to tell of an object of this image whose box is not in it."""
    return (
        f"{record.where}: {record.unit} {objects.places[index]}, a box of {objects.names[index]!r} with no area "
        f"inside the image {record.name or record.file}."
    )


# Classes and identifiers


def _known_classes(parts: Sequence[Found]) -> dict[str, int]:
    """Name → number over all parts, by the numbers. Raises UserError if two of them disagree."""
    known: dict[str, int] = {}
    for part in parts:
        for name, number in part.classes.items():
            if known.setdefault(name, number) != number:
                raise UserError(
                    f"The class {name!r} has the number {known[name]} in one split and {number} in another: give "
                    "it one number."
                )
    return dict(sorted(known.items(), key=lambda item: item[1]))


def label_names(classes: tuple[str, ...]) -> dict[str, int]:
    """The label of each class. Raises UserError for a class named twice."""
    if len(set(classes)) < len(classes):
        twice = [name for name, count in Counter(classes).items() if count > 1]
        raise UserError(f"data.classes contains {listing(twice)} twice: {listing(classes, 20)}.")
    return {name: label for label, name in enumerate(classes)}


def unknown_class(file: str, name: str, known: Mapping[str, int]) -> UserError:
    """What to report of an object in `file` whose class no setting names."""
    return UserError(
        f"{file} has an object of class {name!r}, which is not among data.classes "
        f"({listing(list(known), 20)}): add it there, or set --data.other-classes ignore."
    )


def _category_ids(classes: tuple[str, ...], known: Mapping[str, int]) -> np.ndarray:
    """(C,) the numbers of the classes in the data set, or 1 to C."""
    numbers = [known.get(name, -1) for name in classes]
    own = min(numbers) >= 0 and max(numbers) < 2**63 and len(set(numbers)) == len(numbers)
    return np.array(numbers if own else range(1, len(classes) + 1), np.int64)


def _ids(records: Sequence[ImageRecord], files: Sequence[str]) -> list[str]:
    """Identifiers that no two images share: the format's where these are such, else the ends of their paths."""
    given = [record.id for record in records]
    if all(given) and len(set(given)) == len(given):
        return given
    return unique_names(files, "/")


def _id(name: str) -> bytes:
    """As UTF-8; bytes of a file's name that are not text as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").encode()
