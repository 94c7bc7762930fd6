"""Device, number type and processes of a run, and the allocator's thresholds."""

from __future__ import annotations

import ctypes
import logging
import platform
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from resdet import cli as command_line
from resdet.engine import device, runtime
from resdet.engine.device import choose_dtype
from resdet.engine.runtime import Runtime, keep_freed_memory, process_group, start

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


# Device and number type


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`machine(gpus, processes, local_rank)`: what torch and torchrun tell this process."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)

    def pretend(gpus: int, processes: int = 1, local_rank: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield pretend
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize(
    ("name", "gpus", "processes", "local_rank", "expected"),
    [
        ("auto", 0, 1, 0, "cpu"),
        ("auto", 2, 1, 0, "cuda:0"),
        ("cpu", 2, 4, 3, "cpu"),
        ("cuda", 2, 2, 1, "cuda:1"),
        ("auto", 4, 2, 1, "cuda:1"),
        ("cuda:1", 2, 1, 0, "cuda:1"),
        (None, 0, 1, 0, "cpu"),
        ("", 1, 1, 0, "cuda:0"),
        ("cpu:0", 2, 1, 0, "cpu"),
        ("CPU", 0, 1, 0, "cpu"),
        (torch.device("cpu"), 2, 1, 0, "cpu"),
        (torch.device("cuda"), 2, 2, 1, "cuda:1"),
        (torch.device("cuda", 1), 2, 1, 0, "cuda:1"),
        (1, 2, 1, 0, "cuda:1"),
        ("1", 2, 1, 0, "cuda:1"),
        ("gpu", 2, 2, 1, "cuda:1"),
        ("GPU:1", 2, 1, 0, "cuda:1"),
    ],
)
def test_each_process_has_its_device(
    name: Any, gpus: int, processes: int, local_rank: int, expected: str, machine: Callable[..., None]
) -> None:
    machine(gpus, processes, local_rank)
    assert start(name, "fp32").device == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "gpus", "processes", "words"),
    [
        ("cuda:0", 2, 2, ("all 2 processes", "choose cuda,", "local rank")),
        (0, 2, 2, ("all 2 processes", "choose cuda,", "local rank")),
        ("cuda:2", 2, 1, ("GPU not found", "cuda:1")),
        ("cuda", 2, 3, ("3 processes", "torch sees 2", "--nproc-per-node 2")),
        ("auto", 2, 3, ("3 processes", "torch sees 2", "--nproc-per-node 2")),
        *((name, 0, 1, ("no CUDA device", "choose cpu")) for name in ("cuda", "cuda:0", "0", 0, "gpu")),
        *((name, 1, 1, ("Apple", "choose cpu")) for name in ("mps", "mps:0", torch.device("mps"))),
        ("0,1", 2, 1, ("auto, cpu, cuda or cuda:N", "torchrun")),
        *(
            (name, 1, 1, ("auto, cpu, cuda or cuda:N",))
            for name in ("tpu:x", "cuda:", "cuda:-1", -1, "cpu:1", True, 0.0, torch.device("meta"), "gpus", "²")
        ),
    ],
)
def test_a_device_that_cannot_be_used_is_refused(
    name: Any,
    gpus: int,
    processes: int,
    words: tuple[str, ...],
    machine: Callable[..., None],
    refuses: Callable[..., Any],
) -> None:
    machine(gpus, processes)
    with refuses(name, *words):
        start(name, "fp32")


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
@pytest.mark.parametrize("has", [False, True])
def test_auto_is_bfloat16_on_a_cpu_that_has_it_and_multiplies_faster_in_it(
    has: bool, faster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)

    def fastest(layer: str, ways: dict[str, Callable[[], torch.Tensor]]) -> str:
        assert {name: way().dtype for name, way in ways.items()} == {"bf16": torch.bfloat16, "fp32": torch.float32}
        assert next(iter(ways)) == "bf16"
        return faster

    monkeypatch.setattr(device, "fastest", fastest)
    wanted = torch.bfloat16 if has and faster == "bf16" else torch.float32
    assert choose_dtype("auto", torch.device("cpu")) == wanted


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("fp32", "float32", "float", "32", torch.float32), torch.float32),
        (("bf16", "bfloat16", "BF16", torch.bfloat16), torch.bfloat16),
        (("fp16", "half", "float16", "16", torch.float16), torch.float16),
    ],
)
def test_precisions_by_other_names(names: tuple[Any, ...], expected: torch.dtype) -> None:
    for name in names:
        assert runtime.choose("cpu", name).dtype == expected
    assert runtime.choose(None, None) == runtime.choose("auto", "auto")


def test_an_unknown_precision_is_refused(refuses: Callable[..., Any]) -> None:
    for name in ("fp8", torch.float64, 64):
        with refuses(name, "auto, fp32, bf16, fp16"):
            runtime.choose("cpu", name)  # type: ignore[arg-type]


# Processes


def test_a_process_group_is_opened_once(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    """The outermost block opens and closes it; without torchrun there is none."""
    with process_group():
        assert not dist.is_initialized()
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port), "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in address.items():
        monkeypatch.setenv(name, value)
    with process_group():
        group = dist.group.WORLD
        for _ in range(2):
            with process_group():
                assert dist.group.WORLD is group
            assert dist.is_initialized()
        assert runtime.from_main(lambda: 7) == 7 and runtime.gather(8) == [8]
    assert not dist.is_initialized()


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_every_command_runs_inside_the_process_group(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On all processes, or on the main one if the work cannot be shared."""
    ran: list[bool] = []
    opened: list[str] = []

    class Group:
        def __enter__(self) -> None:
            opened.append("open")

        def __exit__(self, *_: object) -> None:
            opened.clear()

    monkeypatch.setattr(runtime, "process_group", Group)
    monkeypatch.setattr(command_line, "read", lambda name, arguments: arguments)
    monkeypatch.setattr(command_line.load(command), "main", lambda arguments: ran.append(bool(opened)))
    for rank in range(2):
        monkeypatch.setattr(runtime, "rank", lambda rank=rank: rank)
        command_line.main([command])
    assert ran == [True] * (1 if command in command_line.ON_MAIN_ONLY else 2) and not opened


def test_only_the_main_process_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def experiment(arguments: list[str]) -> None:
        logging.getLogger("resdet.experiments.anything").info("a line with 100 %")

    monkeypatch.setattr(command_line, "read", lambda name, arguments: arguments)
    monkeypatch.setattr(command_line.load("train-det"), "main", experiment)
    for rank in range(3):
        monkeypatch.setattr(runtime, "rank", lambda rank=rank: rank)
        command_line.main(["train-det"])
    assert capsys.readouterr() == ("a line with 100 %\n", "")


def test_alone_is_the_same_process_without_others() -> None:
    one = Runtime(2, 4, torch.device("cpu"), torch.bfloat16)
    assert one.alone() == Runtime(0, 1, torch.device("cpu"), torch.bfloat16)


# The allocator


class Libc:
    """Stands for the C library; its allocator accepts thresholds of mmap up to `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.calls: list[tuple[int, int]] = []

    def mallopt(self, name: int, value: int) -> int:
        self.calls.append((name, value))
        return int(name != MMAP_THRESHOLD or value <= self.most)


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (2**31 - 1, [(MMAP_THRESHOLD, 2**31 - 1), (TRIM_THRESHOLD, 2**31 - 1)]),
        (2**25, [(MMAP_THRESHOLD, 2**31 - 1), (MMAP_THRESHOLD, 2**25), (TRIM_THRESHOLD, 2**31 - 1)]),
        (0, [(MMAP_THRESHOLD, 2**31 - 1), (MMAP_THRESHOLD, 2**25)]),
    ],
)
def test_the_trim_threshold_is_raised_only_with_the_mmap_threshold(
    most: int, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older glibc accepts up to 32 MiB; another allocator may accept nothing."""
    libc = Libc(most)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.28"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    keep_freed_memory()
    assert libc.calls == expected


def test_float16_on_a_cpu_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    start("cpu", "bf16")
    assert not caplog.text
    start("cpu", "fp16")
    assert "float16" in caplog.text and "bf16" in caplog.text
