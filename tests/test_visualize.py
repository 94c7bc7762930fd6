"""Pictures: what is drawn stays inside, where it belongs, and changes nothing else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from resdet import visualize
from resdet.data.images import read_image
from resdet.types import Detections, Target
from resdet.visualize import (
    PALETTE,
    contact_sheet,
    draw_detections,
    draw_finding,
    draw_target,
    plot_detection,
    plot_errors,
    save_image,
)

CLASSES = tuple(f"class {number}" for number in range(15))
GREY = 90


def canvas(height: int = 80, width: int = 120) -> np.ndarray:
    """A grey image."""
    return np.full((height, width, 3), GREY, np.uint8)


def detections(boxes: list[list[float]], scores: list[float] | None = None, label: int = 0) -> Detections:
    """Detections of one class."""
    scores = [0.9] * len(boxes) if scores is None else scores
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores),
        torch.full((len(boxes),), label),
    )


def target(boxes: list[list[float]], difficult: bool = False) -> Target:
    """Annotated boxes of one class."""
    count = len(boxes)
    return Target(torch.tensor(boxes).reshape(-1, 4), torch.zeros(count).long(), torch.full((count,), difficult))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int, int, int]]:
    """Every text that is drawn, with the left, top, right and bottom of its pixels."""
    texts = []
    real = cv2.putText

    def put(
        image: np.ndarray, text: str, origin: tuple[int, int], font: int, scale: float, *rest: object
    ) -> object:
        (width, height), below = cv2.getTextSize(text, font, scale, 1)
        texts.append((text, origin[0], origin[1] - height, origin[0] + width, origin[1] + below // 2))
        return real(image, text, origin, font, scale, *rest)

    monkeypatch.setattr(visualize.cv2, "putText", put)
    return texts


PLACES = {
    "middle": [40, 40, 80, 60],
    "whole image": [0, 0, 120, 80],
    "top left corner": [0, 0, 5, 5],
    "bottom right corner": [115, 75, 120, 80],
    "no area": [30, 30, 30, 30],
    "beyond the left and the top": [-50, -60, 20, 20],
    "beyond the right and the bottom": [100, 70, 300, 200],
    "outside": [500, 400, 600, 500],
    "outside on the other side": [-500, -400, -300, -200],
    "very large": [-1e6, -1e6, 1e6, 1e6],
}


@pytest.mark.parametrize("box", PLACES.values(), ids=PLACES)
def test_any_box_can_be_drawn_and_its_text_stays_inside(
    box: list[float], written: list[tuple[str, int, int, int, int]]
) -> None:
    image = canvas()
    for picture in (
        draw_detections(image, detections([box]), CLASSES),
        draw_target(image, target([box]), CLASSES),
    ):
        assert picture.shape == image.shape and picture.dtype == np.uint8
        assert (picture != GREY).any()
    assert (image == GREY).all(), "the input is not drawn on"
    assert [text for text, *_ in written] == ["class 0 0.90", "class 0"]
    for _, left, top, right, bottom in written:
        assert left >= 0 and right <= 120 and top >= 0 and bottom <= 80


def test_a_box_lies_where_it_belongs() -> None:
    """x1, y1 is its first pixel, x2, y2 the one behind its last; what is inside stays visible."""
    box = [20, 40, 100, 70]
    picture = draw_detections(canvas(), detections([box], label=1), CLASSES)
    for y, x in ((69, 20), (69, 99), (55, 20), (55, 99), (69, 60)):
        assert picture[y, x].tolist() == list(PALETTE[1])
    assert (picture[55, 30:90] == GREY).all()
    assert (picture[71:] == GREY).all() and (picture[:, 101:] == GREY).all() and (picture[:, :19] == GREY).all()


def test_low_scores_are_not_drawn_and_the_best_lies_on_top() -> None:
    box = [20, 40, 100, 70]
    assert (draw_detections(canvas(), detections([box], [0.49]), CLASSES) == GREY).all()
    assert (draw_detections(canvas(), detections([box], [0.5]), CLASSES) != GREY).any()
    assert (draw_detections(canvas(), detections([box], [0.3]), CLASSES, min_score=0.2) != GREY).any()
    both = Detections(torch.tensor([box, box]).float(), torch.tensor([0.9, 0.6]), torch.tensor([2, 3]))
    assert draw_detections(canvas(), both, CLASSES)[69, 60].tolist() == list(PALETTE[2])


def test_no_boxes_leave_a_copy() -> None:
    image = canvas()
    for picture in (
        draw_detections(image, detections([]), CLASSES),
        draw_target(image, target([]), CLASSES),
    ):
        assert (picture == image).all() and not np.shares_memory(picture, image)


def test_difficult_objects_have_a_question_mark(written: list[tuple[str, int, int, int, int]]) -> None:
    draw_target(canvas(), target([[10, 20, 90, 60]], difficult=True), CLASSES)
    assert [text for text, *_ in written] == ["class 0?"]


def test_more_classes_than_colours_and_names_longer_than_the_image() -> None:
    assert draw_detections(canvas(), detections([[9, 9, 50, 50]], label=14), CLASSES).shape == (80, 120, 3)
    assert draw_target(canvas(8, 8), target([[1, 1, 7, 7]]), ["a very long name indeed"]).shape == (8, 8, 3)
    assert draw_target(canvas(), target([[9, 9, 50, 50]]), ["猫 %s {}"]).shape == (80, 120, 3)


@pytest.mark.parametrize("opencv", [4, 5])
def test_names_that_opencv_cannot_draw_are_numbered(
    opencv: int,
    written: list[tuple[str, int, int, int, int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """OpenCV 4 draws ASCII only."""
    if opencv == 4:
        monkeypatch.setattr(visualize, "_is_drawn", str.isascii)
    visualize._picture_names.cache_clear()
    names = ["cat\x1b\n", "𖭑", "$x$", "é" if opencv == 4 else "𖭒"]
    for label in range(4):
        draw_detections(canvas(), detections([[9, 9, 50, 50]], label=label), names)
    visualize._picture_names.cache_clear()
    assert [text for text, *_ in written if text != "?" * len(text)][-4:] == [
        *("cat\\x1b 0.90", "#1 0.90", "$x$ 0.90", "#3 0.90")
    ]
    assert len(caplog.records) == 1
    draw_finding(canvas(), np.empty((0, 4)), "unreadable image: 𖭑.jpg")
    assert written[-1][0] == "unreadable image: \\U00016b51.jpg"


# Sheets, files, curves


@pytest.mark.parametrize("count, heights", [(0, []), (1, [31]), (3, [46]), (4, [46]), (5, [46, 46]), (6, [46, 46])])
def test_a_contact_sheet_has_a_cell_for_each_image(count: int, heights: list[int]) -> None:
    """Rows are as high as the highest of their images."""
    sizes = [(80, 120), (200, 10), (1, 1), (10, 300), (50, 50), (40, 80)]
    sheet = contact_sheet([canvas(*size) for size in sizes[:count]], columns=4, side=50)
    tops = [sum(heights[:row]) + 4 * row for row in range(len(heights))]
    assert sheet.shape == (sum(heights) + 4 * len(heights), 200, 3) and sheet.dtype == np.uint8
    for index in range(count):
        y, x = tops[index // 4], index % 4 * 50
        assert (sheet[y, x] == GREY).all(), "an image lies at the top left of its cell"
        assert (sheet[y : y + heights[index // 4], x + 46 : x + 50] == 255).all(), "cells do not touch"
    for top, height in zip(tops, heights, strict=True):
        assert (sheet[top + height : top + height + 4] == 255).all(), "nor do rows"
    assert ((sheet == GREY) | (sheet == 255)).all()


@pytest.mark.parametrize("ending, tolerance", [(".png", 0), (".jpg", 3)])
def test_a_saved_image_comes_back(tmp_path: Path, ending: str, tolerance: int) -> None:
    image = canvas()
    image[:, :] = (200, 100, 20)  # red and blue are not exchanged
    path = tmp_path / "new folder" / f"a{ending}"
    save_image(path, image)
    assert np.abs(read_image(path).astype(int) - image).max() <= tolerance
    assert list(path.parent.iterdir()) == [path]


def row(step: int, **more: float) -> dict[str, float]:
    """A line of metrics.jsonl."""
    return {"step": step, "loss": 1 / step, "rpn_cls": 0.1, "lr": 0.1, "images_per_second": 5.0} | more


def evaluation(step: int) -> dict[str, float]:
    """A line of metrics.jsonl."""
    return {"step": step, "val_loss": 0.5, "map07": 0.4, "map": 0.3}


def test_a_jpeg_carries_its_comment_and_is_not_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visualize, "JPEG_SIDE", 50)
    image = np.full((40, 100, 3), 99, np.uint8)
    save_image(tmp_path / "a.jpg", image, comment=b"what it is")
    with Image.open(tmp_path / "a.jpg") as opened:
        assert opened.info["comment"] == b"what it is" and opened.size == (50, 20)
    save_image(tmp_path / "a.png", image)
    assert (read_image(tmp_path / "a.png") == image).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "rows",
    [[], [row(1)], [row(1), row(2), evaluation(2), row(3), row(4), evaluation(4)], [evaluation(2)]],
    ids=["nothing", "one step", "a training", "an evaluation alone"],
)
def test_training_curves_are_plotted(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    plot_detection(rows, tmp_path / "curves.png")
    picture = read_image(tmp_path / "curves.png")
    assert min(picture.shape[:2]) > 200 and len(np.unique(picture)) > 5


def test_speed_and_learning_rate_are_no_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    figures = []
    monkeypatch.setattr(visualize, "Figure", lambda **options: figures.append(Figure(**options)) or figures[-1])
    plot_detection([row(1, data_wait=0.1, seconds_left=9), evaluation(1)], tmp_path / "curves.png")
    for axes in figures[0].axes:
        shown += [str(line.get_label()) for line in axes.lines]
    metrics = ["VOC2007, 11 points", "VOC, area under the curve", "COCO, AP50", "COCO, AP"]
    assert shown == ["loss", "rpn_cls", "val_loss", *metrics]


@pytest.mark.parametrize("top1", [0.05, 0.28, 0.95])
def test_the_curve_of_the_worst_network_is_in_sight(tmp_path: Path, top1: float) -> None:
    """Whatever its error: it is the second one, in matplotlib's orange, and without a training error."""
    rows = [{"step": step, "error": 0.1, "top1": 0.9} for step in (1, 2, 3)]
    worse = [{"step": step, "top1": top1} for step in (1, 2, 3)]
    plot_errors({"plain": {"20": rows, "56": worse}, "residual": {"20": rows}}, tmp_path / "errors.png")
    picture = read_image(tmp_path / "errors.png")
    orange = (picture == (255, 127, 14)).all(2)
    assert orange[:, : picture.shape[1] // 2].sum(1).max() > 200, "a level line as wide as half of a panel"
