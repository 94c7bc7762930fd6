"""List the zoo's detectors, and download them before they are needed."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from resdet.errors import UserError
from resdet.models.weights.zoo import ZOO, ZooEntry, find, folder, local_path

TERMS = "BSD-3 is the licence of torchvision itself: its weights may have terms of the data they were trained on."
logger = logging.getLogger(__name__)


def listing() -> str:
    """A table of the zoo's detectors: name, network, accuracy, size, licence, and whether it is downloaded."""
    rows = [("name", "network", "accuracy", "size", "licence", "downloaded"), *map(_row, ZOO)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", f"{TERMS} Files are in {folder()}."])


def download_detectors(names: Iterable[str]) -> None:
    """Download and convert detectors of the zoo, unless they are here, and report where they are.

    Raises UserError for a name that none has, and for a detector that cannot be had.
    """
    for name in names:
        if not find(name):
            raise UserError(f"{name} is not a detector of the zoo: `resdet zoo` lists them.")
    for name in names:
        logger.info(f"{name}: {local_path(name)}")


def _row(entry: ZooEntry) -> tuple[str, ...]:
    here = entry.file.is_file() or entry.converted.is_file()
    size = entry.file.stat().st_size if entry.file.is_file() else entry.size
    megabytes = f"{size / 1e6:.0f} MB" if size else "?"
    return entry.name, entry.what, f"{entry.metric} {entry.ap}", megabytes, entry.licence, "yes" if here else "no"
