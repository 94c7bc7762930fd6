"""Failures of the machine are sentences with a remedy; bugs stay what they are."""

from __future__ import annotations

import errno
import os

import cv2
import numpy as np
import pytest
import torch

from resdet.engine.failures import explain


def caught(cause: object) -> BaseException:
    """The error that a call ends with."""
    try:
        cause()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("there was no error")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (caught(lambda: torch.empty(10**14)), "Memory ran out (for 381,469,727 MiB more)"),
        (caught(lambda: np.empty(10**15)), "Memory ran out (for 7.11 PiB more)"),
        (
            caught(lambda: cv2.resize(np.zeros((9, 9), np.uint8), (10**6, 10**6))),
            "Memory ran out (for 953,674 MiB more)",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"), "(for 2.00 GiB more)"),
        (RuntimeError("std::bad_alloc"), "Memory ran out: use smaller images"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "Memory ran out"),
        (MemoryError(), "Memory ran out"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "Memory ran out"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "died (killed by signal: Killed)",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "A data loading process died, most"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: free some space."),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied: change its"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x: Read-only file system: choose a place"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/x"), "choose a shorter name"),
    ],
    ids=str,
)
def test_a_failure_of_the_machine_is_explained(error: BaseException, words: str) -> None:
    sentence = explain(error)
    assert words in sentence and sentence.endswith(".") and "\n" not in sentence


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory"),
        KeyError("DataLoader worker"),
        OSError("something"),
    ],
    ids=str,
)
def test_a_bug_is_not(error: Exception) -> None:
    assert explain(error) == ""
