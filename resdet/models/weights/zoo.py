"""Detectors of torchvision and detectron2 by name: where they are, and how they become files of resdet.

A detector is downloaded once into `folder`, converted once, and read from there from then on.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

import torch
from filelock import FileLock

from resdet.errors import UserError, reason
from resdet.models.weights.detector_file import read_detector
from resdet.models.weights.download import Digest, check_digits, download
from resdet.models.weights.hub import PREFIX, hub_file
from resdet.models.weights.resdet import read_model, save_model


@dataclass(frozen=True)
class ZooEntry:
    """A detector that somebody has published."""

    name: str
    """The kit and the kit's name for the detector."""
    address: str
    """Where its file is; the file's name ends in the first digits of its digest."""
    digest: Digest
    """Whose digits these are."""
    ap: float
    """Published accuracy, in percent."""
    licence: str
    """Of the kit, and of the weights where it names one."""
    what: str
    """The network, in a few words."""
    metric: str = "COCO AP"
    """What `ap` is."""
    size: int = 0
    """Bytes of the file; 0 if not known."""
    norm_eps: float = 1e-5
    """Of the detector's batch norm."""

    @property
    def file(self) -> Path:
        """Where the file is, or will be, on this machine."""
        return folder() / Path(urlsplit(self.address).path).name

    @property
    def converted(self) -> Path:
        """Where the detector is, or will be, as a file of resdet."""
        return self.file.with_suffix(".resdet.safetensors")


def _of_torchvision(name: str, digits: str, size: float, ap: float, norm_eps: float = 1e-5) -> ZooEntry:
    """torchvision names no licence of weights: whether they may be used, it says, depends on their data set."""
    address = f"https://download.pytorch.org/models/{name}_coco-{digits}.pth"
    what = "R50 FPN, batch norm everywhere" if name.endswith("v2") else "R50 FPN"
    size = round(size * 2**20)
    return ZooEntry(f"torchvision/{name}", address, "sha256", ap, "BSD-3", what, size=size, norm_eps=norm_eps)


def _of_detectron2(path: str, ap: float, metric: str = "COCO AP") -> ZooEntry:
    """MODEL_ZOO.md states the licence of the weights, and that a file's name has the first digits of its MD5."""
    data, name, *_ = path.split("/")
    address = f"https://dl.fbaipublicfiles.com/detectron2/{path}.pkl"
    what = name.removeprefix("faster_rcnn_").replace("_", " ").replace("R ", "R").replace("X ", "X")
    full = name if data == "COCO-Detection" else f"{data}/{name}"
    return ZooEntry(f"detectron2/{full}", address, "md5", ap, "CC BY-SA 3.0", what, metric)


COCO = "COCO-Detection/faster_rcnn_"
ZOO = (
    # torchvision sets the epsilon of all its norms to 0 for these weights, and for no others.
    _of_torchvision("fasterrcnn_resnet50_fpn", "258fb6c6", 159.743, 37.0, norm_eps=0.0),
    _of_torchvision("fasterrcnn_resnet50_fpn_v2", "dd69338a", 167.104, 46.7),
    _of_detectron2(f"{COCO}R_50_C4_1x/137257644/model_final_721ade", 35.7),
    _of_detectron2(f"{COCO}R_50_C4_3x/137849393/model_final_f97cb7", 38.4),
    _of_detectron2(f"{COCO}R_50_DC5_1x/137847829/model_final_51d356", 37.3),
    _of_detectron2(f"{COCO}R_50_DC5_3x/137849425/model_final_68d202", 39.0),
    _of_detectron2(f"{COCO}R_50_FPN_1x/137257794/model_final_b275ba", 37.9),
    _of_detectron2(f"{COCO}R_50_FPN_3x/137849458/model_final_280758", 40.2),
    _of_detectron2(f"{COCO}R_101_C4_3x/138204752/model_final_298dad", 41.1),
    _of_detectron2(f"{COCO}R_101_DC5_3x/138204841/model_final_3e0943", 40.6),
    _of_detectron2(f"{COCO}R_101_FPN_3x/137851257/model_final_f6e8b1", 42.0),
    _of_detectron2(f"{COCO}X_101_32x8d_FPN_3x/139173657/model_final_68b088", 43.0),
    _of_detectron2("PascalVOC-Detection/faster_rcnn_R_50_C4/142202221/model_final_b1acc2", 80.3, "VOC07 AP50"),
)
KITS = ("torchvision/", "detectron2/")
"""How names begin."""


def find(source: str | Path) -> ZooEntry | None:
    """The detector that `source` names; None for a path. Raises UserError for a name that no detector has."""
    name = Path(source).as_posix()
    if not name.startswith(KITS) or os.path.exists(source):
        return None
    entries = {entry.name: entry for entry in ZOO}
    if name not in entries:
        kit = name.partition("/")[0]
        plain = {other.lower().replace("_", ""): other for other in entries if other.startswith(kit)}
        nearest = [plain[match] for match in get_close_matches(name.lower().replace("_", ""), plain, 2, cutoff=0)]
        raise UserError(
            f"{name} is neither a path nor a detector of the zoo: use {' or '.join(nearest)}, for instance; "
            "`resdet zoo` lists all."
        )
    return entries[name]


def local_path(source: str | Path) -> Path:
    """A path as it is; of a detector of the zoo, its file as resdet's, which the first use downloads and converts.

    Of a detector on Hugging Face's hub, the file that the hub's package keeps. Raises UserError for a name that no
    detector has, and for a detector that cannot be had.
    """
    if Path(source).as_posix().startswith(PREFIX) and not os.path.exists(source):
        return hub_file(Path(source).as_posix())
    entry = find(source)
    if entry is None:
        return Path(source)
    if not _can_be_read(entry.converted):
        with _alone(entry):
            if not _can_be_read(entry.converted):
                _convert(entry)
    return entry.converted


def folder() -> Path:
    """Where the files are: $RESDET_HOME/zoo, or torch's cache of weights."""
    home = os.environ.get("RESDET_HOME")
    return Path(home, "zoo").expanduser() if home else Path(torch.hub.get_dir(), "checkpoints")


def _convert(entry: ZooEntry) -> None:
    """Write the detector as a file of resdet."""
    if entry.file.is_file():
        check_digits(entry.file, entry.file.name, entry.digest, str(entry.file))
    else:
        download(_mirrored(entry.address), entry.file, entry.digest)
    file = read_detector(entry.file)
    model = replace(file.config.model, norm_eps=entry.norm_eps)
    config = replace(file.config, name=Path(entry.name).name, model=model)
    save_model(entry.converted, replace(file, config=config))


def _can_be_read(path: Path) -> bool:
    """Whether a detector was converted already, by a resdet that wrote the same format."""
    try:
        return path.is_file() and bool(read_model(path))
    except UserError:
        return False


def _mirrored(address: str) -> str:
    """The address on the mirror $RESDET_ZOO, if there is one. Raises UserError if that is not an address."""
    mirror = os.environ.get("RESDET_ZOO", "")
    if not mirror:
        return address
    if not mirror.startswith(("https://", "http://")):
        raise UserError(f"RESDET_ZOO is {mirror}: it must begin with https:// or http://.")
    return mirror.rstrip("/") + urlsplit(address).path


def _alone(entry: ZooEntry) -> AbstractContextManager[object]:
    """A lock, so that no other process or thread downloads or converts the detector. Raises UserError."""
    path = entry.file.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path).acquire()
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"Cannot write {path} ({reason(error)}): set RESDET_HOME to a folder that can be written."
        ) from error
