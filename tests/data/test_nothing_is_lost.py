"""Whatever is wrong with a data set, what is read and what is reported are all there is, and belong together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from resdet.data.formats import FORMATS
from resdet.data.tree import folded

CLASSES = ("cat", "dog")
KINDS = ["good", "broken", "outside", "flat", "other"]
DAMAGES = ["", "missing", "truncated", "unannotated", "unreadable", "size", "twice"]
NAMES = ["a", "b 1", "é", "c.d", "\udcf6", "IMG", "x-y", "007"]


class Thing(NamedTuple):
    """An object, and what is wrong with it."""

    kind: str
    label: int
    box: tuple[float, ...]

    @property
    def name(self) -> str:
        """Of its class."""
        return "hen" if self.kind == "other" else CLASSES[self.label]


class Shot(NamedTuple):
    """An image, and what is wrong with it."""

    name: str
    size: tuple[int, int]
    """height and width"""
    things: list[Thing]
    damage: str

    @property
    def stated(self) -> tuple[int, int]:
        """What an annotation says of its size."""
        return (self.size[0] + 5, self.size[1]) if self.damage == "size" else self.size

    def save(self, path: Path) -> None:
        """Write the file, unless it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data = cv2.imencode(".png", np.zeros(self.size, np.uint8))[1].tobytes()
        if self.damage != "missing":
            path.write_bytes(data[:20] if self.damage == "truncated" else data)


class There(NamedTuple):
    """What a writer wrote."""

    images: int
    objects: int
    read: dict[str, list[Thing]]
    """the images that are good, by the names of their files"""
    lost: list[str]
    """a word for each sentence on what is left out"""
    others: int
    """objects of other classes in them"""


def draw(random: np.random.Generator, damages: Sequence[str], kinds: Sequence[str]) -> list[Shot]:
    """Some images, more than half of them good; the first one always."""
    shots = []
    for number, name in enumerate(NAMES[: random.integers(2, len(NAMES) + 1)]):
        height, width = random.integers(30, 60, 2).tolist()
        things: list[Thing] = []
        for _ in range(random.integers(number == 0, 5)):
            kind = str(random.choice(kinds)) if random.random() < 0.4 and things else "good"
            corner, sides = random.integers(0, 15, 2), random.integers(4, 15, 2)
            corner += 100 * (kind == "outside")
            sides[0] *= kind != "flat"
            things.append(Thing(kind, int(random.integers(2)), (*corner.tolist(), *(corner + sides).tolist())))
        damage = str(random.choice(damages)) if random.random() < 0.4 and number else ""
        shots.append(Shot(name, (height, width), things, damage))
    return shots


def count(
    shots: Sequence[Shot], gone: Sequence[str], unseen: Sequence[str] = ("unreadable", "unannotated")
) -> There:
    """What is there, if images of the damages `gone` are left out, of which some show none of their objects."""
    read, lost, objects, others = {}, [], 0, 0
    for shot in shots:
        things = [] if shot.damage in unseen else shot.things
        objects += len(things)
        if shot.damage in gone:
            lost.append(shot.name)
        else:
            read[f"{shot.name}.png"] = [thing for thing in things if thing.kind == "good"]
            lost += [shot.name for thing in things if thing.kind not in ("good", "other")]
            others += sum(thing.kind == "other" for thing in things)
    return There(len(shots), objects, read, lost, others)


# Each writes a data set with one split, `train`


def voc_xml(shot: Shot, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = shot.stated
    objects = "".join(
        f"<object><name>{thing.name}</name><bndbox>"
        + "".join(
            f"<{key}>{'?' if thing.kind == 'broken' else value + (key[1:] == 'min')}</{key}>"
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), thing.box, strict=True)
        )
        + "</bndbox></object>"
        for thing in shot.things
    )
    text = f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"
    if shot.damage != "unannotated":
        path.write_text(text[:-20] if shot.damage == "unreadable" else text)


def voc(root: Path, shots: Sequence[Shot]) -> There:
    """With a list, in which an image may be twice."""
    for shot in shots:
        shot.save(root / f"JPEGImages/{shot.name}.png")
        voc_xml(shot, root / f"Annotations/{shot.name}.xml")
    lines = [shot.name for shot in shots for _ in range(1 + (shot.damage == "twice"))]
    path = root / "ImageSets/Main/train.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    return count(shots, ("missing", "truncated", "unannotated", "unreadable", "size"))


def voc_folders(root: Path, shots: Sequence[Shot]) -> There:
    """Without a list: what has neither image nor XML is not there."""
    for shot in shots:
        shot.save(root / f"train/{shot.name}.png")
        voc_xml(shot, root / f"train/{shot.name}.xml")
    return count(shots, ("missing", "truncated", "unannotated", "unreadable", "size"))


def coco(root: Path, shots: Sequence[Shot]) -> There:
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, shot in enumerate(shots):
        shot.save(root / f"train/{shot.name}.png")
        height, width = shot.stated
        own = {"id": number, "file_name": f"{shot.name}.png", "height": height, "width": width}
        images += [own] * (1 + (shot.damage == "twice"))
        for thing in shot.things:
            x1, y1, x2, y2 = thing.box
            box = [x1, y1, "?"] if thing.kind == "broken" else [x1, y1, x2 - x1, y2 - y1]
            category = 9 if thing.kind == "other" else thing.label
            annotations.append({"id": len(annotations), "image_id": number, "category_id": category, "bbox": box})
    stray = {"id": 999, "image_id": 777, "category_id": 0, "bbox": [1, 1, 2, 2]}
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 9, "name": "hen"}]
    content = {"images": images, "annotations": [*annotations, stray], "categories": categories}
    (root / "train.json").write_text(json.dumps(content))
    there = count(shots, ("missing", "truncated", "size"), ())
    twice = [shot.name for shot in shots if shot.damage == "twice"]
    lost = [*there.lost, *twice, "777"]
    return there._replace(images=there.images + len(twice), objects=there.objects + 1, lost=lost)


def yolo_text(shot: Shot, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = shot.size
    lines = ["# a comment", ""]
    for thing in shot.things:
        x1, y1, x2, y2 = thing.box
        numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        label = 2 if thing.kind == "other" else thing.label
        lines.append(f"{label} {' '.join(map(str, numbers[:3] if thing.kind == 'broken' else numbers))}")
    if shot.damage == "unreadable":
        path.write_bytes(b"\x00\x01\x02")
    elif shot.damage != "unannotated":
        path.write_text("\n".join(lines))


def yolo(root: Path, shots: Sequence[Shot]) -> There:
    """An image that is missing is not there, but its objects are."""
    for shot in shots:
        shot.save(root / f"images/train/{shot.name}.png")
        yolo_text(shot, root / f"labels/train/{shot.name}.txt")
    (root / "data.yaml").write_text("names: [cat, dog, hen]")
    there = count(shots, ("missing", "truncated", "unreadable"))
    gone = [shot for shot in shots if shot.damage == "missing"]
    lost = [shot.name for shot in gone for _ in shot.things]
    lost += [name for name in there.lost if name not in {shot.name for shot in gone}]
    return there._replace(images=there.images - len(gone), lost=lost)


def yolo_list(root: Path, shots: Sequence[Shot]) -> There:
    """With a list of the images, in which those that are missing are; and some twice."""
    for shot in shots:
        shot.save(root / f"pictures/{shot.name}.png")
        yolo_text(shot, root / f"pictures/{shot.name}.txt")
    lines = [f"pictures/{shot.name}.png" for shot in shots for _ in range(1 + (shot.damage == "twice"))]
    (root / "train.txt").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    (root / "data.yaml").write_text("train: train.txt\nnames: [cat, dog, hen]")
    there = count(shots, ("missing", "truncated", "unreadable"))
    return there._replace(
        lost=there.lost + [shot.name for shot in shots for _ in shot.things if shot.damage == "missing"]
    )


def labelme(root: Path, shots: Sequence[Shot]) -> There:
    (root / "train").mkdir()
    for shot in shots:
        shot.save(root / f"train/{shot.name}.png")
        height, width = shot.stated
        shapes = [
            {"label": thing.name, "points": [thing.box[:2], thing.box[2:] if thing.kind != "broken" else "?"]}
            | {"shape_type": "rectangle"}
            for thing in shot.things
        ]
        content = {"shapes": shapes, "imagePath": f"{shot.name}.png", "imageHeight": height, "imageWidth": width}
        text = json.dumps(content)
        if shot.damage != "unannotated":
            path = root / f"train/{shot.name}.json"
            path.write_text(text[:-1] if shot.damage == "unreadable" else text)
    return count(shots, ("missing", "truncated", "unannotated", "unreadable", "size"))


def table(root: Path, shots: Sequence[Shot]) -> There:
    """CSV; an image without a row is not part of it."""
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for shot in shots:
        shot.save(root / f"{shot.name}.png")
        height, width = shot.stated
        for thing in shot.things:
            box = ",".join(map(str, thing.box)) if thing.kind != "broken" else "1,2,,4"
            lines.append(f"{shot.name}.png,{width},{height},{thing.name},{box}")
    (root / "train.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    return count([shot for shot in shots if shot.things], ("missing", "truncated", "size"), ())


def via(root: Path, shots: Sequence[Shot]) -> There:
    content = {}
    (root / "train").mkdir()
    for shot in shots:
        shot.save(root / f"train/{shot.name}.png")
        regions = []
        for thing in shot.things:
            x1, y1, x2, y2 = thing.box
            shape = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
            shape = {"name": "point", "cx": 1, "cy": 1} if thing.kind == "broken" else shape
            regions.append({"shape_attributes": shape, "region_attributes": {"class": thing.name}})
        content[f"{shot.name}.png-1"] = {"filename": f"{shot.name}.png", "size": -1, "regions": regions}
    (root / "train/via.json").write_text(json.dumps(content))
    return count(shots, ("missing", "truncated"), ())


WRITERS: dict[Callable[[Path, Sequence[Shot]], There], tuple[str, list[str]]] = {
    voc: ("voc", DAMAGES),
    voc_folders: ("voc", DAMAGES[:-1]),
    coco: ("coco", ["missing", "truncated", "size", "twice"]),
    yolo: ("yolo", ["missing", "truncated", "unannotated", "unreadable"]),
    yolo_list: ("yolo", ["missing", "truncated", "unannotated", "unreadable", "twice"]),
    labelme: ("labelme", DAMAGES[:-1]),
    table: ("csv", ["missing", "truncated", "size"]),
    via: ("via", ["missing", "truncated"]),
}


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("seed", range(15))
def test_what_is_read_and_what_is_reported_are_all_there_is(
    write: Callable[[Path, Sequence[Shot]], There],
    seed: int,
    tmp_path: Path,
    assert_sentence: Callable[..., None],
) -> None:
    random = np.random.default_rng(seed)
    kind, damages = WRITERS[write]
    shots = draw(random, damages, KINDS)
    hidden = bool(random.integers(2))
    if hidden:
        shots[0].save(tmp_path / ".ipynb_checkpoints/a-checkpoint.png")
    there = write(tmp_path, shots)
    read = FORMATS[kind].read(tmp_path, "train", CLASSES, other_classes="ignore")  # type: ignore[index]

    assert (len(read) + read.left_out[0], len(read.boxes) + read.left_out[1]) == (there.images, there.objects)
    assert sorted(Path(read.file(index)).name for index in range(len(read))) == sorted(there.read)
    for index in range(len(read)):
        target, expected = read.target(index), there.read[Path(read.file(index)).name]
        assert target.labels.tolist() == [thing.label for thing in expected]
        boxes = np.reshape([thing.box for thing in expected], (-1, 4))
        np.testing.assert_allclose(target.boxes.numpy(), boxes, atol=1e-4)

    assert len(read.skipped) == len(there.lost)
    for sentence in (*read.skipped, *read.notes):
        assert_sentence(sentence)
    for name in there.lost:
        assert any(folded(name) in folded(sentence) for sentence in read.skipped), name
    ignored = f"{there.others} objects of other classes are ignored: hen ({there.others})."
    assert (ignored in read.notes) == (there.others > 0)
    told = any("1 hidden images" in note for note in read.notes)
    assert told == hidden or kind == "coco"  # whose files name all images, so that nobody looks for others
