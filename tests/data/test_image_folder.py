"""Image folders: classes and files, broken images, and the views of an image in training and evaluation."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from resdet.data.build_cls import describe_images
from resdet.data.image_folder import FolderDataset, read_image_folder
from resdet.data.images import ImageError
from resdet.data.loader import Draw, TrainSampler, train_batches
from resdet.data.loader import test_batches as ordered_batches
from resdet.data.transforms import ClsTestTransform as Views
from resdet.data.transforms import ClsTrainTransform


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three images, 40×60 to 48×60 pixels, a third one empty."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(3):
            image = generator.integers(0, 256, (40 + 4 * number, 60, 3), np.uint8)
            image[:8, :8] = 100 * label
            cv2.imwrite(str(tmp_path / "train" / name / f"{number}.png"), image)
    (tmp_path / "train/dog/notes.txt").write_text("no image")
    (tmp_path / "train/eel").mkdir()
    return tmp_path


def test_folders_are_classes(root: Path) -> None:
    folder = read_image_folder(root, "train", (), source="x")
    assert folder.classes == ("cat", "dog", "eel")
    assert folder.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [folder.file(i).name for i in range(6)] == ["0.png", "1.png", "2.png"] * 2
    assert folder.file(4) == root / "train/dog/1.png"


def test_validation_has_the_classes_of_the_training(root: Path, refuses: Callable[..., object]) -> None:
    folder = read_image_folder(root, "train", ("ant", "cat", "dog", "eel"), source="x")
    assert folder.labels.tolist() == [1, 1, 1, 2, 2, 2]
    with refuses(root / "train/eel", "not a class of the training", "cat, dog"):
        read_image_folder(root, "train", ("cat", "dog"), source="x")


HIDDEN = (".ipynb_checkpoints", ".git", ".AppleDouble", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found")


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_folders_are_no_classes_and_hidden_images_none(root: Path, name: str) -> None:
    plain = read_image_folder(root, "train", (), source="x")
    for folder in (root / "train" / name, root / "train/cat" / name):
        folder.mkdir()
        shutil.copy(root / "train/cat/0.png", folder / "0-checkpoint.png")
    (root / "train/dog/._1.png").write_bytes(b"AppleDouble")
    (root / "train/dog/.DS_Store").write_bytes(b"")
    for classes in ((), plain.classes):
        folder = read_image_folder(root, "train", classes, source="x")
        assert folder.classes == plain.classes and folder.files.tolist() == plain.files.tolist()
        assert folder.hidden == 3
        assert describe_images(folder, "training").splitlines() == [
            "training: 6 images of 3 classes",
            "  Without images: eel.",
            f"  3 hidden images in {root}/train, as in .ipynb_checkpoints, are left out.",
        ]


def test_names_that_are_no_utf8(root: Path) -> None:
    """As in a zip archive from Windows, unpacked on Linux."""
    try:
        os.rename(root / "train/cat/0.png", os.fsencode(root / "train/cat") + b"/caf\xe9.png")
        os.rename(os.fsencode(root / "train/eel"), os.fsencode(root / "train") + b"/eel\xcd")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    folder = read_image_folder(root, "train", (), source="x")
    assert folder.classes == ("cat", "dog", "eel\\xcd") and len(folder.files) == 6
    samples = [FolderDataset(folder, Views("1-crop", 40, 32), unreadable="refuse").load(i, 0) for i in range(6)]
    assert [sample.label for sample in samples] == [0, 0, 0, 1, 1, 1]
    assert os.fsencode(samples[2].name).endswith(b"caf\xe9.png")
    assert read_image_folder(root, "train", folder.classes, source="x").classes == folder.classes


def test_missing_and_empty_folders(root: Path, refuses: Callable[..., object]) -> None:
    with refuses(root / "val", "missing", "ftp://example.org"):
        read_image_folder(root, "val", (), source="ftp://example.org")
    (root / "val/cat").mkdir(parents=True)
    with refuses(root / "val", "No images", "ftp://example.org"):
        read_image_folder(root, "val", (), source="ftp://example.org")


def dataset(root: Path, transform: object, unreadable: str = "leave_out") -> FolderDataset:
    return FolderDataset(read_image_folder(root, "train", (), source="x"), transform, unreadable=unreadable)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_and_the_training_goes_on(
    root: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "train/cat/1.png").write_bytes(b"broken")
    transform = ClsTrainTransform(32, (32, 48), 0.5, "pca", 0)
    sampler = TrainSampler(np.zeros(6, bool), batch_size=6, seed=0, start=0, steps=2, rank=0, world=1, accumulate=1)
    with caplog.at_level(logging.WARNING):
        batches = list(train_batches(dataset(root, transform, "replace"), sampler, workers, pin=False))
    assert [batch.images.shape for batch in batches] == [(6, 3, 32, 32)] * 2
    assert sorted(batches[0].indices) == [0, 2, 2, 3, 4, 5]
    assert all(batch.labels[row] == index // 3 for batch in batches for row, index in enumerate(batch.indices))
    if not workers:
        assert "1.png" in caplog.records[0].getMessage()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_broken_image_is_left_out_of_an_evaluation(root: Path, batch_size: int) -> None:
    (root / "train/cat/1.png").write_bytes(b"broken")
    batches = list(ordered_batches(dataset(root, Views("1-crop", 40, 32)), batch_size, 0, 1, 0, pin=False))
    assert sum((batch.indices for batch in batches), []) == [0, 2, 3, 4, 5]


def test_nothing_readable_is_an_error(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.write_bytes(b"broken")
    sampler = TrainSampler(np.zeros(6, bool), batch_size=2, seed=0, start=0, steps=2, rank=0, world=1, accumulate=1)
    transform = ClsTrainTransform(32, (32, 48), 0.5, "none", 0)
    with pytest.raises(ImageError, match="not an image"):
        next(train_batches(dataset(root, transform, "replace"), sampler, 0, pin=False))


def test_several_views_stay_together(root: Path) -> None:
    (batch,) = ordered_batches(dataset(root, Views("10-crop", 40, 32)), 6, 0, 1, 0, pin=False)
    assert batch.images.shape == (60, 3, 32, 32) and batch.labels.tolist() == [0, 0, 0, 1, 1, 1]
    alone = dataset(root, Views("10-crop", 40, 32))[Draw(4, 0)].views
    assert torch.equal(batch.images[40:50], torch.from_numpy(alone).permute(0, 3, 1, 2))


# The views


def gradient(height: int, width: int) -> np.ndarray:
    """An image whose colours tell the place: row, column, 0."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], 2).astype(np.uint8)


def test_ten_crops_are_centre_corners_and_their_mirrors() -> None:
    """AlexNet §4.1, He et al. 2015, §3.4."""
    image = gradient(40, 60)
    views = Views("10-crop", 40, 32)(image, 0)
    corners = [(view[0, 0, 0], view[0, 0, 1]) for view in views[:5]]
    assert corners == [(4, 14), (0, 0), (0, 28), (8, 0), (8, 28)]
    for view, mirrored in zip(views[:5], views[5:], strict=True):
        assert np.array_equal(view[:, ::-1], mirrored)
    assert np.array_equal(Views("1-crop", 40, 32)(image, 0), views[:1])


@pytest.mark.parametrize("short_side, size", [(20, (20, 30)), (40, (40, 60)), (80, (80, 120))])
def test_dense_views_are_the_whole_image_and_its_mirror(short_side: int, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    views = Views("dense", short_side, 32)(image, 0)
    assert views.shape == (2, *size, 3) and np.array_equal(views[0][:, ::-1], views[1])
    assert short_side != 40 or np.array_equal(views[0], image)


def test_a_small_image_is_enlarged_to_the_crop() -> None:
    assert Views("1-crop", 20, 32)(gradient(10, 12), 0).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("shape", [(200, 240), (240, 200), (50, 50), (3, 300)])
def test_training_crops_have_the_size_and_follow_from_the_seed(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    transform = ClsTrainTransform(32, (36, 60), 0.5, "jitter", 2)
    views = [transform(image, seed) for seed in range(6)]
    assert all(view.shape == (1, 32, 32, 3) and view.dtype == np.uint8 for view in views)
    assert len({view.tobytes() for view in views}) == 6
    again = ClsTrainTransform(32, (36, 60), 0.5, "jitter", 2)
    for seed in (3, 0, 5):
        assert np.array_equal(again(image, seed), views[seed])


def test_training_crops_show_the_scales_and_places_of_the_paper() -> None:
    """§3.4: the shorter side drawn from a range, then a crop of a fixed size: its share of the image is known."""
    image = np.stack([*np.meshgrid(np.arange(250), np.arange(200)), np.zeros((200, 250))], 2).astype(np.uint8)
    transform = ClsTrainTransform(100, (110, 200), 0.5, "none", 0)
    shares, flips, tops = [], 0, []
    for seed in range(300):
        (view,) = transform(image, seed)
        down = view[:, 50, 1].astype(float)
        across = view[50, :, 0].astype(float)
        flips += across[0] > across[-1]
        shares.append((down[-1] - down[0]) / 99 * 100)  # rows of the original that the crop spans
        tops.append(down[0])
    assert 95 < min(shares) < 105 and 175 < max(shares) < 185  # 200·100/200 and 200·100/110
    assert 120 < flips < 180
    assert min(tops) < 3 and max(tops) > 60


def test_pca_shifts_all_pixels_alike() -> None:
    image = np.full((40, 40, 3), 128, np.uint8)
    shifted = [ClsTrainTransform(32, (32, 32), 0.0, "pca", 0)(image, seed)[0] for seed in range(200)]
    means = np.array([view.reshape(-1, 3).mean(0) for view in shifted]) - 128
    assert all(view.reshape(-1, 3).std(0).max() == 0 for view in shifted)
    covariance = np.cov(means.T)
    assert 2 < np.sqrt(covariance[0, 0]) < 5  # 255 · 0.1 · (0.5675 · 0.2175) and a little
    assert covariance[0, 1] > 0 and covariance[0, 2] > 0, "the first component is brightness"
