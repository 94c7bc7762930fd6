"""The formats of data sets: their readers and writers, which one a folder has, and what each cannot hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from resdet.data.annotations import Annotations
from resdet.data.coco import image_numbers, read_coco, write_coco
from resdet.data.coco_file import FILES
from resdet.data.voc import read_voc, write_voc
from resdet.data.yolo import read_description, read_yolo, write_yolo
from resdet.errors import UserError


class Format(NamedTuple):
    """A way to write down which boxes are in which images."""

    read: Callable[..., Annotations]
    write: Callable[[Annotations, Path, str], list[Path]]
    """annotations, folder, split → where the images are to be put"""
    splits: Callable[[Path], list[str]]
    """folder → names of the splits in it; none if it has another format"""
    lost: Callable[[Annotations], list[str]]
    """what the format cannot hold of these annotations, one phrase for each kind"""


def voc_splits(root: Path) -> list[str]:
    """The lists of images that are not of one class; those of VOC2007 as 2007_train."""
    names = []
    for prefix, folder in [("", root), *((f"{p.name[3:]}_", p) for p in sorted(root.glob("VOC[0-9]*")))]:
        stems = [path.stem for path in sorted((folder / "ImageSets" / "Main").glob("*.txt"))]
        names += [prefix + stem for stem in stems if "_" not in stem or stem.rpartition("_")[2] not in stems]
    return names if (root / "Annotations").is_dir() or any(root.glob("VOC[0-9]*")) else []


def coco_splits(root: Path) -> list[str]:
    """The names X of instances_X.json, X.json and X/_annotations.coco.json."""
    names = []
    for place in FILES:
        before, after = place.split("{}")
        found = [path for path in sorted(root.glob(before + "*" + after)) if _lists_images(path)]
        names += [str(path.relative_to(root))[len(before) : -len(after)] for path in found]
    # annotations/instances_X.json is found as annotations/Y.json too, with Y = instances_X
    return list(dict.fromkeys(name.removeprefix("instances_") for name in names))


def _lists_images(path: Path) -> bool:
    """Whether a JSON file looks like one of instances, from its first bytes: it may be large."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    return any(key in head for key in (b'"images"', b'"annotations"', b'"categories"'))


def yolo_splits(root: Path) -> list[str]:
    """The splits of data.yaml, or else the folders of images beside which there are labels."""
    description = read_description(root)
    if "names" in description:
        others = ("names", "nc", "path", "download")
        return [key for key, value in description.items() if key not in others and isinstance(value, str | list)]
    folders = [path for path in sorted(root.glob("images/*")) if (root / "labels" / path.name).is_dir()]
    return [path.name for path in folders]


def lost_in_voc(annotations: Annotations) -> list[str]:
    """VOC knows an image by its file's name, a class by its name, and no areas but those of boxes."""
    stems = [Path(annotations.file(index)).stem for index in range(len(annotations))]
    areas = (annotations.boxes[:, 2:] - annotations.boxes[:, :2]).prod(1)
    masks = int((abs(annotations.areas - areas) > 1e-6 * areas).sum())
    numbers = annotations.category_ids.tolist() != list(range(1, len(annotations.classes) + 1))
    return [
        *([f"the areas of {masks} masks"] if masks else []),
        *(["the categories' numbers"] if numbers else []),
        *([] if all(map(_same, stems, _ids(annotations))) else ["the images' identifiers"]),
    ]


def lost_in_yolo(annotations: Annotations) -> list[str]:
    """YOLO's format has neither those nor objects that do not count."""
    difficult = int(annotations.difficult.sum())
    flagged = [f"{difficult} objects marked difficult or as a crowd, which are left out"] if difficult else []
    return [*flagged, *lost_in_voc(annotations)]


def lost_in_coco(annotations: Annotations) -> list[str]:
    """COCO knows an image by a number; its file's name is kept too."""
    stems = [Path(annotations.file(index)).stem for index in range(len(annotations))]
    numbers, ids = map(str, image_numbers(annotations)), _ids(annotations)
    kept = all(map(_same, numbers, ids)) or all(map(_same, stems, ids))
    return [] if kept else ["the images' identifiers"]


def _ids(annotations: Annotations) -> list[str]:
    return [annotations.id(index) for index in range(len(annotations))]


def _same(a: str, b: str) -> bool:
    """Whether two identifiers are equal, or are one number: 000042 and 42."""
    return a == b or (a.isdecimal() and b.isdecimal() and int(a) == int(b))


FORMATS: dict[str, Format] = {
    "voc": Format(read_voc, write_voc, voc_splits, lost_in_voc),
    "coco": Format(read_coco, write_coco, coco_splits, lost_in_coco),
    "yolo": Format(read_yolo, write_yolo, yolo_splits, lost_in_yolo),
}


def find_format(root: Path) -> tuple[str, list[str]]:
    """The format of the data set in this folder, and its splits.

    Raises UserError if there is none, or traces of more than one.
    """
    if not root.is_dir():
        raise UserError(f"Data set not found: {root}; pass the folder that holds it.")
    found = {name: splits for name, form in FORMATS.items() if (splits := form.splits(root))}
    if not found:
        raise UserError(
            f"{root} is not a data set: it has neither Annotations/*.xml with ImageSets/Main (voc), nor instances "
            "JSON files (coco), nor data.yaml or labels/*/*.txt (yolo)."
        )
    if len(found) > 1:
        raise UserError(f"{root} holds {' and '.join(found)} at once: choose one with --format.")
    return next(iter(found.items()))


def convert(annotations: Annotations, kind: str, root: Path, split: str, link: bool) -> list[str]:
    """Write `annotations` below `root` in the format `kind`, with copies of (or links to) their images.

    Returns what the format cannot hold. Raises UserError if two images have one name, or one is in the way.
    """
    places: dict[str, str] = {}
    for index in range(len(annotations)):
        file = annotations.file(index)
        stem = Path(file).stem
        if places.setdefault(stem, file) != file:
            raise UserError(f"{places[stem]} and {file} would have one name in {root}: rename one of them.")
    form = FORMATS[kind]
    for index, image in enumerate(form.write(annotations, root, split)):
        source = Path(annotations.file(index))
        image.parent.mkdir(parents=True, exist_ok=True)
        if image.exists() and not image.samefile(source) and image.stat().st_size != source.stat().st_size:
            raise UserError(f"{image} differs from {source}: choose an empty folder.")
        if not image.exists():
            image.symlink_to(source.absolute()) if link else shutil.copy2(source, image)
    return form.lost(annotations)
