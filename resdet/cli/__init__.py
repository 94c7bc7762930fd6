"""The `resdet` command; each script in tools/ is a door to one of its subcommands."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence

from resdet.cli import (
    alternate,
    check_data,
    convert_data,
    convert_weights,
    detect,
    eval_cls,
    eval_det,
    new_recipe,
    propose,
    study,
    train_cls,
    train_det,
)
from resdet.engine import runtime as runtimes
from resdet.errors import UserError

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train-det": train_det.main,
    "eval-det": eval_det.main,
    "detect": detect.main,
    "alternate": alternate.main,
    "propose": propose.main,
    "train-cls": train_cls.main,
    "eval-cls": eval_cls.main,
    "study": study.main,
    "new-recipe": new_recipe.main,
    "check-data": check_data.main,
    "convert-data": convert_data.main,
    "convert-weights": convert_weights.main,
}
ON_MAIN_ONLY = ("detect", "new-recipe", "check-data", "convert-data", "convert-weights")
"""work that processes cannot share"""


class Printer(logging.Handler):
    """A log that goes to standard output, without anything before the messages."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        print(record.getMessage())


def report_progress(shown: bool) -> None:
    """Print what experiments report from now on if it is to be `shown`: on the main process."""
    logger = logging.getLogger("resdet.experiments")
    logger.handlers, logger.propagate = [Printer()], False
    logger.setLevel(logging.INFO if shown else logging.WARNING)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand; a UserError becomes one line on standard error and exit status 1."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    if not arguments or arguments[0] not in COMMANDS:
        print("usage: resdet COMMAND …, where COMMAND is one of:")
        for name, command in COMMANDS.items():
            print(f"  resdet {name} {command.__doc__}")
        sys.exit(0 if arguments[:1] in ([], ["-h"], ["--help"]) else 2)
    try:
        with runtimes.process_group():
            report_progress(runtimes.is_main())
            if runtimes.is_main() or arguments[0] not in ON_MAIN_ONLY:
                COMMANDS[arguments[0]](arguments[1:])
    except UserError as error:
        rank = os.environ.get("RANK")
        print(f"error: {error}" if rank is None else f"error (process {rank}): {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: the disk is full ({error.filename}): make room, then go on with --resume.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Stopped. A training goes on from its last checkpoint with --resume RUN.", file=sys.stderr)
        sys.exit(130)
