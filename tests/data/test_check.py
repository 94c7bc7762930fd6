"""What may be wrong with a data set, and what looks like it but is not."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from annotated import Picture, annotated

from resdet.boxes import iou
from resdet.config import DataConfig, DetConfig, ModelConfig
from resdet.data import records
from resdet.data.annotations import Annotations
from resdet.data.check import (
    anchor_overlap,
    check_annotations,
    check_crowds,
    odd_names,
    resized_boxes,
    size_histogram,
)
from resdet.data.duplicates import fingerprint, twins
from resdet.data.images import read_image
from resdet.data.shapes import draw
from resdet.experiments.check_data import measure
from resdet.models.anchors import base_anchors, grid_anchors
from resdet.models.build import build_anchors, strides_of


def annotations(
    boxes: list[list[float]], names: tuple[str, ...] = ("a",), skipped: tuple[str, ...] = ()
) -> Annotations:
    """All boxes in the first of some images of 100×50 pixels; of two classes, the second without objects."""
    pictures = [Picture(name, (50, 100)) for name in names]
    return annotated([pictures[0]._replace(boxes=boxes), *pictures[1:]], ("cat", "zebra"), skipped)


# Annotations


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    picture = Picture("a", (50, 100), [[0.0, 0, 100, 50], [1, 2, 30, 40]], [0, 1])
    good = annotated([picture], ("cat", "dog"))
    other = annotated([picture._replace(name="b")], ("cat", "dog"))
    assert check_annotations({"train": good, "val": other}) == []


def test_each_kind_is_found_where_it_is() -> None:
    boxes = [[0, 0, 10, 10], [-7, 0, 10, 10], [0, 0, 10, 10], [5, 5, 120.5, 50], [0, 0, 100.4, 50]]
    train = annotations(boxes, ("a", "b", "b"), ("c.jpg is missing.",))
    val = annotations([[1, 1, 5, 5]], ("d", "a"))
    found = check_annotations({"train": train, "val": val})
    assert [(f.kind, f.split, f.image, f.box) for f in found] == [
        ("skipped", "train", -1, -1),
        ("image listed twice", "train", -1, -1),
        ("box leaves its image", "train", 0, 1),
        ("box leaves its image", "train", 0, 3),
        ("box annotated twice", "train", 0, 2),
        ("class without objects", "train", -1, -1),
        ("class without objects", "val", -1, -1),
        ("image in two splits", "train", -1, -1),
    ]
    assert "by 7 pixels" in found[2].detail and "by 20 pixels" in found[3].detail and "'cat'" in found[2].detail


def test_many_classes_without_objects_are_one_finding() -> None:
    """A split of a data set of 1203 classes lacks most of them."""
    for classes, count in ((21, 20), (22, 1)):
        data = annotated([Picture("a", (50, 100), [[0, 0, 9, 9]], [0])], [f"c{label}" for label in range(classes)])
        found = check_annotations({"train": data})
        assert [finding.kind for finding in found] == ["class without objects"] * count
    assert found[0].detail == "21 classes, such as 'c1', 'c2', 'c3', have no objects in train."


def test_images_with_more_objects_than_a_detector_finds_are_named() -> None:
    boxes = [[0, 0, 10, number + 1] for number in range(5)]
    data = annotations(boxes, ("a", "b"))
    assert check_crowds({"train": data}, 5, 5) == []
    found = check_crowds({"train": data, "val": annotations([])}, 4, 3)
    assert [(f.kind, f.split, f.image) for f in found] == [
        ("more objects than test.max_detections", "train", 0),
        ("more objects of a class than test.coco_max_dets", "train", 0),
    ]
    assert "a.jpg has 5 objects" in found[0].detail and "5 objects of 'cat'" in found[1].detail
    data.difficult[:2] = True
    assert check_crowds({"train": data}, 4, 3) == []


@pytest.mark.parametrize(
    ("counts", "odd"),
    [
        ({"cat": 100, "dog": 90}, []),
        ({"cat": 100, "Cat": 3}, ["Cat"]),
        ({"traffic light": 5, "traffic_light": 80}, ["traffic light"]),
        ({"person": 300, "persn": 2}, ["persn"]),
        ({"person": 300, "parson": 250}, []),
        ({"car": 300, "cat": 2}, []),
        ({" cat": 5, "dog": 5}, [" cat"]),
        ({"helmet": 100, "no helmet": 60}, []),
        (
            {"bottle": 100, "botle": 1, "bottlle": 2, "bottel": 3, "battle": 4, "Bottle": 5},
            ["botle", "bottlle", "bottel", "battle", "Bottle"],
        ),
        ({"bird": 100, "birds": 2, "bid": 1}, ["birds"]),
        ({"class 1": 100, "class 2": 1, "class_1": 3}, ["class_1"]),
        ({"+": 100, "-": 3, "": 1}, []),
        ({"安全帽": 100, "安全 帽": 3}, ["安全 帽"]),
    ],
)
def test_odd_names(counts: dict[str, int], odd: list[str]) -> None:
    assert list(odd_names(counts)) == odd


def test_odd_names_against_all_pairs() -> None:
    """Random names of few letters, many of them a slip apart."""
    generator = random.Random(0)
    for _ in range(60):
        names = ["".join(generator.choices("ab1 ", (9, 9, 1, 1), k=generator.randrange(1, 9))) for _ in range(25)]
        counts = {name.strip(): generator.choice([1, 5, 20, 90, 1000]) for name in names if name.strip()}
        found = odd_names(counts)
        for name, count in counts.items():
            alike = [other for other in counts if has_the_form_of(name, other, counts)]
            near = [other for other in counts if 10 * count < counts[other] and is_one_slip_from(name, other)]
            assert (name in found) == bool(alike or near or "  " in name), (name, counts)
            if not alike and near:
                assert f"({max(counts[other] for other in near)})" in found[name]


def form(name: str) -> str:
    return "".join(char for char in name if char.isalnum())


def has_the_form_of(name: str, other: str, counts: dict[str, int]) -> bool:
    """Whether both have the same letters and digits, the other one being more frequent, or before it in a tie."""
    before = (-counts[other], other) < (-counts[name], name)
    return form(name) == form(other) and before


def is_one_slip_from(name: str, other: str) -> bool:
    """Whether both are equal when at most one letter of each is left out, and long enough."""
    for a in [form(name), *without_a_letter(form(name))]:
        for b in [form(other), *without_a_letter(form(other))]:
            both_shorter = len(a) < len(form(name)) and len(b) < len(form(other))
            if a == b and form(name) != form(other) and len(a) >= (5 if both_shorter else 4):
                return True
    return False


def without_a_letter(name: str) -> list[str]:
    return [name[:i] + name[i + 1 :] for i in range(len(name)) if not name[i].isdigit()]


def test_the_names_of_large_data_sets_are_compared_in_no_time() -> None:
    """V3Det has 13,204 classes: comparing all pairs took 26 minutes."""
    generator = random.Random(0)
    words = ["chair", "bottle", "person", "table", "lamp", "street", "light", "wild", "bird", "hair", "dryer"]
    names = [f"{generator.choice(words)}_{generator.choice(words)} {i}" for i in range(13_204)]
    started = time.process_time()
    assert odd_names({name: generator.randrange(1000) for name in [*names, "street_lmap 1"]}) is not None
    assert time.process_time() - started < 5


# Anchors and sizes


@pytest.mark.parametrize("offset", [0.5, 0.0])
def test_anchor_overlap_against_every_anchor_of_the_grid(offset: float) -> None:
    """The twin looks at all anchors; boxes at the borders, beyond them, and of all sizes."""
    generator, base = np.random.default_rng(0), base_anchors((16, 32, 64), (0.5, 1, 2)).double()
    for _ in range(30):
        height, width = generator.integers(20, 150, 2).tolist()
        centers, sides = generator.uniform(-5, [width + 5, height + 5], (8, 2)), generator.uniform(2, 120, (8, 2))
        boxes = np.hstack([centers - sides / 2, centers + sides / 2])
        grid = grid_anchors(base, math.ceil(height / 16), math.ceil(width / 16), 16, offset).numpy()
        expected = []
        for x1, y1, x2, y2 in boxes:
            best = 0.0
            for a1, b1, a2, b2 in grid:
                inside = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
                best = max(best, inside / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inside))
            expected.append(best)
        found = anchor_overlap(boxes, np.tile([height, width], (8, 1)), base.numpy(), 16, offset)
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("features", ["c4", "fpn"])
def test_the_anchors_of_each_level_are_measured(features: str) -> None:
    """Images of 64 × 128 pixels that are not resized, against the anchors that the detector has."""
    boxes = [[3, 5, 12, 13], [20, 20, 51, 60], [0, 0, 128, 64], [70, 3, 75, 9], [60, 30, 100, 58]]
    part = annotated([Picture("a", (64, 128), boxes, [0] * len(boxes))], ("cat",))
    config = DetConfig(
        data=DataConfig(short_sides=(64,), test_short_side=64, max_side=128),
        model=ModelConfig(features=features, anchor_scales=(8, 16, 32, 64, 128), anchor_center="corner"),
    )
    anchors, strides = build_anchors(config.model), strides_of(config.model)
    every = torch.cat(anchors([(64 // stride, 128 // stride) for stride in strides], strides))
    best = iou(torch.tensor(boxes).float(), every).amax(1)
    figures = measure({"val": part}, config)["val"]["anchor_iou"]
    expected = {str(least): float((best >= least).float().mean()) for least in (0.3, 0.5, 0.7)}
    assert figures == pytest.approx(expected)
    assert figures["0.3"] > figures["0.7"]


def test_sizes_are_those_of_the_resized_images() -> None:
    boxes, sizes = resized_boxes(annotations([[0, 0, 10, 20], [50, 0, 100, 50]]), 100, 150)
    assert boxes.tolist() == [[0, 0, 15, 30], [75, 0, 150, 75]] and sizes.tolist() == [[75, 150]] * 2
    assert size_histogram(boxes, (0, 16, 64)) == [0, 1, 1]


# Pictures that are the same


def test_twins_are_found_through_compression_and_size() -> None:
    images = [cv2.cvtColor(draw(0, "train", index)[0], cv2.COLOR_BGR2RGB) for index in range(40)]
    copies = []
    for image in images[:10]:
        poor = cv2.imdecode(cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 70))[1], cv2.IMREAD_COLOR)
        copies.append(cv2.resize(poor, None, fx=1.3, fy=1.3))
    found = twins(np.array([fingerprint(image) for image in [*images, *copies]]))
    assert set(found) <= {(index, 40 + index) for index in range(10)} and len(found) >= 9


def test_twins_against_all_pairs() -> None:
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2, (60, 256)).astype(bool)
    for copy in range(30, 60):
        bits[copy] = bits[copy - 30]
        bits[copy, generator.permutation(256)[: generator.integers(0, 25)]] ^= True
    differ = {
        (a, b): sum(x != y for x, y in zip(bits[a], bits[b], strict=True))
        for a in range(60)
        for b in range(a + 1, 60)
    }
    found = twins(np.packbits(bits, axis=1).view(np.uint32))
    assert {pair for pair, count in differ.items() if count < 8} <= set(found)
    assert set(found) <= {pair for pair, count in differ.items() if count <= 15} and found == sorted(set(found))
    assert 10 < len(found) <= 30
    flat = np.zeros((3, 256), bool)
    flat[0, :9], flat[1, 2:11], flat[2, 200:209] = (
        True,
        True,
        True,
    )  # of few bits: two that agree in most, and another
    assert twins(np.packbits(flat, axis=1).view(np.uint32)) == []
    flat[1, :3], flat[1, 9:11] = True, False
    assert twins(np.packbits(flat, axis=1).view(np.uint32)) == [(0, 1)]
    assert twins(np.empty((0, 8), np.uint32)) == []


# The command


@pytest.fixture
def broken(shapes_root: Path, tmp_path: Path) -> Path:
    """The tiny data set with one of everything."""
    root = tmp_path / "broken"
    shutil.copytree(shapes_root, root)
    pictures, xml = root / "JPEGImages", root / "Annotations"
    (pictures / "train_00000.jpg").write_bytes((pictures / "train_00000.jpg").read_bytes()[:-300] + b"\xff\xd9")
    (pictures / "train_00001.jpg").unlink()
    cv2.imwrite(
        str(pictures / "val_00000.jpg"), cv2.cvtColor(read_image(pictures / "train_00002.jpg"), cv2.COLOR_RGB2BGR)
    )
    shutil.copy(xml / "train_00002.xml", xml / "val_00000.xml")
    text = (xml / "train_00003.xml").read_text()
    (xml / "train_00003.xml").write_text(text.replace("<xmin>", "<xmin>-9", 1))
    return root


def test_the_command_finds_names_and_draws(
    broken: Path, recipe: Path, cli: Callable[..., Any], complains: Callable[..., None], tmp_path: Path
) -> None:
    status, out, _ = cli("check-data", recipe, "--data.root", broken)
    assert status == 0, out
    folder = tmp_path / "runs/tiny/data"
    content = json.loads((folder / "report.json").read_text())
    kinds = {finding["kind"]: finding["detail"] for finding in content["findings"]}
    assert "train_00001.jpg" in kinds["skipped"] and "is missing" in kinds["skipped"]
    assert (
        "train_00002.jpg" in kinds["same picture in two splits"]
        and "val_00000.jpg" in kinds["same picture in two splits"]
    )
    assert "train_00003.jpg" in kinds["box leaves its image"]
    for kind in kinds:
        assert kind in out
    assert content["splits"]["train"]["images"] == 5 and 0 <= content["splits"]["val"]["anchor_iou"]["0.5"] <= 1
    for picture in ("histograms.png", "worst.png"):
        assert read_image(folder / picture).std() > 5
    complains(["check-data"], "Recipe missing")


def test_a_damaged_and_a_resized_image_are_found(
    recipe: Path, shapes_root: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are very many images, stated sizes are believed until an image is opened."""
    monkeypatch.setattr(records, "MANY_IMAGES", 1)
    monkeypatch.setattr(records, "SAMPLE", 1)
    cli("convert-data", shapes_root, tmp_path / "coco", "--to", "coco")
    images = tmp_path / "coco/train"
    (images / "train_00001.jpg").write_bytes(b"no picture")
    cv2.imwrite(str(images / "train_00002.jpg"), np.zeros((9, 9, 3), np.uint8))
    status, _, _ = cli("check-data", recipe, "--data.format", "coco", "--data.root", tmp_path / "coco")
    content = json.loads((tmp_path / "runs/tiny/data/report.json").read_text())
    kinds = {finding["kind"]: finding["detail"] for finding in content["findings"]}
    assert status == 0 and "train_00001.jpg" in kinds["unreadable image"]
    assert "train_00002.jpg has 9×9 pixels, not" in kinds["other size"]
