"""Detectors by name: downloaded and converted on their first use, and neither later; by every command."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torchvision.models import resnet18
from torchvision.models.detection import (
    FasterRCNN,
    FasterRCNN_ResNet50_FPN_V2_Weights,
    FasterRCNN_ResNet50_FPN_Weights,
)
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d
from web import Site, serve

import resdet
from resdet.config import VOC_CLASSES, torchvision_fpn
from resdet.models.build import build_detector
from resdet.models.weights import download, zoo
from resdet.models.weights.initial import start_detector
from resdet.models.weights.load import load_model
from resdet.models.weights.zoo import ZOO, ZooEntry, find, local_path

NAME = "torchvision/tiny"
Refuses = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="module")
def content() -> bytes:
    """The file of torchvision's detector of VOC's classes on a ResNet-18, whose weights are random."""
    torch.manual_seed(4)
    body = _resnet_fpn_extractor(resnet18(norm_layer=FrozenBatchNorm2d), 5)
    state = FasterRCNN(body, len(VOC_CLASSES) + 1).state_dict()
    file = io.BytesIO()
    torch.save({name: tensor.half() for name, tensor in state.items()}, file)
    return file.getvalue()


@pytest.fixture
def entry(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZooEntry]:
    """The only detector of a zoo, whose folder is empty, and which nobody serves."""
    digits = hashlib.sha256(content).hexdigest()[:8]
    made = ZooEntry(NAME, f"https://host.invalid/models/tiny-{digits}.pth", "sha256", 12.3, "BSD-3", "R18 FPN")
    made = replace(made, norm_eps=0.0)
    monkeypatch.setattr(zoo, "ZOO", (made,))
    monkeypatch.setattr("resdet.experiments.zoo.ZOO", (made,))
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("RESDET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESDET_ZOO", "http://127.0.0.1:1")
    yield made
    shutil.rmtree(tmp_path / "home", ignore_errors=True)


@pytest.fixture
def site(entry: ZooEntry, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A mirror that has the detector."""
    with serve(Site({f"/models/{entry.file.name}": content})) as running:
        monkeypatch.setenv("RESDET_ZOO", running.address)
        yield running


@pytest.fixture
def placed(entry: ZooEntry, content: bytes) -> ZooEntry:
    """The detector, whose file somebody has put where it belongs."""
    entry.file.parent.mkdir(parents=True)
    entry.file.write_bytes(content)
    return entry


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


# The first use, and the second


def test_only_the_first_use_needs_the_network(
    site: Site, entry: ZooEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_model(NAME)
    assert len(site.asked) == 1 and first.classes == VOC_CLASSES
    assert (first.config.name, first.config.model.norm_eps) == ("tiny", 0.0)
    assert {file.suffix for file in (tmp_path / "home/zoo").iterdir()} - {".lock"} == {".pth", ".safetensors"}
    monkeypatch.setenv("RESDET_ZOO", "http://127.0.0.1:1")
    written = entry.converted.stat().st_mtime_ns
    entry.file.unlink()  # which the converted one makes superfluous
    second = load_model(Path(NAME))
    assert same(first.weights, second.weights) and entry.converted.stat().st_mtime_ns == written
    assert resdet.Detector.load(NAME, device="cpu").classes == VOC_CLASSES
    assert resdet.Detector.load(Path(NAME), device="cpu").classes == VOC_CLASSES
    assert len(site.asked) == 1


def test_a_file_that_is_there_is_used(placed: ZooEntry) -> None:
    assert load_model(NAME).classes == VOC_CLASSES and placed.converted.is_file()


def test_a_damaged_file_that_is_there_is_removed(placed: ZooEntry, refuses: Refuses) -> None:
    placed.file.write_bytes(placed.file.read_bytes()[:-1])
    with refuses(f"{placed.file} is damaged", "removed"):
        load_model(NAME)
    assert not placed.file.exists() and not placed.converted.exists()


@pytest.mark.parametrize(
    "damage", [lambda old: old.replace(b"detector-5", b"detector-1", 1), lambda old: old[:1000]]
)
def test_a_converted_file_that_cannot_be_used_is_converted_again(
    placed: ZooEntry, damage: Callable[[bytes], bytes]
) -> None:
    before = load_model(NAME)
    old = placed.converted.read_bytes()
    assert damage(old) != old
    placed.converted.unlink()  # the tensors of `before` are mapped to it
    placed.converted.write_bytes(damage(old))
    assert same(load_model(NAME).weights, before.weights)
    assert load_model(placed.converted).config == before.config


def test_two_threads_download_once(site: Site) -> None:
    found: list[Path] = []
    threads = [Thread(target=lambda: found.append(local_path(NAME))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 2 and len(site.asked) == 1


def use(entry: ZooEntry, environment: dict[str, str]) -> None:
    """Load the detector in another process, whose parent may have started in another environment."""
    os.environ.update(environment)
    zoo.ZOO = (entry,)  # type: ignore[assignment]
    assert load_model(NAME).classes == VOC_CLASSES


def test_two_processes_download_once(site: Site, entry: ZooEntry, forkserver: ForkServerContext) -> None:
    processes = [forkserver.Process(target=use, args=(entry, dict(os.environ))) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0] and len(site.asked) == 1


# Places and names


def test_without_a_network(entry: ZooEntry, refuses: Refuses) -> None:
    with refuses(
        f"Cannot download http://127.0.0.1:1/models/{entry.file.name}", "refused", f"put it at {entry.file}"
    ):
        load_model(NAME)


def test_without_a_mirror_the_address_is_the_publishers(
    entry: ZooEntry, refuses: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TRIES", 1)
    monkeypatch.delenv("RESDET_ZOO")
    with refuses(f"Cannot download {entry.address} "):
        load_model(NAME)
    monkeypatch.setenv("RESDET_ZOO", "host.example")
    with refuses("RESDET_ZOO is host.example", "https://"):
        load_model(NAME)


def test_the_folder_is_torchs_cache_if_no_other_is_set(
    entry: ZooEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert entry.file.parent == tmp_path / "home/zoo"
    monkeypatch.delenv("RESDET_HOME")
    assert entry.file.parent == tmp_path / "torch/hub/checkpoints"


def test_a_folder_that_cannot_be_written(entry: ZooEntry, tmp_path: Path, refuses: Refuses) -> None:
    (tmp_path / "home").write_text("")
    with refuses("Cannot write", "set RESDET_HOME"):
        load_model(NAME)
    (tmp_path / "home").unlink()


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("torchvision/fasterrcnn_resnet50", "torchvision/fasterrcnn_resnet50_fpn"),
        ("detectron2/faster_rcnn_r50_fpn_3x", "detectron2/faster_rcnn_R_50_FPN_3x"),
        ("detectron2/COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x", "detectron2/faster_rcnn_X_101_32x8d_FPN_3x"),
    ],
)
def test_a_misspelled_name_gets_the_nearest(name: str, nearest: str, refuses: Refuses) -> None:
    with refuses(name, f"use {nearest} or", "`resdet zoo`"):
        load_model(name)
    with refuses(name, nearest):
        resdet.Detector.load(Path(name))


def test_a_path_is_not_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: Refuses) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(ZOO[0].name)
    assert find(path) == find(ZOO[0].name) == ZOO[0] and find(tmp_path / path) is None and find("mine.pth") is None
    path.mkdir(parents=True)
    assert find(path) is None and local_path(path) == path
    with refuses("Weights file not found", path):
        load_model(path)


def test_the_table() -> None:
    assert len({entry.name for entry in ZOO}) == len({entry.file for entry in ZOO}) == len(ZOO) == 13
    for entry in ZOO:
        assert entry.address.startswith("https://") and entry.name.startswith(zoo.KITS)
        digits = 8 if entry.digest == "sha256" else 6
        assert re.search(rf"[-_][0-9a-f]{{{digits}}}\.(pth|pkl)$", entry.address)
        assert 30 < entry.ap < 50 or (entry.metric == "VOC07 AP50" and entry.ap == 80.3)
    assert [entry.name for entry in ZOO if entry.norm_eps != 1e-5] == ["torchvision/fasterrcnn_resnet50_fpn"]
    theirs = (FasterRCNN_ResNet50_FPN_Weights, FasterRCNN_ResNet50_FPN_V2_Weights)
    for entry, weights in zip(ZOO[:2], theirs, strict=True):
        own = weights.COCO_V1
        assert (entry.address, entry.size) == (own.url, round(own.meta["_file_size"] * 2**20))
        assert entry.ap == own.meta["_metrics"]["COCO-val2017"]["box_map"]
    assert ZOO[7].address == (
        "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/"
        "model_final_280758.pkl"
    )


# Commands


def test_one_command_detects(site: Site, shapes_root: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    photo = shapes_root / "JPEGImages/val_00000.jpg"
    status, out, err = cli("detect", photo, "--weights", NAME, "--output", tmp_path / "found", "--device", "cpu")
    assert (status, err) == (0, "") and f"Downloading {site.address}" in out and " MB)" in out
    assert json.loads((tmp_path / "found/detections.json").read_text()).keys() == {str(photo)}


def test_training_starts_from_it(placed: ZooEntry) -> None:
    config = torchvision_fpn("v1", ("cat", "dog"), 18)
    model = build_detector(config, 2)
    config = replace(config, init_weights=NAME)
    assert "all but roi_heads.box_predictor comes from torchvision/tiny" in start_detector(
        model, config, ("cat", "dog")
    )
    weights, own = load_model(NAME).weights, model.state_dict()
    assert all(torch.equal(weights[n], t) for n, t in own.items() if not n.startswith("roi_heads.box_predictor"))


def test_one_command_fine_tunes(
    placed: ZooEntry, shapes_root: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from resdet.config import SHAPES_CLASSES, torchvision_fpn\n"
        "config = torchvision_fpn('v1', SHAPES_CLASSES, 18)\n"
    )
    where = ("--data.format", "voc", "--data.root", shapes_root, "--data.train", "train", "--data.val", "val")
    sizes = ("--data.short-sides", 64, "--data.test-short-side", 64, "--data.max-side", 96, "--data.workers", 0)
    solver = ("--solver.steps", 1, "--solver.batch-size", 2, "--solver.milestones", "--solver.precision", "fp32")
    run = ("--runs", tmp_path / "runs", "--device", "cpu", "--test.post-nms-topk", 20)
    status, out, err = cli("train-det", recipe, "--init-weights", NAME, *where, *sizes, *solver, *run)
    assert status == 0 and f"comes from {NAME}" in out + err, err
    assert (tmp_path / "runs/mine/model.safetensors").is_file()


def test_other_commands_take_it(
    placed: ZooEntry, recipe: Path, tmp_path: Path, cli: Callable[..., Any], complains: Callable[..., None]
) -> None:
    complains(["eval-det", recipe, "--weights", NAME], f"{NAME} was trained with different settings", "model.norm")
    output = tmp_path / "mine.safetensors"
    status, _, err = cli("convert-weights", NAME, output)
    assert (status, err) == (0, "") and load_model(output).config.name == "mine"
    complains(["convert-weights", NAME, tmp_path / "a.pth", "--to", "detectron2"], NAME, "cannot be converted")
    rpn = ("propose", recipe, "--method", "rpn", "--output", tmp_path / "rpn.npz", "--most", "5")
    status, out, err = cli(*rpn, "--weights", NAME, "--data.test-short-side", "64")
    assert (status, err) == (0, "") and "proposals for 10 images" in out
    output.unlink()


def test_it_is_evaluated_by_a_recipe_of_its_kind(
    placed: ZooEntry, tmp_path: Path, shapes_root: Path, cli: Callable[..., Any]
) -> None:
    """Which need not say that its norms add nothing to variances."""
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    shutil.copy(sorted((shapes_root / "JPEGImages").iterdir())[0], root / "JPEGImages/1.jpg")
    box = "".join(
        f"<{side}>{at}</{side}>" for side, at in zip(("xmin", "ymin", "xmax", "ymax"), (3, 4, 40, 50), strict=True)
    )
    (root / "Annotations/1.xml").write_text(
        f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    )
    (root / "ImageSets/Main/val.txt").write_text("1\n")
    recipe = tmp_path / "zoo_recipe.py"
    recipe.write_text(
        "from resdet.config import VOC_CLASSES, torchvision_fpn\nconfig = torchvision_fpn('v1', VOC_CLASSES, 18)\n"
    )
    where = ("--data.root", root, "--data.val", "val", "--runs", tmp_path / "runs")
    sizes = ("--data.test-short-side", 64, "--data.max-side", 96)
    status, out, err = cli("eval-det", recipe, "--weights", NAME, *where, *sizes)
    assert (status, err) == (0, "") and "cat" in out


def test_the_zoo_is_listed(placed: ZooEntry, cli: Callable[..., Any]) -> None:
    status, out, err = cli("zoo")
    assert (status, err) == (0, "")
    header, row, *_ = out.splitlines()
    assert header.split() == ["name", "network", "accuracy", "size", "licence", "downloaded"]
    assert re.split("  +", row) == [NAME, "R18 FPN", "COCO AP 12.3", "57 MB", "BSD-3", "yes"]
    assert str(placed.file.parent) in out
    placed.file.unlink()
    assert re.split("  +", cli("zoo")[1].splitlines()[1])[-3:] == ["?", "BSD-3", "no"]


def test_the_zoo_downloads(
    site: Site, entry: ZooEntry, cli: Callable[..., Any], complains: Callable[..., None]
) -> None:
    status, out, err = cli("zoo", NAME)
    assert (status, err) == (0, "") and out.splitlines()[-1] == f"{NAME}: {entry.converted}"
    assert cli("zoo", NAME)[1] == f"{NAME}: {entry.converted}\n" and len(site.asked) == 1
    complains(["zoo", "photo.jpg"], "photo.jpg is not a detector of the zoo", "`resdet zoo`")
    complains(["zoo", NAME, "torchvision/tony"], "torchvision/tony", f"use {NAME}")
