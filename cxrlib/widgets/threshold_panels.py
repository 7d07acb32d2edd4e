"""The figures of `ThresholdExplorer` for one finding: histogram, ROC and PR curve, as places in SVG pixels."""

from itertools import groupby

import numpy as np

from cxrlib.widgets.html import macros, number
from cxrlib.widgets.operating_points import Counts, Curve

PANELS = macros("threshold.html")
_BINS = 48
_ENDS = np.array([0, 1])
_KINDS = ("0.5", "tuned", "cheapest", "now")  # marks in a chart, the topmost last


class Figures:
    """The figures of one finding; what does not depend on the threshold is made once.

    Args:
        curve: its operating points.
        scores: (n,) of all images, for the histogram.
        labels: (n,) 0 or 1.
        auroc: for the title of the ROC curve.
        ap: average precision, for the title of the PR curve.
    """

    def __init__(self, curve: Curve, scores: np.ndarray, labels: np.ndarray, auroc: float, ap: float):
        self.curve = curve
        self.bars = _bars(scores[labels == 0], -1), _bars(scores[labels == 1], 1)
        roc = {"title": f"ROC, AUROC {number(auroc)}", "across": "1 – specificity", "up": "sensitivity"}
        pr = {"title": f"PR, AP {number(ap)}", "across": "sensitivity", "up": "PPV"}
        self.roc = roc | {"lines": [("chance", _path(_ENDS, _ENDS)), ("curve", _path(*_roc(curve.points)))]}
        self.pr = pr | {"lines": self._pr_lines(curve.prevalence, "curve")}

    def at(self, choices: dict[str, tuple[float, Counts]], miss_cost: float, prevalence: float) -> str:
        """The figures for the threshold "now" of `choices`, with the others as marks, at a prevalence."""
        threshold, now = choices["now"]
        ticks = {tick: _across(tick) for tick in (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1)}
        charts = []
        if self.curve.drawable:
            points = {kind: choices[kind][1] for kind in _KINDS}
            charts = [self._roc_at(points, miss_cost, prevalence), self._pr_at(points, prevalence)]
        return PANELS.figures(self.bars, ticks, threshold, _across(threshold), now, charts, self.curve)

    def _roc_at(self, points: dict[str, Counts], miss_cost: float, prevalence: float) -> dict:
        """The ROC curve, with a line through the point "now" on which all points cost the same."""
        x, y = _roc(points["now"])
        slope = (1 - prevalence) / (miss_cost * prevalence)
        ends = np.clip(x + (_ENDS - y) / slope, 0, 1)
        same_cost = ("other", _path(ends, y + slope * (ends - x)))
        label = f"ROC curve; sensitivity {number(y)} at specificity {number(1 - x)}"
        marks = _marks({kind: _roc(point) for kind, point in points.items()})
        return self.roc | {"label": label, "lines": [*self.roc["lines"], same_cost], "marks": marks}

    def _pr_at(self, points: dict[str, Counts], prevalence: float) -> dict:
        """The PR curve at the prevalence of the images, and, dashed, at another."""
        now, places, lines = points["now"], {}, self.pr["lines"]
        if prevalence != self.curve.prevalence:
            places["elsewhere"] = _pr(now.per(1000, prevalence))
            lines = lines + self._pr_lines(prevalence, "other")
        label = f"PR curve; PPV {number(now.rates['ppv'])} at sensitivity {number(now.rates['sensitivity'])}"
        places |= {kind: _pr(point) for kind, point in points.items()}
        return self.pr | {"label": label, "lines": lines, "marks": _marks(places)}

    def _pr_lines(self, prevalence: float, style: str) -> list[tuple[str, str]]:
        chance = ("chance", _path(_ENDS, np.full(2, prevalence)))
        return [chance, (style, _path(*_pr(self.curve.points.per(1000, prevalence))))]


def _roc(counts: Counts) -> tuple:
    return 1 - counts.rates["specificity"], counts.rates["sensitivity"]


def _pr(counts: Counts) -> tuple:
    return counts.rates["sensitivity"], counts.rates["ppv"]


def _pixels(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., 2) pixels of a chart from the left and from the top, to one decimal."""
    return np.round(np.stack([40 + 264 * x, 22 + 182 * (1 - y)], axis=-1), 1)


def _marks(places: dict[str, tuple]) -> list[tuple[str, list[float]]]:
    """Names and pixels of points; those that are undefined are left out."""
    return [(kind, _pixels(x, y).tolist()) for kind, (x, y) in places.items() if not np.isnan(x + y)]


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """A line through the points; undefined points and repeats within a tenth of a pixel are left out."""
    places = _pixels(x, y)
    distinct = groupby(places[~np.isnan(places).any(axis=1)].tolist())
    return "M" + "L".join(f"{a:g} {b:g}" for (a, b), _ in distinct)


def _stretched(score: np.ndarray) -> np.ndarray:
    """The place of a score on an axis from 0 to 1 that is stretched near 0."""
    return np.clip(score, 0, 1) ** (1 / 3)


def _across(score: float) -> float:
    """The pixel of a score in the histogram."""
    return round(8 + 624 * float(_stretched(score)), 1)


def _bars(scores: np.ndarray, sign: int) -> str:
    """The bars of a class as a path, to its own height: upwards (-1) or downwards (1)."""
    counts = np.histogram(_stretched(scores), bins=_BINS, range=(0, 1))[0]
    heights, step = sign * 62 * counts / max(counts.max(), 1), 624 / _BINS
    return "".join(
        f"M{8 + i * step + 0.5:.1f} 88v{height:.1f}h{step - 1:.1f}V88z" for i, height in enumerate(heights) if height
    )
