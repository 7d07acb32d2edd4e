"""The parser of `cxr`: flags made from declared parameters, errors in one sentence.

argparse, and not jsonargparse or typer: a loop over the declaration is all that is needed, `--help` answers in a
quarter of a second, and the errors are those of `core.config` wherever a parameter comes from.
"""

import argparse
from collections.abc import Collection

from cxrlib.cli import options
from cxrlib.core.config import Config
from cxrlib.core.errors import nearest, printable

_OWN_FLAGS = ("images", "as_json")  # of predict
_NOT_COMPARED = ("arch", "epochs", "resume")  # each candidate has its own, or none


class Parser(argparse.ArgumentParser):
    """Errors in one sentence, with the nearest flag or command for an unknown one; no abbreviations."""

    def __init__(self, **keywords):
        super().__init__(**keywords, allow_abbrev=False)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does, but an unknown flag is an error that names the nearest one."""
        given, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            word = next((word.split("=")[0] for word in unknown if word.startswith("--")), "")
            hint = nearest(word, flags, cutoff=0.65)  # their dashes alone make any two alike
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return given, unknown

    def _check_value(self, action: argparse.Action, value) -> None:
        if action.choices is not None and value not in action.choices:
            known = ", ".join(action.choices)
            raise argparse.ArgumentError(
                None, f"unknown command {value!r}; expected one of {known}{nearest(value, action.choices)}"
            )

    def error(self, message: str):
        """Print one sentence and exit with 2."""
        self.exit(2, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return super()._get_help_string(action) if action.default not in (None, "", False, []) else action.help


def add_flags(
    parser: argparse.ArgumentParser, kind: type[Config], without: Collection[str] = (), positional: Collection[str] = ()
) -> None:
    """One flag per declared parameter, with its default and help; a bool is a switch.

    positional: parameters that may be given without a flag, in this order; those without a default must be.
    """
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    for name in positional:
        left_out = {} if name in required else {"nargs": "?", "default": argparse.SUPPRESS}
        parser.add_argument(name, help=kind.model_fields[name].description, **left_out)
    for name, field in kind.model_fields.items():
        if name in without or name in required:
            continue
        if field.annotation is bool:
            parser.add_argument(f"--{name}", action="store_true", help=field.description)
        elif name == "weights" and isinstance(field.default, list):  # as a shell gives files, separated by spaces
            parser.add_argument("--weights", nargs="+", default=field.default, help=field.description, metavar="MODEL")
        else:
            default = ",".join(map(str, field.default)) if isinstance(field.default, list) else field.default
            metavar = name.split("_")[-1].upper()
            parser.add_argument(f"--{name}", default=default, help=field.description, metavar=metavar)


def build_parser() -> Parser:
    """The parser of all commands; the namespace names `where` the command stands and its `options`, if declared."""
    parser = Parser(prog="cxr", description="From chest radiographs to an honestly measured classifier.")
    every = parser.add_subparsers(dest="name", required=True, metavar="COMMAND", parser_class=Parser)

    def command(where: str, text: str, kind=None, without=(), name: str = "", positional=()) -> Parser:
        """`where`: "module:function" in cli.commands."""
        sub = every.add_parser(name or where.split(":")[1], help=text, description=text, formatter_class=_Help)
        if kind:
            add_flags(sub, kind, without, positional)
        sub.set_defaults(where=where, options=kind)
        return sub

    _add_run(command("course:run", "run the six notebooks headless; what has finished is not run again"))
    text = "the report of a run as one HTML file, and as PDF where a browser is installed"
    command("course:report", text, options.ReportOptions, positional=("run_dir",))
    text = "copies of a run's figures, small enough for a page"
    command("course:figures", text, options.FiguresOptions, positional=("run_dir", "out"))
    sub = command(
        "train:run", "train, choose the epoch on validation: model_best.pth", options.TrainOptions, name="train"
    )
    sub.add_argument("--no_augment", dest="augment", action="store_const", const=0.0, help="the same as --augment 0")
    text = "train several architectures on one budget, each with several seeds, and compare accuracy and cost"
    command("compare:run", text, options.CompareOptions, _NOT_COMPARED, name="compare")
    text = "calibrate and tune on the validation images of a checkpoint, then report on its test images"
    command("evaluate:run", text, options.EvalOptions, name="eval")
    text, kind = "several models of one split as one file", options.EnsembleOptions
    sub = command("models:ensemble", text, kind, ("weights",))
    sub.add_argument("weights", nargs="+", metavar="MODEL", help=kind.model_fields["weights"].description)
    text = "a model as ONNX, with normalization, calibration, findings and thresholds (needs the extra onnx)"
    command("models:export", text, options.ExportOptions)
    text = "overlays of heat maps on test images; with --boxes, a score against the radiologists' boxes"
    command("gradcam:run", text, options.GradcamOptions, name="gradcam")
    text = "predict your own radiographs (PNG, JPEG, DICOM): a line each, a table and a page"
    _add_predict(command("predict:run", text, options.PredictOptions, _OWN_FLAGS, name="predict"))
    command("data:preprocess", "decode and resize every radiograph once, into the cache", options.PreprocessOptions)
    text = "what is wrong with a data set, counted and named; exit code 1 for a fault"
    not_flags = ("on_bad_image", "report")
    sub = command("data:doctor", text, options.DoctorOptions, not_flags, positional=("img_root",))
    written = options.DoctorOptions.model_fields["report"].description
    sub.add_argument("--json", dest="report", default="", metavar="FILE", help=written)
    sub = command("data:download", "download a data set through kagglehub")
    sub.add_argument("dataset", nargs="?", default="sample", help="data (112,120 images, 42 GB) or sample (4 GB)")
    text = "make a data set of its own out of a named subset"
    command("data:gather", text, options.GatherOptions, ("on_bad_image",), positional=("img_root", "names", "out"))
    text = "draw a data set of phantom radiographs in the NIH layout"
    sub = command("data:phantom", text, options.PhantomOptions, ("label_noise",), positional=("root",))
    text, unless = "mined labels without errors", argparse.SUPPRESS
    sub.add_argument("--no_label_noise", dest="label_noise", action="store_false", default=unless, help=text)
    return parser


def _add_run(sub: Parser) -> None:
    sub.add_argument("--profile", default="quick", help="a name from notebooks/profiles, or a YAML file")
    sub.add_argument("--data", help="a folder of radiographs with its CSV; default: phantoms, drawn when needed")
    sub.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="override a parameter of the notebooks; one that is repeated (-p arch resnet18 -p arch vgg16) makes one "
        "run per value, several such parameters one run per combination",
    )
    sub.add_argument("--force", action="store_true", help="also run again what has finished with the same parameters")
    sub.add_argument("--dry-run", action="store_true", help="check every name and type, run nothing")


def _add_predict(sub: Parser) -> None:
    images, as_json = (options.PredictOptions.model_fields[name] for name in _OWN_FLAGS)
    sub.add_argument("images", nargs="+", metavar="IMAGE", help=images.description)
    sub.add_argument("--json", dest="as_json", action="store_true", help=as_json.description)
