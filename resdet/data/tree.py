"""The files below a data set's folder, and which of them belong together."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from resdet.data.images import IMAGE_SUFFIXES, is_image_name
from resdet.data.text import decode
from resdet.errors import UserError

LEFTOVERS = ("__macosx", "@eadir", "$recycle.bin", "lost+found")  # folders of operating systems, without a dot
# What folders are called that separate images from annotations: they do not tell one image from another.
KINDS = re.compile(
    r"(jpeg)?images?|imgs?|labels?|annotations?|anns?|annots?|xmls?|txts?|jsons?|data|obj_train_data"
)
SPLITS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
# In the names of folders of pictures that belong to images.
MASKS = re.compile(r"segm|mask|semantic|panoptic|depth|trimap")
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
ALL = "all"  # the name of the only split, where nothing is split


def split_word(name: str) -> str:
    """train, val or test, where a name says so: `valid`, `train2017`, `lvis_v1_train`, `Test`; else nothing."""
    words = [word.strip("0123456789") for word in re.split(r"[-_. /]", name.casefold().removesuffix(".json"))]
    words = [word for word in words if word]
    return next((SPLIT_OF[word] for word in (words[-1:] + words[:1]) if word in SPLIT_OF), "")


def split_words(parts: Iterable[str]) -> set[str]:
    """The splits that the folders of a path name."""
    return {word for part in parts if (word := split_word(part))}


class Tree:
    """The folder of a data set, walked once, when its files are first asked for. Hidden files are not its files."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @classmethod
    def of(cls, root: str | Path, source: str) -> Tree:
        """The folder of a data set. Raises UserError, which says that it comes from `source`, if there is none."""
        if not Path(root).is_dir():
            raise UserError(f"The data set {root} was not found; to get it: {source or 'see datasets/README.md'}.")
        return cls(root)

    @cached_property
    def _walked(self) -> tuple[list[Path], int]:
        """All files, those of a folder in the order of their names, and the number of hidden images."""
        files: list[Path] = []
        hidden, seen = 0, set()
        for folder, below, names in os.walk(self.root, followlinks=True):
            place = os.stat(folder)
            if (place.st_dev, place.st_ino) in seen:  # a link that leads back
                below.clear()
                continue
            seen.add((place.st_dev, place.st_ino))
            for name in [name for name in below if is_hidden(name)]:
                below.remove(name)
                found = (Path(file) for _, _, files in os.walk(Path(folder, name)) for file in files)
                hidden += sum(map(is_image_name, found))
            below.sort()
            for name in sorted(names):
                if is_hidden(name):
                    hidden += is_image_name(Path(name))
                else:
                    files.append(Path(folder, name))
        return files, hidden

    @property
    def files(self) -> list[Path]:
        """All files that are not hidden."""
        return self._walked[0]

    @property
    def hidden(self) -> int:
        """How many images are hidden: in folders such as .ipynb_checkpoints, or with a dot before their name.

        None where a format's own paths led to all files, and nobody looked for others.
        """
        return self._walked[1] if "_walked" in self.__dict__ else 0

    @cached_property
    def images(self) -> list[Path]:
        """The files that are images by their names, but for the masks of images."""
        images = [path for path in self.files if is_image_name(path)]
        folders = {folder for folder in {path.parent for path in images} if MASKS.search(folded(folder.name))}
        own = {stem(path.name) for path in images if path.parent not in folders}
        masks = {path.parent for path in images if path.parent in folders and stem(path.name) in own}
        return [path for path in images if path.parent not in masks]

    def ending(self, *suffixes: str) -> list[Path]:
        """The files with one of these endings, written in lower case."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def parts(self, path: Path) -> tuple[str, ...]:
        """The folders between the root and a file, or those of a file elsewhere."""
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).parent.parts

    def group(self, path: Path) -> str:
        """The split in whose folder a file lies, as the folder spells it; `all` where no folder names one.

        A folder called train counts before one called test_cameras, and of two of a kind the inner one.
        """
        parts = self.parts(path)[::-1]
        named = [part for part in parts if folded(part) in SPLIT_OF] or [part for part in parts if split_word(part)]
        return named[0] if named else ALL

    def in_split(self, files: Sequence[Path], split: str) -> list[Path]:
        """The files of a split. Raises UserError, which names the splits there are, if it has none."""
        own = [path for path in files if self.group(path) == split]
        if not own:
            known = sorted({self.group(path) for path in files})
            raise UserError(f"Split not found: {split!r} of {self.root}; splits found: {listing(known)}.")
        return own

    # Images by what annotations call them

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return by_stem(self.images)

    @cached_property
    def _below(self) -> Counter[Path]:
        """How many images are below each folder."""
        below: Counter[Path] = Counter()
        for folder, count in Counter(path.parent for path in self.images).items():
            for above in (folder, *folder.parents):
                below[above] += count
        return below

    def home(self, file: Path, count: int) -> Path:
        """The innermost folder above a file of annotations with half as many images as it names, or the root.

        One that is missing is not looked for elsewhere: images of several cameras are often called the same.
        """
        above = (folder for folder in file.parents if folder.is_relative_to(self.root))
        return next((folder for folder in above if 2 * self._below[folder] >= max(count, 1)), self.root)

    def image(self, name: str, near: Path, split: str = "", home: Path | None = None) -> Path | None:
        """The image that an annotation calls `name`, wherever it lies; None if there is none, or more than one.

        The name may have folders of another machine before it, backslashes, %20 for a blank, another ending.

        Args:
            near: the folder that the annotation is in
            split: its split; an image in the folder of another one is not meant
            home: the folder that the images are in, the root if None
        """
        home = home or self.root
        plain = name.strip().replace("\\", "/")
        for text in dict.fromkeys((plain, unquote(plain))):
            for folder in (near, home):
                if is_file(path := folder / text):
                    return path
        parts = [part for part in PurePosixPath(unquote(plain)).parts if part not in ("/", ".", "..")]
        if not parts:
            return None
        found = [path for path in self._by_stem.get(stem(parts[-1]), []) if path.is_relative_to(home)]
        if exact := [path for path in found if folded(path.name) == folded(parts[-1])]:
            found = exact
        words = split_words([split, *parts[:-1]])
        found = [path for path in found if not words or not (own := split_words(self.parts(path))) or own & words]
        return _closest(found, parts, near)

    def place(self, name: str, base: Path) -> Path | None:
        """The folder or file that a description in `base` calls `name`, though it may have been moved with it."""
        plain = name.strip().replace("\\", "/")
        if (path := base / plain).exists():
            return path
        parts = [part for part in PurePosixPath(plain).parts if part not in ("/", ".", "..") and part[-1:] != ":"]
        for first in range(len(parts)):
            if split_words(parts[:first]) - split_words(parts[first:]):
                return None  # what is left would be another split's
            for folder in (base, base.parent if parts[first] == base.resolve().name else base):
                if (path := folder.joinpath(*parts[first:])).exists():
                    return path
        return None


class Partners:
    """Files of annotations, each of one image: found by the image, in the same folder or in one beside it.

    Args:
        tree: what both are in
        files: the annotations
    """

    def __init__(self, tree: Tree, files: Sequence[Path]) -> None:
        self._tree, self._images = tree, by_stem(tree.images)
        self._files = by_stem(files)

    def of_image(self, image: Path) -> Path | None:
        """The annotation of an image."""
        return self._match(image, self._files, self._images)

    def of_file(self, file: Path) -> Path | None:
        """The image of an annotation."""
        return self._match(file, self._images, self._files)

    def images(self, names: Mapping[Path, str]) -> dict[Path, Path]:
        """Annotation → image: its partner, or else the one that it names, if no other one does."""
        found = {file: image for file in names if (image := self.of_file(file))}
        beside = Counter(file.parent for file in names)
        named = {}
        for file in names.keys() - found.keys():
            home = self._tree.home(file, beside[file.parent])
            named[file] = self._tree.image(names[file], file.parent, self._tree.group(file), home)
        claims = Counter([*found.values(), *named.values()])
        return found | {file: image for file, image in named.items() if image and claims[image] == 1}

    def _match(self, path: Path, others: dict[str, list[Path]], own: dict[str, list[Path]]) -> Path | None:
        name = stem(path.name)
        found, key = others.get(name, []), self._key(path)
        if close := [other for other in found if self._key(other) == key]:
            return next((other for other in close if other.parent != path.parent), close[0])
        if len(found) != 1 or len(own.get(name, [])) != 1:
            return None
        words, theirs = (split_words(self._tree.parts(p)) for p in (path, found[0]))
        return found[0] if not words or not theirs or words & theirs else None

    def _key(self, path: Path) -> tuple[str, ...]:
        folders = map(folded, self._tree.parts(path))
        return tuple(part for part in folders if not KINDS.fullmatch(part))


def folded(name: str) -> str:
    """A name as names are compared: in one case, with letters and their marks composed (macOS keeps them apart).

    Bytes of a file's name that are not UTF-8, as archives of Windows leave them, are read as those of a text are.
    """
    if not name.isascii():
        with suppress(UnicodeError):
            name = decode(os.fsencode(name))
    return unicodedata.normalize("NFC", name).casefold()


def stem(name: str) -> str:
    """The name of a file without its ending, as names are compared."""
    return folded(os.path.splitext(name)[0])


def by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by their names without ending."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        found[stem(path.name)].append(path)
    return found


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is none of the user's, by its name."""
    return name.startswith(".") or name.casefold() in LEFTOVERS


def is_file(path: Path) -> bool:
    """Whether there is such a file; names that no file can have are those of none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _closest(paths: Sequence[Path], parts: Sequence[str], near: Path) -> Path | None:
    """The path whose end is most like `parts`, then the one closest to `near`; None if there is a tie.

    Files of one folder that differ in their ending only are the same picture: the usual ending is taken.
    """
    scores = {path: (_common(path.parts[-2::-1], parts[-2::-1]), _common(path.parts, near.parts)) for path in paths}
    best = [path for path, score in scores.items() if score == max(scores.values())]
    if len({path.parent for path in best}) != 1:
        return None

    def rank(path: Path) -> tuple[bool, int, bool]:
        suffix = path.suffix
        return path.name != parts[-1], IMAGE_SUFFIXES.index(suffix.lower()), suffix.isupper()

    return min(best, key=rank)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """How many of the first parts are equal, but for their case."""
    count = 0
    for one, other in zip(a, b, strict=False):
        if folded(one) != folded(other):
            break
        count += 1
    return count


def unique_names(paths: Sequence[str], join: str) -> list[str]:
    """The shortest ends of paths, without the files' endings, that tell them all apart.

    Args:
        join: what stands between the folders and the name

    Returns:
        a name for each path; where two differ in their ending only, it stays; a number follows where nothing else
        helps
    """
    parts = [PurePosixPath(path).with_suffix("").parts for path in paths]
    depth = [1] * len(paths)

    def name(index: int) -> str:
        return join.join(parts[index][-depth[index] :]).removeprefix("/")

    def shared() -> list[int]:
        owners: dict[str, list[int]] = defaultdict(list)
        for index in range(len(paths)):
            owners[folded(name(index))].append(index)
        return [index for own in owners.values() if len({paths[i] for i in own}) > 1 for index in own]

    while longer := [index for index in shared() if depth[index] < len(parts[index])]:
        for index in longer:
            depth[index] += 1
    twins = set(shared())
    names: list[str] = []
    owners: dict[str, str] = {}
    for index, path in enumerate(paths):
        full = own = name(index) + (PurePosixPath(path).suffix if index in twins else "")
        number = 1
        while owners.setdefault(folded(own), path) != path:
            number += 1
            own = f"{full}_{number}"
        names.append(own)
    return names


def listing(names: Sequence[str], most: int = 8) -> str:
    """Names for a message: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
