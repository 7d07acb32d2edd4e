"""The parser of `cxr`: flags made from declared parameters, errors in one sentence.

argparse, and not jsonargparse or typer: a loop over the declaration is all that is needed, `--help` answers in a
quarter of a second, and the errors are those of `core.config` wherever a parameter comes from.
"""

import argparse
from collections.abc import Collection

from cxrlib.cli import options
from cxrlib.core.config import Config
from cxrlib.core.errors import nearest

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
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return super()._get_help_string(action) if action.default not in (None, "", False, []) else action.help


def add_flags(parser: argparse.ArgumentParser, kind: type[Config], without: Collection[str] = ()) -> None:
    """One flag per declared parameter, with its default and help; a bool is a switch."""
    for name, field in kind.model_fields.items():
        if name in without:
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

    def command(where: str, text: str, kind: type[Config] | None = None, without=(), name: str = "") -> Parser:
        """`where`: "module:function" in cli.commands."""
        sub = every.add_parser(name or where.split(":")[1], help=text, description=text, formatter_class=_Help)
        if kind:
            add_flags(sub, kind, without)
        sub.set_defaults(where=where, options=kind)
        return sub

    _add_run(command("course:run", "run the six notebooks headless; what has finished is not run again"))
    sub = command("course:report", "the report of a run as one HTML file, and as PDF where a browser is installed")
    sub.add_argument("run_dir", nargs="?", default="runs/quick", help="the folder of the run")
    sub = command("course:figures", "copies of a run's figures, small enough for a page")
    sub.add_argument("run_dir", help="the folder of the run")
    sub.add_argument("out", help="folder of the copies; inside the project only for a run on phantoms")
    sub = command(
        "train:run", "train, choose the epoch on validation: model_best.pth", options.TrainOptions, name="train"
    )
    sub.add_argument("--no_augment", dest="augment", action="store_const", const=0.0, help="the same as --augment 0")
    text = "train several architectures on one budget, each with several seeds, and compare accuracy and cost"
    command("compare:run", text, options.CompareOptions, _NOT_COMPARED, name="compare")
    text = "calibrate and tune on the validation images of a checkpoint, then report on its test images"
    command("evaluate:run", text, options.EvalOptions, name="eval")
    sub = command("ensemble:run", "several models of one split as one file", name="ensemble")
    sub.add_argument("weights", nargs="+", metavar="MODEL", help="checkpoints, or ensembles, of one split")
    sub.add_argument("--out", default="ensemble.pth", help="the file to write")
    text = "a model as ONNX, with normalization, calibration, findings and thresholds (needs the extra onnx)"
    command("export:run", text, options.ExportOptions, name="export")
    text = "overlays of heat maps on test images; with --boxes, a score against the radiologists' boxes"
    command("gradcam:run", text, options.GradcamOptions, name="gradcam")
    text = "predict your own radiographs (PNG, JPEG, DICOM): a line each, a table and a page"
    _add_predict(command("predict:run", text, options.PredictOptions, _OWN_FLAGS, name="predict"))
    command("data:preprocess", "decode and resize every radiograph once, into the cache", options.PreprocessOptions)
    _add_doctor(command("data:doctor", "what is wrong with a data set, counted and named; exit code 1 for a fault"))
    sub = command("data:download", "download a data set through kagglehub")
    sub.add_argument("dataset", nargs="?", default="sample", help="data (112,120 images, 42 GB) or sample (4 GB)")
    sub = command("data:gather", "make a data set of its own out of a named subset")
    sub.add_argument("img_root", help="the whole download, in any layout")
    sub.add_argument("names", help="file of image names, one per line, such as data/subsets/nih-mini.txt")
    sub.add_argument("out", help="folder to make")
    text = "draw a data set of phantom radiographs in the NIH layout"
    sub = command("data:phantom", text, options.PhantomOptions, ("label_noise", "root"))
    sub.add_argument("root", nargs="?", default="data/phantom", help="folder to make")
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


def _add_doctor(sub: Parser) -> None:
    sub.add_argument("img_root", help="folder of the radiographs, in any layout")
    sub.add_argument("--csv_path", default="", help=options.DataConfig.model_fields["csv_path"].description)
    sub.add_argument("--deep", action="store_true", help="decode every pixel, on all cores, not only the headers")
    sub.add_argument("--json", metavar="FILE", help="write everything that was found, with all names")
