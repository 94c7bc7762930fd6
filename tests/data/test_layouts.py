"""Data sets as other tools export them: each is found, and its boxes, classes and images are the right ones.

A layout is a function that writes the same few pictures as one tool does. A picture is filled with a number of its
own, so that boxes that come out with another picture are noticed.
"""

from __future__ import annotations

import base64
import json
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from resdet.data.formats import FORMATS, find_format
from resdet.data.images import read_image
from resdet.errors import UserError

CLASSES = ("big dog", "cat")


class Drawn(NamedTuple):
    """A picture."""

    name: str
    height: int
    width: int
    number: int
    """the value of its pixels"""
    objects: tuple[tuple[int, int, int, int, int], ...]
    """label, x1, y1, x2, y2"""

    def save(self, path: Path) -> None:
        """Write it, losslessly."""
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((self.height, self.width), self.number, np.uint8)
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())  # whatever the ending, as some tools do


A = Drawn("a", 40, 60, 10, ((1, 5, 6, 25, 30), (0, 30, 2, 60, 40)))
B = Drawn("bé 2", 50, 30, 20, ((0, 3, 4, 20, 44),))
C = Drawn("c", 30, 30, 30, ())
D = Drawn("d", 64, 48, 40, ((1, 0, 0, 12, 20), (1, 20, 21, 40, 60)))
E = Drawn("e", 32, 32, 50, ((0, 8, 8, 24, 24),))
TRAIN, VAL = (A, B, C), (D, E)
ALL = {"all": TRAIN + VAL}
Parts = Mapping[str, Sequence[Drawn]]


class Layout(NamedTuple):
    """How a tool writes a data set, and what is to come out."""

    write: Callable[[Path], None]
    format: str
    parts: Parts
    """split → pictures"""
    tolerance: float
    """pixels: of tools that round, or count from another corner"""
    classes: tuple[str, ...] = CLASSES
    lost: tuple[str, ...] = ()
    """pictures that the tool leaves no annotation of"""


LAYOUTS: dict[str, Layout] = {}


def layout(
    format: str, parts: Parts, tolerance: float = 1e-4, **more: Any
) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Add a function to the table."""

    def add(write: Callable[[Path], None]) -> Callable[[Path], None]:
        LAYOUTS[write.__name__] = Layout(write, format, parts, tolerance, **more)
        return write

    return add


def put(path: Path, text: str) -> None:
    """Write a text file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def xml(picture: Drawn, name: str, shift: int = 0, least: int = 0, more: str = "", extra: str = "") -> str:
    """An annotation of VOC's, with corners as a tool counts them, and what else it writes of an object."""
    objects = "".join(
        f"\t<object>\n\t\t<name>{CLASSES[label]}</name>\n\t\t<pose>Unspecified</pose>\n\t\t{more}\n\t\t<bndbox>\n"
        f"\t\t\t<xmin>{max(x1 + shift, least)}</xmin>\n\t\t\t<ymin>{max(y1 + shift, least)}</ymin>\n"
        f"\t\t\t<xmax>{x2}</xmax>\n\t\t\t<ymax>{y2}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for label, x1, y1, x2, y2 in picture.objects
    )
    return (
        f"<annotation>\n\t<folder>images</folder>\n\t<filename>{name}</filename>\n{extra}\t<size>\n"
        f"\t\t<width>{picture.width}</width>\n\t\t<height>{picture.height}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{objects}</annotation>\n"
    )


def rows(picture: Drawn, digits: int = 6) -> str:
    """The lines of YOLO's text file."""
    return "".join(
        f"{label} {(x1 + x2) / 2 / picture.width:.{digits}f} {(y1 + y2) / 2 / picture.height:.{digits}f} "
        f"{(x2 - x1) / picture.width:.{digits}f} {(y2 - y1) / picture.height:.{digits}f}\n"
        for label, x1, y1, x2, y2 in picture.objects
    )


def outline(x1: int, y1: int, x2: int, y2: int) -> list[tuple[float, float]]:
    """A polygon whose box this is."""
    return [(x1, (y1 + y2) / 2), ((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2)]


def coco(
    pictures: Sequence[Drawn],
    name: Callable[[Drawn], str],
    first: int = 1,
    categories: Sequence[dict[str, Any]] | None = None,
    first_class: int = 1,
    image: Callable[[Drawn], dict[str, Any]] = lambda picture: {},
    box: Callable[..., dict[str, Any]] = lambda x1, y1, x2, y2: {"segmentation": []},
) -> str:
    """COCO's JSON."""
    images, annotations = [], []
    for number, picture in enumerate(pictures, first):
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": number, **size, "file_name": name(picture), **image(picture)})
        for label, x1, y1, x2, y2 in picture.objects:
            own = {"id": len(annotations) + first, "image_id": number, "category_id": label + first_class}
            area = (x2 - x1) * (y2 - y1)
            own |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": 0} | box(x1, y1, x2, y2)
            annotations.append(own)
    named = categories or [{"id": number, "name": text} for number, text in enumerate(CLASSES, first_class)]
    return json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": list(named)})


# labelImg


@layout("voc", ALL, tolerance=1)
def labelimg_voc(root: Path) -> None:
    """XML beside the images; whole pixels from 0, but never 0."""
    for picture in ALL["all"]:
        picture.save(root / f"{picture.name}.jpg")
        path = (
            f"\t<path>C:\\Users\\me\\{picture.name}.jpg</path>\n\t<source><database>Unknown</database></source>\n"
        )
        more = "<truncated>0</truncated>\n\t\t<difficult>0</difficult>"
        put(root / f"{picture.name}.xml", xml(picture, f"{picture.name}.jpg", 0, 1, more, path))


@layout("voc", ALL, tolerance=1)
def labelimg_voc_in_another_folder(root: Path) -> None:
    """With "Change Save Dir"."""
    for picture in ALL["all"]:
        picture.save(root / f"my pictures/{picture.name}.JPG")
        put(root / f"xml/{picture.name}.xml", xml(picture, f"{picture.name}.JPG", 0, 1))


@layout("yolo", ALL)
def labelimg_yolo(root: Path) -> None:
    """Text files beside the images, and classes.txt among them."""
    for picture in ALL["all"]:
        picture.save(root / f"{picture.name}.jpg")
        put(root / f"{picture.name}.txt", rows(picture))
    put(root / "classes.txt", "\n".join(CLASSES) + "\n")


# CVAT


@layout("voc", {"default": TRAIN + VAL}, tolerance=1, lost=("c",))
def cvat_voc(root: Path) -> None:
    """Decimals from 0; the list of the subset, and lists of each class; no XML for an image without objects."""
    for picture in ALL["all"]:
        picture.save(root / f"JPEGImages/{picture.name}.jpg")
        more = "<truncated>0</truncated><occluded>0</occluded><difficult>0</difficult>"
        if picture.objects:
            put(root / f"Annotations/{picture.name}.xml", xml(picture, f"{picture.name}.jpg", 0, 0, more))
    put(root / "ImageSets/Main/default.txt", "".join(f"{picture.name}\n" for picture in ALL["all"]))
    for label in CLASSES:
        put(root / f"ImageSets/Main/{label}_default.txt", "".join(f"{p.name}  1\n" for p in ALL["all"]))
    put(
        root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,2,3::\nbig dog:3,2,1::\n"
    )


@layout("voc", {"Train": TRAIN, "Validation": VAL}, tolerance=1, lost=("c",))
def cvat_voc_of_a_project(root: Path) -> None:
    """Subsets, images in folders of their own, quoted names."""
    for subset, pictures in (("Train", TRAIN), ("Validation", VAL)):
        for picture in pictures:
            picture.save(root / f"JPEGImages/cam 1/{picture.name}.png")
            if picture.objects:
                put(root / f"Annotations/cam 1/{picture.name}.xml", xml(picture, f"cam 1/{picture.name}.png"))
        put(root / f"ImageSets/Main/{subset}.txt", "".join(f'"cam 1/{picture.name}"\n' for picture in pictures))


@layout("yolo", {"train": TRAIN, "valid": VAL})
def cvat_yolo(root: Path) -> None:
    """YOLO 1.1: obj.data, and text files beside the images in folders of the subsets; paths begin with data/."""
    for subset, pictures in (("train", TRAIN), ("valid", VAL)):
        for picture in pictures:
            picture.save(root / f"obj_{subset}_data/{picture.name}.jpg")
            put(root / f"obj_{subset}_data/{picture.name}.txt", rows(picture))
        put(root / f"{subset}.txt", "".join(f"data/obj_{subset}_data/{p.name}.jpg\n" for p in pictures))
    put(root / "obj.names", "\n".join(CLASSES) + "\n")
    lines = (
        "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    put(root / "obj.data", lines)


@layout("yolo", {"train": TRAIN + VAL})
def cvat_ultralytics(root: Path) -> None:
    for picture in ALL["all"]:
        picture.save(root / f"images/train/{picture.name}.jpg")
        put(root / f"labels/train/{picture.name}.txt", rows(picture))
    put(root / "train.txt", "".join(f"data/images/train/{p.name}.jpg\n" for p in ALL["all"]))
    put(root / "data.yaml", "names:\n  0: big dog\n  1: cat\npath: .\ntrain: train.txt\n")


@layout("coco", {"default": TRAIN + VAL})
def cvat_coco(root: Path) -> None:
    for picture in ALL["all"]:
        picture.save(root / f"images/default/{picture.name}.jpg")
    more = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    put(
        root / "annotations/instances_default.json",
        coco(ALL["all"], lambda p: f"{p.name}.jpg", image=lambda picture: more),
    )


# Label Studio


@layout("yolo", ALL)
def label_studio_yolo(root: Path) -> None:
    """No splits, long decimals, and notes.json, which is not COCO's."""
    for picture in ALL["all"]:
        picture.save(root / f"images/3f{picture.number}-{picture.name}.jpg")
        put(root / f"labels/3f{picture.number}-{picture.name}.txt", rows(picture, 17))
    put(root / "classes.txt", "\n".join(CLASSES) + "\n")
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    put(
        root / "notes.json",
        json.dumps({"categories": categories, "info": {"contributor": "Label Studio"}}, indent=2),
    )


def _label_studio_coco(root: Path, separator: str) -> None:
    for picture in ALL["all"]:
        picture.save(root / f"images/3f{picture.number}-{picture.name}.jpg")
    name: Callable[[Drawn], str] = lambda p: f"images{separator}3f{p.number}-{p.name}.jpg"  # noqa: E731
    put(root / "result.json", coco(ALL["all"], name, first=0, first_class=0, box=lambda *box: {"ignore": 0}))


@layout("coco", ALL)
def label_studio_coco(root: Path) -> None:
    """All numbers from 0."""
    _label_studio_coco(root, "/")


@layout("coco", ALL)
def label_studio_coco_of_windows(root: Path) -> None:
    _label_studio_coco(root, "\\")


@layout("voc", ALL, tolerance=2, lost=("c",))
def label_studio_voc(root: Path) -> None:
    """Percents, cut to whole pixels from 0; nothing for an image without objects."""
    for picture in ALL["all"]:
        name = f"3f{picture.number}-{picture.name}"
        picture.save(root / f"images/{name}.jpg")
        cut = []
        for label, x1, y1, x2, y2 in picture.objects:
            x, w = (int(value / picture.width * 100 / 100 * picture.width) for value in (x1, x2 - x1))
            y, h = (int(value / picture.height * 100 / 100 * picture.height) for value in (y1, y2 - y1))
            cut.append((label, x, y, x + w, y + h))
        if cut:
            put(root / f"Annotations/{name}.xml", xml(picture._replace(objects=tuple(cut)), f"{name}.jpg"))


# Roboflow


def _roboflow(picture: Drawn) -> str:
    return f"{picture.name.replace(' ', '-')}_jpg.rf.{picture.number:032x}.jpg"


def _roboflow_readme(root: Path) -> None:
    for name in ("README.dataset.txt", "README.roboflow.txt"):
        put(
            root / name,
            "# animals > 2023-01-01\nhttps://universe.roboflow.com/x/y\n\nProvided by a Roboflow user\n",
        )


@layout("voc", {"train": TRAIN, "valid": VAL}, tolerance=1)
def roboflow_voc(root: Path) -> None:
    for split, pictures in (("train", TRAIN), ("valid", VAL)):
        for picture in pictures:
            name = _roboflow(picture)
            picture.save(root / split / name)
            more = "<truncated>0</truncated><difficult>0</difficult><occluded>0</occluded>"
            path = f"\t<path>{name}</path>\n\t<source><database>roboflow.com</database></source>\n"
            put((root / split / name).with_suffix(".xml"), xml(picture, name, 0, 0, more, path))
    _roboflow_readme(root)


@layout("yolo", {"train": TRAIN, "val": VAL})
def roboflow_yolo(root: Path) -> None:
    """Paths that begin beside the folder, and a test split that is named but not there."""
    for split, pictures in (("train", TRAIN), ("valid", VAL)):
        for picture in pictures:
            picture.save(root / split / "images" / _roboflow(picture))
            put((root / split / "labels" / _roboflow(picture)).with_suffix(".txt"), rows(picture, 17))
    put(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['big dog', 'cat']\n\n"
        "roboflow:\n  workspace: x\n  project: animals\n  version: 2\n  license: CC BY 4.0\n",
    )
    _roboflow_readme(root)


@layout("coco", {"train": TRAIN, "valid": VAL})
def roboflow_coco(root: Path) -> None:
    """A category 0 that has no objects and names the project."""
    group = {"id": 0, "name": "animals", "supercategory": "none"}
    named = [{"id": n, "name": name, "supercategory": "animals"} for n, name in enumerate(CLASSES, 1)]
    for split, pictures in (("train", TRAIN), ("valid", VAL)):
        for picture in pictures:
            picture.save(root / split / _roboflow(picture))
        text = coco(pictures, _roboflow, first=0, categories=[group, *named])
        put(root / split / "_annotations.coco.json", text)
    _roboflow_readme(root)


@layout("csv", {"train": (A, B), "valid": VAL})
def roboflow_csv(root: Path) -> None:
    """An image without objects has no row, and is not part of it."""
    for split, pictures in (("train", TRAIN), ("valid", VAL)):
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for p in pictures:
            p.save(root / split / _roboflow(p))
            lines += [
                f"{_roboflow(p)},{p.width},{p.height},{CLASSES[o[0]]},{','.join(map(str, o[1:]))}"
                for o in p.objects
            ]
        put(root / split / "_annotations.csv", "\n".join(lines))
    _roboflow_readme(root)


# FiftyOne


@layout("coco", ALL)
def fiftyone_coco(root: Path) -> None:
    for picture in ALL["all"]:
        picture.save(root / f"data/{picture.name}.jpg")
    named = [{"id": number, "name": name, "supercategory": None} for number, name in enumerate(CLASSES)]
    put(root / "labels.json", coco(ALL["all"], lambda p: f"{p.name}.jpg", first_class=0, categories=named))


@layout("voc", ALL, tolerance=1)
def fiftyone_voc(root: Path) -> None:
    for picture in ALL["all"]:
        picture.save(root / f"data/{picture.name}.jpg")
        path = f"\t<path>/home/me/export/data/{picture.name}.jpg</path>\n\t<source><database></database></source>\n"
        put(root / f"labels/{picture.name}.xml", xml(picture, f"{picture.name}.jpg", extra=path))


@layout("yolo", ALL)
def fiftyone_yolo4(root: Path) -> None:
    for picture in ALL["all"]:
        picture.save(root / f"data/{picture.name}.jpg")
        put(root / f"data/{picture.name}.txt", rows(picture).rstrip("\n"))
    put(root / "obj.names", "\n".join(CLASSES))
    put(root / "images.txt", "\n".join(f"data/{picture.name}.jpg" for picture in ALL["all"]))


@layout("yolo", {"train": TRAIN, "val": VAL})
def fiftyone_yolo5(root: Path) -> None:
    """The path of another machine; no text file for an image without labels."""
    for split, pictures in (("train", TRAIN), ("val", VAL)):
        for picture in pictures:
            picture.save(root / f"images/{split}/{picture.name}.jpg")
            if picture.objects:
                put(root / f"labels/{split}/{picture.name}.txt", rows(picture).rstrip("\n"))
    put(
        root / "dataset.yaml",
        "names:\n  0: big dog\n  1: cat\npath: /home/me/export\ntrain: ./images/train/\nval: ./images/val/\n",
    )


# makesense: the archive of labels, unpacked beside the images


@layout("yolo", ALL, classes=("class_0", "class_1"))
def makesense_yolo(root: Path) -> None:
    """Nothing names the classes; an image without objects has no text file."""
    for picture in ALL["all"]:
        picture.save(root / f"images/{picture.name}.jpg")
        if picture.objects:
            put(root / f"labels_my-project_2023-01-01-10-10-10/{picture.name}.txt", rows(picture).rstrip("\n"))


@layout("voc", ALL, tolerance=1, lost=("c",))
def makesense_voc(root: Path) -> None:
    for picture in ALL["all"]:
        picture.save(root / f"images/{picture.name}.jpg")
        more = "<truncated>Unspecified</truncated>\n\t\t<difficult>Unspecified</difficult>"
        text = xml(
            picture, f"{picture.name}.jpg", more=more, extra=f"\t<path>/my-project/{picture.name}.jpg</path>\n"
        )
        if picture.objects:
            put(root / f"labels_my-project_2023-01-01-10-10-10/{picture.name}.xml", text)


def _makesense_csv(root: Path, head: str) -> None:
    lines = []
    for p in ALL["all"]:
        p.save(root / f"{p.name}.jpg")
        lines += [
            f"{CLASSES[label]},{x1},{y1},{x2 - x1},{y2 - y1},{p.name}.jpg,{p.width},{p.height}"
            for label, x1, y1, x2, y2 in p.objects
        ]
    put(root / "labels_my-project_2023-01-01-10-10-10.csv", head + "\n".join(lines))


@layout("csv", {"all": (A, B, D, E)})
def makesense_csv(root: Path) -> None:
    _makesense_csv(root, "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n")


@layout("csv", {"all": (A, B, D, E)})
def makesense_csv_of_old(root: Path) -> None:
    """Without a head."""
    _makesense_csv(root, "")


@layout("coco", {"labels_my-project_2023-01-01-10-10-10": (A, B, D, E)})
def makesense_coco(root: Path) -> None:
    labelled = [picture for picture in ALL["all"] if picture.objects]
    for picture in ALL["all"]:
        picture.save(root / f"{picture.name}.jpg")
    mask: Callable[..., dict[str, Any]] = lambda *box: {"segmentation": [sum(map(list, outline(*box)), [])]}  # noqa: E731
    put(root / "labels_my-project_2023-01-01-10-10-10.json", coco(labelled, lambda p: f"{p.name}.jpg", box=mask))


def _via_polygon(box: Sequence[int]) -> dict[str, Any]:
    points = outline(*box)  # type: ignore[misc]
    return {"name": "polygon", "all_points_x": [x for x, _ in points], "all_points_y": [y for _, y in points]}


@layout("via", {"all": (A, B, D, E)})
def makesense_vgg(root: Path) -> None:
    content = {}
    for p in ALL["all"]:
        p.save(root / f"{p.name}.jpg")
        regions = {
            str(n): {"shape_attributes": _via_polygon(box), "region_attributes": {"label": CLASSES[label]}}
            for n, (label, *box) in enumerate(p.objects)
        }
        if regions:
            name = f"{p.name}.jpg"
            content[name] = {
                "fileref": "",
                "size": 99,
                "filename": name,
                "base64_img_data": "",
                "file_attributes": {},
            }
            content[name]["regions"] = regions
    put(root / "labels_my-project_2023-01-01-10-10-10.json", json.dumps(content))


# LabelMe and VIA


@layout("labelme", ALL)
def labelme(root: Path) -> None:
    """JSON beside the images, with the image in it, before its name; corners in any order."""
    for p in ALL["all"]:
        p.save(root / f"{p.name}.jpg")
        shapes = [
            {
                "label": CLASSES[label],
                "points": [[x2, y1], [x1, y2]],
                "group_id": None,
                "description": "",
                "shape_type": "rectangle",
                "flags": {},
                "mask": None,
            }
            if label
            else {
                "label": CLASSES[label],
                "points": outline(x1, y1, x2, y2),
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for label, x1, y1, x2, y2 in p.objects
        ]
        data = base64.b64encode((root / f"{p.name}.jpg").read_bytes() * 500).decode()
        content = {
            "version": "5.2.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{p.name}.jpg",
            "imageData": data,
        }
        put(
            root / f"{p.name}.json",
            json.dumps(content | {"imageHeight": p.height, "imageWidth": p.width}, indent=2),
        )


def _via_regions(picture: Drawn) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [
        (
            {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
            if label
            else _via_polygon((x1, y1, x2, y2)),
            {"species": CLASSES[label]},
        )
        for label, x1, y1, x2, y2 in picture.objects
    ]


def _via_images(root: Path, version: int) -> dict[str, Any]:
    images = {}
    for p in ALL["all"]:
        p.save(root / f"{p.name}.jpg")
        regions: Any = [{"shape_attributes": shape, "region_attributes": of} for shape, of in _via_regions(p)]
        regions = regions if version == 2 else {str(n): region for n, region in enumerate(regions)}
        size = (root / f"{p.name}.jpg").stat().st_size
        old = {"fileref": "", "base64_img_data": ""} if version == 1 else {}
        images[f"{p.name}.jpg{size}"] = {
            **old,
            "filename": f"{p.name}.jpg",
            "size": size,
            "regions": regions,
            "file_attributes": {},
        }
    return images


@layout("via", ALL)
def via_export(root: Path) -> None:
    put(root / "via_export_json.json", json.dumps(_via_images(root, 2)))


@layout("via", ALL)
def via_project(root: Path) -> None:
    head = {
        "_via_settings": {"ui": {}, "core": {}, "project": {"name": "x"}},
        "_via_img_metadata": _via_images(root, 2),
    }
    more = {
        "_via_attributes": {"region": {}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": [],
    }
    put(root / "via_project_1Jan2023_10h10m.json", json.dumps(head | more))


@layout("via", ALL)
def via_1(root: Path) -> None:
    put(root / "via_region_data.json", json.dumps(_via_images(root, 1)))


def _via_csv(root: Path, mark: str) -> None:
    lines = [
        f"{mark}filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    ]
    quoted: Callable[[Any], str] = lambda value: '"' + json.dumps(value).replace('"', '""') + '"'  # noqa: E731
    for p in ALL["all"]:
        p.save(root / f"{p.name}.jpg")
        regions = _via_regions(p) or [({}, {})]
        for n, (shape, of) in enumerate(regions):
            lines.append(f"{p.name}.jpg,99,{quoted({})},{len(p.objects)},{n},{quoted(shape)},{quoted(of)}")
    put(root / "via_export_csv.csv", "\n".join(lines))


@layout("via", ALL)
def via_csv(root: Path) -> None:
    _via_csv(root, "")


@layout("via", ALL)
def via_1_csv(root: Path) -> None:
    _via_csv(root, "#")


# Ultralytics, darknet


def _ultralytics(root: Path, line: Callable[[Drawn, Sequence[int]], str], more: str = "") -> None:
    for split, pictures in (("train", TRAIN), ("val", VAL)):
        for p in pictures:
            p.save(root / f"images/{split}/{p.name}.jpg")
            if p.objects:
                put(root / f"labels/{split}/{p.name}.txt", "\n".join(line(p, found) for found in p.objects))
    put(
        root / "animals.yaml",
        "# Ultralytics YOLO\npath: animals # root dir\ntrain: images/train # train images\nval: images/val\n"
        f"test: # test images (optional)\n\n{more}# Classes\nnames:\n  0: big dog\n  1: cat\n\n"
        "# Download script/URL (optional)\ndownload: https://example.org/animals.zip\n",
    )


@layout("yolo", {"train": TRAIN, "val": VAL})
def ultralytics_detect(root: Path) -> None:
    _ultralytics(root, lambda p, found: rows(p._replace(objects=(tuple(found),))).strip())  # type: ignore[arg-type]


@layout("yolo", {"train": TRAIN, "val": VAL})
def ultralytics_segment(root: Path) -> None:
    def line(p: Drawn, found: Sequence[int]) -> str:
        return f"{found[0]} " + " ".join(f"{x / p.width:.6f} {y / p.height:.6f}" for x, y in outline(*found[1:]))  # type: ignore[misc]

    _ultralytics(root, line)


@layout("yolo", {"train": TRAIN, "val": VAL})
def ultralytics_obb(root: Path) -> None:
    def line(p: Drawn, found: Sequence[int]) -> str:
        return f"{found[0]} " + " ".join(f"{x / p.width:.6g} {y / p.height:.6g}" for x, y in outline(*found[1:]))  # type: ignore[misc]

    _ultralytics(root, line)


def _pose(p: Drawn, found: Sequence[int], points: int, visible: str) -> str:
    box = rows(p._replace(objects=(tuple(found),))).strip()  # type: ignore[arg-type]
    x, y = (found[1] + 1) / p.width, (found[2] + 1) / p.height
    return box + f" {x:.6f} {y:.6f}{visible}" * (points - 1) + f" 0 0{visible and ' 0'}"


@layout("yolo", {"train": TRAIN, "val": VAL})
def ultralytics_pose(root: Path) -> None:
    _ultralytics(root, lambda p, found: _pose(p, found, 4, " 2"), "kpt_shape: [4, 3]\nflip_idx: [0, 1, 2, 3]\n")


@layout("yolo", {"train": TRAIN, "val": VAL})
def ultralytics_pose_of_two_numbers(root: Path) -> None:
    """As many numbers as a polygon has."""
    _ultralytics(root, lambda p, found: _pose(p, found, 3, ""))


@layout("yolo", {"train": TRAIN, "valid": VAL})
def darknet(root: Path) -> None:
    """Everything in data/, paths from the folder above it."""
    for split, pictures in (("train", TRAIN), ("test", VAL)):
        for picture in pictures:
            picture.save(root / f"data/obj/{picture.name}.jpg")
            put(root / f"data/obj/{picture.name}.txt", rows(picture))
        put(root / f"data/{split}.txt", "".join(f"data/obj/{picture.name}.jpg\n" for picture in pictures))
    put(root / "data/obj.names", "\n".join(CLASSES) + "\n")
    lines = (
        "classes= 2\ntrain  = data/train.txt\nvalid  = data/test.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    put(root / "data/obj.data", lines)


# supervision


@layout("voc", ALL, tolerance=1)
def supervision_voc(root: Path) -> None:
    for picture in ALL["all"]:
        picture.save(root / f"images/{picture.name}.jpg")
        put(root / f"annotations/{picture.name}.xml", xml(picture, f"{picture.name}.jpg", 1))


@layout("yolo", ALL, tolerance=1e-3)
def supervision_yolo(root: Path) -> None:
    for picture in ALL["all"]:
        picture.save(root / f"images/{picture.name}.jpg")
        put(root / f"annotations/{picture.name}.txt", rows(picture, 5).rstrip("\n"))
    put(root / "data.yaml", "names:\n- big dog\n- cat\nnc: 2\n")


@layout("coco", ALL)
def supervision_coco(root: Path) -> None:
    for picture in ALL["all"]:
        picture.save(root / f"images/{picture.name}.jpg")
    named = [{"id": n, "name": name, "supercategory": "common-objects"} for n, name in enumerate(CLASSES)]
    more = {"license": 1, "date_captured": "01/01/2023,10:10:10"}
    text = coco(ALL["all"], lambda p: f"{p.name}.jpg", categories=named, first_class=0, image=lambda picture: more)
    put(root / "annotations.json", text)


# Tables


@layout("csv", {"oidv6-train": (A, B), "validation": VAL}, tolerance=1e-2)
def open_images(root: Path) -> None:
    """Fractions, and codes for the classes, which another table names."""
    flags = "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    for split, name, pictures in (("train", "oidv6-train", TRAIN), ("validation", "validation", VAL)):
        lines = [f"ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,{flags}"]
        for p in pictures:
            p.save(root / split / f"{p.name}.jpg")
            lines += [
                f"{p.name},xclick,/m/0{label}x,1,{x1 / p.width:.6f},{x2 / p.width:.6f},{y1 / p.height:.6f},"
                f"{y2 / p.height:.6f},0,0,0,0,0"
                for label, x1, y1, x2, y2 in p.objects
            ]
        put(root / f"{name}-annotations-bbox.csv", "\n".join(lines) + "\n")
    put(root / "class-descriptions-boxable.csv", "/m/01x,cat\n/m/00x,big dog\n/m/02x,Tortoise\n")


@layout("csv", {"train": (A, B), "test": VAL})
def tensorflow_csv(root: Path) -> None:
    for split, pictures in (("train", TRAIN), ("test", VAL)):
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for p in pictures:
            p.save(root / f"images/{split}/{p.name}.jpg")
            lines += [
                f"{p.name}.jpg,{p.width},{p.height},{CLASSES[o[0]]},{','.join(map(str, o[1:]))}" for o in p.objects
            ]
        put(root / f"data/{split}_labels.csv", "\n".join(lines) + "\n")


@layout("csv", {"train": TRAIN, "val": VAL})
def retinanet_csv(root: Path) -> None:
    """Without a head; an image without objects has a row of its name; the classes in a table of their own."""
    for split, pictures in (("train", TRAIN), ("val", VAL)):
        lines = []
        for p in pictures:
            p.save(root / f"images/{p.name}.jpg")
            lines += [f"images/{p.name}.jpg,{','.join(map(str, o[1:]))},{CLASSES[o[0]]}" for o in p.objects]
            lines += [] if p.objects else [f"images/{p.name}.jpg,,,,,"]
        put(root / f"{split}_annotations.csv", "\n".join(lines) + "\n")
    put(root / "classes.csv", "big dog,0\ncat,1\n")


# The data sets whose formats these are


@layout("voc", {"2007_train": TRAIN, "2007_val": VAL, "2012_train": (E,)})
def pascal_voc(root: Path) -> None:
    """The lists of each year, with those of each class; segmentations of other images."""
    for year, lists in (("2007", {"train": TRAIN, "val": VAL}), ("2012", {"train": (E,)})):
        for split, pictures in lists.items():
            for picture in pictures:
                picture.save(root / f"VOC{year}/JPEGImages/{picture.name}.jpg")
                more = "<truncated>1</truncated><difficult>0</difficult>"
                put(
                    root / f"VOC{year}/Annotations/{picture.name}.xml",
                    xml(picture, f"{picture.name}.jpg", 1, 0, more),
                )
            main = root / f"VOC{year}/ImageSets/Main"
            put(main / f"{split}.txt", "".join(f"{picture.name}\n" for picture in pictures))
            put(main / f"cat_{split}.txt", "".join(f"{picture.name} -1\n" for picture in pictures))
            put(root / f"VOC{year}/ImageSets/Segmentation/{split}.txt", "a\n")
            C.save(root / f"VOC{year}/SegmentationClass/a.png")


@layout("coco", {"train2017": TRAIN, "val2017": VAL})
def ms_coco(root: Path) -> None:
    """With captions and keypoints beside the instances."""
    for split, pictures in (("train2017", TRAIN), ("val2017", VAL)):
        for picture in pictures:
            picture.save(root / split / f"{picture.number:012d}.jpg")
        text = coco(pictures, lambda p: f"{p.number:012d}.jpg", first=391895)
        put(root / f"annotations/instances_{split}.json", text)
        put(root / f"annotations/person_keypoints_{split}.json", text)
        captions = json.loads(text) | {"annotations": [{"image_id": 391895, "id": 1, "caption": "A cat"}]}
        del captions["categories"]
        put(root / f"annotations/captions_{split}.json", json.dumps(captions))


@layout("coco", {"lvis_v1_train": TRAIN, "lvis_v1_val": VAL})
def lvis(root: Path) -> None:
    """No names of files, but addresses; images of COCO's training set in the validation set."""
    for split, pictures in (("train", TRAIN), ("val", VAL)):
        for picture in pictures:
            picture.save(root / f"train2017/{picture.number:012d}.jpg")
        text = coco(
            pictures,
            lambda p: "",
            image=lambda p: {"coco_url": f"http://images.cocodataset.org/train2017/{p.number:012d}.jpg"},
            categories=[
                {"id": n, "name": name, "frequency": "f", "synset": f"{name}.n.01", "synonyms": [name]}
                for n, name in enumerate(CLASSES, 1)
            ],
        )
        content = json.loads(text)
        content["images"] = [{k: v for k, v in item.items() if k != "file_name"} for item in content["images"]]
        put(root / f"lvis_v1_{split}.json", json.dumps(content))


# The test


def clutter(root: Path) -> None:
    """What operating systems and notebooks leave in folders."""
    for folder in [root, *(path for path in list(root.rglob("*")) if path.is_dir())]:
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
            (folder / name).write_bytes(b"\x00\x01[x]")
    for path in [path for path in root.rglob("*") if path.is_file()]:
        other = root / "__MACOSX" / path.relative_to(root).with_name(f"._{path.name}")
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(b"\x00\x05\x16\x07")
    for path in [path for path in root.rglob("*.jpg") if "__MACOSX" not in path.parts][:2]:
        copy = path.parent / ".ipynb_checkpoints" / f"{path.stem}-checkpoint.jpg"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())


def link_everything(root: Path, away: Path) -> None:
    """Leave links to images that lie elsewhere under other names, and a link to the whole folder."""
    for number, path in enumerate(
        sorted(path for path in root.rglob("*") if path.suffix in (".jpg", ".png", ".JPG"))
    ):
        path.rename(away / f"{number}.bin")
        path.symlink_to(away / f"{number}.bin")
    root.rename(away / "real")
    root.symlink_to(away / "real")


def rename(root: Path, new: Callable[[str], bytes]) -> None:
    """Give every file and folder another name, the inner ones first."""
    for path in sorted(root.rglob("*"), key=lambda path: -len(path.parts)):
        os.rename(path, os.path.join(os.fsencode(path.parent), new(path.name)))


def of_old_windows(name: str) -> bytes:
    """As some archives are unpacked: not in UTF-8."""
    return name.encode("cp1252")


def of_a_camera_and_a_mac(name: str) -> bytes:
    """With the endings of images in upper case, and marks apart from their letters."""
    stem, dot, ending = unicodedata.normalize("NFD", name).rpartition(".")
    return os.fsencode(stem + dot + (ending.upper() if ending == "jpg" else ending))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("place", ["itself", "a folder deeper", "among clutter", "other names", "links"])
def test_a_layout_is_found_and_read(name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the tool writes it, and as it is found on people's disks."""
    own, root = LAYOUTS[name], tmp_path / "my data"
    own.write(root / "animals.v2 (1)" if place == "a folder deeper" else root)
    if place == "a folder deeper":
        rename(root, of_old_windows)
    if place == "among clutter":
        clutter(root)
        monkeypatch.chdir(root)
        root = Path(".")
    if place == "other names":
        rename(root, of_a_camera_and_a_mac)
    if place == "links":
        link_everything(root, tmp_path)
    kind, splits = find_format(root)
    assert (kind, sorted(splits)) == (own.format, sorted(own.parts))
    for split, pictures in own.parts.items():
        read = FORMATS[kind].read(root, split, own.classes if len(pictures) == 1 else ())
        assert read.classes == own.classes
        expected = {p.number: p for p in pictures if p.name not in own.lost}
        lost = len(pictures) - len(expected)
        assert read.left_out == (lost, 0) and len(read.skipped) == lost and len(read) == len(expected)
        for index in range(len(read)):
            picture = expected.pop(int(read_image(read.file(index))[0, 0, 0]))
            target = read.target(index)
            assert target.labels.tolist() == [label for label, *_ in picture.objects], picture.name
            boxes = np.array([box for _, *box in picture.objects], float).reshape(-1, 4)
            np.testing.assert_allclose(target.boxes.numpy(), boxes, atol=own.tolerance + 1e-6, rtol=0)
        assert not target.difficult.any()


def others(pictures: Sequence[Drawn]) -> tuple[Drawn, ...]:
    """Pictures that are called the same and are of the same sizes, with objects elsewhere."""
    return tuple(
        picture._replace(
            number=picture.number + 100,
            objects=tuple(
                (1 - label, picture.width - x2, y1, picture.width - x1, y2) for label, x1, y1, x2, y2 in objects
            ),
        )
        for picture in pictures
        for objects in [picture.objects]
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_of_two_cameras_are_not_mixed_up(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though they are called the same, and one is missing; where it cannot be told, that is an error."""
    own = LAYOUTS[name]
    own.write(tmp_path / "camera 1")
    first = next(path for path in sorted(tmp_path.rglob("*")) if path.suffix in (".jpg", ".JPG", ".png"))
    first.unlink()
    pictures = {picture.number: picture for picture in (*TRAIN, *VAL, *others(TRAIN), *others(VAL))}
    for key, value in (("TRAIN", others(TRAIN)), ("VAL", others(VAL)), ("E", others(VAL)[1])):
        monkeypatch.setitem(globals(), key, value)
    monkeypatch.setitem(globals(), "ALL", {"all": others(ALL["all"])})
    own.write(tmp_path / "camera 2")
    try:
        kind, splits = find_format(tmp_path)
        parts = [FORMATS[kind].read(tmp_path, split, own.classes) for split in splits]
    except UserError:
        return
    for read in parts:
        for index in range(len(read)):
            picture = pictures[int(read_image(read.file(index))[0, 0, 0])]
            target = read.target(index)
            assert target.labels.tolist() in ([label for label, *_ in picture.objects], [])
            boxes = np.array([box for _, *box in picture.objects], float).reshape(-1, 4)[: len(target.boxes)]
            np.testing.assert_allclose(target.boxes.numpy(), boxes, atol=own.tolerance + 1e-6, rtol=0)
