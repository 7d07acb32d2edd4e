"""The evaluation protocol: calibrate and tune on validation, freeze, measure on test; and what `cxr eval` writes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError
from cxrlib.core.paths import write_csv, write_text
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.calibration import Calibrator
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.reliability import choose_method
from cxrlib.evaluation.thresholds import GRID, Thresholds, grid_values, parse_objective, tune_thresholds


@dataclass(frozen=True)
class Evaluation:
    """The operating point, and the table of `evaluate` on test at it. test: with calibrated scores."""

    calibrator: Calibrator
    thresholds: Thresholds
    table: pd.DataFrame
    test: Predictions

    def write(self, folder: str | Path, raw: Predictions, text: str) -> None:
        """Write metrics.csv, metrics.txt (`text`), thresholds.json, calibration.json, predictions_test.npz (`raw`)."""
        folder = Path(folder)
        write_csv(folder / "metrics.csv", self.table)
        write_text(folder / "metrics.txt", text)
        self.thresholds.save(folder / "thresholds.json")
        self.calibrator.save(folder / "calibration.json")
        raw.save(folder / "predictions_test.npz")

    @property
    def for_checkpoint(self) -> dict:
        """The two fields of a checkpoint that `operating_point` reads."""
        return {"thresholds": self.thresholds.to_dict(), "calibration": self.calibrator.to_dict()}


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
    val: Predictions,
    test: Predictions,
    calibrate: str = "auto",
    grid: tuple[float, float, float] | None = GRID,
    objective: str = "f1",
    replicates: int = 1000,
    thresholds: Thresholds | None = None,
) -> Evaluation:
    """Fit the calibrator and the thresholds on `val`, freeze both, and measure on `test`.

    calibrate: "auto" for the method that does best on validation patients held out from its fit (`choose_method`), or
    one of `calibration.METHODS`. grid, objective: as in `tune_thresholds`, on the calibrated scores.
    thresholds: used unchanged, such as those set by hand in notebook 05, on scores of the calibration that they record.
    """
    if thresholds is not None and thresholds.calibration is not None:
        calibrate = thresholds.calibration
    calibrator = Calibrator.fit(val, choose_method(val) if calibrate == "auto" else calibrate)
    if thresholds is None:
        thresholds = tune_thresholds(calibrator.apply(val), grid, objective)
    test = calibrator.apply(test)
    return Evaluation(calibrator, thresholds, evaluate(test, thresholds, replicates), test)


def metrics_text(
    table: pd.DataFrame,
    thresholds: Thresholds,
    weights: str | Path,
    checkpoint: dict,
    val: Predictions,
    test: Predictions,
    calibrator: Calibrator | None = None,
) -> str:
    """One line per finding: AUC, F1, threshold; then the macros; then the model, the data and the notes."""
    lines = []
    for finding, threshold in zip(FINDINGS, thresholds.texts, strict=True):
        row = table.loc[finding]
        lines.append(
            f"{finding:<19} AUC {_with_interval(row, 'auroc')}  F1 {_with_interval(row, 'f1')}  "
            f"threshold {threshold:<6}  positives {row['positives']:.0f} of {row['n']:.0f}"
        )
    for name, metric in (("AUC", "auroc"), ("F1", "f1"), ("AP", "ap")):
        value, defined = _with_interval(table.loc["macro"], metric), table.loc[list(FINDINGS), metric].notna().sum()
        lines.append(f"{'macro ' + name:<19} {name:<3} {value}  over {defined} of {len(FINDINGS)} findings")
    split = checkpoint["config"]["split"]
    lines += [
        "",
        f"# {weights}: {checkpoint['arch']}, {checkpoint['image_size']} pixels, epoch {checkpoint['epoch']}",
        f"# split {split}, seed {checkpoint['config']['seed']}: thresholds tuned on {len(val):,} validation images, "
        f"figures from {len(test):,} test images of {len(np.unique(test.patient)):,} patients",
        "# in brackets: 95 % intervals, bootstrap over patients",
    ]
    if split == "image":
        lines.append("# this split puts images of one patient on both sides: the figures are too good to be true")
    if calibrator is not None and calibrator.method != "none":
        lines.append(f"# thresholds are on scores calibrated on validation ({calibrator.method})")
    findings_of = {}  # note -> the findings it concerns
    for notes in (calibrator.notes if calibrator else (), thresholds.notes, table["note"]):
        for note, finding in zip(notes, FINDINGS, strict=False):
            findings_of.setdefault(note, []).append(finding)
    lines += [f"# {', '.join(findings)}: {note}" for note, findings in findings_of.items() if note]
    return "\n".join(lines) + "\n"


def _with_interval(row: pd.Series, metric: str) -> str:
    if np.isnan(row[metric]):
        return "undefined            "
    if np.isnan(row[f"{metric}_low"]):
        return f"{row[metric]:.4f} [no interval] "
    return f"{row[metric]:.4f} [{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]"
