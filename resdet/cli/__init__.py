"""The `resdet` command: one table of subcommands, each a module of this package.

A module's docstring is the manual that ``--help`` prints, its class `Arguments` what it reads from the command
line, and its function `main` what it does with them. Modules import what they run in `main`, so that help is
immediate.
"""

from __future__ import annotations

import ast
import atexit
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from resdet.cli.arguments import HELP, parse
from resdet.cli.output import output
from resdet.engine.failures import explain
from resdet.errors import Stopped, UserError

COMMANDS = (
    *("train", "train-det", "eval-det", "detect", "alternate", "propose", "train-cls", "eval-cls", "study"),
    *("split", "new-recipe", "check-data", "convert-data", "convert-weights", "quantize", "zoo", "push"),
)
ON_MAIN_ONLY = (
    *("detect", "split", "new-recipe", "check-data", "convert-data", "convert-weights", "quantize", "zoo", "push"),
)
"""Commands whose work processes cannot share."""
TRAINING = ("train", "train-det", "train-cls", "alternate", "study")
"""Commands that go on when nobody reads what they print: their results are in files, after hours of work."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand; an error that a user can fix becomes one line on standard error and exit status 1."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else ""
    with output(is_needed=name not in TRAINING or bool(set(arguments) & set(HELP))):
        logging.basicConfig(format="%(levelname)s: %(message)s")
        if name not in COMMANDS:
            print(usage())
            sys.exit(0 if not arguments or name in HELP else 2)
        status = _status(name, arguments[1:])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _leave(status)
    if status:
        sys.exit(status)


def _leave(status: int) -> None:
    """End a process of torchrun's as soon as Python is done with it.

    torch's own threads now and then abort a process whose work is finished and saved ("terminate called without an
    active exception"), when C++ destroys them at its end; torchrun would call the whole training run failed.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _status(name: str, arguments: Sequence[str]) -> int:
    """Run a command → its exit status."""
    try:
        run(name, arguments)
    except UserError as error:
        return _report(str(error))
    except Stopped as stop:
        if os.environ.get("RANK", "0") == "0":  # the others say the same
            print(stop, file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("Stopped. To continue a training run from its last checkpoint, pass --resume RUN.", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = explain(error)
        if not sentence:
            raise
        return _report(sentence)
    return 0


def run(name: str, arguments: Sequence[str]) -> None:
    """Run the command `name`, on the processes that can share its work. Raises UserError."""
    if any(argument in HELP for argument in arguments):
        read(name, arguments)  # prints help and exits
    from resdet.engine import runtime as runtimes  # imports torch

    with runtimes.process_group():
        _log_progress(runtimes.is_main())
        if runtimes.is_main() or name not in ON_MAIN_ONLY:
            load(name).main(read(name, arguments))


def load(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"resdet.cli.{name.replace('-', '_')}")


def read(name: str, arguments: Sequence[str]) -> object:
    """The `Arguments` of a command; prints help, or what is wrong with them, and exits. Raises UserError."""
    module = load(name)
    return parse(module.Arguments, arguments, f"resdet {name}", module.__doc__ or "")


def usage() -> str:
    """The commands, each with the first line of its manual, which is read without importing anything."""
    lines = ["usage: resdet COMMAND [ARGUMENTS], where COMMAND is one of:", ""]
    for name in COMMANDS:
        source = Path(__file__).with_name(f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
        manual = ast.get_docstring(ast.parse(source)) or ""
        lines.append(f"  {name:16} {manual.splitlines()[0]}")
    return "\n".join([*lines, "", "resdet COMMAND --help explains a command and lists its arguments."])


class _Printer(logging.Handler):
    """A log that goes to standard output, without anything before the messages."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        print(record.getMessage())


def _log_progress(shown: bool) -> None:
    """Print what experiments and downloads log from now on if it is to be `shown`: on the main process."""
    for name in ("resdet.experiments", "resdet.models.weights.download"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_Printer()], False
        logger.setLevel(logging.INFO if shown else logging.WARNING)


def _report(message: str) -> int:
    """Print an error → the exit status."""
    rank = os.environ.get("RANK")
    print(f"error: {message}" if rank is None else f"error: (process {rank}) {message}", file=sys.stderr)
    return 1
