"""Reader of data sets in PASCAL VOC's format: one XML file for each image, lists of images in ImageSets/Main."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from resdet.data.annotations import Annotations, ImageRecord, flatten
from resdet.data.images import ImageError, probe_image
from resdet.errors import UserError, reason

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp")


class BadRecordError(Exception):
    """An image that is left out, and why."""


def read_voc(
    root: str | Path,
    splits: str,
    classes: tuple[str, ...] = (),
    *,
    other_classes: str = "error",
    source: str = "",
) -> Annotations:
    """Read the images that `splits` lists.

    Images with a broken annotation or a broken file are left out, boxes outside their image or without area too;
    `skipped` of the result says which and why.

    Args:
        root: folder of the data set
        splits: names of lists joined by "+"; ``2007_test`` is the list test of the folder VOC2007
        classes: in the order of the labels; empty takes all that the annotations hold, sorted
        other_classes: "error" refuses an object of another class, "ignore" leaves it out
        source: where the data set comes from, for the message when it is missing

    Raises:
        UserError: data set or list missing, list empty, no usable image, unknown class
    """
    root = Path(root)
    listed = [entry for split in splits.split("+") for entry in _list(root, split.strip(), source)]
    skipped: list[str] = []
    records = []
    with ThreadPoolExecutor(4) as pool:
        for outcome in pool.map(lambda entry: _read_record(*entry), listed):
            if isinstance(outcome, BadRecordError):
                skipped.append(str(outcome))
            else:
                record, dropped = outcome
                records.append(record)
                skipped.extend(dropped)
    if not records:
        raise UserError(f"No image of {root}, {splits}, can be used; the first trouble: {skipped[0]}")
    classes = classes or tuple(sorted({name for record in records for name in record.names}))
    if not classes:
        raise UserError(f"No object is annotated in {root}, {splits}: name the classes with data.classes.")
    if len(set(classes)) < len(classes):
        raise UserError(f"data.classes names a class twice: {', '.join(classes)}.")
    for record in records:
        _check_classes(record, classes, other_classes)
    return flatten(records, classes, skipped)


def _list(root: Path, split: str, source: str) -> list[tuple[Path, str]]:
    """The images of one list, as (folder of the data set, image id)."""
    year, _, name = split.rpartition("_")
    folder = root / f"VOC{year}" if re.fullmatch(r"\d{4}", year) else root
    name = name if re.fullmatch(r"\d{4}", year) else split
    if not folder.is_dir():
        raise UserError(f"The data set {folder} is missing; to get it: {source or 'see datasets/README.md'}.")
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise UserError(f"There is no list of images {path} for the split {split!r}; the lists there: {known}.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list of images {path} cannot be read as UTF-8 text: {reason(error)}.") from error
    # The lists of a class have a flag in the columns after the name; a name may hold spaces itself.
    ids = [re.sub(r"\s(-1|\s[01])\s*$", "", line).strip() for line in lines if line.strip()]
    if not ids:
        raise UserError(f"The list of images {path} is empty: put one image name on each line.")
    return [(folder, image_id) for image_id in ids]


def _read_record(folder: Path, image_id: str) -> tuple[ImageRecord, list[str]] | BadRecordError:
    """One image and a sentence for each box that was dropped, or why the image is left out."""
    xml = folder / "Annotations" / f"{image_id}.xml"
    try:
        file = _find_image(folder, image_id)
        size = probe_image(file)
        root = _parse(xml)
        _check_size(root, xml, size)
        names, boxes, difficult, dropped = _read_objects(root, xml, size)
    except (BadRecordError, ImageError) as error:
        return BadRecordError(str(error))
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return ImageRecord(image_id, str(file), size, array, names, difficult), dropped


def _find_image(folder: Path, image_id: str) -> Path:
    for ending in IMAGE_ENDINGS:
        path = folder / "JPEGImages" / f"{image_id}{ending}"
        if path.is_file():
            return path
    raise BadRecordError(f"{folder / 'JPEGImages' / image_id}.jpg is missing.")


def _parse(xml: Path) -> Element:
    """The root of a VOC annotation. Entities and external references are refused, not expanded."""
    try:
        root: Element = parse(xml, forbid_dtd=True).getroot()
    except OSError as error:
        raise BadRecordError(f"{xml} cannot be read: {reason(error)}.") from error
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise BadRecordError(f"{xml} is not usable XML: {reason(error)}.") from error
    if root.tag != "annotation":
        raise BadRecordError(f"{xml} is not a VOC annotation: its root is <{root.tag}>, not <annotation>.")
    return root


def _check_size(root: Element, xml: Path, size: tuple[int, int]) -> None:
    """The boxes belong to an image of the size that the XML states; 0 or nothing states none."""
    try:
        stated = tuple(int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except (ValueError, OverflowError) as error:  # OverflowError: infinite
        raise BadRecordError(f"{xml} states a size that is no number.") from error
    if all(stated) and stated != size:
        raise BadRecordError(
            f"{xml} describes an image of {stated[1]}×{stated[0]} pixels, but the file has {size[1]}×{size[0]}."
        )


def _read_objects(
    root: Element, xml: Path, size: tuple[int, int]
) -> tuple[list[str], list[list[float]], list[bool], list[str]]:
    """Names, boxes clipped to the image, difficult flags, and a sentence for each dropped box."""
    height, width = size
    names, boxes, difficult, dropped = [], [], [], []
    for element in root.iter("object"):
        name = (element.findtext("name") or "").strip()
        try:
            corners = [float(element.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            corners = [math.nan]
        if not all(map(math.isfinite, corners)):
            raise BadRecordError(f"{xml} has an object {name!r} without a bndbox of four numbers.")
        x1, y1, x2, y2 = corners
        # VOC's corners are 1-based pixels, both inclusive.
        x1, y1, x2, y2 = max(x1 - 1, 0.0), max(y1 - 1, 0.0), min(x2, width), min(y2, height)
        if not name:
            raise BadRecordError(f"{xml} has an object without a name.")
        if not (x2 > x1 and y2 > y1):
            dropped.append(f"{xml}: a box of {name!r} has no area inside the image and is left out.")
            continue
        names.append(name)
        boxes.append([x1, y1, x2, y2])
        difficult.append((element.findtext("difficult") or "0").strip() == "1")
    return names, boxes, difficult, dropped


def _check_classes(record: ImageRecord, classes: Iterable[str], other_classes: str) -> None:
    """Refuse or remove, in place, the objects of other classes."""
    known = set(classes)
    unknown = [name for name in record.names if name not in known]
    if unknown and other_classes == "error":
        raise UserError(
            f"{record.file} has an object of class {unknown[0]!r}, which is not among data.classes "
            f"({', '.join(classes)}): add it there, or set --data.other-classes ignore."
        )
    if unknown:
        keep = [i for i, name in enumerate(record.names) if name in known]
        record.names = [record.names[i] for i in keep]
        record.boxes = record.boxes[keep]
        record.difficult = [record.difficult[i] for i in keep]
