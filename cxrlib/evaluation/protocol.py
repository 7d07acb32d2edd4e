"""The evaluation protocol: calibrate and tune on validation, freeze, measure on test; and what `cxr eval` writes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError
from cxrlib.core.paths import write_csv, write_text
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.calibration import Calibrator, mean_calibrated, methods_text
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.reliability import choose_method
from cxrlib.evaluation.thresholds import GRID, Thresholds, grid_values, number, parse_objective, tune_thresholds


@dataclass(frozen=True)
class Evaluation:
    """The operating point, of each model or of their mean, and the table of `evaluate` at it on calibrated scores."""

    calibrators: tuple[Calibrator, ...]
    thresholds: Thresholds
    table: pd.DataFrame
    test: Predictions
    tuned_on: int  # images

    def write(self, folder: Path, raw: list[Predictions], text: str) -> None:
        """Write metrics.csv, metrics.txt, thresholds.json, and of each model calibration.json, predictions_test.npz."""
        write_csv(folder / "metrics.csv", self.table)
        write_text(folder / "metrics.txt", text)
        self.thresholds.save(folder / "thresholds.json")
        if len(raw) > 1:  # the mean of the calibrated scores; files of each model have a number
            self.test.save(folder / "predictions_test.npz")
        for end, calibrator, scores in zip(numbered(len(raw)), self.calibrators, raw, strict=True):
            calibrator.save(folder / f"calibration{end}.json")
            scores.save(folder / f"predictions_test{end}.npz")

    def text(self, models: dict[str, dict]) -> str:
        """A line per finding, the macros, the models (checkpoints of one split, by name), the data, the notes."""
        lines, config, patients = [], next(iter(models.values()))["config"], len(np.unique(self.test.patient))
        for finding, row in self.table[:-1].iterrows():
            lines.append(f"{finding:<19} AUC {_with_interval(row, 'auroc')}  F1 {_with_interval(row, 'f1')}  threshold "
                         f"{number(row.threshold):<6}  positives {row.positives:.0f} of {row.n:.0f}")  # fmt: skip
        for name, metric in (("AUC", "auroc"), ("F1", "f1"), ("AP", "ap")):
            value, defined = _with_interval(self.table.loc["macro"], metric), self.table[metric][:-1].notna().sum()
            lines.append(f"{'macro ' + name:<19} {name:<3} {value}  over {defined} of {len(FINDINGS)} findings")
        lines.append("")
        lines += [f"# {name}: {a['arch']}, {a['image_size']} pixels, epoch {a['epoch']}" for name, a in models.items()]
        lines.append(f"# split {config['split']}, seed {config['seed']}: thresholds tuned on {self.tuned_on:,} "
                     f"validation images, figures from {len(self.test):,} test images of {patients:,} patients\n"
                     "# in brackets: 95 % intervals, bootstrap over patients")  # fmt: skip
        if config["split"] == "image":
            lines.append("# this split puts images of one patient on both sides: the figures are too good to be true")
        if {calibrator.method for calibrator in self.calibrators} - {"none"}:
            lines.append(f"# thresholds are on scores calibrated on validation ({methods_text(self.calibrators)})")
        findings_of = {}  # note -> the findings it concerns
        for notes in (*(one.notes for one in self.calibrators), self.thresholds.notes, self.table["note"]):
            for note, finding in zip(notes, FINDINGS, strict=False):
                findings_of.setdefault(note, {})[finding] = None  # once, whichever models it is of
        lines += [f"# {', '.join(findings)}: {note}" for note, findings in findings_of.items() if note]
        return "\n".join(lines) + "\n"


def numbered(models: int) -> list[str]:
    """What the names of each model's files end in: _1, _2, ...; nothing for a single model."""
    return [f"_{n}" for n in range(1, models + 1)] if models > 1 else [""]


def check_how(calibrate: str, grid: str, objective: str) -> dict:
    """The options of `cxr eval` as keywords of `evaluate_at_tuned`; grid: "exact", or first:last:step."""
    parse_objective(objective)
    try:
        parsed = None if grid == "exact" else tuple(map(float, grid.split(":")))
        grid_values(parsed or GRID)
    except ValueError:  # includes InputError
        raise InputError(f"the grid {grid!r} cannot be used; expected exact, or such as 0.05:0.4:0.05") from None
    return {"calibrate": calibrate, "grid": parsed, "objective": objective}


def evaluate_at_tuned(
    val, test, calibrate="auto", grid=GRID, objective="f1", replicates=1000, thresholds=None
) -> Evaluation:
    """Fit the calibrators and the thresholds on `val`, freeze both, and measure on `test`.

    val, test: uncalibrated predictions of each model, on the same images; thresholds and figures are those of the mean
    of the calibrated scores. calibrate: one of `calibration.METHODS`, or "auto" (`choose_method`).
    thresholds: used unchanged, such as those set by hand in notebook 05, on scores of the calibration that they record.
    """
    given = thresholds.calibration.removeprefix("mean of ").split(", ") if thresholds and thresholds.calibration else []
    methods = given if len(given) == len(val) else [calibrate] * len(val)  # `evaluate` refuses others
    methods = [choose_method(one) if method == "auto" else method for one, method in zip(val, methods, strict=True)]
    calibrators = tuple(map(Calibrator.fit, val, methods))
    if thresholds is None:
        thresholds = tune_thresholds(mean_calibrated(calibrators, val), grid, objective)
    mean = mean_calibrated(calibrators, test)
    return Evaluation(calibrators, thresholds, evaluate(mean, thresholds, replicates), mean, len(val[0]))


def _with_interval(row: pd.Series, metric: str) -> str:
    value, low, high = (row[metric + end] for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "undefined            "
    return f"{value:.4f} [no interval] " if np.isnan(low) else f"{value:.4f} [{low:.3f}, {high:.3f}]"
