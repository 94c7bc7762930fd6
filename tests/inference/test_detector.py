"""A trained detector as a function of images."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdet import Detector, ops
from resdet.data.images import read_image
from resdet.engine import runtime
from resdet.errors import UserError
from resdet.inference.detector import NamedDetections
from resdet.types import Detections


@pytest.fixture(scope="module")
def detector(finished: Path) -> Detector:
    return Detector.load(finished, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def files(shapes_root: Path) -> list[Path]:
    return sorted(shapes_root.rglob("JPEGImages/*.jpg"))[:4]


def assert_same(found: NamedDetections, expected: NamedDetections, atol: float = 1e-5) -> None:
    assert found.names == expected.names
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=atol)


@pytest.mark.skipif(not ops.has_native_kernel(torch.zeros(1)), reason="torchvision's operators serve")
def test_a_detector_waits_for_no_slow_import(finished: Path, files: list[Path], tools_environment: dict[str, str]):
    """Of torchvision, torch's compiler and albumentations, which take twice as long as torch itself."""
    code = f"""
import sys
from resdet import Detector, ops
Detector.load({str(finished)!r}, device="cpu")({str(files[0])!r})
print(*(name for name in ("torchvision", "torch._dynamo", "albumentations", "scipy") if name in sys.modules))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=tools_environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


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


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_an_image_s_detections_do_not_depend_on_the_others(detector, files, batch_size):
    """Of different sizes, in mixed order; only images of one size share a batch."""
    images = [read_image(file) for file in files]
    images = [images[0], images[1][:40], images[2], images[0][::-1], images[1][:40, ::-1], *images, images[0]]
    assert len({image.shape for image in images}) > 2
    for found, image in zip(detector(iter(images), batch_size=batch_size), images, strict=True):
        assert_same(found, detector(image), atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_hold_images_of_one_size(detector, monkeypatch, batch_size):
    sizes = [(40, 60), (60, 40), (40, 60), (50, 60), (40, 60), (60, 40)]
    batches = []

    def network(pixels, sizes):
        batches.append(len(pixels))
        assert (sizes == torch.tensor(pixels.shape[2:])).all(), "nothing is padded"
        return [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))] * len(pixels)

    monkeypatch.setattr(detector, "network", network)
    assert len(detector([np.zeros((*size, 3), np.uint8) for size in sizes], batch_size)) == len(sizes)
    assert sum(batches) == len(sizes) and max(batches) == min(batch_size, 3)
    assert len(batches) == {1: 6, 2: 4, 5: 3}[batch_size]


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "4", None])
def test_a_batch_size_that_cannot_be_is_refused(detector, files, batch_size, refuses):
    with refuses("batch_size", repr(batch_size)):
        detector(files, batch_size=batch_size)


def test_threads_share_a_detector(detector, files):
    expected = [detector(file) for file in files]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(detector, files * 3), expected * 3, strict=True):
            assert_same(found, one)


def test_what_is_not_an_image_is_refused(detector, files, refuses):
    for images in (None, 7, [files[0], None], "https://example.org/a.jpg", np.zeros((0, 5, 3), np.uint8)):
        with refuses():
            detector(images)


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


def test_lists_do_for_tuples_in_settings(finished):
    assert Detector.load(finished, scales=[64, 80]).members[0][1].config.test.scales == (64, 80)


def test_a_setting_that_does_not_exist_is_refused(finished, refuses):
    with refuses("test.min_scores", "min_score"):
        Detector.load(finished, min_scores=0.3)


# Copies and processes


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda detector: pickle.loads(pickle.dumps(detector))]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("test", [{}, {"flip": True, "scales": (64, 80)}])
def test_copies_find_the_same(finished, files, copied, precision, test):
    detector = Detector.load(finished, "cpu", precision, **test)
    other = copied(detector)
    assert other.runtime == detector.runtime and other.classes == detector.classes
    for file in files[:2]:
        assert_same(other(file), detector(file))


def test_a_pickle_needs_no_files(finished, files, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / "model.safetensors", folder)
    detector = Detector.load(folder, "cpu", "fp32", ensemble=(str(folder),))
    expected, pickled = detector(files[0]), pickle.dumps(detector)
    assert len(pickled) < 2.5 * (folder / "model.safetensors").stat().st_size
    shutil.rmtree(folder)
    assert_same(pickle.loads(pickled)(files[0]), expected)


def test_a_pickle_from_a_gpu_is_explained_where_there_is_none(detector, monkeypatch, refuses):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(detector, "runtime", replace(detector.runtime, device=torch.device("cuda:0")))
    pickled = pickle.dumps(detector)
    with refuses("cuda:0", "choose cpu"):
        pickle.loads(pickled)


FORKING = """
import multiprocessing, sys
import torch
from resdet import Detector, ops

torch.set_num_threads(2)
torch.rand(3000, 3000) @ torch.rand(3000, 300)  # starts OpenMP's threads
run, *files = sys.argv[1:]

def found(job):
    detector, precision, file = job
    found = (detectors.get(detector) or Detector.load(run, "cpu", precision))(file)
    return found.boxes.numpy(), found.scores.numpy(), torch.get_num_threads()

detectors = {precision: Detector.load(run, "cpu", precision) for precision in ("fp32", "bf16")}
for used in (False, True):
    jobs = [(name, precision, file) for precision in detectors for name in (precision, None) for file in files]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map_async(found, jobs).get(60)
    expected = {precision: dict(zip(files, detector(files))) for precision, detector in detectors.items()}
    for (name, precision, file), (boxes, scores, threads) in zip(jobs, results, strict=True):
        other = expected[precision][file]
        assert threads == 2 and len(scores) == len(other.scores) > 0, (used, name, precision)
        assert abs(boxes - other.boxes.numpy()).max() < 1e-3, (used, name, precision)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_detect(finished, files, tools_environment):
    """Where OpenMP has threads, which a child process does not inherit: gunicorn --preload, multiprocessing.

    With a detector that the parent has loaded, or used too, or with the child's own.
    """
    command = [sys.executable, "-c", FORKING, str(finished), *map(str, files[:2])]
    done = subprocess.run(command, env=tools_environment, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_detector_on_a_gpu_is_refused_after_a_fork(detector, monkeypatch, refuses, files):
    monkeypatch.setattr(detector, "runtime", replace(detector.runtime, device=torch.device("cuda:0")))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with refuses("fork", "spawn"):
        detector(files[0])
