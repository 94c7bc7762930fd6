"""YOLO's format: for each image a text file, a line for each object; and where the many tools put them."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import yaml

from resdet.data.annotations import Annotations
from resdet.data.images import is_image_name
from resdet.data.records import Found, ImageRecord, assemble
from resdet.data.text import numbered_lines, read_lines, read_text
from resdet.data.tree import ALL, Partners, Tree, listing, split_word, stem
from resdet.errors import UserError, reason

NAMES = ("classes.txt", "obj.names", "names.txt", "_darknet.labels", "labels.txt", "predefined_classes.txt")
NOT_SPLITS = (
    "names",
    "nc",
    "path",
    "download",
    "kpt_shape",
    "flip_idx",
    "kpt_names",
    "channels",
    "backup",
    "classes",
)
LINE = re.compile(r"[\w.-]+([\s,]+[-+.\deE]+){4,}\s*")
SAMPLE = 20  # text files whose lines are looked at to tell the format
FARTHEST = 1.5  # shares beyond this are pixels


def read_yolo(
    root: str | Path, splits: str, classes: tuple[str, ...] = (), *, source: str = "", **rules: Any
) -> Annotations:
    """Read the images of `splits`, and the objects in the text file of each.

    A line is ``class x y width height``, the box's center and size as fractions of the image's width and height. A
    longer one is a polygon, ``class x1 y1 x2 y2 …``, or a box and keypoints, of which the box is taken (`Lines`).
    An image without a text file shows no object; if none has one, that is an error. What cannot be used is left
    out; `skipped` of the result says what and why.

    Args:
        root: folder of the data set
        splits: names joined by "+", as `yolo_splits` gives them, or folders and lists of images
        classes: in the order of the labels; empty takes all that the data set names
        source: where the data set comes from, for the message when it is missing
        rules: `other_classes` and `exif`, as in `assemble`

    Raises:
        UserError: data set or split missing, no text file, no usable image, unknown class
    """
    tree = Tree.of(root, source)
    description = read_description(tree)
    names = class_names(tree, description)
    partners = Partners(tree, _label_files(tree))
    wanted = [(split.strip(), _images(tree, split.strip(), description)) for split in splits.split("+")]
    files = [
        file
        for _, images in wanted
        for image in images
        if isinstance(image, Path) and (file := partners.of_image(image))
    ]
    if not files:
        where = listing([name for name, _ in wanted])
        raise UserError(
            f"No image of {root}, {where}, has a text file of labels: images/…/NAME.jpg needs labels/…/NAME.txt."
        )
    lines = Lines.of(files, names, description.content)
    parts = [_read_split(tree, name, images, partners, lines) for name, images in wanted]
    parts[0].notes = [*lines.notes, *_missing_splits(tree, description), *parts[0].notes]
    return assemble(parts, tree, splits, classes, **rules)


# Where things are


def yolo_splits(tree: Tree) -> list[str]:
    """The splits of the description, or else the folders of images that have text files."""
    partners = Partners(tree, _label_files(tree))
    labelled = [image for image in tree.images if (file := partners.of_image(image))]
    files = [file for image in labelled[:SAMPLE] if (file := partners.of_image(image))]
    if not any(map(looks_like_labels, files)):
        return []
    description = read_description(tree)
    stated = _stated_splits(tree, description)
    there = [key for key in stated if _places(tree, description, stated[key])]
    return there or list(stated) or sorted({_group(tree, image) for image in labelled})


def _group(tree: Tree, image: Path) -> str:
    """The split of an image by its folders; below a folder `images`, any folder is one."""
    parts = tree.parts(image)
    if (named := tree.group(image)) != ALL or len(parts) < 2 or parts[0].casefold() != "images":
        return named
    return parts[1]


class Description(NamedTuple):
    """What data.yaml, or darknet's obj.data, says."""

    folder: Path
    """that it is in"""
    content: dict[str, Any]
    """in texts, lists and dictionaries; empty if there is no such file"""


def read_description(tree: Tree) -> Description:
    """The description that is least deep. Raises UserError if there are several."""
    for suffixes, read in (((".yaml", ".yml"), _read_yaml), ((".data",), _read_pairs)):
        files = sorted(
            tree.ending(*suffixes), key=lambda path: (len(path.parts), path.stem.lower() != "data", path)
        )
        contents = ((file, read(file)) for file in files)
        found = [(file, content) for file, content in contents if content.keys() & {"names", "train", "nc"}]
        level = [file.parent for file, _ in found if len(file.parts) == len(found[0][0].parts)]
        if len(set(level)) > 1:
            places = listing([str(folder) for folder in level])
            raise UserError(f"{tree.root} has several data sets, in {places}: pass one of them.")
        if found:
            return Description(level[0], found[0][1])
    return Description(tree.root, {})


def _stated_splits(tree: Tree, description: Description) -> dict[str, list[str]]:
    """The entries of each split that a description names, as far as it can be told what is one; or the lists."""
    named = {
        key: [str(entry) for entry in (value if isinstance(value, list) else [value])]
        for key, value in description.content.items()
        if key not in NOT_SPLITS and value and isinstance(value, str | list)
    }
    stated = {key: own for key, own in named.items() if split_word(key) or _places(tree, description, own)}
    if stated:
        return stated
    lists: dict[str, list[str]] = defaultdict(list)
    for path in tree.ending(".txt"):
        if _lists_images(path):
            lists[path.stem].append(str(path.resolve()))
    return lists


def _lists_images(path: Path) -> bool:
    """Whether a text file is a list of the images of a split, by its name and its first line."""
    return bool(split_word(path.stem)) and any(is_image_name(Path(line)) for _, line in _object_lines(path)[:1])


def _missing_splits(tree: Tree, description: Description) -> list[str]:
    """A sentence for each split that a description names in vain."""
    return [
        f"The description of {tree.root} names the split {key}, {listing(entries)}, which was not found there."
        for key, entries in _stated_splits(tree, description).items()
        if not _places(tree, description, entries)
    ]


def _read_pairs(file: Path) -> dict[str, Any]:
    """A file of darknet's, ``key = value``."""
    pairs = [line.partition("=") for line in read_lines(file)]
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file, of which every scalar stays the text that it is: yes, 007 and 1e3 are names of classes."""
    text = read_text(file)
    try:
        try:
            content = yaml.load(text, yaml.BaseLoader)  # builds nothing but texts, lists and dictionaries
        except yaml.YAMLError:
            if "\t" not in text:
                raise
            content = yaml.load(text.replace("\t", "  "), yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as YAML: {reason(error)}.") from error
    return content if isinstance(content, dict) else {}


def class_names(tree: Tree, description: Description) -> dict[int, str]:
    """Number → name of each class; empty if nothing names them. Raises UserError for names that make no sense."""
    named = description.content.get("names")
    if isinstance(named, str) and (file := tree.place(named, description.folder)) and file.is_file():
        return dict(enumerate(read_lines(file)))
    if isinstance(named, str) and len(pairs := re.findall(r"(\d+):\s*(\S+)", named)) > 0:
        named = dict(pairs)  # written without a blank after the colon
    if isinstance(named, str) and "," in named:
        named = named.split(",")
    if isinstance(named, dict):
        try:
            return {
                int(key): str(name).strip() for key, name in sorted(named.items(), key=lambda item: int(item[0]))
            }
        except ValueError as error:
            raise UserError(
                f"The names in data.yaml of {description.folder} are not numbered: write `names: [first, second]`."
            ) from error
    if isinstance(named, list) and named:
        return dict(enumerate(str(name).strip() for name in named))
    for name in NAMES:
        found = [path for path in tree.ending(Path(name).suffix) if path.name.lower() == name]
        level = [path for path in found if len(path.parts) == min(len(other.parts) for other in found)]
        lists = [read_lines(path) for path in level]
        longest = max(lists, key=len, default=[])
        if any(own != longest[: len(own)] for own in lists):
            places = listing([str(path) for path in level])
            raise UserError(f"{tree.root} has several lists of classes that differ: keep one of {places}.")
        if longest:
            return dict(enumerate(longest))
    return {}


def _label_files(tree: Tree) -> list[Path]:
    """The text files that may be those of an image."""
    return [path for path in tree.ending(".txt") if path.name.lower() not in NAMES]


def looks_like_labels(path: Path) -> bool:
    """Whether the first line of a text file is one of YOLO's."""
    lines = _object_lines(path)
    return not lines or bool(LINE.fullmatch(lines[0][1]))


def _place(tree: Tree, description: Description, entry: str) -> Path | None:
    """The folder or list that an entry means, below the description's own `path` or wherever it was moved."""
    base = str(description.content.get("path", ""))
    path = description.folder / base / entry
    if path.exists():
        return path
    return tree.place(f"{base}/{entry}", description.folder) or tree.place(entry, description.folder)


def _places(tree: Tree, description: Description, entries: Sequence[str]) -> list[Path]:
    return [place for entry in entries if (place := _place(tree, description, entry))]


def _images(tree: Tree, split: str, description: Description) -> list[Path | str]:
    """The images of a split; the name of one that is listed but not there.

    Raises UserError if there is no such split, or it has no image.
    """
    entries = _stated_splits(tree, description).get(split, [])
    places = []
    for entry in entries:
        place = _place(tree, description, entry)
        if place is None:
            raise UserError(
                f"The description of {tree.root} names {entry}, which was not found there: fix the path."
            )
        places.append(place)
    if not entries:
        own = [image for image in tree.images if _group(tree, image) == split]
        folder = next(
            (p for p in (tree.root / f for f in (f"images/{split}", split)) if split and p.exists()), None
        )
        if own:
            return list(own)
        if folder is None:
            raise UserError(
                f"Split not found: {split!r} of {tree.root} is not in data.yaml, and no folder "
                f"{tree.root / 'images' / split}; splits found: {listing(yolo_splits(tree))}."
            )
        places = [folder]
    images = [image for place in places for image in _images_at(tree, place, split)]
    if not images:
        raise UserError(f"No images found in {places[0]}: put the images of the split {split!r} there.")
    return images


def _images_at(tree: Tree, place: Path, split: str) -> list[Path | str]:
    """The images below a folder, or those that a text file lists, one a line."""
    if place.is_dir():
        prefix = place.resolve()
        own = tree if prefix.is_relative_to(tree.root.resolve()) else Tree(place)
        folders = {
            folder for folder in {image.parent for image in own.images} if folder.resolve().is_relative_to(prefix)
        }
        return [image for image in own.images if image.parent in folders]
    if is_image_name(place):
        return [place]
    images: list[Path | str] = []
    lines = read_lines(place)
    home = tree.home(place, len(lines))
    for line in lines:
        found = tree.image(line, place.parent, split, home)
        more = re.match(r"(.+?\.\w{3,4})\s+[\d,. ]+$", line)
        if found is None and more and is_image_name(Path(more[1])):
            raise UserError(
                f"{place} has boxes behind the names of its images, which is not YOLO's format: write them to text "
                "files, one for each image."
            )
        images.append(found or line)
    return images


# Lines


class Lines(NamedTuple):
    """How the lines of a data set are to be read."""

    texts: dict[Path, list[tuple[int, str]] | UserError]
    """the lines that state objects, with their numbers; or why a file cannot be read"""
    names: dict[int, str]
    boxes_first: bool
    """whether a long line is a box and more; else it is a polygon"""
    scores: bool
    """whether a score follows each polygon"""
    notes: list[str]

    @classmethod
    def of(cls, files: Sequence[Path], names: dict[int, str], description: dict[str, Any]) -> Lines:
        """Look at all lines of a data set, for what one alone does not tell."""
        texts = {file: _read_lines(file) for file in files}
        stated = [line for lines in texts.values() if isinstance(lines, list) for _, line in lines]
        rows = [numbers for line in stated if (numbers := _numbers(line))]
        notes = []
        labels = sorted({int(row[0]) for row in rows if row[0] % 1 == 0 <= row[0]})
        if not names:
            names = {label: f"class_{label}" for label in labels}
            notes.append(
                "Nothing names the classes, so they are called class_0, class_1 …: write classes.txt, a name "
                "a line, or data.yaml with `names: [first, second]`."
            )
        elif labels and labels[0] > 0 and labels[-1] == len(names) and list(names) == list(range(len(names))):
            raise UserError(
                f"{files[0].parent} has labels from {labels[0]} to {labels[-1]}, but YOLO's count from 0: "
                "subtract 1 from each, or add a class before the first."
            )
        elif (
            labels and labels[0] == 0 and list(names) == list(range(1, len(names) + 1)) and labels[-1] < len(names)
        ):
            raise UserError(
                f"The classes are numbered from 1 to {len(names)}, but the labels in {files[0].parent} from 0 to "
                f"{labels[-1]}: number both from 0."
            )
        twice = [name for name, count in Counter(names.values()).items() if count > 1]
        if twice:
            notes.append(f"Several classes are called {listing(twice)}: they are taken as one.")
        boxes_first = _has_keypoints(rows, description) or _has_track(rows)
        scores = not boxes_first and _has_scores(rows)
        if boxes_first or scores or any(len(row) == 6 for row in rows):
            notes.append("The lines hold more than a box (keypoints, a score, a track): only the boxes are read.")
        if _are_corners(rows):
            raise UserError(
                f"{files[0].parent} has x1 y1 x2 y2 in its lines, but YOLO's are x y width height with the center: "
                "convert them."
            )
        return cls(texts, names, boxes_first, scores, notes)


def _has_keypoints(rows: Sequence[Sequence[float]], description: dict[str, Any]) -> bool:
    """Whether long lines are boxes with keypoints: the description says so, or all points lie in their box."""
    shape = description.get("kpt_shape")
    if isinstance(shape, list) and len(shape) == 2 and all(str(n).isdecimal() for n in shape):
        return {len(row) - 5 for row in rows if len(row) > 6} == {int(shape[0]) * int(shape[1])}
    long = [row[1:] for row in rows if len(row) > 7]
    if not long or len({len(row) for row in long}) != 1:
        return False
    return any((len(long[0]) - 4) % step == 0 and all(_inside(row, step) for row in long) for step in (2, 3))


def _has_track(rows: Sequence[Sequence[float]]) -> bool:
    """Whether a score and the whole number of a track follow each box."""
    long = [row for row in rows if len(row) > 5]
    return bool(long) and all(len(row) == 7 and row[6] % 1 == 0 for row in long) and max(r[6] for r in long) > 1


def _has_scores(rows: Sequence[Sequence[float]]) -> bool:
    """Whether a score follows each polygon, as in predictions."""
    long = [row for row in rows if len(row) > 6]
    return bool(long) and all(len(row) >= 8 and len(row) % 2 == 0 and 0 <= row[-1] <= 1 for row in long)


def _inside(row: Sequence[float], step: int) -> bool:
    """Whether the points behind a box lie in it, but for those at 0, 0, which are not labelled."""
    x, y, width, height = row[:4]
    points = [(row[i], row[i + 1]) for i in range(4, len(row), step)]
    return all(
        (abs(a - x) <= width / 2 + 1e-3 and abs(b - y) <= height / 2 + 1e-3) or a == b == 0 for a, b in points
    ) and any((a, b) != (0, 0) for a, b in points)


def _are_corners(rows: Sequence[Sequence[float]]) -> bool:
    """Whether boxes were written as corners: as such they lie in their images, as YOLO's many do not."""
    boxes = np.array([row[1:] for row in rows if len(row) == 5]).reshape(-1, 4)
    if len(boxes) < 5 or not ((boxes >= 0) & (boxes <= 1)).all():
        return False
    beyond = (np.abs(boxes[:, :2] - 0.5) + boxes[:, 2:] / 2 > 0.51).any(1)
    return bool((boxes[:, 2:] > boxes[:, :2]).all() and beyond.mean() > 0.2)


def _object_lines(file: Path) -> list[tuple[int, str]]:
    """The lines that state objects, with their numbers; none of a file that is not text."""
    lines = _read_lines(file)
    return lines if isinstance(lines, list) else []


def _read_lines(file: Path) -> list[tuple[int, str]] | UserError:
    """The lines that state objects, with their numbers; or why the file cannot be read."""
    try:
        return [(number, line) for number, line in numbered_lines(file) if not line.startswith("#")]
    except UserError as error:
        return error


def _numbers(line: str, names: dict[str, int] | None = None) -> list[float]:
    """The numbers of a line; none if it holds anything else. A class may be given by its name."""
    if "," in line:
        line = line.replace(",", " ") if "." in line or " " not in line.strip() else line.replace(",", ".")
    label, *rest = line.split() or [""]
    try:
        return [float((names or {}).get(label, label)), *map(float, rest)]
    except ValueError:
        return []


# An image


def _read_split(tree: Tree, split: str, images: Sequence[Path | str], partners: Partners, lines: Lines) -> Found:
    used: dict[Path, Path] = {}
    records, missing, gone = [], 0, set()
    numbers = {name: number for number, name in lines.names.items()}
    once = dict.fromkeys(images)
    for image in once:
        if isinstance(image, str):
            records.append(ImageRecord(None, f"the list of {split}", image))
            gone.add(stem(PurePosixPath(image.replace("\\", "/")).name))
            continue
        file = partners.of_image(image)
        record = ImageRecord(image, str(file or ""), str(image), unit="line")
        if file in used:
            record.error = f"{image} and {used[file]} share one text file, {file}: rename one of them."
        elif file:
            used[file] = image
            _read_file(record, file, lines, numbers)
        else:
            missing += 1
        records.append(record)
    notes = (
        [f"{missing} images of {split} have no text file: they count as images without objects."] if missing else []
    )
    if len(once) < len(images):
        notes.append(f"{len(images) - len(once)} images of {split} are listed more than once: they are read once.")
    return Found(
        records,
        {name: number + 1 for number, name in lines.names.items()},
        True,
        _orphans(tree, split, partners, gone),
        notes,
    )


def _orphans(tree: Tree, split: str, partners: Partners, gone: set[str]) -> list[str]:
    """The objects of text files whose image is not there: those of the split's folders, or of images it lists."""
    orphans = []
    for file in _label_files(tree):
        own = stem(file.name) in gone or split_word(split) == split_word(tree.group(file))
        if own and partners.of_file(file) is None and looks_like_labels(file):
            orphans += [f"{file}, line {number}: its image is missing." for number, _ in _object_lines(file)]
    return orphans


def _read_file(record: ImageRecord, file: Path, lines: Lines, numbers: dict[str, int]) -> None:
    rows = lines.texts[file]
    if isinstance(rows, UserError):
        record.error = str(rows)
        return
    for number, line in rows:
        read = _read_line(line, f"{file}, line {number}", lines, numbers)
        if isinstance(read, str):
            record.dropped.append(read)
        else:
            record.add(read[1], lines.names[read[0]], place=number)


def _read_line(line: str, where: str, lines: Lines, numbers: dict[str, int]) -> tuple[int, list[float]] | str:
    """Label and box, x1, y1, x2, y2 in fractions of the image's size; or why there is none."""
    label, *values = _numbers(line, numbers) or [-1.0]
    values = values[:-1] if lines.scores and len(values) > 6 else values
    polygon = len(values) >= 6 and not lines.boxes_first
    if len(values) < 4 or (polygon and len(values) % 2) or not all(map(math.isfinite, values)):
        return f"{where} is not `class x y width height`: {line[:60]!r}."
    if label not in lines.names:
        return f"{where} has the class {label:g}, but the classes are {_ranges(lines.names)}."
    own = values if polygon else values[:4]
    if any(abs(value) > FARTHEST for value in own):
        return f"{where} has {max(own, key=abs):g}: the numbers must be fractions of the image's size."
    if polygon:
        x, y = values[::2], values[1::2]
        return int(label), [min(x), min(y), max(x), max(y)]
    x_center, y_center, width, height = own
    half_width, half_height = width / 2, height / 2
    return int(label), [
        x_center - half_width,
        y_center - half_height,
        x_center + half_width,
        y_center + half_height,
    ]


def _ranges(names: dict[int, str]) -> str:
    """The numbers of classes, for messages: 0 to 79, or each of them."""
    numbers = sorted(names)
    if len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return listing(list(map(str, numbers)))


# The writer


def write_yolo(annotations: Annotations, root: Path, split: str, names: list[str]) -> list[Path]:
    """Write ``labels/SPLIT/NAME.txt`` and ``data.yaml`` below `root`; returns where each image is to be put.

    Difficult objects and crowd regions, which YOLO's format cannot mark, are left out.
    """
    labels = root / "labels" / split
    labels.mkdir(parents=True, exist_ok=True)
    images = []
    for index, name in enumerate(names):
        own = slice(*annotations.offsets[index : index + 2])
        easy = ~annotations.difficult[own]
        boxes, height_width = annotations.boxes[own][easy], annotations.sizes[index]
        corners = boxes / np.tile(height_width[::-1], 2)
        centers, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        rows = zip(annotations.labels[own][easy].tolist(), np.hstack([centers, sides]).tolist(), strict=True)
        text = "".join(f"{label} {' '.join(f'{value:.12g}' for value in values)}\n" for label, values in rows)
        (labels / name).with_suffix(".txt").write_text(text, encoding="utf-8")
        images.append(root / "images" / split / name)
    file = root / "data.yaml"
    description = _read_yaml(file) if file.is_file() else {}
    description |= {"names": list(annotations.classes), split: f"images/{split}"}
    description |= {"nc": len(annotations.classes)} if "nc" in description else {}
    file.write_text(yaml.safe_dump(description, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return images
