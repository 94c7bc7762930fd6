"""Programs of the repository, run as a user does, in processes that start at once."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.context import ForkServerContext
from pathlib import Path

SECONDS = 200  # after which a program is stopped


def run_program(forkserver: ForkServerContext, words: Sequence[str], folder: Path) -> tuple[int | None, str]:
    """What ``python PROGRAM ARGUMENTS`` does in `folder` → its exit status, and all that it printed."""
    output = folder / f"{Path(words[0]).stem}.txt"
    process = forkserver.Process(target=_run, args=(list(words), str(folder), str(output)))
    process.start()
    try:
        process.join(SECONDS)
        return process.exitcode, output.read_text()
    finally:
        process.kill()


def _run(words: list[str], folder: str, output: str) -> None:
    multiprocessing.set_start_method(None, force=True)  # for the program's own processes, as it would find it
    os.chdir(folder)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    with open(output, "w") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            runpy.run_path(words[0], run_name="__main__")
        except Exception:
            traceback.print_exc()
            sys.exit(1)
