"""A trained detector as a function of images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdet import Detector
from resdet.data.images import read_image
from resdet.engine import runtime
from resdet.errors import UserError
from resdet.inference.detector import NamedDetections


@pytest.fixture(scope="module")
def detector(finished: Path) -> Detector:
    return Detector.load(finished, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def files(shapes_root: Path) -> list[Path]:
    return sorted(shapes_root.rglob("JPEGImages/*.jpg"))[:4]


def assert_same(found: NamedDetections, expected: NamedDetections) -> None:
    assert found.names == expected.names
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_each_detection_has_the_name_of_its_class(detector, files):
    found = detector(files[0])
    assert len(found.names) == len(found.boxes) == len(found.scores) > 0
    assert found.names == [detector.classes[label] for label in found.labels]
    assert (found.scores.diff() <= 0).all()


def test_files_arrays_and_pillow_s_images_are_the_same(detector, files):
    expected = detector(str(files[0]))
    pixels = read_image(files[0])
    assert_same(detector(files[0]), expected)
    assert_same(detector(pixels), expected)
    assert_same(detector(Image.fromarray(pixels)), expected)


def test_several_images_are_several_results(detector, files):
    assert len({read_image(file).shape for file in files}) > 1
    expected = [detector(file) for file in files]
    for found in (detector(files), detector(file for file in files)):
        assert len(found) == len(files)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    assert detector([]) == []


def test_a_batch_finds_what_single_images_show(detector, files):
    """Nearly: the map of a padded image does not end where the image does."""
    pixels = read_image(files[0])
    for found in detector([pixels, pixels, pixels], batch_size=2):
        assert_same(found, detector(pixels))
    together = detector(files, batch_size=4)
    for file, found in zip(files, together, strict=True):
        height, width = read_image(file).shape[:2]
        assert (found.boxes <= torch.tensor([width, height] * 2) + 1e-3).all()


def test_threads_share_a_detector(detector, files):
    expected = [detector(file) for file in files]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(detector, files * 3), expected * 3, strict=True):
            assert_same(found, one)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((5, 5), np.uint8), np.zeros((3, 5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)],
)
def test_pixels_of_another_kind_are_refused(detector, pixels):
    with pytest.raises(UserError, match=r"\(H, W, 3\) uint8"):
        detector(pixels)


def test_an_empty_result_is_no_error(detector, monkeypatch):
    heads = detector.network.model.roi_heads
    monkeypatch.setattr(heads, "test", replace(heads.test, min_score=2))
    found = detector(np.zeros((40, 60, 3), np.uint8))
    assert found.boxes.shape == (0, 4) and found.names == []


def test_loading_and_detecting_changes_nothing_of_the_host(finished, files, monkeypatch):
    for name in ("start", "keep_freed_memory"):
        monkeypatch.setattr(runtime, name, lambda *_: pytest.fail("a library must not"))

    def host():
        tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        return (
            torch.get_num_threads(),
            tf32,
            torch.initial_seed(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        )

    before = host()
    Detector.load(finished)(files[0])
    assert host() == before


@pytest.mark.parametrize("settings", [{"nms_iou": 7.0}, {"max_detections": 0}, {"vote_iou": float("nan")}])
def test_settings_that_cannot_be_are_refused(finished, settings):
    with pytest.raises(UserError, match=f"test.{next(iter(settings))} is"):
        Detector.load(finished, **settings)
