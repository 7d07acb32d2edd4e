"""The command line `cxr`: parse, run one command, and turn what went wrong into a sentence and an exit code.

Bad input ends with one sentence and exit code 2, a failed notebook with exit code 1. scripts/*.py call `main`, too.
"""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout

from cxrlib.cli import processes
from cxrlib.cli.flags import build_parser
from cxrlib.core.config import Config
from cxrlib.core.errors import InputError
from cxrlib.core.paths import NO_PLACE


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns 0, 1 (a notebook failed, the doctor found something), 2 (bad input) or 130.

    Where the reader of its output has ended, as `head` does, it ends quietly with 141, as other tools do.
    """
    try:
        try:
            return _run(build_parser().parse_args(arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        try:
            print(flush=True)  # fails again where it is the output that nobody reads
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its exit
            return 141
        raise


def _run(given: argparse.Namespace) -> int:
    if given.name in ("train", "eval"):  # these can share their work among processes
        processes.start_missing()
    try:
        with nullcontext() if processes.is_first() else redirect_stdout(io.StringIO()):
            return _command(given.where)(_checked(given) if given.options else given) or 0
    except InputError as error:
        code, message = 2, error
    except OSError as error:  # of writers that are not ours: papermill, matplotlib
        if error.errno not in NO_PLACE:
            raise
        code, message = 2, f"{error}; make room, or choose another folder"
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            code = 2
            message = (
                "a process that read ahead was ended from outside, often for want of memory; use fewer num_workers"
            )
        elif given.name in ("run", "report"):
            code, message = 1, error
        else:
            raise
    except KeyboardInterrupt:
        print(file=sys.stderr)  # after ^C
        code, message = 130, "interrupted"
    print(f"cxr {given.name}: {message}", file=sys.stderr)
    return code


def _command(where: str) -> Callable:
    """The function of a command, from a module that is imported only now: torch takes seconds, --help should not."""
    module, function = where.split(":")
    return getattr(importlib.import_module(f"cxrlib.cli.commands.{module}"), function)


def _checked(given: argparse.Namespace) -> Config:
    """The flags as the options that the command declares."""
    names = given.options.model_fields
    return given.options(**{name: value for name, value in vars(given).items() if name in names})
