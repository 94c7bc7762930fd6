"""What the tests share: a tiny data set and a recipe for it, finished runs, and processes that start at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resdet.cli import main
from resdet.data.shapes import render
from resdet.errors import UserError

REPOSITORY = Path(__file__).parents[1]
TIMES = {"images_per_second", "data_wait", "seconds_left"}  # of a line in metrics.jsonl
RECIPE = """
from resdet.config import DataConfig, DetConfig, ModelConfig, RoIConfig, RPNConfig, SolverConfig, TestConfig
from resdet.config import SHAPES_CLASSES

config = DetConfig(
    device="cpu",
    runs={runs!r},
    data=DataConfig(
        root={root!r},
        train="train",
        val="val",
        classes=SHAPES_CLASSES,
        short_sides=(64,),
        test_short_side=64,
        max_side=96,
        workers=0,
    ),
    model=ModelConfig(
        depth=18,
        norm="group",
        freeze=(),
        anchor_scales=(32, 64, 128),
        rpn_channels=16,
        pool_size=4,
        conv5_stride=2,
    ),
    rpn=RPNConfig(batch_size_per_image=32, cross_boundary=True, pre_nms_topk=100, post_nms_topk=30),
    roi=RoIConfig(batch_size_per_image=8),
    solver=SolverConfig(
        lr=0.01,
        steps=6,
        milestones=(4,),
        warmup_steps=2,
        batch_size=2,
        precision="fp32",
        eval_every=3,
        save_every=1,
        log_every=1,
    ),
    test=TestConfig(pre_nms_topk=100, post_nms_topk=10, min_score=0.0),
)
"""


def pytest_configure() -> None:
    """One thread for each process, so that sums have one order everywhere and pytest-xdist's workers one core.

    Nothing is measured, so that a neighbour's load decides nothing, and no file is written in the user's home.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RESDET_MEASURE"] = "0"
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 6 images to train on and 4 to evaluate on."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    render(root, {"train": 6, "val": 4})
    return root


def _write_recipe(folder: Path, root: Path) -> Path:
    path = folder / "tiny.py"
    path.write_text(RECIPE.format(runs=str(folder / "runs"), root=str(root)))
    return path


def _remove_weights(runs: Path) -> None:
    """A run folder holds 180 MB, and pytest keeps the folders of three sessions."""
    shutil.rmtree(runs, ignore_errors=True)


@pytest.fixture
def recipe(tmp_path: Path, shapes_root: Path) -> Iterator[Path]:
    """A recipe of which a step takes a fraction of a second; its runs lie beside it in ``runs``."""
    yield _write_recipe(tmp_path, shapes_root)
    _remove_weights(tmp_path / "runs")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, shapes_root: Path) -> Iterator[Path]:
    """The run folder of the recipe, trained to its end without an interruption. Only to be read."""
    folder = tmp_path_factory.mktemp("finished")
    main(["train-det", str(_write_recipe(folder, shapes_root))])
    yield folder / "runs/tiny"
    _remove_weights(folder / "runs")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``resdet ARGUMENTS`` in this process → exit status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = int(error.code or 0)
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def logged() -> Callable[..., list[dict[str, float]]]:
    """Run folder → the lines of its metrics.jsonl, without what depends on the clock."""

    def read(folder: Path) -> list[dict[str, float]]:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]

    return read


@pytest.fixture(scope="session")
def assert_same_training(logged: Callable[[Path], Any]) -> Callable[[Path, Path], None]:
    """Two run folders agree to the bit: figures, weights, momentum, progress."""

    def check(a: Path, b: Path) -> None:
        assert logged(a) == logged(b)
        states = [torch.load(folder / "state.pt", weights_only=True) for folder in (a, b)]
        for name in ("classes", "progress"):  # which hold texts too
            assert states[0].pop(name) == states[1].pop(name)
        torch.testing.assert_close(*states, rtol=0, atol=0)
        assert states[0]["optimizer"]["state"], "there is no momentum to compare"

    return check


@pytest.fixture(scope="session")
def forkserver() -> ForkServerContext:
    """Processes forked from one that has imported torch already: they start at once, and can be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resdet.experiments.train"])  # imports torch and torchvision
    return context


@pytest.fixture(scope="session")
def tools_environment() -> dict[str, str]:
    """Environment of subprocesses: one thread, and torchrun beside this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PATH": path, "COLUMNS": "200"}


@pytest.fixture
def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def assert_sentence() -> Callable[..., None]:
    """A message is one sentence on one line, and holds `words`."""

    def check(message: str, *words: object) -> None:
        assert "\n" not in message and re.search(r"[.?]$", message), message
        assert not re.search(r"[.!?]['\")]? +[A-Z]", message), message
        for word in words:
            assert str(word) in message, message

    return check


@pytest.fixture(scope="session")
def refuses(assert_sentence: Callable[..., None]) -> Callable[..., AbstractContextManager[None]]:
    """``with refuses(*words):`` expects a UserError of one sentence that holds `words`."""

    @contextmanager
    def expect(*words: object) -> Iterator[None]:
        with pytest.raises(UserError) as caught:
            yield
        assert_sentence(str(caught.value), *words)

    return expect


@pytest.fixture
def complains(cli: Callable[..., Any], assert_sentence: Callable[..., None]) -> Callable[..., None]:
    """The command ends with status 1 and one sentence on standard error that holds `words`."""

    def check(arguments: Sequence[object], *words: object) -> None:
        status, _, err = cli(*arguments)
        assert status == 1 and err.startswith("error: ") and err.count("\n") == 1, err
        assert_sentence(err.strip(), *words)

    return check


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same random numbers alone and among others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def random_boxes() -> Callable[..., Tensor]:
    """`draw(count, height, width, least)`: (count, 4) boxes in an image, sides from `least` to half of it."""

    def draw(count: int, height: float = 96, width: float = 128, least: float = 4) -> Tensor:
        extent = torch.tensor([width, height])
        sides = least + torch.rand(count, 2) * (extent / 2 - least)
        corner = torch.rand(count, 2) * (extent - sides)
        return torch.cat([corner, corner + sides], dim=1)

    return draw
