"""The command line `cxr`: parse, run one command, and turn what went wrong into a sentence and an exit code.

Bad input ends with one sentence and exit code 2, a failed notebook with exit code 1. scripts/*.py call `main`, too.
"""

import argparse
import errno
import gc
import importlib
import io
import os
import sys
from contextlib import nullcontext, redirect_stdout

from cxrlib.cli import processes
from cxrlib.cli.flags import build_parser
from cxrlib.core.errors import InputError, printable


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns 0, 1 (a notebook failed, the doctor found something), 2 (bad input) or 130.

    Where the reader of its output has ended, as `head` does, it ends quietly with 141, as other tools do.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is printed escaped
            stream.reconfigure(errors="backslashreplace")
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
    gc.set_threshold(50_000)  # imports make objects that stay; looking through them often takes a seventh of the time
    name, (module, function) = given.name, given.where.split(":")
    if name in ("train", "eval"):  # these can share their work among processes
        processes.start_missing()
    try:
        if given.options:
            given = given.options(**{name: vars(given)[name] for name in given.options.model_fields if name in given})
        with nullcontext() if processes.is_first() else redirect_stdout(io.StringIO()):
            # imported only now: torch takes seconds, --help should not
            return getattr(importlib.import_module(f"cxrlib.cli.commands.{module}"), function)(given) or 0
    except Exception as error:
        code, message = _foreseen(name, error)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # after ^C
        code, message = 130, "interrupted"
    print(f"cxr {name}: {message}", file=sys.stderr)
    return code


def _foreseen(name: str, error: Exception) -> tuple[int, str]:
    """Exit code and sentence for what went wrong in the input or on the machine; any other error is raised again."""
    said = str(error)
    if "DataLoader worker" in said:  # torch's words; with a traceback, unless the worker is gone
        last = str(error.args[0]).strip().splitlines()[-1]
        how = f"failed ({last})" if "Traceback" in said else "was ended from outside, often for want of memory"
        return 2, f"a process that read ahead {how}; use fewer num_workers"
    if isinstance(error, InputError):
        return 2, said
    # of writers that are not ours: papermill, matplotlib; of the file system
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        return 2, printable(f"{said}; make room, or choose another folder")
    if isinstance(error, RuntimeError) and name in ("run", "report"):
        return 1, said
    raise error
