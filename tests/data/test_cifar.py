"""CIFAR in each of its forms: the same images come out; damage is told in a sentence, and pickles run no code."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from resdet.data.cifar import CLASSES, ImageArray, read_cifar
from resdet.errors import UserError

COUNT = 20


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray]:
    """(COUNT, 32, 32, 3) images and (COUNT,) labels."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (COUNT, 32, 32, 3), np.uint8), np.arange(COUNT) % 10


def planes(images: np.ndarray) -> np.ndarray:
    """(M, H, W, 3) → (M, 3072), red, green, blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_binary(folder: Path, images: np.ndarray, labels: np.ndarray, kind: str = "cifar10") -> None:
    """As https://www.cs.toronto.edu/~kriz/cifar.html describes it."""
    folder.mkdir(parents=True)
    columns = [labels[:, None]] if kind == "cifar10" else [labels[:, None] // 5, labels[:, None]]
    records = np.concatenate([*columns, planes(images)], 1).astype(np.uint8)
    if kind == "cifar100":
        for split in ("train", "test"):
            (folder / f"{split}.bin").write_bytes(records.tobytes())
        return
    for number, part in enumerate(np.array_split(records, 5), 1):
        (folder / f"data_batch_{number}.bin").write_bytes(part.tobytes())
    (folder / "test_batch.bin").write_bytes(records[::-1].tobytes())


def write_pickles(folder: Path, images: np.ndarray, labels: np.ndarray, kind: str = "cifar10") -> None:
    """As torchvision unpacks it."""
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if kind == "cifar10" else ["train", "test"]
    parts = (
        [*np.array_split(np.arange(COUNT), 5), np.arange(COUNT)[::-1]]
        if kind == "cifar10"
        else [np.arange(COUNT)] * 2
    )
    key = b"labels" if kind == "cifar10" else b"fine_labels"
    for name, part in zip(names, parts, strict=True):
        batch = {b"data": planes(images[part]), key: labels[part].tolist(), b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def write_pictures(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """PNG files in SPLIT/CLASS."""
    for split, order in (("train", range(COUNT)), ("test", range(COUNT - 1, -1, -1))):
        for number in order:
            path = folder / split / CLASSES["cifar10"][labels[number]] / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), images[number][..., ::-1])


def sorted_by_content(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def assert_read(array: ImageArray, truth: tuple[np.ndarray, np.ndarray]) -> None:
    assert sorted_by_content(array.images, array.labels) == sorted_by_content(*truth)
    assert (array.labels.dtype, array.images.shape, len(array.names)) == (np.int64, (COUNT, 32, 32, 3), COUNT)
    assert not array.skipped


WRITERS = {"binary": write_binary, "pickles": write_pickles, "pictures": write_pictures}


@pytest.mark.parametrize("packed", ["", ".tar", ".tar.gz", ".tar.xz"])
@pytest.mark.parametrize("form", WRITERS)
def test_each_form_gives_the_same_images(
    form: str, packed: str, tmp_path: Path, truth: tuple[np.ndarray, np.ndarray]
) -> None:
    root = tmp_path / "data"
    WRITERS[form](root / "cifar-10" if form != "pictures" else root, *truth)
    if packed:
        archive = tmp_path / f"data{packed}"
        with tarfile.open(archive, f"w:{packed.removeprefix('.tar').removeprefix('.')}") as file:
            file.add(root, "cifar")
        root = archive
    for split in ("train", "test"):
        array = read_cifar(root, "cifar10", split, source="x")
        assert_read(array, truth)
        assert array.classes == CLASSES["cifar10"]


@pytest.mark.parametrize("form", ["binary", "pickles"])
def test_cifar100_has_its_fine_labels(form: str, tmp_path: Path, truth: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = truth[0], truth[1] * 9 + 3
    WRITERS[form](tmp_path / "data", images, labels, "cifar100")
    array = read_cifar(tmp_path / "data", "cifar100", "train", source="x")
    assert_read(array, (images, labels))
    assert len(array.classes) == len(set(array.classes)) == 100 and array.classes[3] == "bear"


def test_the_records_keep_their_order(tmp_path: Path, truth: tuple[np.ndarray, np.ndarray]) -> None:
    write_binary(tmp_path / "data", *truth)
    array = read_cifar(tmp_path / "data", "cifar10", "train", source="x")
    assert np.array_equal(array.images, truth[0]) and np.array_equal(array.labels, truth[1])
    assert array.names[4] == "data_batch_2.bin, image 0"


def test_pictures_that_cannot_be_used_are_named(tmp_path: Path, truth: tuple[np.ndarray, np.ndarray]) -> None:
    write_pictures(tmp_path, *truth)
    cv2.imwrite(str(tmp_path / "train/cat/large.png"), np.zeros((33, 32, 3), np.uint8))
    (tmp_path / "train/dog/broken.jpg").write_bytes(b"no image")
    array = read_cifar(tmp_path, "cifar10", "train", source="x")
    assert len(array.labels) == COUNT and len(array.skipped) == 2
    assert "train/cat/large.png" in array.skipped[0] and "32×33" in array.skipped[0]
    assert "train/dog/broken.jpg" in array.skipped[1]


def test_only_broken_pictures(tmp_path: Path, refuses: Callable[..., object]) -> None:
    (tmp_path / "test/cat").mkdir(parents=True)
    (tmp_path / "test/cat/a.jpg").write_bytes(b"no image")
    with refuses("None of the 1 images", "a.jpg"):
        read_cifar(tmp_path, "cifar10", "test", source="x")


@pytest.mark.parametrize("there", [False, True])
def test_missing_files_name_the_source(there: bool, tmp_path: Path, refuses: Callable[..., object]) -> None:
    root = tmp_path / "data"
    if there:
        root.mkdir()
    with refuses(root, "cifar10 has no train", "ftp://example.org"):
        read_cifar(root, "cifar10", "train", source="ftp://example.org")


def test_a_truncated_file(
    tmp_path: Path, truth: tuple[np.ndarray, np.ndarray], refuses: Callable[..., object]
) -> None:
    write_binary(tmp_path / "data", *truth)
    file = tmp_path / "data/data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with refuses("data_batch_3.bin", "whole records", "copy the file again"):
        read_cifar(tmp_path / "data", "cifar10", "train", source="x")


def test_a_truncated_archive(
    tmp_path: Path, truth: tuple[np.ndarray, np.ndarray], refuses: Callable[..., object]
) -> None:
    write_binary(tmp_path / "data", *truth)
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as file:
        file.add(tmp_path / "data", "cifar")
    whole = (tmp_path / "data.tar.gz").read_bytes()
    (tmp_path / "data.tar.gz").write_bytes(whole[: len(whole) // 2])
    with refuses(tmp_path / "data.tar.gz", "copy it again"):
        read_cifar(tmp_path / "data.tar.gz", "cifar10", "train", source="x")


def test_labels_beyond_the_classes(
    tmp_path: Path, truth: tuple[np.ndarray, np.ndarray], refuses: Callable[..., object]
) -> None:
    write_binary(tmp_path / "data", truth[0], truth[1] + 1)
    with refuses("data_batch_", "labels beyond"):
        read_cifar(tmp_path / "data", "cifar10", "train", source="x")


class Code:
    """Something that a data file has no business to hold."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    "content",
    [{b"data": Code(), b"labels": [1]}, {b"labels": [1]}, [1], {b"data": np.zeros((2, 3072)), b"labels": [1]}],
)
def test_a_pickle_of_another_kind_runs_no_code(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    pickle.dump(content, buffer, protocol=2)
    (tmp_path / "test_batch").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"test_batch is not a batch of cifar10"):
        read_cifar(tmp_path, "cifar10", "test", source="x")
    assert not (tmp_path / "ran").exists()
