"""The score from which on a finding is called, one threshold a finding: chosen on validation, frozen, read on test.

An image is positive where score >= threshold. Every objective here rises with the true positives and falls with the
false positives. Between the scores of two positive images only false positives come in, so the best of all thresholds
is the score of a positive image (or none is called at all), and only these need to be looked at.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import write_json
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import chunks, count_patients, draw_patients, interval, label_table, patient_sums
from cxrlib.evaluation.differences import difference_table
from cxrlib.evaluation.metrics import at_or_above, check_calibration
from cxrlib.evaluation.objectives import parse_objective
from cxrlib.evaluation.predictions import Predictions

GRID = (0.05, 0.40, 0.05)  # start, stop, step
NEVER = float(np.nextafter(np.float32(1), np.float32(2)))  # above every score: never positive
_NOT_TUNED = "not tuned"
_FORMAT = "cxrlib thresholds 1"


@dataclass(frozen=True, eq=False)
class Thresholds:
    """One threshold a finding, in the order of FINDINGS, and how it came about.

    values: (14,) float64 in [0, 1], or just above 1 (NEVER) where a finding is best never called.
    objective: what was maximized, as `tune_thresholds` takes it, or words such as "by hand".
    grid: (start, stop, step), or None where all score values were candidates.
    low, high: (14,) ends of the bootstrap interval of the threshold itself, NaN where there is none.
    notes: 14 texts; empty where the threshold was tuned, else why it was not, or what could not be reached.
    calibration: of the scores that they were tuned on, as in Predictions; None, such as by hand, fits any scores.
    Raises InputError for what does not fit.
    """

    values: np.ndarray
    objective: str = "by hand"
    grid: tuple[float, float, float] | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    confidence: float = 0.95
    notes: tuple[str, ...] = field(default=("",) * len(FINDINGS))
    calibration: str | None = None

    def __post_init__(self) -> None:
        missing = np.full(len(FINDINGS), np.nan)
        for name in ("values", "low", "high"):
            value = getattr(self, name)
            object.__setattr__(self, name, _fourteen(name, missing if value is None else value))
        if np.isnan(self.values).any() or (self.values < 0).any() or (self.values > NEVER).any():
            raise InputError(f"thresholds are {self.values.tolist()}; expected numbers in [0, 1]")
        if self.grid is not None:
            grid_values(self.grid)  # refuses what is no grid
            object.__setattr__(self, "grid", tuple(float(value) for value in self.grid))
        if not isinstance(self.confidence, float) or not 0 < self.confidence < 1:
            raise InputError(f"confidence of thresholds is {self.confidence!r}; expected a number between 0 and 1")
        object.__setattr__(self, "notes", tuple(map(str, self.notes)))
        if len(self.notes) != len(FINDINGS):
            raise InputError(f"thresholds come with {len(self.notes)} notes; expected {len(FINDINGS)}, one a finding")
        if not isinstance(self.calibration, str | None):
            raise InputError(
                f"calibration of thresholds is {self.calibration!r}; expected a text such as 'platt', or None"
            )

    @property
    def tuned(self) -> np.ndarray:
        """(14,) bool: False where a finding had too few images to tune on and keeps a default."""
        return np.array([not note.startswith(_NOT_TUNED) for note in self.notes])

    @property
    def texts(self) -> tuple[str, ...]:
        """The fourteen as a reader wants them: "0.35", "0.0042" where two decimals say nothing, "never" above 1."""
        return tuple(
            "never" if value > 1 else f"{value:.2f}" if value >= 0.1 or value == round(value, 2) else f"{value:.2g}"
            for value in self.values
        )

    def apply(self, scores: np.ndarray | Predictions) -> np.ndarray:
        """(n, 14) scores to (n, 14) uint8: 1 where score >= threshold, both as float32.

        Given Predictions, it raises InputError where their scores are of another calibration than these thresholds.
        """
        if isinstance(scores, Predictions):
            check_calibration(scores, self)
            scores = scores.scores
        if np.ndim(scores) != 2 or np.shape(scores)[1] != len(FINDINGS):
            raise InputError(
                f"scores of shape {np.shape(scores)} do not fit the thresholds; expected (n, {len(FINDINGS)})"
            )
        return at_or_above(scores, self.values).astype(np.uint8)

    def to_dict(self) -> dict:
        """Plain types only, for JSON and for a checkpoint; None stands for NaN."""
        rows = {
            name: {"threshold": value, "low": _or_none(low), "high": _or_none(high), "note": note}
            for name, value, low, high, note in zip(
                FINDINGS, self.values.tolist(), self.low.tolist(), self.high.tolist(), self.notes, strict=True
            )
        }
        grid = None if self.grid is None else list(self.grid)
        how = {"objective": self.objective, "grid": grid, "confidence": self.confidence}
        how["calibration"] = self.calibration
        return {"format": _FORMAT, **how, "findings": rows}

    @classmethod
    def from_dict(cls, saved: dict) -> "Thresholds":
        """What `to_dict` gave. Raises InputError where something is missing or does not fit."""
        if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
            raise InputError(f"these are not thresholds; expected what Thresholds.save wrote, with format {_FORMAT!r}")
        rows = saved.get("findings")
        if not isinstance(rows, dict) or set(rows) != set(FINDINGS):
            named = some(rows, 14) if isinstance(rows, dict) else rows
            raise InputError(f"thresholds name the findings {named}; expected {some(FINDINGS, 14)}")
        try:
            columns = {
                name: [rows[finding][name] for finding in FINDINGS] for name in ("threshold", "low", "high", "note")
            }
            how = {name: saved[name] for name in ("objective", "grid", "confidence")}
            how["calibration"] = saved.get("calibration")  # files from before there was one
        except (KeyError, TypeError) as error:
            raise InputError(f"thresholds lack {error}; save them again with Thresholds.save") from None
        return cls(columns["threshold"], low=columns["low"], high=columns["high"], notes=columns["note"], **how)

    def save(self, path: str | Path) -> Path:
        """Write JSON: the old file or the whole new one, never a part. Returns the path."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Thresholds":
        """Read what `save` wrote. Raises InputError for a missing, broken or foreign file."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path} is not a file; expected thresholds (JSON): tune them on validation first")
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:  # InputError and JSONDecodeError are ValueErrors
            raise InputError(f"{path}: {error}") from None


def tune_thresholds(
    val: Predictions,
    grid: tuple[float, float, float] | None = GRID,
    objective: str = "f1",
    min_positives: int = 5,
    default: float = 0.5,
    replicates: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> Thresholds:
    """For each finding the threshold that is best on `val`, and its bootstrap interval over patients.

    grid: (start, stop, step), both ends included; None looks at all score values (the exact optimum).
    objective: what is maximized:
      "f1", or "f2", "f0.5", ...: F-beta (van Rijsbergen 1979)
      "youden": sensitivity + specificity - 1 (Youden 1950)
      "sensitivity>=0.9": the specificity, among the thresholds with that sensitivity; "specificity>=0.9" likewise
      "cost=10": minus the expected cost where a miss costs as much as ten false alarms
    Of equally good thresholds the lowest is taken, which misses the fewest.
    min_positives: a finding with fewer positive images (or negative ones) is not tuned: it keeps `default`, and its
    note says so. replicates: 0 leaves the interval NaN.
    """
    value_of = parse_objective(objective)
    patients, patient = np.unique(val.patient, return_inverse=True)
    scarcest = count_patients(val)[1]
    drawn = draw_patients(label_table(patients, val), replicates, seed)
    times = np.vstack([np.ones((1, len(patients)), drawn.dtype), drawn])  # the data itself, then the replicates
    values, ends, notes = np.full(len(FINDINGS), float(default)), np.full((2, len(FINDINGS)), np.nan), []
    for j in range(len(FINDINGS)):
        positive = val.labels[:, j] == 1
        if min(positive.sum(), (~positive).sum()) < min_positives:
            notes.append(_too_few(positive, min_positives, default))
            continue
        search = _Search(val.scores[:, j], positive, patient, len(patients), grid, value_of)
        found = [search(weights) for weights in chunks(times, len(search.cuts))]
        best, reached = (np.concatenate(parts) for parts in zip(*found, strict=True))
        values[j] = best[0]
        ends[:, j] = interval(best[1:, None], best[:1], scarcest[j : j + 1], confidence)[:, 0]
        notes.append("" if reached[0] else f"no threshold of the grid reaches {objective}; the nearest is kept")
    return Thresholds(values, objective, grid, *ends, confidence, tuple(notes), val.calibration)


def grid_values(grid: tuple[float, float, float]) -> np.ndarray:
    """start, start + step, ..., stop, rounded so that 3 x 0.05 is the decimal 0.15. Raises InputError if impossible."""
    try:
        start, stop, step = (float(value) for value in grid)
    except (TypeError, ValueError):
        raise InputError(f"the grid is {grid!r}; expected (start, stop, step), such as {GRID}, or None") from None
    if not (0 <= start <= stop <= 1 and step > 0):
        raise InputError(f"the grid is {grid!r}; expected 0 <= start <= stop <= 1 and step > 0, such as {GRID}")
    steps = int((stop - start) / step + 1e-9)
    return np.array([round(start + k * step, 10) for k in range(steps + 1)])


def optimism(
    val: Predictions, test: Predictions, metric: str = "f1", replicates: int = 1000, seed: int = 0, **how
) -> pd.DataFrame:
    """How much better thresholds look when they are tuned on the very images that are reported.

    Returns one row a finding and "macro": own (metric on test, thresholds tuned on test), frozen (tuned on val),
    optimism (own - frozen) with low and high for these two sets of thresholds, and the thresholds themselves.
    **how: grid, objective, min_positives, default of `tune_thresholds`. NaN where there is nothing to tune or measure.
    """
    own = tune_thresholds(test, replicates=0, **how)
    frozen = tune_thresholds(val, replicates=0, **how)
    tuned = own.tuned & frozen.tuned
    table = difference_table(test, test, metric, (own, frozen), replicates, seed, include=tuned)
    table = table.rename(columns={"a": "own", "b": "frozen", "difference": "optimism"}).drop(columns=["p", "p_holm"])
    table.insert(0, "own_threshold", np.append(own.values, np.nan))
    table.insert(1, "frozen_threshold", np.append(frozen.values, np.nan))
    table.loc[[*~tuned, False], "note"] = "not tuned on both: too few images"
    return table


def _too_few(positive: np.ndarray, least: int, default: float) -> str:
    counts = {"positive": positive.sum(), "negative": (~positive).sum()}
    kind = min(counts, key=counts.get)
    return f"{_NOT_TUNED}: {counts[kind]} {kind} of {len(positive)} images, fewer than {least}; {default} is kept"


class _Search:
    """The best threshold of one finding, as a function of how often each patient counts."""

    def __init__(self, scores, positive, patient, patients, grid, value_of: Callable):
        self.value_of = value_of
        self.exact = grid is None
        if self.exact:
            self.cuts = np.append(np.unique(scores[positive]).astype(np.float64), NEVER)
        else:
            self.cuts = grid_values(grid)
        # counted from the top: 0 at or above the highest cut, ..., len(cuts) below the lowest
        place = len(self.cuts) - np.searchsorted(self.cuts.astype(np.float32), scores, side="right")
        shape = (len(self.cuts) + 1, patients)
        self.positives = patient_sums(place[positive], patient[positive], shape)
        self.negatives = patient_sums(place[~positive], patient[~positive], shape)

    def __call__(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """weights (patients, r) to the best thresholds (r,), NaN without both classes, and whether each is feasible."""
        step = self.positives @ weights
        tp, fp = np.cumsum(step, axis=0), np.cumsum(self.negatives @ weights, axis=0)
        positives, negatives = tp[-1], fp[-1]
        value, reached = self.value_of(tp[:-1], fp[:-1], positives, negatives)
        if self.exact:  # a positive image that was not drawn is no candidate; the first cut is NEVER
            value[1:][step[1:-1] == 0] = -np.inf
        last = len(self.cuts) - 1 - value[::-1].argmax(axis=0)  # the last of equals is the lowest threshold
        best = np.where(positives * negatives > 0, self.cuts[::-1][last], np.nan)
        return best, np.take_along_axis(reached, last[None], axis=0)[0]


def _fourteen(name: str, values: Sequence[float]) -> np.ndarray:
    try:
        values = np.array(values, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (len(FINDINGS),):
        raise InputError(
            f"{name} of thresholds has shape {values.shape}; expected {len(FINDINGS)} numbers, one a finding"
        )
    return values


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
