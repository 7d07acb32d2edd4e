"""The command line `cxr` and its flags; what each command does is in `commands`. scripts/*.py call it.

Bad input ends with one sentence and exit code 2, a failed notebook with exit code 1.
"""

import argparse
import io
import sys
from contextlib import nullcontext, redirect_stdout

from cxrlib.cli import commands, processes
from cxrlib.core.errors import InputError, nearest
from cxrlib.core.paths import NO_PLACE

# name of a flag -> (type, default, help); the one vocabulary of command line, notebooks and profiles
_DATA = {
    "csv_path": (str, "", "Data_Entry_2017*.csv or sample_labels.csv; default: the one in img_root"),
    "img_root": (str, None, "folder of the radiographs, in any layout: images_001/images/, sample/images/, flat, ..."),
}
_LOADER = {
    "batch_size": (int, 32, "images a step"),
    "num_workers": (int, 0, "processes that read ahead; 0 is right with the cache"),
    "device": (str, "auto", "auto, cpu, cuda or mps"),
    "cache_dir": (str, None, "where decoded images are kept; default: data/cache of the project"),
    "on_bad_image": (str, "error", "error, or skip: leave out, count and name what cannot be decoded"),
}
_TRAIN = {
    "arch": (
        str,
        "efficientnet_b0",
        "efficientnet_b0, densenet121, resnet18, vgg16, mobilenet_v2, vit_b_16, efficientnet_lite0",
    ),
    "weights": (
        str,
        "imagenet",
        "imagenet (efficientnet_lite0's needs no network), none, a checkpoint of ours, or for densenet121 xrv-chex, "
        "xrv-pc, xrv-mimic: trained on other hospitals' radiographs",
    ),
    "mode": (str, "full", "full, or probe: only the head learns, in seconds, on features computed once"),
    "image_size": (int, 224, "pixels a side"),
    "epochs": (int, 8, "passes over the training part"),
    "lr": (float, 3e-4, "highest learning rate; warm-up before, cosine after"),
    "head_epochs": (int, 0, "epochs at the start in which only the head learns"),
    "depth_lr": (float, 1.0, "learning rate of the first layer as a share of the head's; between, geometric"),
    "loss": (str, "bce", "bce, bce_pos_weight, focal or asymmetric"),
    "pos_weight_cap": (float, 20.0, "the most a positive may count with bce_pos_weight"),
    "weight_decay": (float, 0.01, "AdamW's, on matrices and kernels"),
    "warmup": (float, 0.1, "share of all steps in which the learning rate rises"),
    "ema_decay": (float, 0.99, "of the averaged weights, which are what is saved; 0 for none"),
    "augment": (float, 1.0, "strength of small rotations, shifts, scalings, contrast changes; 0 for none"),
    "mixup": (float, 0.0, "mix pairs of radiographs and their labels; 0 for none, 0.2 for a little"),
    "drop_strength": (float, 1.0, "strength of the architecture's own dropout and stochastic depth; 0 for none"),
    "patience": (int, 0, "stop after so many epochs without a better one; 0 for never"),
    "split": (str, "official", "official (NIH's lists), patient, or image (which leaks, and is here to show it)"),
    "train_subset": (int, 0, "about so many training images, whole patients; 0 is all"),
    "val_subset": (int, 0, "about so many validation images, whole patients; 0 is all"),
    "seed": (int, 0, "of split, subset, weights and order"),
    "precision": (
        str,
        "auto",
        "fp32, bf16, or auto: the faster one in a few timed steps; bf16 where fp32 needs too much memory",
    ),
    "layout": (str, "auto", "channels_last, contiguous, or auto, likewise"),
    "save_minutes": (float, 5.0, "save the state within an epoch so often; it is saved after each epoch anyway"),
    "tracker": (str, "none", "none or tensorboard (pip install -e '.[tracker]'), into run_dir"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns 0, 1 (a notebook failed, the doctor found something), 2 (bad input) or 130."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.name in ("train", "eval"):  # these can share their work among processes
        processes.start_missing()
    try:
        with nullcontext() if processes.is_first() else redirect_stdout(io.StringIO()):
            code = given.command(given)
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


class _Parser(argparse.ArgumentParser):
    """Errors in one sentence, with the nearest flag or command for an unknown one; no abbreviations."""

    def __init__(self, **options):
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(self, args=None, namespace=None):
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
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> _Parser:
    parser = _Parser(prog="cxr", description="From chest radiographs to an honestly measured classifier.")
    every = parser.add_subparsers(dest="name", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name, function, *groups, out=None):
        text = function.__doc__.splitlines()[0]
        sub = every.add_parser(name, help=text, description=text,
                                  formatter_class=argparse.ArgumentDefaultsHelpFormatter)  # fmt: skip
        for group in groups:
            for flag, (kind, default, about) in group.items():
                sub.add_argument(
                    f"--{flag}", type=kind, default=default, help=about, metavar=flag.split("_")[-1].upper()
                )
        sub.set_defaults(command=function)
        return sub

    sub = command("run", commands.run)
    sub.add_argument("--profile", default="quick", help="a name from notebooks/profiles, or a YAML file")
    sub.add_argument("--data", help="a folder of radiographs with its CSV; default: phantoms, drawn when needed")
    sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                     help="override a parameter of the notebooks; one that is repeated (-p arch resnet18 -p arch "
                     "vgg16) makes a run of each value, several such all combinations")  # fmt: skip
    sub.add_argument("--force", action="store_true", help="run again what has finished with the same parameters, too")
    sub.add_argument("--dry-run", action="store_true", help="check every name and type, run nothing")

    sub = command("report", commands.report)
    sub.add_argument("run_dir", nargs="?", default="runs/quick", help="the folder of the run")

    sub = command("train", commands.train, _DATA, _TRAIN, _LOADER)
    sub.add_argument("--no_augment", dest="augment", action="store_const", const=0.0, help="the same as --augment 0")
    sub.add_argument("--tta", action="store_true", help="score each image in five places and average")
    sub.add_argument("--resume", action="store_true", help="go on where an interrupted run in run_dir stopped")
    sub.add_argument("--run_dir", default=".", help="where model_best.pth, model_last.pth and history.csv go")

    shared = {name: flag for name, flag in _TRAIN.items() if name not in ("arch", "epochs", "tracker")}
    sub = command("compare", commands.compare, _DATA, shared, _LOADER)
    sub.add_argument("--archs", default="", help="who takes part, such as resnet18,efficientnet_lite0:none, where what "
                     "follows the colon takes the place of --weights; default: all seven")  # fmt: skip
    sub.add_argument("--seeds", default="0,1,2", help="each is trained once with each of them")
    sub.add_argument("--budget", default="epochs=2", help="the same for all: epochs=2, steps=200 or minutes=3")
    sub.add_argument("--sizes", default="", help="also train on so many images, such as 250,500,1000: a learning curve")
    sub.add_argument("--subset", type=int, default=0, help="about so many images of the test part; 0 is all")
    sub.add_argument("--tta", action="store_true", help="score each image in five places and average")
    sub.add_argument("--run_dir", default="runs/compare", help="where the models, tables and figures go")

    held_out = {
        "weights": (str, "model_best.pth", "checkpoint by train; gives arch, image size, split, seed"),
        "subset": (int, 0, "about so many images of the test part, whole patients; 0 is all"),
        "out": (str, "results", "folder of the results"),
    }
    sub = command("eval", commands.evaluate, _DATA, held_out, _LOADER)
    sub.add_argument("--replicates", type=int, default=1000, help="bootstrap replicates over patients")
    sub.add_argument(
        "--calibrate",
        default="auto",
        metavar="METHOD",
        help="none, platt, temperature, isotonic, or auto: what serves left-out validation patients best",
    )
    sub.add_argument("--grid", default="0.05:0.4:0.05", help="thresholds to try, first:last:step, or exact")
    sub.add_argument(
        "--objective",
        default="f1",
        help="f1, f2, youden, sensitivity>=0.9, specificity>=0.9 or cost=10 (a miss, in false alarms)",
    )
    sub.add_argument(
        "--thresholds",
        default="",
        metavar="FILE",
        help="thresholds.json to take instead of tuning, such as saved by hand in notebook 05",
    )
    sub.add_argument(
        "--audit",
        action="store_true",
        help="also audit.csv (gaps by sex, age, view) and, where expert labels lie beside, experts.csv",
    )
    sub = command("gradcam", commands.gradcam, _DATA, held_out, _LOADER)
    sub.add_argument("--method", default="gradcam",
                     help="gradcam, gradcam++, layercam (finer), or activation as a control")  # fmt: skip
    sub.add_argument("--boxes", action="store_true", help="score the maps against the boxes, beside controls")
    sub.add_argument("--replicates", type=int, default=1000, help="bootstrap replicates over patients, with --boxes")
    sub.add_argument("--samples", type=int, default=8, help="how many overlays")

    sub = command(
        "preprocess",
        commands.preprocess,
        _DATA,
        {"image_size": _TRAIN["image_size"]} | {name: _LOADER[name] for name in ("cache_dir", "on_bad_image")},
    )
    sub = command("doctor", commands.doctor)
    sub.add_argument("img_root", help="folder of the radiographs, in any layout")
    sub.add_argument("--csv_path", default="", help=_DATA["csv_path"][2])
    sub.add_argument("--deep", action="store_true", help="decode every pixel, on all cores, not only the headers")
    sub.add_argument("--json", metavar="FILE", help="write everything that was found, with all names")
    sub = command("download", commands.fetch)
    sub.add_argument(
        "dataset", nargs="?", default="sample", help="data (112,120 images, 42 GB) or sample (5,606, 4 GB)"
    )
    sub = command("gather", commands.gather)
    sub.add_argument("img_root", help="the whole download, in any layout")
    sub.add_argument("names", help="file of image names, one a line, such as data/subsets/nih-mini.txt")
    sub.add_argument("out", help="folder to make")
    sub = command("phantom", commands.phantom)
    sub.add_argument("root", nargs="?", default="data/phantom", help="folder to make")
    sub.add_argument("--n_patients", type=int, default=500, help="500 patients have about 1,600 images")
    sub.add_argument("--size", type=int, default=256, help="pixels a side, at least 64")
    sub.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    sub.add_argument("--prevalence", default="teaching", help="teaching (rare findings lifted) or nih")
    sub.add_argument("--no_label_noise", action="store_true", help="mined labels that do not err")
    return parser
