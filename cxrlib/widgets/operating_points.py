"""What a threshold means for one finding: counts, rates and cost, at once for any threshold; and a session of choices.

Nothing here knows of widgets. A threshold is looked up among the sorted scores, so that a slider may move over 25,000
images as smoothly as over 200.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import numpy as np

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import NEVER, Thresholds

# Where a slider stops: 0 to 1, fine near 0 where rare findings have their scores, and above every score at the end.
SCALE = np.array(
    [*(i / 1000 for i in range(10)), *(i / 200 for i in range(2, 20)), *(i / 100 for i in range(10, 60)),
     *(i / 50 for i in range(30, 51)), NEVER]
)  # fmt: skip
_GESTURE = 1.0  # seconds: moves of one slider that follow one another faster are undone together


@dataclass(frozen=True)
class Counts:
    """A confusion matrix: images with the finding (tp called, fn missed) and without it (fp called, tn left alone)."""

    tp: float
    fp: float
    fn: float
    tn: float

    @property
    def sensitivity(self) -> float:
        return _share(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        return _share(self.tn, self.tn + self.fp)

    @property
    def ppv(self) -> float:
        return _share(self.tp, self.tp + self.fp)

    @property
    def f1(self) -> float:
        """NaN without an image that bears the finding."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn) if self.tp + self.fn else np.nan

    def per(self, patients: float, prevalence: float) -> "Counts":
        """The same sensitivity and specificity among `patients`, of whom the share `prevalence` bears the finding."""
        ill, well = patients * prevalence, patients * (1 - prevalence)
        return Counts(
            ill * self.sensitivity,
            well * (1 - self.specificity),
            ill * (1 - self.sensitivity),
            well * self.specificity,
        )

    def cost(self, ratio: float) -> float:
        """In false alarms, where a miss costs as much as `ratio` of them."""
        return ratio * self.fn + self.fp


class Curve:
    """All operating points of one finding. scores: (n,) in [0, 1]; labels: (n,) 0 or 1.

    cuts: the distinct scores, highest first, after NEVER; tp, fp: images with and without the finding at or above each.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray):
        order = np.argsort(-scores, kind="stable")
        scores, truth = scores[order], labels[order] == 1
        last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each run of equal scores
        self.cuts = np.append(NEVER, scores[last].astype(np.float64))
        self.tp = np.append(0, np.cumsum(truth)[last])
        self.fp = np.append(0, np.cumsum(~truth)[last])
        self.positives, self.negatives = int(self.tp[-1]), int(self.fp[-1])
        self.n = self.positives + self.negatives
        self.prevalence = self.positives / self.n
        with np.errstate(invalid="ignore"):
            self.tpr, self.fpr = self.tp / np.float64(self.positives), self.fp / np.float64(self.negatives)
        self._ascending = -self.cuts.astype(np.float32)

    @property
    def drawable(self) -> bool:
        """Whether both kinds of images are there."""
        return self.positives > 0 and self.negatives > 0

    def counts(self, threshold: float) -> Counts:
        """The confusion matrix where score >= threshold is called, both as float32."""
        place = np.searchsorted(self._ascending, -np.float32(threshold), side="right") - 1
        tp, fp = (int(of[max(place, 0)]) for of in (self.tp, self.fp))
        return Counts(tp, fp, self.positives - tp, self.negatives - fp)

    def precision(self, prevalence: float) -> np.ndarray:
        """PPV at every cut where the share `prevalence` bears the finding; NaN where nothing is called."""
        with np.errstate(invalid="ignore"):
            return self.tpr * prevalence / (self.tpr * prevalence + self.fpr * (1 - prevalence))

    def cheapest(self, ratio: float, prevalence: float) -> float:
        """The threshold of least expected cost where a miss costs `ratio` false alarms; of equals the lowest."""
        cost = ratio * prevalence * (1 - self.tpr) + (1 - prevalence) * self.fpr
        return float(self.cuts[np.flatnonzero(cost <= cost.min() * (1 + 1e-12) + 1e-15)[-1]])


class Session:
    """Fourteen thresholds in work: moved one by one or together, undone, and turned into `Thresholds`.

    val: the images on which thresholds are chosen; tuned: where to start, and what to compare with; exact: the other
    choice. clock: seconds, for tests.
    """

    def __init__(self, val: Predictions, tuned: Thresholds, exact: Thresholds, clock: Callable[[], float] = monotonic):
        if not len(val):
            raise InputError("there is no image to explore; expected predictions with at least one row")
        for choice in (tuned, exact):
            choice.apply(val)  # refuses scores of another calibration
        self.val, self.tuned, self.exact = val, tuned, exact
        self.curves = [Curve(val.scores[:, k], val.labels[:, k]) for k in range(len(FINDINGS))]
        self.values = tuned.values.copy()
        self._clock, self._past, self._gesture = clock, [], (None, -np.inf)

    def move(self, k: int, value: float) -> None:
        """Set the threshold of finding k; moves of the same finding in quick succession are one step of undo."""
        value, now = float(value), self._clock()
        if value == self.values[k]:
            return
        if self._gesture[0] != k or now - self._gesture[1] > _GESTURE:
            self._past.append(self.values.copy())
        self._gesture = (k, now)
        self.values[k] = value

    def choose(self, values: np.ndarray, only: int | None = None) -> None:
        """Take over `values` (14,), or just that of finding `only`; one step of undo."""
        chosen = self.values.copy()
        rows = slice(None) if only is None else only
        chosen[rows] = np.asarray(values, np.float64)[rows]
        if (chosen != self.values).any():
            self._past.append(self.values)
            self.values = chosen
        self._gesture = (None, -np.inf)

    def undo(self) -> bool:
        """Back by one step; False where there is none."""
        self._gesture = (None, -np.inf)
        if self._past:
            self.values = self._past.pop()
            return True
        return False

    @property
    def can_undo(self) -> bool:
        return bool(self._past)

    def thresholds(self) -> Thresholds:
        """The present choice. What was left as tuned keeps its interval and note; the rest is noted as "by hand"."""
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
            notes=tuple(note if same else "by hand" for note, same in zip(self.tuned.notes, kept, strict=True)),
        )

    def changed(self, k: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of val whose call for finding k differs from the tuned choice (n_changed,), and the rows to show.

        To show: of the changed the `limit` nearest to the threshold; where none has changed, the next that would.
        """
        scores = self.val.scores[:, k]
        called, before = (scores >= np.float32(value) for value in (self.values[k], self.tuned.values[k]))
        changed = np.flatnonzero(called != before)
        nearest = np.argsort(np.abs(scores - self.values[k]), kind="stable")
        if len(changed):
            return changed, nearest[np.isin(nearest, changed)][:limit]
        sides = [nearest[called[nearest] == side][: limit // 2] for side in (True, False)]
        return changed, np.concatenate(sides)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else np.nan
