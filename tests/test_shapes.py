"""The embedded data set: the same bytes every time, boxes that fit the pixels, whole on disk or absent."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest

from resdet.config import SHAPES_CLASSES
from resdet.data import shapes
from resdet.data.shapes import Shape, draw, render
from resdet.errors import UserError

SPLITS = {"train": 6, "val": 3}


def contents(root: Path) -> dict[str, bytes]:
    """Every file under `root`, by its path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def stop_at_third_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seed: int, split: str, index: int) -> tuple[np.ndarray, list[Shape]]:
        if index == 2:
            raise KeyboardInterrupt
        return draw(seed, split, index)

    monkeypatch.setattr(shapes, "draw", interrupted)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "shapes"
    render(folder, SPLITS)
    return folder


@pytest.fixture(scope="module")
def drawings() -> list[tuple[np.ndarray, list[Shape]]]:
    return [draw(0, "train", index) for index in range(120)]


def test_two_renders_are_the_same_bytes_and_another_seed_is_another_set(root: Path, tmp_path: Path) -> None:
    render(tmp_path / "again", SPLITS)
    render(tmp_path / "other", SPLITS, seed=1)
    assert contents(tmp_path / "again") == contents(root)
    other = contents(tmp_path / "other")
    assert all(other[name] != data for name, data in contents(root).items() if name.endswith(".jpg"))


def test_an_image_does_not_depend_on_how_many_there_are(root: Path, tmp_path: Path) -> None:
    render(tmp_path / "few", {"val": 2})
    whole = contents(root)
    few = {name: data for name, data in contents(tmp_path / "few").items() if name.endswith((".jpg", ".xml"))}
    assert len(few) == 4
    assert all(whole[name] == data for name, data in few.items())


def test_the_files_are_a_voc_data_set(root: Path) -> None:
    listed = []
    for split, count in SPLITS.items():
        names = (root / f"ImageSets/Main/{split}.txt").read_text().split()
        assert len(set(names)) == count
        listed += names
    assert sorted(listed) == sorted(path.stem for path in (root / "JPEGImages").iterdir())
    assert sorted(listed) == sorted(path.stem for path in (root / "Annotations").iterdir())
    for name in listed:
        image = cv2.imread(str(root / f"JPEGImages/{name}.jpg"))
        assert image is not None
        height, width, depth = image.shape
        annotation = ET.parse(root / f"Annotations/{name}.xml")
        assert annotation.findtext("filename") == f"{name}.jpg"
        size = [int(annotation.findtext(f"size/{field}", "")) for field in ("width", "height", "depth")]
        assert size == [width, height, depth]


def test_annotations_say_what_was_drawn(root: Path) -> None:
    found = 0
    for split, count in SPLITS.items():
        for index in range(count):
            _, drawn = draw(0, split, index)
            nodes = ET.parse(root / f"Annotations/{split}_{index:05d}.xml").findall("object")
            assert len(nodes) == len(drawn)
            for node, shape in zip(nodes, drawn, strict=True):
                rows, columns = np.where(shape.mask)
                box = [int(node.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
                # 1-based and inclusive: the first and the last row and column of the mask, plus one each
                assert box == [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]
                assert node.findtext("name") == shape.name
                assert node.findtext("truncated") == str(int(shape.truncated))
                assert node.findtext("difficult") == str(int(shape.difficult))
                found += 1
    assert found > 10


def test_boxes_fit_their_masks_inside_the_image(drawings: list[tuple[np.ndarray, list[Shape]]]) -> None:
    for image, drawn in drawings:
        height, width, _ = image.shape
        for shape in drawn:
            x1, y1, x2, y2 = shape.box
            rows, columns = np.where(shape.mask)
            assert shape.mask.shape == (height, width)
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
            assert shape.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert not shape.truncated or x1 == 0 or y1 == 0 or x2 == width or y2 == height


@pytest.mark.parametrize("seed", range(5))
def test_paint_changes_the_pixels_of_the_mask_and_no_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = shapes._background(rng, 60, 80)
    mask = rng.random((60, 80)) < 0.3
    after = before.copy()
    shapes._paint(rng, after, mask, "star")
    np.testing.assert_array_equal((after != before).any(2), mask)


@pytest.mark.parametrize("name", SHAPES_CLASSES)
def test_fill_moves_with_its_center_and_knows_the_part_outside(name: str) -> None:
    outlines = shapes._pose(np.random.default_rng(3), name)
    whole, area = shapes._fill(outlines, np.array([200.0, 200.0]), 400, 400)
    assert whole.sum() == area
    cut, cut_area = shapes._fill(outlines, np.array([0.0, 100.0]), 300, 300)  # the center on the left border
    assert cut_area == area
    np.testing.assert_array_equal(cut[:200, :200], whole[100:300, 200:])
    assert 0 < cut.sum() < area


def test_the_set_is_varied(drawings: list[tuple[np.ndarray, list[Shape]]]) -> None:
    drawn = [shape for _, shapes_of_image in drawings for shape in shapes_of_image]
    assert {shape.name for shape in drawn} == set(SHAPES_CLASSES)
    sides = np.array([(x2 - x1, y2 - y1) for x1, y1, x2, y2 in (shape.box for shape in drawn)])
    scales, _ = np.histogram(sides.max(1), [0, 16, 34, 68, 128, 200])
    assert (scales > 0).all() and scales.sum() == len(drawn)
    assert (sides.max(1) > 1.4 * sides.min(1)).any()
    assert 0 < sum(not shapes_of_image for _, shapes_of_image in drawings) < 0.2 * len(drawings)
    assert 0 < sum(shape.difficult for shape in drawn) < 0.2 * len(drawn)
    assert 0 < sum(shape.truncated for shape in drawn) < 0.3 * len(drawn)
    assert all(shape.difficult for shape, side in zip(drawn, sides.max(1), strict=True) if side < shapes.SMALL)
    heights, widths = np.array([image.shape[:2] for image, _ in drawings]).T
    assert (heights > widths).any() and (heights < widths).any() and max(*heights, *widths) <= 320


def test_a_shape_mostly_under_later_ones_is_difficult(drawings: list[tuple[np.ndarray, list[Shape]]]) -> None:
    covered = 0
    for _, drawn in drawings:
        for below, shape in enumerate(drawn):
            later = [other.mask for other in drawn[below + 1 :]]
            hidden = shape.mask & np.any(later, axis=0) if later else np.zeros_like(shape.mask)
            if hidden.sum() > shapes.MAX_COVERED * shape.mask.sum():
                assert shape.difficult
                covered += 1
    assert covered > 0


def test_a_second_render_touches_nothing(root: Path) -> None:
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.rglob("*")}
    render(root, SPLITS)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.rglob("*")} == before


def test_other_splits_renew_the_set_and_leave_nothing_of_the_old(tmp_path: Path) -> None:
    render(tmp_path / "set", {"train": 3})
    render(tmp_path / "set", {"train": 1, "val": 1})
    assert {path.stem for path in (tmp_path / "set/JPEGImages").iterdir()} == {"train_00000", "val_00000"}
    assert not (tmp_path / "set/JPEGImages/train_00002.jpg").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="choose another folder"):
        render(tmp_path, {"train": 1})
    assert contents(tmp_path) == {"precious.txt": b"mine"}


def test_an_empty_folder_may_be_there_already(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    render(tmp_path / "set", {"train": 1})
    assert (tmp_path / "set/JPEGImages/train_00000.jpg").is_file()


def test_an_interrupted_render_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at_third_image(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        render(tmp_path / "set", SPLITS)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_render_leaves_the_earlier_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render(tmp_path / "set", {"train": 1})
    before = contents(tmp_path)
    stop_at_third_image(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        render(tmp_path / "set", SPLITS)
    assert contents(tmp_path) == before


def test_no_set_is_there_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process would leave: the folder beside the set, which is in nobody's way."""
    seen = []

    def watched(seed: int, split: str, index: int) -> tuple[np.ndarray, list[Shape]]:
        seen.append((tmp_path / "set").exists())
        return draw(seed, split, index)

    monkeypatch.setattr(shapes, "draw", watched)
    (tmp_path / ".set.left-by-a-kill/new/JPEGImages").mkdir(parents=True)
    render(tmp_path / "set", SPLITS)
    assert seen == [False] * 9
    assert len(list((tmp_path / "set/JPEGImages").iterdir())) == 9
