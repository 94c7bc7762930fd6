"""Processes of a run, and the allocator's thresholds."""

from __future__ import annotations

import ctypes
import platform

import pytest
import torch
import torch.distributed as dist

from resdet import cli as command_line
from resdet.engine import runtime
from resdet.engine.runtime import Runtime, keep_freed_memory, process_group

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


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
    monkeypatch.setitem(command_line.COMMANDS, command, lambda arguments: ran.append(bool(opened)))
    for rank in range(2):
        monkeypatch.setattr(runtime, "rank", lambda rank=rank: rank)
        command_line.main([command])
    assert ran == [True] * (1 if command in command_line.ON_MAIN_ONLY else 2) and not opened


def test_only_the_main_process_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in range(3):
        monkeypatch.setattr(runtime, "rank", lambda rank=rank: rank)
        runtime.print_on_main("a line")
    assert capsys.readouterr().out == "a line\n"


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
