"""CIFAR-10 and CIFAR-100 as arrays in memory, from whatever form they come in.

Read are the official binary files, the Python pickles that torchvision downloads, and small images in folders
SPLIT/CLASS; each as a folder or as a tar archive of any compression.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from resdet.data.images import ImageError, decode_image
from resdet.errors import UserError, reason
from resdet.pickles import unpickle

Kind = Literal["cifar10", "cifar100"]
Split = Literal["train", "test"]

CLASSES: dict[str, tuple[str, ...]] = {
    "cifar10": tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),  # noqa: SIM905
    "cifar100": tuple(
        """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
        can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
        dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
        lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
        oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
        possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
        spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
        train trout tulip turtle wardrobe whale willow_tree wolf woman worm
        """.split()  # noqa: SIM905
    ),
}
SIDE = 32
PIXELS = 3 * SIDE * SIDE
# The files of a split: CIFAR-10 has five batches to train on, CIFAR-100 one file; pickles have no ending.
RECORDS = {
    ("cifar10", "train"): r"data_batch_\d",
    ("cifar10", "test"): r"test_batch",
    ("cifar100", "train"): r"train",
    ("cifar100", "test"): r"test",
}


class ImageArray(NamedTuple):
    """M small images of one size."""

    images: np.ndarray
    """(M, H, W, 3) uint8 RGB"""
    labels: np.ndarray
    """(M,) int64"""
    classes: tuple[str, ...]
    names: list[str]
    """where each image comes from, for messages"""
    skipped: list[str]
    """what could not be used, in a sentence each"""


def read_cifar(root: str | Path, kind: Kind, split: Split, *, source: str) -> ImageArray:
    """The images of a split. Raises UserError, which names `source`, if they are not in `root`."""
    records = re.compile(rf"(.*/)?{RECORDS[kind, split]}(\.bin)?")
    pictures = re.compile(rf"(.*/)?{split}/(?P<label>[^/]+)/[^/]+\.(?i:jpe?g|png)")
    try:
        files = sorted(_files(Path(root), lambda name: bool(records.fullmatch(name) or pictures.fullmatch(name))))
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"{root} cannot be read ({reason(error)}): copy it again from {source}.") from error
    named = [(name, data) for name, data in files if records.fullmatch(name)]
    binary = [(name, data) for name, data in named if name.endswith(".bin")]
    if binary:  # both forms may lie in one folder
        return _join([_read_binary(name, data, kind) for name, data in binary], kind)
    if named:
        return _join([_read_pickle(name, data, kind) for name, data in named], kind)
    if files:
        return _read_pictures([(name, pictures.fullmatch(name)["label"], data) for name, data in files])  # type: ignore[index]
    raise UserError(f"Split not found: {kind} has no {split} in {root}; put it there ({source}).")


def _files(root: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the wanted files in a folder or a tar archive."""
    if root.is_dir():
        for path in root.rglob("*"):
            name = path.relative_to(root).as_posix()
            if wanted(name) and path.is_file():
                yield name, path.read_bytes()
    elif root.is_file():
        with tarfile.open(root) as archive:
            for member in archive:
                if member.isfile() and wanted(member.name):
                    yield member.name, archive.extractfile(member).read()  # type: ignore[union-attr]


def _join(parts: list[tuple[np.ndarray, np.ndarray, list[str]]], kind: Kind) -> ImageArray:
    planes, labels, names = (list(column) for column in zip(*parts, strict=True))
    images = np.concatenate(planes).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return ImageArray(
        np.ascontiguousarray(images),
        np.concatenate(labels).astype(np.int64),
        CLASSES[kind],
        list(chain(*names)),
        [],
    )


def _read_binary(name: str, data: bytes, kind: Kind) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Records of the label (CIFAR-100: the coarse, then the fine one) and the red, green and blue planes."""
    head = 1 if kind == "cifar10" else 2
    if not data or len(data) % (head + PIXELS):
        raise UserError(f"{name} does not hold whole records of {kind}: copy the file again.")
    records = np.frombuffer(data, np.uint8).reshape(-1, head + PIXELS)
    return records[:, head:], _checked(records[:, head - 1], name, kind), _numbered(name, len(records))


def _read_pickle(name: str, data: bytes, kind: Kind) -> tuple[np.ndarray, np.ndarray, list[str]]:
    try:
        content = unpickle(io.BytesIO(data), name)
        # Python 2 wrote these names as text, later picklers write them as bytes.
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        planes = np.asarray(batch["data"], np.uint8).reshape(-1, PIXELS)
        labels = np.asarray(batch["labels" if kind == "cifar10" else "fine_labels"], np.int64)
        if len(planes) != len(labels):
            raise ValueError(f"{len(planes)} images and {len(labels)} labels")
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{name} is not a batch of {kind} ({reason(error)}): copy the file again.") from error
    return planes, _checked(labels, name, kind), _numbered(name, len(planes))


def _read_pictures(files: list[tuple[str, str, bytes]]) -> ImageArray:
    classes = tuple(sorted({label for _, label, _ in files}))
    images, labels, names, skipped = [], [], [], []
    for name, label, data in files:
        try:
            image = decode_image(data, name)
            if image.shape[:2] != (SIDE, SIDE):
                raise ImageError(f"{name} has {image.shape[1]}×{image.shape[0]} pixels instead of {SIDE}×{SIDE}.")
        except ImageError as error:
            skipped.append(str(error))
            continue
        images.append(image)
        labels.append(classes.index(label))
        names.append(name)
    if not images:
        raise UserError(f"None of the {len(files)} images can be used: {skipped[0]}")
    return ImageArray(np.stack(images), np.array(labels, np.int64), classes, names, skipped)


def _checked(labels: np.ndarray, name: str, kind: Kind) -> np.ndarray:
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES[kind]):
        raise UserError(f"{name} holds labels beyond the classes of {kind}: it is another data set's file.")
    return labels


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}, image {number}" for number in range(count)]
