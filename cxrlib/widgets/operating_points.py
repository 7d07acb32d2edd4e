"""Counts, rates, cost and curves of one finding at any threshold, and a session of choosing thresholds; no widgets."""

from collections import namedtuple
from dataclasses import replace
from functools import cached_property
from itertools import groupby

import numpy as np

from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation import bootstrap, metrics
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import NEVER, Thresholds, tune_thresholds

# Stops of a slider: 0 to 1, finest near 0, where the scores of rare findings lie, and last above every score.
SCALE = np.r_[np.arange(10) / 1000, np.arange(2, 20) / 200, np.arange(10, 60) / 100, np.arange(30, 51) / 50, NEVER]
SHOWN = 12  # pictures of a gallery at most
_ENDS = np.array([0, 1])


class Counts(namedtuple("Counts", ("tp", "fp", "fn", "tn"))):
    """A confusion matrix, or several as arrays: images with the finding (tp, fn) and without it (fp, tn)."""

    @cached_property
    def rates(self) -> dict[str, np.ndarray]:
        """Sensitivity, specificity, ppv, npv and f1, as in a table of `evaluate`."""
        return metrics.threshold_metrics(self.tn, self.fp, self.fn, self.tp)

    def per(self, patients: float, prevalence: float) -> "Counts":
        """The counts expected among `patients` at another prevalence, with the same sensitivity and specificity."""
        ill, well = patients * prevalence, patients * (1 - prevalence)
        found, cleared = self.rates["sensitivity"], self.rates["specificity"]
        return Counts(tp=ill * found, fp=well * (1 - cleared), fn=ill * (1 - found), tn=well * cleared)

    def cost(self, miss_cost: float) -> float:
        """The cost in false alarms, where a miss costs as much as `miss_cost` of them."""
        return miss_cost * self.fn + self.fp


class Curve:
    """All operating points of one finding: confusion matrices `points` (m,) at `thresholds` (m,), the highest first.

    scores: (n,) float32 in [0, 1]; labels: (n,) 0 or 1; images with another label are left out.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray):
        self._well, self._ill = (np.sort(scores[labels == label]) for label in (0, 1))
        self.positives, self.negatives = len(self._ill), len(self._well)
        self.n = self.positives + self.negatives
        self.prevalence = self.positives / max(self.n, 1)
        self.drawable = self.positives > 0 and self.negatives > 0
        self.thresholds = np.append(np.unique(scores[labels <= 1]), np.float32(NEVER))[::-1]
        self.points = self.counts(self.thresholds)

    def counts(self, threshold: float | np.ndarray) -> Counts:
        """The confusion matrix where score >= threshold is positive, both as float32."""
        fn, tn = (np.searchsorted(each, np.float32(threshold)) for each in (self._ill, self._well))
        return Counts(self.positives - fn, self.negatives - tn, fn, tn)

    def cheapest(self, miss_cost: float, prevalence: float) -> float:
        """The lowest threshold of least expected cost, where a miss costs `miss_cost` false alarms."""
        cost = self.points.per(1, prevalence).cost(miss_cost)
        return float(self.thresholds[np.flatnonzero(cost <= cost.min() * (1 + 1e-12) + 1e-15)[-1]])

    @cached_property
    def bars(self) -> list[str]:
        """The histogram as paths, each class to its own height: without the finding upwards, and with it downwards."""
        paths = []
        for scores, sign in ((self._well, -1), (self._ill, 1)):
            counts, lefts = np.histogram(across(scores), bins=48, range=(8, 632))
            heights = sign * 62 * counts / max(counts.max(), 1)
            bars = zip(lefts, heights, strict=False)
            paths.append("".join(f"M{left + 0.5:.1f} 88v{height:.1f}h12.0V88z" for left, height in bars if height))
        return paths

    @cached_property
    def _lines(self) -> tuple[list, list]:
        roc = [("chance", _path(_pixels(_ENDS, _ENDS))), ("curve", _path(_roc(self.points)))]
        return roc, self._pr_lines(self.prevalence, "curve")

    def _pr_lines(self, prevalence: float, style: str) -> list[tuple[str, str]]:
        chance = _path(_pixels(_ENDS, np.full(2, prevalence)))
        return [("chance", chance), (style, _path(_pr(self.points.per(1000, prevalence))))]

    def charts(self, points: dict[str, Counts], prevalence: float) -> list[tuple[list, list]]:
        """ROC and PR curve, the latter also at `prevalence`: lines (style, path) and marks (name, pixels) of points."""
        roc, pr = self._lines
        in_roc, in_pr = ({name: place(point) for name, point in points.items()} for place in (_roc, _pr))
        if prevalence != self.prevalence:
            pr = pr + self._pr_lines(prevalence, "other")
            in_pr = {"elsewhere": _pr(points["now"].per(1000, prevalence))} | in_pr
        return [(roc, _marks(in_roc)), (pr, _marks(in_pr))]


def _roc(counts: Counts) -> np.ndarray:
    return _pixels(1 - counts.rates["specificity"], counts.rates["sensitivity"])


def _pr(counts: Counts) -> np.ndarray:
    return _pixels(counts.rates["sensitivity"], counts.rates["ppv"])


def _pixels(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., 2) pixels of a chart from the left and from the top, to one decimal."""
    return np.round(np.stack([40 + 264 * x, 22 + 182 * (1 - y)], axis=-1), 1)


def _marks(places: dict[str, np.ndarray]) -> list[tuple[str, list[float]]]:
    return [(name, place.tolist()) for name, place in places.items() if not np.isnan(place).any()]


def _path(places: np.ndarray) -> str:
    """A line through pixels (n, 2); undefined points and repeats within a tenth of a pixel are left out."""
    distinct = groupby(places[~np.isnan(places).any(axis=1)].tolist())
    return "M" + "L".join(f"{a:g} {b:g}" for (a, b), _ in distinct)


def across(score: float | np.ndarray) -> float | np.ndarray:
    """The pixel of a score in the histogram, whose axis is stretched near 0."""
    return 8 + 624 * np.clip(score, 0, 1) ** (1 / 3)


class Session:
    """Thresholds being chosen on `val`, from `tuned` on. InputError for those of another calibration."""

    def __init__(self, val: Predictions, tuned: Thresholds):
        metrics.check_calibration(val.calibration, tuned)
        objective = "f1" if tuned.objective.startswith("by hand") else tuned.objective
        self.exact = tune_thresholds(val, grid=None, objective=objective, resampling=bootstrap.Bootstrap(0))
        self.val, self.tuned, self.values, self.past = val, tuned, tuned.values, []
        self.curves = [Curve(val.scores[:, k], val.labels[:, k]) for k in range(len(FINDINGS))]

    def choose(self, which: int | slice, values: float | np.ndarray) -> None:
        """Set one finding, or those of a slice, to their places in `values`, (14,) or one for all; one step of undo."""
        changed = self.values.copy()
        changed[which] = np.broadcast_to(values, len(FINDINGS))[which]
        if (changed != self.values).any():
            self.past.append(self.values)
            self.values = changed

    def undo(self) -> None:
        """Go back by one step of those in `past`."""
        self.values = self.past.pop()

    def thresholds(self) -> Thresholds:
        """The current choice. Unmoved thresholds keep their interval and note; the others are noted as "by hand"."""
        for known in (self.tuned, self.exact):
            if (self.values == known.values).all():
                return known
        objective, kept = f"by hand, from {self.tuned.objective}", self.values == self.tuned.values
        low, high = (np.where(kept, end, np.nan) for end in (self.tuned.low, self.tuned.high))
        notes = tuple(np.where(kept, self.tuned.notes, "by hand"))
        return replace(self.tuned, values=self.values, objective=objective, grid=None, low=low, high=high, notes=notes)

    def changed(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Which images (n,) bool change side of finding k against the tuned threshold; the rows to show, in order."""
        scores, known = self.val.scores[:, k], self.val.known[:, k]
        positive = metrics.at_or_above(scores, self.values[k])
        changed = known & (positive != metrics.at_or_above(scores, self.tuned.values[k]))
        nearest = np.argsort(np.abs(scores - self.values[k]), kind="stable")
        shown = [changed] if changed.any() else [known & positive, known & ~positive]
        return changed, np.concatenate([nearest[group[nearest]][: SHOWN // len(shown)] for group in shown])
