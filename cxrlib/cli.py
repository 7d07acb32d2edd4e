"""The command line `cxr`: run, train, eval, gradcam, preprocess, download, phantom. scripts/*.py call it.

Bad input ends with one sentence and exit code 2, a failed notebook with exit code 1. What is heavy is imported by the
command that needs it, so that --help answers at once.
"""

import argparse
import os
import sys
from pathlib import Path

from cxrlib.errors import InputError, nearest

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
        "imagenet, none, or a checkpoint of ours; only efficientnet_lite0 has imagenet offline",
    ),
    "image_size": (int, 224, "pixels a side"),
    "epochs": (int, 8, "passes over the training part"),
    "lr": (float, 1e-4, "highest learning rate; warm-up before, cosine after"),
    "loss": (str, "bce", "bce, bce_pos_weight, focal or asymmetric"),
    "pos_weight_cap": (float, 20.0, "the most a positive may count with bce_pos_weight"),
    "weight_decay": (float, 0.01, "AdamW's, on matrices and kernels"),
    "ema_decay": (float, 0.99, "of the averaged weights, which are what is saved; 0 for none"),
    "split": (str, "official", "official (NIH's lists), patient, or image (which leaks, and is here to show it)"),
    "train_subset": (int, 0, "about so many training images, whole patients; 0 is all"),
    "val_subset": (int, 0, "about so many validation images, whole patients; 0 is all"),
    "seed": (int, 0, "of split, subset, weights and order"),
    "precision": (str, "fp32", "fp32 or bf16"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (a notebook failed), 2 (bad input), 130 (interrupted)."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        given.command(given)
    except InputError as error:
        print(f"cxr {given.name}: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if given.name != "run":
            raise
        print(f"cxr run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ncxr {given.name}: interrupted", file=sys.stderr)
        return 130
    return 0


def run(given: argparse.Namespace) -> None:
    """The six notebooks, headless, into one run folder."""
    from cxrlib.course import run_course

    run_course(given.profile, dict(given.parameter), given.data)


def train(given: argparse.Namespace) -> None:
    """Train on part train, choose the epoch on part val: model_best.pth, model_last.pth, history.csv in run_dir."""
    from cxrlib.models import build_model
    from cxrlib.splits import split, subsets
    from cxrlib.training import TrainConfig, fit, pick_device

    values = {name: getattr(given, name) for name in (*_TRAIN, "batch_size", "num_workers", "device")}
    config = TrainConfig.of(**values, augment=not given.no_augment)
    _can_write(given.run_dir)
    pick_device(config.device)
    data = _open(given)
    entries = split(data.entries, config.split, config.seed, lists_in=data.folders)
    build_model(config.arch, config.weights, config.image_size)  # weights that cannot be had: say so before decoding
    used = subsets(entries[entries["part"] != "test"], config.train_subset, config.val_subset, seed=config.seed)
    images = _images(given, data, config.image_size, used["image"])
    history = fit(config, entries, images, given.run_dir)
    kept = history[history["best"]].iloc[-1]
    print(f"kept epoch {kept['epoch']:.0f}: validation macro AUROC {kept['val_auroc']:.4f}")
    print(f"wrote {Path(given.run_dir) / 'model_best.pth'} and model_last.pth beside it")


def evaluate(given: argparse.Namespace) -> None:
    """Tune on the validation part of the checkpoint, report on test, which neither training nor tuning saw."""
    from cxrlib.metrics import evaluate as figures
    from cxrlib.models import load_checkpoint, write_checkpoint
    from cxrlib.predictions import predict
    from cxrlib.report import metrics_text, write_text
    from cxrlib.thresholds import tune_thresholds
    from cxrlib.training import make_dataset

    _at_least(given, batch_size=1, num_workers=0, replicates=0, subset=0)
    _can_write(given.out)
    checkpoint = load_checkpoint(given.weights)
    _can_write(Path(given.weights).parent)  # the checkpoint gets the thresholds
    model = _model(given, checkpoint)
    data = _open(given)
    val, test = _held_out(given, checkpoint, data)
    size = checkpoint["image_size"]
    images = _images(given, data, size, [*val["image"], *test["image"]])
    of = {
        part: predict(model, make_dataset(entries, images, size), given.batch_size,
                      num_workers=given.num_workers, progress=True)
        for part, entries in (("val", val), ("test", test))
    }  # fmt: skip
    thresholds = tune_thresholds(of["val"])
    table = figures(of["test"], thresholds, replicates=given.replicates)
    tables = Path(given.out) / "tables"
    text = metrics_text(table, thresholds, given.weights, checkpoint, of["val"], of["test"])
    write_text(tables / "metrics.txt", text)
    write_text(tables / "metrics.csv", table.to_csv())
    thresholds.save(tables / "thresholds.json")
    of["test"].save(tables / "predictions_test.npz")
    write_checkpoint(given.weights, checkpoint | {"thresholds": thresholds.to_dict()})
    print(text, end="")
    print(f"wrote {tables / 'metrics.txt'}; the thresholds are now also in {given.weights}")


def gradcam(given: argparse.Namespace) -> None:
    """Overlays of the heat map of one labelled finding each, on radiographs of the test part."""
    from cxrlib.findings import FINDINGS
    from cxrlib.models import load_checkpoint
    from cxrlib.overlays import write_overlays
    from cxrlib.predictions import predict
    from cxrlib.thresholds import Thresholds
    from cxrlib.training import make_dataset

    _at_least(given, samples=1, batch_size=1, num_workers=0, subset=0)
    _can_write(given.out)
    checkpoint = load_checkpoint(given.weights)
    thresholds = checkpoint.get("thresholds") and Thresholds.from_dict(checkpoint["thresholds"])
    model = _model(given, checkpoint)
    data = _open(given)
    _, test = _held_out(given, checkpoint, data)
    shuffled = test.sample(frac=1, random_state=checkpoint["config"]["seed"])
    without = shuffled[list(FINDINGS)].sum(axis=1) == 0  # they come last
    chosen = shuffled.loc[without.sort_values(kind="stable").index].head(given.samples)
    if len(chosen) < given.samples:
        print(f"the test part holds {len(chosen)} images, fewer than the {given.samples} samples asked for")
    images = _images(given, data, checkpoint["image_size"], list(chosen["image"]))
    predictions = predict(
        model, make_dataset(chosen, images, images.image_size), given.batch_size, num_workers=given.num_workers
    )
    paths = write_overlays(Path(given.out) / "gradcam", model, images, predictions, thresholds, data.boxes)
    print(f"wrote {len(paths)} overlays to {Path(given.out) / 'gradcam'}")


def preprocess(given: argparse.Namespace) -> None:
    """Decode and resize every radiograph of the CSV once, into the cache."""
    data = _open(given)
    cache = _images(given, data, given.image_size, list(data.entries["image"]))
    print(f"{len(cache):,} radiographs at {cache.image_size} pixels in {cache.folder}")


def fetch(given: argparse.Namespace) -> None:
    """Download a data set through kagglehub and say where it lies."""
    from cxrlib.sources import download

    print(download(given.dataset))


def phantom(given: argparse.Namespace) -> None:
    """Draw a data set of phantom radiographs in the NIH layout."""
    from cxrlib.phantom import make_phantoms

    print(
        make_phantoms(given.root, given.n_patients, given.size, given.seed, given.prevalence, not given.no_label_noise)
    )


def _at_least(given: argparse.Namespace, **least: int) -> None:
    for name, value in least.items():
        if getattr(given, name) < value:
            raise InputError(f"{name} {getattr(given, name)} is too small; expected at least {value}")


def _can_write(folder: str) -> None:
    """InputError where the results could not be written in the end; makes nothing."""
    path = Path(folder).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written ({there} is {'read-only' if there.is_dir() else 'a file'}); "
                         "choose another folder")  # fmt: skip


def _open(given: argparse.Namespace):
    from cxrlib.runs import open_data

    if not given.img_root:
        raise InputError("img_root is not given; expected the folder of the radiographs, such as --img_root data/raw")
    data = open_data(given.csv_path and Path(given.csv_path).absolute(), Path(given.img_root).absolute())
    print(data.summary)
    return data


def _images(given: argparse.Namespace, data, image_size: int, names: list[str]):
    from cxrlib.cache import build_cache
    from cxrlib.paths import CACHE

    return build_cache(data.images, image_size, names, given.cache_dir or CACHE)


def _held_out(given: argparse.Namespace, checkpoint: dict, data):
    """Validation and test entries by what the checkpoint remembers, each cut to its subset."""
    from cxrlib.splits import restore, subset

    config = checkpoint["config"]
    entries = restore(data.entries, checkpoint["parts"], config["split"])
    val = subset(entries, "val", config["val_subset"], config["seed"])
    test = subset(entries, "test", given.subset, config["seed"])
    for part, chosen in (("validation", val), ("test", test)):
        if chosen.empty:
            raise InputError(
                f"{given.csv_path or given.img_root} holds no image of the {part} part of {given.weights} (split "
                f"{config['split']}, seed {config['seed']}); give the data set that it was trained from"
            )
    return val, test


def _model(given: argparse.Namespace, checkpoint: dict):
    from cxrlib.models import model_from_checkpoint
    from cxrlib.training import pick_device

    return model_from_checkpoint(checkpoint).to(pick_device(given.device))


class _Parser(argparse.ArgumentParser):
    """Errors in one sentence, with the nearest flag or command for an unknown one; no abbreviations."""

    def __init__(self, **options):
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(self, args=None, namespace=None):
        given, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            word = next((word.split("=")[0] for word in unknown if word.startswith("--")), "")
            self.error(f"unrecognized arguments: {' '.join(unknown)}{nearest(word, flags)}")
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
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name, function, *groups, out=None):
        text = function.__doc__.splitlines()[0]
        sub = commands.add_parser(name, help=text, description=text,
                                  formatter_class=argparse.ArgumentDefaultsHelpFormatter)  # fmt: skip
        for group in groups:
            for flag, (kind, default, about) in group.items():
                sub.add_argument(
                    f"--{flag}", type=kind, default=default, help=about, metavar=flag.split("_")[-1].upper()
                )
        sub.set_defaults(command=function)
        return sub

    sub = command("run", run)
    sub.add_argument("--profile", default="quick", help="a name from notebooks/profiles, or a YAML file")
    sub.add_argument("--data", help="a folder of radiographs with its CSV; default: phantoms, drawn when needed")
    sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                     help="override a parameter of the notebooks; may be repeated")  # fmt: skip

    sub = command("train", train, _DATA, _TRAIN, _LOADER)
    sub.add_argument("--no_augment", action="store_true", help="no small rotations, shifts, scalings, contrast changes")
    sub.add_argument("--run_dir", default=".", help="where model_best.pth, model_last.pth and history.csv go")

    held_out = {
        "weights": (str, "model_best.pth", "checkpoint by train; gives arch, image size, split, seed"),
        "subset": (int, 0, "about so many images of the test part, whole patients; 0 is all"),
        "out": (str, "results", "folder of the results"),
    }
    sub = command("eval", evaluate, _DATA, held_out, _LOADER)
    sub.add_argument("--replicates", type=int, default=1000, help="bootstrap replicates over patients")
    sub = command("gradcam", gradcam, _DATA, held_out, _LOADER)
    sub.add_argument("--samples", type=int, default=8, help="how many overlays")

    sub = command(
        "preprocess", preprocess, _DATA, {"image_size": _TRAIN["image_size"], "cache_dir": _LOADER["cache_dir"]}
    )
    sub = command("download", fetch)
    sub.add_argument(
        "dataset", nargs="?", default="sample", help="data (112,120 images, 42 GB) or sample (5,606, 4 GB)"
    )
    sub = command("phantom", phantom)
    sub.add_argument("root", nargs="?", default="data/phantom", help="folder to make")
    sub.add_argument("--n_patients", type=int, default=500, help="500 patients have about 1,600 images")
    sub.add_argument("--size", type=int, default=256, help="pixels a side, at least 64")
    sub.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    sub.add_argument("--prevalence", default="teaching", help="teaching (rare findings lifted) or nih")
    sub.add_argument("--no_label_noise", action="store_true", help="mined labels that do not err")
    return parser
