"""Reading projects and tables of the VGG Image Annotator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resdet.data.annotations import Annotations
from resdet.data.via import read_via

RECT = {"name": "rect", "x": 5, "y": 6, "width": 20, "height": 24}


def write(root: Path, *regions: tuple[Any, Any], name: str = "a.png", image: bool = True) -> None:
    """An image and its project."""
    root.mkdir(exist_ok=True)
    if image:
        (root / name).write_bytes(cv2.imencode(".png", np.zeros((40, 60), np.uint8))[1].tobytes())
    own = [{"shape_attributes": shape, "region_attributes": attributes} for shape, attributes in regions]
    content = {f"{name}99": {"filename": name, "size": 99, "regions": own, "file_attributes": {}}}
    (root / "via.json").write_text(json.dumps(content))


def read(root: Path, **options: Any) -> Annotations:
    """All of it."""
    return read_via(root, "all", **options)


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        (RECT, [5, 6, 25, 30]),
        (RECT | {"x": "5"}, [5, 6, 25, 30]),
        ({"name": "circle", "cx": 20, "cy": 20, "r": 5}, [15, 15, 25, 25]),
        ({"name": "ellipse", "cx": 20, "cy": 20, "rx": 5, "ry": 10}, [15, 10, 25, 30]),
        ({"name": "ellipse", "cx": 20, "cy": 20, "rx": 5, "ry": 10, "theta": 0}, [15, 10, 25, 30]),
        ({"name": "polygon", "all_points_x": [5, 25, 9], "all_points_y": [9, 6, 30]}, [5, 6, 25, 30]),
    ],
)
def test_the_box_of_a_region(tmp_path: Path, shape: dict[str, Any], box: list[float]) -> None:
    write(tmp_path, (shape, {"class": "cat"}))
    assert read(tmp_path).boxes.tolist() == [box]


@pytest.mark.parametrize(
    ("attributes", "label"),
    [
        ({"label": "cat"}, "cat"),
        ({"color": "red", "Class": "cat"}, "cat"),
        ({"species": "cat", "color": "red"}, "cat"),
        ({"type": {"cat": True, "dog": False}}, "cat"),
        ({"name": 7}, "7"),
    ],
)
def test_the_class_of_a_region(tmp_path: Path, attributes: dict[str, Any], label: str) -> None:
    write(tmp_path, (RECT, attributes))
    assert read(tmp_path).classes == (label,)


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ({"name": "point", "cx": 1, "cy": 1}, {"class": "cat"}),
        ({"name": "polyline", "all_points_x": [5, 25], "all_points_y": [9, 6]}, {"class": "cat"}),
        ({"name": "rect", "x": 5}, {"class": "cat"}),
        (RECT | {"x": None}, {"class": "cat"}),
        (RECT | {"width": "wide"}, {"class": "cat"}),
        ({"name": "circle", "cx": float("nan"), "cy": 20, "r": 5}, {"class": "cat"}),
        ({"name": "polygon", "all_points_x": [5], "all_points_y": [9]}, {"class": "cat"}),
        ({"name": "polygon", "all_points_x": [5, 6], "all_points_y": [9]}, {"class": "cat"}),
        (RECT, {}),
        (RECT, {"class": ""}),
        (RECT, {"type": {"cat": False}}),
        (RECT, None),
        (None, {"class": "cat"}),
    ],
)
def test_a_region_without_area_or_class_is_left_out(
    tmp_path: Path, shape: Any, attributes: Any, assert_sentence: Callable[..., None]
) -> None:
    write(tmp_path, (RECT, {"class": "cat"}), (shape, attributes))
    found = read(tmp_path)
    assert len(found.boxes) == 1 and found.left_out == (0, 1)
    assert_sentence(found.skipped[0], tmp_path / "via.json", "region 2")


def test_a_missing_image_takes_its_regions_along(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    write(tmp_path, (RECT, {"class": "cat"}), image=False)
    with refuses("No image", "a.png", "missing"):
        read(tmp_path)


@pytest.mark.parametrize("text", ['{"a": {"shape_attributes": 3}}', '{"shape_attributes"', '["shape_attributes"]'])
def test_a_project_that_is_none(tmp_path: Path, text: str, refuses: Callable[..., Any]) -> None:
    (tmp_path / "via.json").write_text(text)
    with refuses(tmp_path / "via.json", "export it again"):
        read(tmp_path)


def test_a_missing_split_names_those_there(tmp_path: Path, refuses: Callable[..., Any]) -> None:
    write(tmp_path / "train", (RECT, {"class": "cat"}))
    with refuses("'val'", "train"):
        read_via(tmp_path, "val")
    assert len(read_via(tmp_path, "train")) == 1
