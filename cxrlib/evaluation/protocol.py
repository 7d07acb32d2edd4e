"""The evaluation protocol: calibrate and tune on validation, freeze, measure on test; and what `cxr eval` writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError
from cxrlib.core.paths import write_csv, write_text
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.calibration import Calibrator, mean_calibrated, methods_text
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.objectives import parse_objective
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.reliability import choose_method
from cxrlib.evaluation.thresholds import GRID, Thresholds, grid_values, tune_thresholds


@dataclass(frozen=True)
class Evaluation:
    """The operating point, and the table of `evaluate` on test at it.

    calibrators: of each model. test: with calibrated scores, of several models the mean.
    """

    calibrators: tuple[Calibrator, ...]
    thresholds: Thresholds
    table: pd.DataFrame
    test: Predictions

    def write(self, folder: str | Path, raw: Sequence[Predictions], text: str) -> None:
        """Write metrics.csv, metrics.txt (`text`), thresholds.json, calibration.json, predictions_test.npz.

        raw: the uncalibrated predictions of each model. Of several models calibration_1.json and predictions_test_1.npz
        are those of the first, and predictions_test.npz holds the mean of their calibrated scores.
        """
        folder = Path(folder)
        write_csv(folder / "metrics.csv", self.table)
        write_text(folder / "metrics.txt", text)
        self.thresholds.save(folder / "thresholds.json")
        if len(raw) > 1:
            self.test.save(folder / "predictions_test.npz")
        for number, calibrator, scores in zip(numbered(len(raw)), self.calibrators, raw, strict=True):
            calibrator.save(folder / f"calibration{number}.json")
            scores.save(folder / f"predictions_test{number}.npz")


def numbered(models: int) -> list[str]:
    """What the names of each model's files end in: _1, _2, ...; nothing for a single model."""
    return [f"_{number}" for number in range(1, models + 1)] if models > 1 else [""]


def check_how(calibrate: str, grid: str, objective: str) -> dict:
    """The options of the command line as keywords of `evaluate_at_tuned`; InputError before any work.

    grid: "first:last:step", such as "0.05:0.4:0.05", or "exact" for all scores.
    """
    parsed = None
    if grid != "exact":
        try:
            parsed = tuple(map(float, grid.split(":")))
            grid_values(parsed)
        except ValueError:  # includes InputError
            raise InputError(f"the grid {grid!r} cannot be used; expected exact, or such as 0.05:0.4:0.05") from None
    parse_objective(objective)
    return {"calibrate": calibrate, "grid": parsed, "objective": objective}


def evaluate_at_tuned(
    val: Predictions | Sequence[Predictions],
    test: Predictions | Sequence[Predictions],
    calibrate: str = "auto",
    grid: tuple[float, float, float] | None = GRID,
    objective: str = "f1",
    replicates: int = 1000,
    thresholds: Thresholds | None = None,
) -> Evaluation:
    """Fit the calibrator and the thresholds on `val`, freeze both, and measure on `test`.

    val, test: uncalibrated predictions of one model, or of each of several on the same images: then each is calibrated,
    and thresholds and figures are those of the mean of the calibrated scores.
    calibrate: "auto" for the method that does best on validation patients held out from its fit (`choose_method`), or
    one of `calibration.METHODS`. grid, objective: as in `tune_thresholds`, on the calibrated scores.
    thresholds: used unchanged, such as those set by hand in notebook 05, on scores of the calibration that they record.
    """
    vals, tests = ([one] if isinstance(one, Predictions) else one for one in (val, test))
    methods = [calibrate] * len(vals)
    if thresholds is not None and thresholds.calibration is not None:
        methods = thresholds.calibration.removeprefix("mean of ").split(", ")
    if len(methods) != len(vals):
        raise InputError(f"the thresholds are on scores of calibration {thresholds.calibration}; expected those of "
                         f"{len(vals)} models; tune them again")  # fmt: skip
    methods = [choose_method(one) if method == "auto" else method for one, method in zip(vals, methods, strict=True)]
    calibrators = tuple(map(Calibrator.fit, vals, methods))
    if thresholds is None:
        thresholds = tune_thresholds(mean_calibrated(calibrators, vals), grid, objective)
    mean = mean_calibrated(calibrators, tests)
    return Evaluation(calibrators, thresholds, evaluate(mean, thresholds, replicates), mean)


def metrics_text(
    table: pd.DataFrame,
    thresholds: Thresholds,
    models: dict[str, dict],
    val: Predictions,
    test: Predictions,
    calibrators: Sequence[Calibrator] = (),
) -> str:
    """One line per finding: AUC, F1, threshold; then the macros; then the models, the data and the notes.

    models: the checkpoints of one split, by their names.
    """
    lines, config = [], next(iter(models.values()))["config"]
    for finding, threshold in zip(FINDINGS, thresholds.texts, strict=True):
        row = table.loc[finding]
        lines.append(
            f"{finding:<19} AUC {_with_interval(row, 'auroc')}  F1 {_with_interval(row, 'f1')}  "
            f"threshold {threshold:<6}  positives {row['positives']:.0f} of {row['n']:.0f}"
        )
    for name, metric in (("AUC", "auroc"), ("F1", "f1"), ("AP", "ap")):
        value, defined = _with_interval(table.loc["macro"], metric), table.loc[list(FINDINGS), metric].notna().sum()
        lines.append(f"{'macro ' + name:<19} {name:<3} {value}  over {defined} of {len(FINDINGS)} findings")
    lines += [
        "",
        *(f"# {name}: {one['arch']}, {one['image_size']} pixels, epoch {one['epoch']}" for name, one in models.items()),
        f"# split {config['split']}, seed {config['seed']}: thresholds tuned on {len(val):,} validation images, "
        f"figures from {len(test):,} test images of {len(np.unique(test.patient)):,} patients",
        "# in brackets: 95 % intervals, bootstrap over patients",
    ]
    if config["split"] == "image":
        lines.append("# this split puts images of one patient on both sides: the figures are too good to be true")
    if {calibrator.method for calibrator in calibrators} - {"none"}:
        lines.append(f"# thresholds are on scores calibrated on validation ({methods_text(calibrators)})")
    findings_of = {}  # note -> the findings it concerns
    for notes in (*(calibrator.notes for calibrator in calibrators), thresholds.notes, table["note"]):
        for note, finding in zip(notes, FINDINGS, strict=False):
            findings_of.setdefault(note, {})[finding] = None  # once, whichever models it is of
    lines += [f"# {', '.join(findings)}: {note}" for note, findings in findings_of.items() if note]
    return "\n".join(lines) + "\n"


def _with_interval(row: pd.Series, metric: str) -> str:
    if np.isnan(row[metric]):
        return "undefined            "
    if np.isnan(row[f"{metric}_low"]):
        return f"{row[metric]:.4f} [no interval] "
    return f"{row[metric]:.4f} [{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]"
