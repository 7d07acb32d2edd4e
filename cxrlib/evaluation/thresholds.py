"""One decision threshold per finding: chosen on validation, frozen, applied to test.

An image is positive where score >= threshold. Every objective here rises with the true positives and falls with the
false positives. Between the scores of two positive images only false positives are added, so the best of all thresholds
is the score of a positive image (or above all scores), and only these need to be searched.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, nearest
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import Bootstrap, chunks, count_patients, interval, patient_sums, shared_draws
from cxrlib.evaluation.differences import group_difference
from cxrlib.evaluation.guarantee import guaranteed, parse_guarantee
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.saved import SavedPerFinding, fourteen, too_few
from cxrlib.evaluation.sums import at_or_above, check_calibration

GRID = (0.05, 0.40, 0.05)  # start, stop, step
NEVER = float(np.nextafter(np.float32(1), np.float32(2)))  # above every score: never positive
_NOT_TUNED = "not tuned"
_FEW_DRAWS = Bootstrap(replicates=200)
_FIELDS = ("objective", "grid")  # of a file
_KEYS = ("threshold", "low", "high", "note")  # of each finding in a file


def number(value: float) -> str:
    """A threshold or score for display: "0.35", "0.0042" where two decimals are too few, "never" above 1."""
    if value > 1:
        return "never"
    return f"{value:.2f}" if value >= 0.1 or value == round(value, 2) else f"{value:.2g}"


@dataclass(frozen=True, eq=False)
class Thresholds(SavedPerFinding):
    """One threshold per finding, in the order of FINDINGS, and how it was chosen.

    values: (14,) float64 in [0, 1], or just above 1 (NEVER) where no image should be predicted positive.
    objective: what was maximized, as `tune_thresholds` takes it, or a description such as "by hand".
    grid: (start, stop, step), or None where all scores were candidates.
    low, high: (14,) ends of the 95 % bootstrap interval of the threshold itself, NaN where there is none.
    notes: 14 texts; empty where the threshold was tuned, else why it was not, or what could not be reached.
    calibration: of the scores used for tuning, as in Predictions; None (such as by hand) accepts any scores.
    Raises InputError for invalid values.
    """

    FORMAT = "cxrlib thresholds 1"
    EXPECTED = "thresholds (JSON): tune them on validation first"

    values: np.ndarray
    objective: str = "by hand"
    grid: tuple[float, float, float] | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    notes: tuple[str, ...] = ("",) * len(FINDINGS)
    calibration: str | None = None

    def __post_init__(self) -> None:
        for name in ("values", "low", "high"):
            value = getattr(self, name)
            value = [np.nan] * len(FINDINGS) if value is None else value
            object.__setattr__(self, name, fourteen(f"{name} of thresholds", value))
        if not ((self.values >= 0) & (self.values <= NEVER)).all():
            raise InputError(f"thresholds are {self.values.tolist()}; expected numbers in [0, 1]")
        if self.grid is not None:
            grid_values(self.grid)  # raises InputError for an invalid grid
            object.__setattr__(self, "grid", tuple(float(value) for value in self.grid))
        object.__setattr__(self, "notes", tuple(map(str, self.notes)))
        if len(self.notes) != len(FINDINGS):
            raise InputError(f"thresholds have {len(self.notes)} notes; expected {len(FINDINGS)}, one per finding")
        if not isinstance(self.calibration, str | None):
            raise InputError(
                f"calibration of thresholds is {self.calibration!r}; expected text such as 'platt', or None"
            )

    @property
    def tuned(self) -> np.ndarray:
        """(14,) bool: False where a finding had too few images for tuning and keeps a default."""
        return np.array([not note.startswith(_NOT_TUNED) for note in self.notes])

    @property
    def texts(self) -> tuple[str, ...]:
        """The values for display (`number`)."""
        return tuple(map(number, self.values))

    def apply(self, scores: np.ndarray | Predictions) -> np.ndarray:
        """(n, 14) scores to (n, 14) uint8: 1 where score >= threshold, both as float32.

        Raises InputError for Predictions whose calibration differs from that of these thresholds.
        """
        if isinstance(scores, Predictions):
            check_calibration(scores, self)
            scores = scores.scores
        shape = np.shape(scores)
        if len(shape) != 2 or shape[1] != len(FINDINGS):
            raise InputError(f"scores of shape {shape} do not fit the thresholds; expected (n, {len(FINDINGS)})")
        return at_or_above(scores, self.values).astype(np.uint8)

    def to_dict(self) -> dict:
        """Plain types only, for JSON and for a checkpoint; None stands for NaN."""
        low, high = ([None if np.isnan(end) else end for end in ends.tolist()] for ends in (self.low, self.high))
        columns = zip(self.values.tolist(), low, high, self.notes, strict=True)
        rows = {name: dict(zip(_KEYS, row, strict=True)) for name, row in zip(FINDINGS, columns, strict=True)}
        how = {field: getattr(self, field) for field in (*_FIELDS, "calibration")}
        return {"format": self.FORMAT, **how, "grid": self.grid and list(self.grid), "findings": rows}

    @classmethod
    def from_dict(cls, saved: dict) -> "Thresholds":
        """The inverse of `to_dict`. Raises InputError where something is missing or invalid."""
        rows = cls.entries(saved, _FIELDS, _KEYS)
        values, low, high, notes = ([row[key] for row in rows] for key in _KEYS)
        how = {field: saved[field] for field in _FIELDS}
        calibration = saved.get("calibration")  # absent from older files
        return cls(values, low=low, high=high, notes=notes, calibration=calibration, **how)


def tune_thresholds(
    val: Predictions,
    grid: tuple[float, float, float] | None = GRID,
    objective: str = "f1",
    min_positives: int = 5,
    default: float = 0.5,
    resampling: Bootstrap = _FEW_DRAWS,
) -> Thresholds:
    """For each finding the threshold that is best on `val`, and its bootstrap interval over patients.

    grid: (start, stop, step), both ends included; None searches all scores (the exact optimum).
    objective: what is maximized:
      "f1", or "f2", "f0.5", ...: F-beta (van Rijsbergen 1979)
      "youden": sensitivity + specificity - 1 (Youden 1950)
      "sensitivity>=0.9": the specificity, among the thresholds with that sensitivity; "specificity>=0.9" likewise
      "sensitivity>=0.9@0.95": the highest threshold that keeps this sensitivity for new patients with 95 % confidence
      (`guarantee`); it has no interval
      "cost=10": minus the expected cost where a false negative costs as much as ten false positives
    Of equally good thresholds the lowest is chosen, which has the fewest false negatives.
    min_positives: a finding with fewer positive images (or negative ones) is not tuned: it keeps `default`, and its
    note gives the reason. resampling: 200 replicates unless given; with 0 the intervals are NaN.
    """
    value_of, promise = parse_objective(objective), parse_guarantee(objective)
    patients, drawn = shared_draws([val], resampling.replicates, resampling.seed)
    patient, scarcest = np.searchsorted(patients, val.patient), count_patients(val)[1]
    times = np.vstack([np.ones((1, len(patients)), drawn.dtype), drawn])  # the data itself, then the replicates
    values, ends, notes = np.full(len(FINDINGS), float(default)), np.full((2, len(FINDINGS)), np.nan), []
    for k in range(len(FINDINGS)):
        rows = val.rows_of(k)
        scores, positive, of = val.scores[rows, k], val.labels[rows, k] == 1, patient[rows]
        if few := too_few(positive, min_positives):
            notes.append(f"{_NOT_TUNED}: {few}; {default} is kept")
            continue
        if promise:
            candidates = np.unique(scores[positive]).astype(np.float64) if grid is None else grid_values(grid)
            found, why = guaranteed(scores, positive, of, candidates, promise)
            values[k] = default if found is None else found
            notes.append(why and f"{_NOT_TUNED}: {why}; {default} is kept, with no promise")
            continue
        search = _Search(scores, positive, of, len(patients), grid, value_of)
        found = [search(weights) for weights in chunks(times, len(search.candidates))]
        best, reached = (np.concatenate(column) for column in zip(*found, strict=True))
        values[k] = best[0]
        note = _shortfall(scores, positive, search.candidates, best[0])
        if not note.startswith(_NOT_TUNED):
            ends[:, k] = interval(best[1:, None], best[:1], scarcest[k : k + 1])[:, 0]
        if not reached[0]:
            note = f"no threshold{' of the grid' if grid else ''} reaches {objective}; the nearest is kept; {note}"
        if note and grid:
            [exact], _ = _Search(scores, positive, of, len(patients), None, value_of)(times[:1].T * 1.0)
            note = f"{note.removesuffix('; ')}; the best of all scores is {exact:.2g}"
        notes.append(note.removesuffix("; "))
    return Thresholds(values, objective, grid, *ends, tuple(notes), val.calibration)


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
    """How much better thresholds look when they are tuned on the same images on which they are evaluated.

    Returns one row per finding and "macro": own (metric on test, thresholds tuned on test), frozen (tuned on val),
    optimism (own - frozen) with low and high for these two sets of thresholds, and the thresholds themselves.
    **how: grid, objective, min_positives, default of `tune_thresholds`. NaN where tuning or the metric is undefined.
    """
    own, frozen = (tune_thresholds(one, resampling=Bootstrap(replicates=0), **how) for one in (test, val))
    tuned = own.tuned & frozen.tuned
    table = group_difference(test, test, metric, (own, frozen), Bootstrap(replicates, seed), include=tuned)
    table = table.rename(columns={"a": "own", "b": "frozen", "difference": "optimism"}).drop(columns=["p", "p_holm"])
    table.insert(0, "own_threshold", np.append(own.values, np.nan))
    table.insert(1, "frozen_threshold", np.append(frozen.values, np.nan))
    table.loc[[*~tuned, False], "note"] = "not tuned on both: too few images"
    return table


def _shortfall(scores: np.ndarray, positive: np.ndarray, candidates: np.ndarray, chosen: float) -> str:
    """A note where no choice could be made, or where the chosen threshold predicts nobody positive; else empty."""
    nobody = "nobody is predicted positive"
    if not at_or_above(scores[positive], candidates[0]).any():
        rest = "" if at_or_above(scores, candidates[0]).any() else f": {nobody}"
        return f"{_NOT_TUNED}: no image with the finding reaches the lowest threshold, {candidates[0]:g}{rest}"
    return "" if at_or_above(scores, chosen).any() else f"{nobody}: no score reaches the threshold"


class _Search:
    """The best threshold of one finding, as a function of how often each patient counts."""

    def __init__(self, scores, positive, patient, patients, grid, value_of: Callable):
        self.value_of = value_of
        self.exact = grid is None
        exact = np.append(np.unique(scores[positive]).astype(np.float64), NEVER)
        self.candidates = exact if self.exact else grid_values(grid)
        # counted from the top: 0 at or above the highest candidate, ..., len(candidates) below the lowest
        place = len(self.candidates) - np.searchsorted(self.candidates.astype(np.float32), scores, side="right")
        shape = (len(self.candidates) + 1, patients)
        self.positives = patient_sums(place[positive], patient[positive], shape)
        self.negatives = patient_sums(place[~positive], patient[~positive], shape)

    def __call__(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best thresholds (r,) for weights (patients, r), NaN without both classes; and which are feasible (r,)."""
        step = self.positives @ weights
        tp, fp = np.cumsum(step, axis=0), np.cumsum(self.negatives @ weights, axis=0)
        positives, negatives = tp[-1], fp[-1]
        value, reached = self.value_of(tp[:-1], fp[:-1], positives, negatives)
        if self.exact:  # the score of a positive image that was not drawn is no candidate; the first one is NEVER
            value[1:][step[1:-1] == 0] = -np.inf
        last = len(self.candidates) - 1 - value[::-1].argmax(axis=0)  # the last of equals is the lowest threshold
        best = np.where(positives * negatives > 0, self.candidates[::-1][last], np.nan)
        return best, np.take_along_axis(reached, last[None], axis=0)[0]


def parse_objective(text: str) -> Callable:
    """The objective that `text` names, such as "f1" or "cost=10". Raises InputError for an unknown one.

    It is a function (tp, fp, positives, negatives) -> (value to maximize, condition met), where tp and fp are
    (candidates, replicates), all positives and negatives (replicates,). Of "sensitivity>=0.9@0.95" it is that of
    "sensitivity>=0.9"; the promise is read by `parse_guarantee`. For integer and half-integer betas and costs
    the value is an integer, or a single quotient of integers, so that ties are exact.
    """
    text = str(text).partition("@")[0] if parse_guarantee(text) else text
    pattern = r"(youden)|(f|sensitivity>=|specificity>=|cost=)([\d.]+)"
    try:
        named, kind, number = re.fullmatch(pattern, re.sub(r"\s", "", str(text))).groups()
        kind, number = named or kind.rstrip(">="), float(number or 1)
    except (AttributeError, ValueError):
        hint = nearest(text, ["f1", "f2", "f0.5", "youden", "sensitivity>=0.9", "sensitivity>=0.9@0.95",
                              "specificity>=0.9", "cost=10"])  # fmt: skip
        raise InputError(
            f"the objective {text!r} is unknown{hint}; expected f1 (or another beta: f2), youden, sensitivity>=0.9, "
            "sensitivity>=0.9@0.95 (for new patients, with 95 % confidence), specificity>=0.9 or cost=10"
        ) from None
    if kind in ("sensitivity", "specificity") and not 0 < number <= 1:
        raise InputError(f"the objective {text!r} requires a {kind} of {number}; expected more than 0 and at most 1")
    if kind in ("f", "cost") and number <= 0:
        raise InputError(f"the objective {text!r} has the number {number}; expected one above 0")
    return lambda *counts: _OBJECTIVES[kind](number, *counts)


def _sensitivity(minimum, tp, fp, positives, negatives):
    """Fewest false positives, then most true ones; ranked below these, where the condition fails: most true ones."""
    reached = tp >= minimum * positives * (1 - 1e-12)
    return np.where(reached, tp - fp * (positives + 1), tp - (negatives + 1) * (positives + 1)), reached


def _specificity(minimum, tp, fp, positives, negatives):
    """Most true positives, then fewest false ones; ranked below these, where the condition fails: fewest false ones."""
    reached = negatives - fp >= minimum * negatives * (1 - 1e-12)
    return np.where(reached, tp * (negatives + 1) - fp, -fp - (negatives + 1)), reached


_OBJECTIVES = {
    "f": lambda beta, tp, fp, p, n: ((1 + beta**2) * tp / np.maximum(beta**2 * p + tp + fp, 1), tp >= 0),
    "youden": lambda _, tp, fp, p, n: (tp * n - fp * p, tp >= 0),
    "cost": lambda ratio, tp, fp, p, n: (-(ratio * (p - tp) + fp), tp >= 0),
    "sensitivity": _sensitivity,
    "specificity": _specificity,
}
