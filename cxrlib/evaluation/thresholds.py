"""One decision threshold per finding: what it is chosen for, chosen on validation, frozen, applied to test."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import bdtr, rel_entr  # scipy.stats, which has a name for bdtr, takes a second to import

from cxrlib.core.errors import InputError, nearest
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import Bootstrap, chunks, count_patients, interval, patient_sums, shared_draws
from cxrlib.evaluation.differences import group_difference
from cxrlib.evaluation.metrics import at_or_above, check_calibration
from cxrlib.evaluation.predictions import Predictions, SavedPerFinding, fourteen

GRID = (0.05, 0.40, 0.05)  # start, stop, step
NEVER = float(np.nextafter(np.float32(1), np.float32(2)))  # above every score: never positive
_EXAMPLES = ("f1", "f2", "f0.5", "youden", "sensitivity>=0.9", "sensitivity>=0.9@0.95", "specificity>=0.9", "cost=10")
_NOT_TUNED = "not tuned"
_DEFAULT = 0.5  # where a finding is not tuned
_KEYS = ("threshold", "low", "high", "note")  # of each finding in a file


def number(value: float) -> str:
    """A threshold or score for display: "0.35", "0.0042" where two decimals are too few, "never" above 1."""
    if value > 1:
        return "never"
    return f"{value:.2f}" if value >= 0.1 or value == round(value, 2) else f"{value:.2g}"


@dataclass(frozen=True, eq=False)
class Thresholds(SavedPerFinding):
    """One threshold per finding, in the order of FINDINGS, and how it was chosen. InputError for invalid values.

    values: (14,) float64 in [0, 1], or just above 1 (NEVER) where no image should be predicted positive.
    objective, grid: as `tune_thresholds` takes them, or a description such as "by hand".
    low, high: (14,) ends of the 95 % bootstrap interval of the threshold itself, NaN where there is none.
    notes: 14 texts; empty where the threshold was tuned, else why it was not, or what could not be reached.
    calibration: of the scores used for tuning, as in Predictions; None (by hand, or in older files) accepts any scores.
    """

    FORMAT = "cxrlib thresholds 1"

    values: np.ndarray
    objective: str = "by hand"
    grid: tuple[float, float, float] | None = None
    low: np.ndarray = (None,) * len(FINDINGS)
    high: np.ndarray = (None,) * len(FINDINGS)
    notes: tuple[str, ...] = ("",) * len(FINDINGS)
    calibration: str | None = None

    def __post_init__(self) -> None:
        for name in ("values", "low", "high"):
            vars(self)[name] = fourteen(f"{name} of thresholds", getattr(self, name))
        if not ((self.values >= 0) & (self.values <= NEVER)).all():
            raise InputError(f"thresholds are {self.values.tolist()}; expected numbers in [0, 1]")
        if self.grid is not None:
            grid_values(self.grid)  # raises InputError for an invalid grid
            vars(self)["grid"] = tuple(float(value) for value in self.grid)
        vars(self)["notes"] = tuple(map(str, self.notes))
        if not isinstance(self.calibration, str | None):
            raise InputError(f"calibration of thresholds is {self.calibration!r}; expected text such as 'platt'")

    @property
    def tuned(self) -> np.ndarray:
        """(14,) bool: False where a finding had too few images for tuning and keeps a default."""
        return np.array([not note.startswith(_NOT_TUNED) for note in self.notes])

    def apply(self, predictions: Predictions) -> np.ndarray:
        """(n, 14) uint8, 1 where score >= threshold; InputError for scores of another calibration."""
        check_calibration(predictions.calibration, self)
        return at_or_above(predictions.scores, self.values).astype(np.uint8)

    def to_dict(self) -> dict:
        """Plain types only, for JSON and for a checkpoint; None stands for NaN."""
        low, high = ([None if np.isnan(end) else end for end in ends.tolist()] for ends in (self.low, self.high))
        columns = zip(self.values.tolist(), low, high, self.notes, strict=True)
        rows = {name: dict(zip(_KEYS, row, strict=True)) for name, row in zip(FINDINGS, columns, strict=True)}
        how = {"objective": self.objective, "grid": self.grid and list(self.grid), "calibration": self.calibration}
        return {"format": self.FORMAT, **how, "findings": rows}

    @classmethod
    def _read(cls, saved: dict, rows: list[dict]) -> "Thresholds":
        values, low, high, notes = ([row[key] for row in rows] for key in _KEYS)
        return cls(values, saved["objective"], saved["grid"], low, high, notes, saved.get("calibration"))


def tune_thresholds(val: Predictions, grid=GRID, objective="f1", resampling=Bootstrap(200)) -> Thresholds:
    """For each finding the threshold that is best on `val`, and its bootstrap interval over patients.

    grid: (start, stop, step), both ends included; None searches all scores (the exact optimum).
    objective: what is maximized; of equally good thresholds the lowest is chosen, with the fewest false negatives:
      "f1", or "f2", "f0.5", ...: F-beta (van Rijsbergen 1979)
      "youden": sensitivity + specificity - 1 (Youden 1950)
      "sensitivity>=0.9": the specificity, among the thresholds with that sensitivity; "specificity>=0.9" likewise
      "sensitivity>=0.9@0.95": the highest threshold that keeps this sensitivity for new patients with 95 % confidence
      (`guaranteed`); it has no interval
      "cost=10": minus the expected cost where a false negative costs as much as ten false positives
    resampling: with 0 replicates the intervals are NaN. A finding with fewer than five positive or negative images
    keeps 0.5, and its note gives the reason.
    """
    value_of, promise = parse_objective(objective)
    patients, drawn = shared_draws([val], *resampling)
    scarcest = count_patients(val)[1]
    times = np.vstack([np.ones((1, len(patients)), drawn.dtype), drawn])  # the data itself, then the replicates
    values, ends, notes = np.full(len(FINDINGS), _DEFAULT), np.full((2, len(FINDINGS)), np.nan), []
    for k, (scores, positive, patient) in enumerate(val.by_finding()):
        patient = np.searchsorted(patients, patient)
        if few := too_few(positive):
            notes.append(f"{_NOT_TUNED}: {few}; {_DEFAULT} is kept")
            continue
        if promise:
            candidates = np.unique(scores[positive]).astype(np.float64) if grid is None else grid_values(grid)
            values[k], why = guaranteed(scores, positive, patient, candidates, promise)
            notes.append(why and f"{_NOT_TUNED}: {why}; {_DEFAULT} is kept, with no promise")
            continue
        best, reached = _best(scores, positive, patient, times, grid, value_of)
        values[k] = best[0]
        lowest, nobody = grid_values(grid)[0] if grid else 0, "nobody is predicted positive"
        if at_or_above(scores[positive], lowest).any():
            ends[:, k] = interval(best[1:, None], best[:1], scarcest[k : k + 1])[:, 0]
            note = "" if at_or_above(scores, best[0]).any() else f"{nobody}: no score reaches the threshold"
        else:
            note = f"{_NOT_TUNED}: no image with the finding reaches the lowest threshold, {lowest:g}"
            note += "" if at_or_above(scores, lowest).any() else f": {nobody}"
        if not reached[0]:
            kept = f"no threshold{' of the grid' if grid else ''} reaches {objective}; the nearest is kept"
            note = f"{note}; {kept}" if note else kept  # the first words say whether it is tuned
        if note and grid:
            [exact], _ = _best(scores, positive, patient, times[:1], None, value_of)
            note += f"; the best of all scores is {exact:.2g}"
        notes.append(note)
    return Thresholds(values, objective, grid, *ends, tuple(notes), val.calibration)


def grid_values(grid: tuple[float, float, float]) -> np.ndarray:
    """start, start + step, ..., stop, rounded so that 3 x 0.05 is the decimal 0.15. Raises InputError if impossible."""
    try:
        start, stop, step = (float(value) for value in grid)
    except (TypeError, ValueError):
        start, stop, step = 0, 0, 0
    if not (0 <= start <= stop <= 1 and step >= 1e-4):
        raise InputError(f"the grid is {grid!r}; expected 0 <= start <= stop <= 1 and step >= 1e-4, such as {GRID}")
    steps = int((stop - start) / step + 1e-9)
    return np.array([round(start + k * step, 10) for k in range(steps + 1)])


def too_few(positive: np.ndarray) -> str:
    """A note where fewer than five images are positive (n,) bool, or negative; else an empty text."""
    counts = {"positive": int(positive.sum()), "negative": int((~positive).sum())}
    kind = min(counts, key=counts.get)
    return f"{counts[kind]} {kind} of {len(positive)} images, fewer than 5" if counts[kind] < 5 else ""


def optimism(val: Predictions, test: Predictions, replicates: int = 1000, seed: int = 0, **how) -> pd.DataFrame:
    """How much better thresholds look when they are tuned on the same images on which they are evaluated.

    One row per finding and "macro": own (F1 on test, thresholds tuned on test), frozen (tuned on val), optimism (own -
    frozen), low, high, note; NaN where tuning or F1 is undefined. **how: of `tune_thresholds`.
    """
    own, frozen = (tune_thresholds(one, resampling=Bootstrap(replicates=0), **how) for one in (test, val))
    tuned = own.tuned & frozen.tuned
    table = group_difference(test, test, "f1", (own, frozen), Bootstrap(replicates, seed), include=tuned)
    table = table.rename(columns={"a": "own", "b": "frozen", "difference": "optimism"}).drop(columns=["p", "p_holm"])
    table.loc[[*~tuned, False], "note"] = "not tuned on both: too few images"
    return table


def _best(scores, positive, patient, times, grid, value_of: Callable) -> tuple[np.ndarray, np.ndarray]:
    """The best thresholds (r,) in draws (r, patients), NaN without both classes; and whether they are feasible (r,)."""
    exact = np.append(np.unique(scores[positive]).astype(np.float64), NEVER)  # others only add false positives
    candidates = exact if grid is None else grid_values(grid)
    # counted from the top: 0 at or above the highest candidate, ..., len(candidates) below the lowest
    place = len(candidates) - np.searchsorted(candidates.astype(np.float32), scores, side="right")
    shape, best, feasible = (len(candidates) + 1, times.shape[1]), [], []
    counts = [patient_sums(place[which], patient[which], shape) for which in (positive, ~positive)]
    for weights in chunks(times, len(candidates)):
        step, others = (count @ weights for count in counts)
        tp, fp = np.cumsum(step, axis=0), np.cumsum(others, axis=0)
        value, reached = value_of(tp[:-1], fp[:-1], tp[-1], fp[-1])
        if grid is None:  # the score of a positive image that was not drawn is no candidate; the first one is NEVER
            value[1:][step[1:-1] == 0] = -np.inf
        last = len(candidates) - 1 - value[::-1].argmax(axis=0)  # the last of equals is the lowest threshold
        best.append(np.where(tp[-1] * fp[-1] > 0, candidates[::-1][last], np.nan))
        feasible.append(np.take_along_axis(reached, last[None], axis=0)[0])
    return np.concatenate(best), np.concatenate(feasible)


def parse_how(grid: str, objective: str) -> dict:
    """Options of `cxr eval` as keywords of `tune_thresholds`; grid: "exact", or first:last:step."""
    parse_objective(objective)
    try:
        parsed = None if grid == "exact" else tuple(map(float, grid.split(":")))
        grid_values(parsed or GRID)
    except (ValueError, OverflowError):  # includes InputError
        raise InputError(f"the grid {grid!r} cannot be used; expected exact, or such as 0.05:0.4:0.05") from None
    return {"grid": parsed, "objective": objective}


def parse_objective(text: str) -> tuple[Callable, tuple[float, float] | None]:
    """The objective that `text` names, and the promise (sensitivity, confidence) after @; InputError if unknown.

    It is a function (tp, fp, positives, negatives) -> (value to maximize, condition met), where tp and fp are
    (candidates, replicates), all positives and negatives (replicates,); ties are exact, as quotients of integers.
    """
    pattern = r"(youden)|(f|sensitivity>=|specificity>=|cost=)([\d.]+)(@0?\.\d+)?"
    try:
        named, kind, number, at = re.fullmatch(pattern, re.sub(r"\s", "", str(text))).groups()
        kind, number = named or kind.rstrip(">="), float(number or 1)
        promise = (number, float(at[1:])) if at else None
        if promise and not (kind == "sensitivity" and number < 1 and promise[1] > 0):
            raise ValueError
    except (AttributeError, ValueError):
        expected = f"{', '.join(_EXAMPLES)} (@: for new patients, with this confidence), or another number"
        raise InputError(f"the objective {text!r} is unknown{nearest(text, _EXAMPLES)}; expected {expected}") from None
    if number <= 0 or (number > 1 and kind in ("sensitivity", "specificity")):
        raise InputError(f"the objective {text!r} has the number {number}; expected one above 0, and shares at most 1")
    return lambda *counts: _OBJECTIVES[kind](number, *counts), promise


def _held(minimum, right, of_class, right_others):
    """Most right in the other class, then in this one; ranked below, where its share is too low: most right in this."""
    reached = right >= minimum * of_class * (1 - 1e-12)
    return np.where(reached, right_others * (of_class + 1) + right, right - of_class - 1), reached


_OBJECTIVES = {
    "f": lambda beta, tp, fp, p, n: ((1 + beta**2) * tp / np.maximum(beta**2 * p + tp + fp, 1), tp >= 0),
    "youden": lambda _, tp, fp, p, n: (tp * n - fp * p, tp >= 0),
    "cost": lambda ratio, tp, fp, p, n: (-(ratio * (p - tp) + fp), tp >= 0),
    "sensitivity": lambda minimum, tp, fp, p, n: _held(minimum, tp, p, n - fp),
    "specificity": lambda minimum, tp, fp, p, n: _held(minimum, n - fp, n, tp),
}


def guaranteed(scores, positive, patient, candidates, promise: tuple[float, float]) -> tuple[float, str]:
    """The highest of the rising `candidates` that keeps the promise (sensitivity, confidence); or 0.5, and why.

    It is kept for new patients in 95 of 100 validation sets (Learn then Test, Angelopoulos et al. 2021,
    arXiv 2110.01052). Candidates are tested upwards, each at the full level, until one fails.
    """
    (sensitivity, confidence), (_, codes) = promise, np.unique(patient[positive], return_inverse=True)
    patients, level = codes.max(initial=-1) + 1, 1 - confidence
    row, image = np.nonzero(~at_or_above(scores[positive], candidates[:, None]))  # a candidate and whom it misses
    losses = patient_sums(row, codes[image], (len(candidates), patients)).toarray() / np.bincount(codes)
    p = p_of_risk(losses, 1 - sensitivity)
    passed = int(np.argmin(np.append(p <= level, False)))
    if passed:
        return float(candidates[passed - 1]), ""
    needed = int(np.ceil(np.log(level) / np.log(sensitivity)))
    if patients < needed:
        return _DEFAULT, f"{patients} patients with the finding, and the promise needs at least {needed}"
    return _DEFAULT, f"already the lowest threshold, {candidates[0]:.2g}, misses too many"


def p_of_risk(losses: np.ndarray, risk: float) -> np.ndarray:
    """(k,) p-values of "the mean loss of new patients is above `risk`", from losses (k, patients) in [0, 1].

    The exact binomial test where all losses are 0 or 1, as with one positive image per patient; else the bound of
    Hoeffding and Bentkus (Bates et al. 2021, Journal of the ACM 68), which holds for any losses in [0, 1].
    """
    n, mean = losses.shape[1], losses.mean(axis=1)
    if np.isin(losses, (0, 1)).all():
        return bdtr(np.floor(n * mean + 1e-9), n, risk)
    below = np.minimum(mean, risk)
    hoeffding = np.exp(-n * (rel_entr(below, risk) + rel_entr(1 - below, 1 - risk)))
    return np.minimum(np.minimum(hoeffding, np.e * bdtr(np.ceil(n * mean - 1e-9), n, risk)), 1)
