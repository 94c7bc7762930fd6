"""The allocator's thresholds."""

from __future__ import annotations

import ctypes
import platform

import pytest

from resdet.engine.runtime import keep_freed_memory

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


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
