"""PASCAL VOC's format: an XML file for each image, lists of images in ImageSets/Main, or folders without lists."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from resdet.data.annotations import Annotations
from resdet.data.images import is_image_name
from resdet.data.records import Found, ImageRecord, assemble, pair
from resdet.data.text import decode, read_head, read_lines
from resdet.data.tree import Partners, Tree, folded, listing, split_word, stem
from resdet.errors import UserError, reason

YEAR = re.compile(r"VOC(\d{4})")
ROOT = re.compile(rb"<\s*(?:\w+:)?annotation[\s>]", re.IGNORECASE)
DECLARED = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([\w.:-]+)["']""")
FLAG = re.compile(r"\s+(?:-1|[01])$")  # of the lists of a class: whether it is in the image


class BadXmlError(Exception):
    """An annotation that cannot be used, and why."""


def read_voc(
    root: str | Path, splits: str, classes: tuple[str, ...] = (), *, source: str = "", **rules: Any
) -> Annotations:
    """Read the images of `splits`.

    What cannot be used is left out; `skipped` of the result says what and why.

    Args:
        root: folder of the data set
        splits: names joined by "+", as `voc_splits` gives them; ``2007_test`` is the list test of VOC2007
        classes: in the order of the labels; empty takes all that the annotations hold, sorted
        source: where the data set comes from, for the message when it is missing
        rules: `other_classes` and `exif`, as in `assemble`

    Raises:
        UserError: data set or split missing, list empty, no usable image, unknown class
    """
    tree = Tree(root)
    parts = [_read_split(tree, split.strip(), source) for split in splits.split("+")]
    return assemble(parts, tree, splits, classes, **rules)


# Where things are


def voc_splits(tree: Tree) -> list[str]:
    """The lists of images that are not of one class, those of VOC2007 as 2007_train; or else the folders."""
    annotations = tree.ending(".xml")
    if not any(map(_is_annotation, annotations[:3])):
        return []
    lists = _lists(tree)
    whole = [name for name, path in lists.items() if not _is_of_class(path)]
    return whole or sorted({tree.group(path) for path in annotations})


def _is_of_class(path: Path) -> bool:
    """Whether a list is that of a class: cat_train.txt beside train.txt."""
    _, underscore, name = path.stem.rpartition("_")
    return bool(underscore) and (path.parent / f"{name}{path.suffix}").is_file()


def _lists(tree: Tree) -> dict[str, Path]:
    """The lists of images by the names of their splits: in ImageSets/Main, or ImageSets, or beside Annotations."""
    texts = tree.ending(".txt")
    above = [(path, [part.lower() for part in path.parts[-3:-1]]) for path in texts]
    found = [(path, path.parents[2]) for path, folders in above if folders == ["imagesets", "main"]]
    found = found or [(path, path.parents[1]) for path, folders in above if folders[-1:] == ["imagesets"]]
    found = found or [(p, p.parent) for p in texts if split_word(p.stem) and (p.parent / "Annotations").is_dir()]
    lists: dict[str, Path] = {}
    for path, folder in found:
        year = YEAR.fullmatch(folder.name) if folder != tree.root else None
        name = f"{year[1]}_{path.stem}" if year else path.stem
        lists[path.relative_to(tree.root).with_suffix("").as_posix() if name in lists else name] = path
    return lists


def _is_annotation(path: Path) -> bool:
    """Whether an XML file is one of VOC's, by its first bytes."""
    return bool(ROOT.search(read_head(path, 4096).replace(b"\x00", b"")))


def _read_split(tree: Tree, split: str, source: str) -> Found:
    year, _, name = split.rpartition("_")
    of_year = re.fullmatch(r"\d{4}", year)
    lists = _lists(tree)
    if split in lists:
        return _read_list(tree, lists[split])
    folder = tree.root / f"VOC{year}" if of_year else tree.root
    if not folder.is_dir():
        raise UserError(f"The data set {folder} was not found; to get it: {source or 'see datasets/README.md'}.")
    files = [file for file in tree.ending(".xml") if tree.group(file) == split]
    if not files or lists:
        known = sorted(lists) or sorted({tree.group(file) for file in tree.ending(".xml")})
        path = folder / "ImageSets" / "Main" / f"{name if of_year else split}.txt"
        raise UserError(f"Image list not found: {path} of the split {split!r}; splits found: {listing(known)}.")
    return _read_folders(tree, files, [image for image in tree.images if tree.group(image) == split])


def _read_list(tree: Tree, path: Path) -> Found:
    """The images that a list names, each once."""
    main = next((parent for parent in path.parents if parent.name.lower() == "imagesets"), path)
    folder = main.parent
    annotations = next((p for p in (folder / "Annotations", folder / "annotations") if p.is_dir()), folder)
    own = [xml for xml in tree.ending(".xml") if xml.is_relative_to(annotations)]
    xmls = {folded(xml.relative_to(annotations).with_suffix("").as_posix()): xml for xml in own}
    known = xmls.keys() | {stem(image.name) for image in tree.images}
    entries = [line if folded(line) in known else _entry(line) for line in read_lines(path)]
    if not entries:
        raise UserError(f"The image list {path} is empty: put one image name on each line.")
    names = list(dict.fromkeys(entries))
    records, home = [], tree.home(path, len(names))
    for name in names:
        image = tree.image(f"{name}.jpg", folder / "JPEGImages", home=home)
        xml = xmls.get(folded(name), annotations / f"{name}.xml")
        record = ImageRecord(image, str(xml), f"{folder / 'JPEGImages' / name}.jpg", name)
        records.append(_read(record, xml))
    twice = len(entries) - len(names)
    notes = [f"{path} lists {twice} images more than once: they are read once."] if twice else []
    return Found(records, notes=notes)


def _entry(line: str) -> str:
    """The name of an image in a line of a list: without quotes, ending, folder JPEGImages, columns that follow."""
    if line.startswith('"') and line.count('"') >= 2:
        line = line.split('"')[1]
    elif xml := re.fullmatch(r"(\S+)\s+\S+\.xml", line, re.IGNORECASE):
        line = xml[1]
    else:
        line = FLAG.sub("", line)
    line = line.replace("\\", "/").removeprefix("./")
    line = line[: -len(Path(line).suffix)] if is_image_name(Path(line)) else line
    return re.sub(r"^(?:.*/)?JPEGImages/", "", line)


def _read_folders(tree: Tree, files: Sequence[Path], images: Sequence[Path]) -> Found:
    """XML files and the images beside them, or in a folder beside theirs."""
    records = {xml: _read(ImageRecord(None, str(xml), xml.stem), xml) for xml in files}
    return pair(records, Partners(tree, files), images, "XML")


# An annotation


def _read(record: ImageRecord, xml: Path) -> ImageRecord:
    """Add what an XML file says to the record of its image."""
    try:
        root = _parse(xml)
        record.size = _size(root, xml)
        for number, element in enumerate(root.iter("object"), 1):
            _add_object(record, element, number)
        record.name = record.name if record.id else (root.findtext("filename") or "").strip() or record.name
    except BadXmlError as error:
        record.error = str(error)
    return record


def _parse(xml: Path) -> Element:
    """The root of a VOC annotation, all tags in lower case. Entities are refused, not expanded."""
    try:
        data = xml.read_bytes()
        if not data.strip():
            raise BadXmlError(f"{xml} is empty: copy it again.")
        root: Element = fromstring(_decode(data).lstrip())
    except FileNotFoundError as error:
        raise BadXmlError(f"{xml} was not found: its image counts as not annotated.") from error
    except OSError as error:
        raise BadXmlError(f"{xml} cannot be read: {reason(error)}.") from error
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise BadXmlError(f"{xml} is not usable XML: {reason(error)}.") from error
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2].lower()
    if root.tag != "annotation":
        raise BadXmlError(f"{xml} is not a VOC annotation: its root is <{root.tag}>, not <annotation>.")
    return root


def _decode(data: bytes) -> str:
    """The text of an XML file, in the encoding that it declares if it is in that one."""
    if declared := DECLARED.match(data):
        try:
            return data.decode(declared[1].decode())
        except UnicodeDecodeError:
            pass
    return decode(data).lstrip("\ufeff")


def _size(root: Element, xml: Path) -> tuple[int, int] | None:
    """Height and width of the image that the boxes belong to; 0 or nothing states none."""
    try:
        height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except (ValueError, OverflowError) as error:  # OverflowError: infinite
        raise BadXmlError(f"{xml} states a size that is not a number.") from error
    return (height, width) if height and width else None


def _add_object(record: ImageRecord, element: Element, number: int) -> None:
    name = " ".join((element.findtext("name") or "").split())
    box = _corners(element)
    if not name:
        record.dropped.append(f"{record.where}: object {number} has no name.")
    elif box is None:
        record.dropped.append(f"{record.where} has an object {name!r} without a bndbox of four numbers.")
    else:
        difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "true", "yes")
        record.add(box, name, difficult, place=number)


def _corners(element: Element) -> list[float] | None:
    """x1, y1, x2, y2 of an object's box, in 1-based pixels, both inclusive; or around its polygon."""
    found = element.find("bndbox")
    values = (
        [found.findtext(k) or found.get(k) or "" for k in ("xmin", "ymin", "xmax", "ymax")]
        if found is not None
        else []
    )
    if not any(values) and (polygon := element.find("polygon")) is not None:
        points = {
            axis: [_float(p.text) for p in polygon.iter() if re.fullmatch(f"{axis}\\d*", p.tag)] for axis in "xy"
        }
        if len(points["x"]) >= 2 and len(points["x"]) == len(points["y"]):
            numbers = [min(points["x"]), min(points["y"]), max(points["x"]), max(points["y"])]
            return numbers if all(map(math.isfinite, numbers)) else None
    numbers = [_float(value) for value in values]
    if len(numbers) < 4 or not all(map(math.isfinite, numbers)):
        return None
    x1, y1, x2, y2 = numbers
    return [x1 - 1, y1 - 1, x2, y2]


def _float(text: str | None) -> float:
    """A number, with a decimal point or a comma; NaN for anything else."""
    try:
        return float((text or "").strip().replace(",", "."))
    except ValueError:
        return math.nan


# The writer


def write_voc(annotations: Annotations, root: Path, split: str, names: list[str]) -> list[Path]:
    """Write ``Annotations/NAME.xml`` and ``ImageSets/Main/SPLIT.txt`` below `root`; returns the images' places.

    Args:
        names: of the images' files there

    Corners are whole numbers where they are such, and decimals elsewhere, which VOC's own tools would cut.
    """
    lists = root / "ImageSets" / "Main"
    for folder in (root / "Annotations", lists):
        folder.mkdir(parents=True, exist_ok=True)
    images = []
    for index, name in enumerate(names):
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
