"""One evaluation: calibrate and tune on validation, freeze, read test; what `cxr eval` writes."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlib.core.errors import InputError, nearest
from cxrlib.core.paths import write_csv, write_text
from cxrlib.evaluation.calibration import METHODS, Calibrator
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.objectives import parse_objective
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.reliability import choose_method
from cxrlib.evaluation.thresholds import GRID, Thresholds, grid_values, tune_thresholds

CALIBRATE = ("auto", *METHODS)


@dataclass(frozen=True)
class Evaluation:
    """The operating point, and the table of `evaluate` on test at it. test: with calibrated scores."""

    calibrator: Calibrator
    thresholds: Thresholds
    table: pd.DataFrame
    test: Predictions

    def write(self, folder: str | Path, raw: Predictions, text: str) -> None:
        """metrics.txt (`text`), metrics.csv, thresholds.json, calibration.json, and predictions_test.npz (`raw`)."""
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
    """What a command line asks for as `evaluate_at_tuned` takes it; InputError before any work.

    grid: "first:last:step", such as "0.05:0.4:0.05", or "exact" for all score values.
    """
    if calibrate not in CALIBRATE:
        expected = ", ".join(CALIBRATE)
        raise InputError(
            f"calibrate {calibrate!r} is unknown; expected one of {expected}{nearest(calibrate, CALIBRATE)}"
        )
    parsed = None if grid == "exact" else tuple(grid.split(":"))
    if parsed is not None:
        try:
            parsed = tuple(map(float, parsed))
            grid_values(parsed)
        except ValueError:  # an InputError is one
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

    calibrate: "auto" for what serves patients of validation best that it was not fitted to (`choose_method`), or one of
    METHODS. grid, objective: as `tune_thresholds` takes them, on the calibrated scores.
    thresholds: taken as they are, such as those saved by hand in notebook 05, on scores of the calibration they name.
    """
    if thresholds is not None and thresholds.calibration is not None:
        calibrate = thresholds.calibration
    calibrator = Calibrator.fit(val, choose_method(val) if calibrate == "auto" else calibrate)
    if thresholds is None:
        thresholds = tune_thresholds(calibrator.apply(val), grid, objective)
    test = calibrator.apply(test)
    return Evaluation(calibrator, thresholds, evaluate(test, thresholds, replicates), test)
