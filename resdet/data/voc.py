"""Reader of data sets in PASCAL VOC's format: one XML file for each image, lists of images in ImageSets/Main."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from resdet.data.annotations import Annotations
from resdet.data.images import IMAGE_SUFFIXES, ImageError, probe_image
from resdet.data.records import BadRecordError, ImageRecord, flatten, inside, read_records
from resdet.errors import UserError, reason


def read_voc(
    root: str | Path,
    splits: str,
    classes: tuple[str, ...] = (),
    *,
    other_classes: str = "error",
    source: str = "",
) -> Annotations:
    """Read the images that `splits` lists.

    Images with a broken annotation or a broken file are left out, boxes without area inside their image too;
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
    records, skipped = read_records(lambda entry: _read_record(*entry), listed, f"{root}, {splits},")
    classes = classes or tuple(sorted({name for record in records for name in record.names}))
    if not classes:
        raise UserError(f"No objects are annotated in {root}, {splits}: set data.classes.")
    return flatten(records, classes, skipped, other_classes)


def _list(root: Path, split: str, source: str) -> list[tuple[Path, str]]:
    """The images of one list, as (folder of the data set, image id)."""
    year, _, name = split.rpartition("_")
    folder = root / f"VOC{year}" if re.fullmatch(r"\d{4}", year) else root
    name = name if re.fullmatch(r"\d{4}", year) else split
    if not folder.is_dir():
        raise UserError(f"The data set {folder} was not found; to get it: {source or 'see datasets/README.md'}.")
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise UserError(f"Image list not found: {path} of the split {split!r}; lists found: {known}.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The image list {path} cannot be read as UTF-8 text: {reason(error)}.") from error
    # The lists of a class have a flag in the columns after the name; a name may hold spaces itself.
    ids = [re.sub(r"\s(-1|\s[01])\s*$", "", line).strip() for line in lines if line.strip()]
    if not ids:
        raise UserError(f"The image list {path} is empty: put one image name on each line.")
    return [(folder, image_id) for image_id in ids]


def _read_record(folder: Path, image_id: str) -> ImageRecord | BadRecordError:
    """One image, or why it is left out."""
    xml = folder / "Annotations" / f"{image_id}.xml"
    try:
        file = _find_image(folder, image_id)
        record = ImageRecord(image_id, str(file), probe_image(file), np.zeros((0, 4)), [], [], [])
        root = _parse(xml)
        _check_size(root, xml, record.size)
        _read_objects(root, xml, record)
    except (BadRecordError, ImageError) as error:
        return BadRecordError(str(error))
    return record


def _find_image(folder: Path, image_id: str) -> Path:
    for suffix in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)):
        path = folder / "JPEGImages" / f"{image_id}{suffix}"
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
        raise BadRecordError(f"{xml} states a size that is not a number.") from error
    if all(stated) and stated != size:
        raise BadRecordError(
            f"{xml} describes an image of {stated[1]}×{stated[0]} pixels, but the file has {size[1]}×{size[0]}."
        )


def _read_objects(root: Element, xml: Path, record: ImageRecord) -> None:
    """Add the objects of an annotation to `record`."""
    boxes = []
    for element in root.iter("object"):
        name = (element.findtext("name") or "").strip()
        try:
            corners = [float(element.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            corners = [math.nan]
        if not all(map(math.isfinite, corners)):
            raise BadRecordError(f"{xml} has an object {name!r} without a bndbox of four numbers.")
        x1, y1, x2, y2 = corners
        box = [x1 - 1, y1 - 1, x2, y2]  # VOC's corners are 1-based pixels, both inclusive
        if not name:
            raise BadRecordError(f"{xml} has an object without a name.")
        if not inside(box, record.size):
            record.dropped.append(f"{xml}: a box of {name!r} has no area inside the image and is skipped.")
            continue
        boxes.append(box)
        record.names.append(name)
        record.difficult.append((element.findtext("difficult") or "0").strip() == "1")
    record.boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)


# The writer


def write_voc(annotations: Annotations, root: Path, split: str) -> list[Path]:
    """Write ``Annotations/NAME.xml`` and ``ImageSets/Main/SPLIT.txt`` below `root`; returns the images' places.

    Corners are whole numbers where they are such, and decimals elsewhere, which VOC's own tools would cut.
    """
    lists = root / "ImageSets" / "Main"
    for folder in (root / "Annotations", lists):
        folder.mkdir(parents=True, exist_ok=True)
    images = []
    for index in range(len(annotations)):
        name = Path(annotations.file(index)).name
        own = slice(*annotations.offsets[index : index + 2])
        rows = (annotations.labels[own], annotations.boxes[own] + [1, 1, 0, 0], annotations.difficult[own])
        objects = "".join(
            f"<object><name>{escape(annotations.classes[label])}</name><difficult>{difficult:d}</difficult><bndbox>"
            + "".join(f"<{k}>{v:.12g}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            + "</bndbox></object>\n"
            for label, box, difficult in zip(*(row.tolist() for row in rows), strict=True)
        )
        height, width = annotations.sizes[index]
        (root / "Annotations" / name).with_suffix(".xml").write_text(
            f"<annotation>\n<filename>{escape(name)}</filename>\n"
            f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n{objects}</annotation>\n",
            encoding="utf-8",
        )
        images.append(root / "JPEGImages" / name)
    (lists / f"{split}.txt").write_text("".join(f"{image.stem}\n" for image in images), encoding="utf-8")
    return images
