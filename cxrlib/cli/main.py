"""The command line `cxr`: parse, run one command, and turn what went wrong into a sentence and an exit code.

Bad input ends with one sentence and exit code 2, a failed notebook with exit code 1. scripts/*.py call `main`, too.
"""

import argparse
import importlib
import io
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout

from cxrlib.cli import processes
from cxrlib.cli.flags import build_parser
from cxrlib.core.config import Config
from cxrlib.core.errors import InputError
from cxrlib.core.paths import NO_PLACE


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns 0, 1 (a notebook failed, the doctor found something), 2 (bad input) or 130."""
    given = build_parser().parse_args(arguments)
    if given.name in ("train", "eval"):  # these can share their work among processes
        processes.start_missing()
    try:
        with nullcontext() if processes.is_first() else redirect_stdout(io.StringIO()):
            code = _command(given.where)(_checked(given) if given.options else given)
    except InputError as error:
        print(f"cxr {given.name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of writers that are not ours: papermill, matplotlib
        if error.errno not in NO_PLACE:
            raise
        print(f"cxr {given.name}: {error}; make room, or choose another folder", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            print(f"cxr {given.name}: a process that read ahead was ended from outside, often for want of memory; "
                  "use fewer num_workers", file=sys.stderr)  # fmt: skip
            return 2
        if given.name not in ("run", "report"):
            raise
        print(f"cxr {given.name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ncxr {given.name}: interrupted", file=sys.stderr)
        return 130
    return code or 0


def _command(where: str) -> Callable:
    """The function of a command, from a module that is imported only now: torch takes seconds, --help should not."""
    module, function = where.split(":")
    return getattr(importlib.import_module(f"cxrlib.cli.commands.{module}"), function)


def _checked(given: argparse.Namespace) -> Config:
    """The flags as the options that the command declares."""
    names = given.options.model_fields
    return given.options(**{name: value for name, value in vars(given).items() if name in names})
