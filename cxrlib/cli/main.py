"""The command line `cxr`: flags from declared parameters, one command, and errors as a sentence and an exit code."""

import argparse
import errno
import gc
import importlib
import io
import os
import sys
from contextlib import nullcontext, redirect_stdout
from functools import partial

from cxrlib.cli import options
from cxrlib.core import processes
from cxrlib.core.config import Config
from cxrlib.core.errors import InputError, nearest, printable

_COMMANDS = {  # by the module of cli.commands that has a function of this name, which takes, say, TrainOptions
    "course": ("run", "report", "figures"),
    "models": ("train", "compare", "eval", "gradcam"),
    "files": ("ensemble", "export"),
    "predict": ("predict",),
    "data": ("preprocess", "doctor", "download", "gather", "phantom"),
}
# what may also be given without a flag
_UNFLAGGED = {"report": "run_dir", "doctor": "img_root", "download": "dataset", "gather": "img_root", "phantom": "root"}
_FLAGS = {"as_json": "json", "report": "json", "dry_run": "dry-run"}  # where it is not the name of the parameter
_SEVERAL = {"weights": "MODEL", "images": "IMAGE"}  # lists that are given as a shell gives files, separated by spaces
_SWITCHES = {"augment": ("--no_augment", 0.0, "the same as --augment 0"),
             "label_noise": ("--no_label_noise", False, "mined labels without errors")}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Errors in one sentence, with the nearest flag for an unknown one."""

    def parse_known_args(self, args=None, namespace=None):
        given, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            word = next((word.split("=")[0] for word in unknown if word.startswith("--")), "")
            hint = nearest(word, flags, cutoff=0.65)  # their dashes alone make any two alike
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return given, unknown

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def _add_flags(parser: _Parser, kind: type[Config], positional: str) -> None:
    """One flag per declared parameter, with its default and help; what has no default is given without a flag."""
    for name, field in kind.model_fields.items():
        text, default, flag = field.description, field.default, f"--{_FLAGS.get(name, name)}"
        several = name in _SEVERAL and field.annotation == list[str]
        how = {"nargs": "+", "metavar": _SEVERAL[name]} if several else {"metavar": name.split("_")[-1].upper()}
        if kind is options.CompareOptions and name in options.NOT_COMPARED:
            continue
        if name in _SWITCHES:
            off, value, meaning = _SWITCHES[name]
            parser.add_argument(off, dest=name, action="store_const", const=value, help=meaning)
        if name == "parameter":
            parser.add_argument("-p", flag, nargs=2, action="append", help=text, metavar=("NAME", "VALUE"))
        elif field.is_required():
            parser.add_argument(name, help=text, **how if several else {})
        elif field.annotation is bool and not default:
            parser.add_argument(flag, dest=name, action="store_true", help=text)
        elif field.annotation is not bool:
            if name == positional:
                parser.add_argument(name, nargs="?", help=text)
            shown = ",".join(map(str, default)) if isinstance(default, list) else default
            parser.add_argument(flag, dest=name, help=f"{text} (default: {shown})" if str(shown) else text, **how)


def _parser() -> _Parser:
    """The parser of all commands; the namespace names the command, its `module` and its `options`."""
    make = partial(_Parser, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser = make(prog="cxr", description="From chest radiographs to an honestly measured classifier.")
    every = parser.add_subparsers(dest="name", required=True, metavar="COMMAND", parser_class=make)
    for module, name in ((module, name) for module, names in _COMMANDS.items() for name in names):
        kind = getattr(options, f"{name.capitalize()}Options")
        text = (kind.__doc__[0].lower() + kind.__doc__[1:]).removesuffix(".")
        sub = every.add_parser(name, help=text, description=text)
        _add_flags(sub, kind, _UNFLAGGED.get(name, ""))
        sub.set_defaults(module=module, options=kind)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns 0, 1 (a failed notebook, faults that the doctor found), 2 (bad input), 130 or 141."""
    sys.stdout, sys.stderr = (stream or io.StringIO() for stream in (sys.stdout, sys.stderr))  # None: closed, by >&-
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is printed escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(_parser().parse_args(arguments))
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
    name, kind = given.name, given.options
    if name in ("train", "eval"):  # these can share their work among processes
        processes.start_missing()
    try:
        read = kind(**{name: value for name, value in vars(given).items() if name in kind.model_fields})
        with nullcontext() if processes.is_first() else redirect_stdout(io.StringIO()):
            # imported only now: torch takes seconds, --help should not
            module = importlib.import_module(f"cxrlib.cli.commands.{given.module}")
            return getattr(module, "evaluate" if name == "eval" else name)(read) or 0
    except Exception as error:
        code, message = 2, str(error)
        if "DataLoader worker" in message:  # torch's words; with a traceback, unless the worker is gone
            last = str(error.args[0]).strip().splitlines()[-1]
            how = f"failed ({last})" if "Traceback" in message else "was ended from outside, often for want of memory"
            message = f"a process that read ahead {how}; use fewer num_workers"
        elif isinstance(error, RuntimeError) and name in ("run", "report"):
            code = 1
        elif isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
            # of writers that are not ours: papermill, matplotlib; of the file system
            message = printable(f"{message}; make room, or choose another folder")
        elif not isinstance(error, InputError):
            raise
    except KeyboardInterrupt:
        print(file=sys.stderr)  # after ^C
        code, message = 130, "interrupted"
    finally:
        processes.leave()
    print(f"cxr {name}: {message}", file=sys.stderr)
    return code
