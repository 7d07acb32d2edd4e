"""What the README and the notebooks say of real radiographs, as small tables in data/results/nih-mini; no image.

    python -m benchmarks.results patient=runs/nih/patient official=runs/nih/official

stores the runs named, each a folder with model_best.pth as `cxr train` and `cxr eval`, or `cxr compare`, leave it, and
makes summary.csv, operating_points.csv and ensemble.csv anew from everything that is stored. data/results/README.md
says which commands made the runs. Scores are rounded to half precision, and every figure comes from the rounded scores,
so that it can be computed again to the last digit from what is stored.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError
from cxrlib.core.paths import RESULTS, write_csv, write_json
from cxrlib.evaluation.calibration import Calibrator, mean_calibrated
from cxrlib.evaluation.differences import mean_against_members
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.protocol import evaluate_at_tuned
from cxrlib.evaluation.thresholds import GRID, tune_thresholds
from cxrlib.models.checkpoints import load_checkpoint

ABOUT = ("arch", "weights", "mode", "image_size", "epochs", "lr", "loss", "split", "seed", "augment", "mixup",
         "weight_decay", "drop_strength", "tta")  # fmt: skip
DIGITS = 4
NAMES = RESULTS.parents[1] / "subsets" / "nih-mini.txt"  # all images; those of no other part were trained on
HOW = {  # name in operating_points.csv -> whether scores are calibrated (Platt), and the grid of thresholds
    "0.5": (False, ()),
    "grid": (False, GRID),
    "grid, calibrated": (True, GRID),
    "exact, calibrated": (True, None),
}


def main() -> None:
    """Store the runs given, then make the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="NAME=FOLDER", help="a name for the run, and its folder")
    parser.add_argument("--to", type=Path, default=RESULTS, help="default: data/results/nih-mini of the project")
    options = parser.parse_args()
    for name, _, folder in (one.partition("=") for one in options.runs):
        store(Path(folder), options.to / name)
        print(f"stored {folder} as {name}")
    tables(options.to)


def store(run: Path, to: Path) -> None:
    """Write model.json, the predictions, their evaluation and the localization tables of one run."""
    checkpoint = load_checkpoint(run / "model_best.pth")
    config = checkpoint["config"]
    write_json(to / "model.json", {name: config[name] for name in ABOUT} | {"kept_epoch": checkpoint["epoch"]})
    for part in ("val", "test"):
        found = [path for path in sorted(run.rglob(f"predictions_{part}.npz")) if "previous" not in str(path)]
        if len(found) != 1:
            raise InputError(f"{run} holds {len(found)} files predictions_{part}.npz; expected one, as cxr eval and "
                             "cxr compare leave it")  # fmt: skip
        rounded(Predictions.load(found[0])).save(to / f"predictions_{part}.npz")
    val, test = stored(to)
    done = evaluate_at_tuned([val], [test])
    write_csv(to / "metrics.csv", done.table.round(DIGITS))
    done.thresholds.save(to / "thresholds.json")
    done.calibrators[0].save(to / "calibration.json")
    for path in sorted(run.glob("*/gradcam/localization.csv")):
        table = pd.read_csv(path).round(DIGITS)
        write_csv(to / f"localization_{path.parents[1].name}.csv", table, index=False)


def rounded(predictions: Predictions) -> Predictions:
    """The scores to eleven binary digits, as half precision keeps them: a third of the bytes."""
    return replace(predictions, scores=predictions.scores.astype(np.float16).astype(np.float32))


def stored(folder: Path) -> tuple[Predictions, Predictions]:
    """What is stored of one run: the predictions of its validation part and of its test part."""
    val, test = (Predictions.load(folder / f"predictions_{part}.npz") for part in ("val", "test"))
    return val, test


def tables(folder: Path) -> None:
    """summary.csv, one row per run; operating_points.csv, one per run and way of choosing thresholds; ensemble.csv."""
    runs = {path.parent.name: stored(path.parent) for path in sorted(folder.glob("*/model.json"))}
    summary = pd.DataFrame({name: figures(*run) for name, run in runs.items()}).T.rename_axis("run")
    write_csv(folder / "summary.csv", summary)
    points = {name: operating_points(*run) for name, run in runs.items()}
    write_csv(folder / "operating_points.csv", pd.concat(points, names=["run"]))
    members = [name for name in runs if name.startswith("recipe_")]
    if members:
        write_csv(folder / "ensemble.csv", ensemble(folder, members))
    print(summary.to_string())


def figures(val: Predictions, test: Predictions) -> dict:
    """Who was tested, and macro AUROC on validation and, with its interval, on test."""
    trained = {int(name[:8]) for name in set(NAMES.read_text().split()) - {*val.image, *test.image}}
    macro = evaluate(test).loc["macro"]
    about = {f"{part}_images": len(one) for part, one in (("val", val), ("test", test))}
    about["test_patients"] = len(set(test.patient))
    about["test_images_of_trained_patients"] = int(np.isin(test.patient, [*trained]).sum())
    about["val_auroc"] = round(evaluate(val, replicates=0).loc["macro", "auroc"], DIGITS)
    names = [f"{metric}{end}" for metric in ("auroc", "ap", "brier", "ece_mass") for end in ("", "_low", "_high")]
    return about | {name: round(macro[name], DIGITS) for name in names}


def operating_points(val: Predictions, test: Predictions) -> pd.DataFrame:
    """Macro F1 and calibration error on test of each way in HOW; everything is fitted on validation."""
    platt, rows = Calibrator.fit(val, "platt"), {}
    for how, (calibrated, grid) in HOW.items():
        on, read = (platt.apply(val), platt.apply(test)) if calibrated else (val, test)
        thresholds = np.full(14, 0.5) if grid == () else tune_thresholds(on, grid)
        macro = evaluate(read, thresholds).loc["macro"]
        names = [f"{metric}{end}" for metric in ("f1", "ece", "ece_mass") for end in ("", "_low", "_high")]
        rows[how] = {name: round(macro[name], DIGITS) for name in names}
    return pd.DataFrame(rows).T.rename_axis("how")


def ensemble(folder: Path, names: list[str]) -> pd.DataFrame:
    """Macro AUROC on test of the mean of the calibrated scores of several runs, against each of them."""
    calibrators = [Calibrator.load(folder / name / "calibration.json") for name in names]
    tests = [stored(folder / name)[1] for name in names]
    return mean_against_members(mean_calibrated(calibrators, tests), tests).round(DIGITS)


if __name__ == "__main__":
    main()
