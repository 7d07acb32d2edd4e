"""Counts, rates and cost of one finding at any threshold, and a session of choosing thresholds; free of widgets.

A threshold is looked up among the sorted scores, so that a slider moves over 25,000 images as smoothly as over 200.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from time import monotonic

import numpy as np

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.metrics import at_or_above, check_calibration, threshold_metrics
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import NEVER, Thresholds

# Stops of a slider: 0 to 1, finest near 0, where the scores of rare findings lie, and last above every score.
SCALE = np.r_[np.arange(10) / 1000, np.arange(2, 20) / 200, np.arange(10, 60) / 100, np.arange(30, 51) / 50, NEVER]
_GESTURE = 1.0  # seconds: moves of one slider at shorter intervals are undone together


@dataclass(frozen=True)
class Counts:
    """A confusion matrix, or several as arrays: images with the finding (tp, fn) and without it (fp, tn)."""

    tp: float | np.ndarray
    fp: float | np.ndarray
    fn: float | np.ndarray
    tn: float | np.ndarray

    @cached_property
    def rates(self) -> dict[str, np.ndarray]:
        """Sensitivity, specificity, ppv, npv and f1, as in a table of `evaluate`."""
        return threshold_metrics(self.tn, self.fp, self.fn, self.tp)

    def per(self, patients: float, prevalence: float) -> "Counts":
        """The counts expected among `patients` at another prevalence, with the same sensitivity and specificity."""
        ill, well = patients * prevalence, patients * (1 - prevalence)
        found, cleared = self.rates["sensitivity"], self.rates["specificity"]
        return Counts(tp=ill * found, fp=well * (1 - cleared), fn=ill * (1 - found), tn=well * cleared)

    def cost(self, miss_cost: float) -> float:
        """The cost in false alarms, where a miss costs as much as `miss_cost` of them."""
        return miss_cost * self.fn + self.fp


class Curve:
    """All operating points of one finding.

    Attributes:
        thresholds: (m,) NEVER, then the distinct scores, highest first.
        points: the confusion matrices (m,) at these thresholds.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray):
        """scores: (n,) in [0, 1]; labels: (n,) 0 or 1; images with another label are left out."""
        scores, labels = scores[labels <= 1].astype(np.float32), labels[labels <= 1]
        self._ill, self._well = (np.sort(scores[labels == label]) for label in (1, 0))
        self.positives, self.negatives, self.n = len(self._ill), len(self._well), len(scores)
        self.prevalence = self.positives / max(self.n, 1)
        self.drawable = self.positives > 0 and self.negatives > 0
        self.thresholds = np.append(np.unique(scores), np.float32(NEVER))[::-1]
        self.points = self.counts(self.thresholds)

    def counts(self, threshold: float | np.ndarray) -> Counts:
        """The confusion matrix where score >= threshold is positive, both as float32."""
        fn, tn = (np.searchsorted(each, np.float32(threshold)) for each in (self._ill, self._well))
        return Counts(self.positives - fn, self.negatives - tn, fn, tn)

    def cheapest(self, miss_cost: float, prevalence: float) -> float:
        """The lowest threshold of least expected cost, where a miss costs `miss_cost` false alarms."""
        cost = self.points.per(1, prevalence).cost(miss_cost)
        return float(self.thresholds[np.flatnonzero(cost <= cost.min() * (1 + 1e-12) + 1e-15)[-1]])


class Session:
    """Fourteen thresholds being chosen on the images of `val`, from `tuned` on; `past` is what undo goes back to.

    clock: the time in seconds. Raises InputError without an image and for thresholds of another calibration.
    """

    def __init__(self, val: Predictions, tuned: Thresholds, exact: Thresholds, clock: Callable[[], float] = monotonic):
        if not len(val):
            raise InputError("there is no image to explore; expected predictions with at least one row")
        for choice in (tuned, exact):
            check_calibration(val.calibration, choice)
        self.val, self.tuned, self.exact = val, tuned, exact
        self.curves = [Curve(val.scores[:, k], val.labels[:, k]) for k in range(len(FINDINGS))]
        self.values = tuned.values.copy()
        self._clock, self.past, self._gesture = clock, [], (None, -np.inf)

    def move(self, k: int, value: float) -> None:
        """Set the threshold of finding k; moves of the same finding in quick succession are one step of undo."""
        if value == self.values[k]:
            return
        now = self._clock()
        if self._gesture[0] != k or now - self._gesture[1] > _GESTURE:
            self.past.append(self.values.copy())
        self._gesture = (k, now)
        self.values[k] = value

    def choose(self, values: np.ndarray, only: int | None = None) -> None:
        """Take over `values` (14,), or just that of finding `only`, as one step of undo."""
        chosen, which = self.values.copy(), slice(None) if only is None else only
        chosen[which] = values[which]
        if (chosen != self.values).any():
            self.past.append(self.values)
            self.values = chosen
        self._gesture = (None, -np.inf)

    def undo(self) -> None:
        """Go back by one step, where there is one."""
        self._gesture = (None, -np.inf)
        if self.past:
            self.values = self.past.pop()

    def thresholds(self) -> Thresholds:
        """The current choice. Unmoved thresholds keep their interval and note; the others are noted as "by hand"."""
        for known in (self.tuned, self.exact):
            if (self.values == known.values).all():
                return known
        kept = self.values == self.tuned.values
        return dataclasses.replace(
            self.tuned,
            values=self.values.copy(),
            objective=f"by hand, from {self.tuned.objective}",
            grid=None,
            low=np.where(kept, self.tuned.low, np.nan),
            high=np.where(kept, self.tuned.high, np.nan),
            notes=tuple(np.where(kept, self.tuned.notes, "by hand")),
        )

    def changed(self, k: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of known label whose prediction for finding k differs from that of the tuned threshold.

        Returns:
            Their rows in val, and the rows to show: the `limit` of them nearest to the threshold; if there is none,
            the nearest on either side of it.
        """
        scores = self.val.scores[:, k]
        positive = at_or_above(scores, self.values[k])
        known = self.val.known[:, k]
        changed = np.flatnonzero(known & (positive != at_or_above(scores, self.tuned.values[k])))
        nearest = np.argsort(np.abs(scores - self.values[k]), kind="stable")
        nearest = nearest[known[nearest]]
        if len(changed):
            return changed, nearest[np.isin(nearest, changed)][:limit]
        sides = [nearest[positive[nearest] == side][: limit // 2] for side in (True, False)]
        return changed, np.concatenate(sides)
