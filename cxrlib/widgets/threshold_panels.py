"""The panels of `ThresholdExplorer` as SVG and HTML text, made from numbers alone."""

from collections.abc import Iterable
from html import escape

import numpy as np
from matplotlib.colors import to_hex, to_rgb

from cxrlib.evaluation.thresholds import NEVER
from cxrlib.plots.style import pretty
from cxrlib.widgets.html import INK, NEGATIVE, POSITIVE, SOFT, Chart, column_heads, number, table_row
from cxrlib.widgets.operating_points import Counts, Curve

_OUTCOMES = (("left alone", "missed"), ("false alarm", "found"))  # [predicted positive][labelled]
_KEY = (
    '<p style="max-width:430px;margin:10px 0 0">Costs are counted in false alarms. ROC: all points of the dashed line '
    "cost as much as the current one. PR: the dashed curve is for the chosen prevalence. Dotted lines: chance. A dot "
    "in the table: not the tuned threshold. Choose thresholds here, on validation; evaluate them on test.</p>"
)
_LINE = f'stroke="{INK}" stroke-width="1.8"'
_FAINT = f'stroke="{SOFT}" stroke-width="1.2" stroke-dasharray="4 3"'
_CHANCE = f'stroke="{SOFT}" stroke-dasharray="1 3"'
_ENDS = np.array([0, 1])


def show_threshold(value: float) -> str:
    """A threshold as text."""
    return "never positive" if value >= NEVER else f"{value:.3f}"


class Histogram:
    """Scores of the images without the finding (upwards) and with it (downwards), each class to its own height."""

    WIDTH, HEIGHT, LEFT, MIDDLE, HALF, BINS = 640, 196, 8, 88, 62, 48  # pixels; number of bins

    def __init__(self, scores: np.ndarray, labels: np.ndarray):
        up, down = self._bars(scores[labels == 0], -1), self._bars(scores[labels == 1], 1)
        self.bars = f'<path d="{up}" fill="{NEGATIVE}"/><path d="{down}" fill="{POSITIVE}"/>'
        self.ground = f'<text x="{self.WIDTH / 2}" y="193" text-anchor="middle">score (axis stretched near 0)</text>'
        for tick in (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1):
            x = f"{self._x(tick):.1f}"
            self.ground += f'<text x="{x}" y="178" text-anchor="middle">{tick:g}</text>'
            self.ground += f'<path d="M{x} {self.MIDDLE - self.HALF}v{2 * self.HALF}" stroke="#e4e4e4"/>'

    def _x(self, score: float) -> float:
        return self.LEFT + (self.WIDTH - 2 * self.LEFT) * _stretched(score)

    def _bars(self, scores: np.ndarray, sign: int) -> str:
        counts = np.histogram(_stretched(scores), bins=self.BINS, range=(0, 1))[0]
        heights, step = sign * self.HALF * counts / max(counts.max(), 1), (self.WIDTH - 2 * self.LEFT) / self.BINS
        return "".join(
            f"M{self.LEFT + i * step + 0.5:.1f} {self.MIDDLE}v{height:.1f}h{step - 1:.1f}V{self.MIDDLE}z"
            for i, height in enumerate(heights)
            if height
        )

    def at(self, threshold: float, counts: Counts) -> str:
        """The panel for one threshold: bars below it are pale."""
        x, right = self._x(threshold), self.WIDTH - self.LEFT
        top, bottom = self.MIDDLE - self.HALF, self.MIDDLE + self.HALF
        size = f'width="{self.WIDTH - x:.1f}" height="{self.HEIGHT}"'

        def say(at: str, y: float, n: float, after: str, before: str = "") -> str:
            return f'<text {at} y="{y}">{before}<tspan font-weight="bold">{n:,.0f}</tspan> {after}</text>'

        left, end = f'x="{self.LEFT}"', f'x="{right}" text-anchor="end"'
        return (
            f'<svg width="{self.WIDTH}" height="{self.HEIGHT}" role="img" '
            f'aria-label="Histogram of scores, threshold {show_threshold(threshold)}">{self.ground}'
            f'<g opacity="0.38">{self.bars}</g><svg x="{x:.1f}" {size}><g transform="translate({-x:.1f})">{self.bars}'
            f'</g></svg><path d="M{self.LEFT} {self.MIDDLE}H{right}" stroke="{INK}"/>'
            f'<path d="M{x:.1f} {top - 4}V{bottom + 4}" stroke="{INK}" stroke-width="2.5"/>'
            f"{say(left, top - 10, counts.tn, 'left alone', 'without the finding: ')}"
            f"{say(end, top - 10, counts.fp, 'false alarms')}"
            f"{say(left, bottom + 15, counts.fn, 'missed', 'with the finding: ')}"
            f"{say(end, bottom + 15, counts.tp, 'found')}</svg>"
        )


class RocPanel(Chart):
    """Sensitivity against 1 - specificity, with a line on which all points cost the same."""

    def __init__(self, curve: Curve, auroc: float):
        self.ground = self.frame(f"ROC, AUROC {number(auroc)}", "1 – specificity", "sensitivity")
        self.ground += self.path(_ENDS, _ENDS, _CHANCE) + self.path(
            1 - curve.points.specificity, curve.points.sensitivity, _LINE
        )

    def at(self, points: dict[str, Counts], miss_cost: float, prevalence: float) -> str:
        """The panel for the confusion matrix of each mark; the line goes through the point "now"."""
        now = points["now"]
        x, y = 1 - now.specificity, now.sensitivity
        slope = (1 - prevalence) / (miss_cost * prevalence)
        ends = np.clip(x + (_ENDS - y) / slope, 0, 1)
        same_cost = self.path(ends, y + slope * (ends - x), _FAINT)
        marks = "".join(self.mark(kind, 1 - point.specificity, point.sensitivity) for kind, point in points.items())
        label = f"ROC curve; sensitivity {number(y)} at specificity {number(now.specificity)}"
        return self.svg(label, self.ground, same_cost, marks)


class PrPanel(Chart):
    """PPV against sensitivity at the prevalence of the images, and, dashed, at another."""

    def __init__(self, curve: Curve, ap: float):
        self.curve = curve
        self.ground = self.frame(f"PR, AP {number(ap)}", "sensitivity", "PPV")
        self.ground += self._curve(curve.prevalence, _LINE)

    def _curve(self, prevalence: float, style: str) -> str:
        chance = self.path(_ENDS, np.full(2, prevalence), _CHANCE)
        points = self.curve.points.per(1000, prevalence)
        return chance + self.path(points.sensitivity, points.ppv, style)

    def at(self, points: dict[str, Counts], prevalence: float) -> str:
        """The panel for the confusion matrix of each mark."""
        now, elsewhere = points["now"], ""
        if prevalence != self.curve.prevalence:
            there = now.per(1000, prevalence)
            elsewhere = self._curve(prevalence, _FAINT) + self.mark("elsewhere", there.sensitivity, there.ppv)
        marks = "".join(self.mark(kind, point.sensitivity, point.ppv) for kind, point in points.items())
        label = f"PR curve; PPV {number(now.ppv)} at sensitivity {number(now.sensitivity)}"
        return self.svg(label, self.ground, elsewhere, marks)


def confusion_table(here: Counts, there: Counts, prevalence: float, n: int) -> str:
    """The confusion matrix of the n images, and of 1,000 patients at a prevalence."""

    def field(name: str, cell: str, colour: str, ink: str = "#000") -> str:
        expected = getattr(there, cell)
        per = number(expected, 0 if expected >= 10 or expected == 0 else 1)
        look = f"background:{colour};color:{ink};text-align:center;padding:5px 14px;border:2px solid #fff"
        count = f'<b style="font-size:17px">{getattr(here, cell):,.0f}</b> {name}'
        return f'<td class="{cell}" style="{look}">{count}<br>{per} per 1,000</td>'

    head = '<th scope="col" style="text-align:center">predicted'
    ill = field("found", "tp", POSITIVE) + field("missed", "fn", _pale(POSITIVE))
    well = field("false alarms", "fp", NEGATIVE, "#fff") + field("left alone", "tn", _pale(NEGATIVE))
    return (
        f'<table style="margin-top:10px"><caption>{n:,} images; and 1,000 patients, {1000 * prevalence:.3g} of them '
        f"with the finding</caption><tr><th></th>{head} positive</th>{head} negative</th></tr>"
        f'<tr><th scope="row">with it</th>{ill}</tr><tr><th scope="row">without it</th>{well}</tr></table>{_KEY}'
    )


def metrics_table(choices: dict[str, tuple[float, Counts]], miss_cost: float, prevalence: float) -> str:
    """One row per threshold, the current one first: metrics in the images, PPV and cost (in false alarms) elsewhere."""
    rows = ""
    for name, (threshold, counts) in choices.items():
        there = counts.per(1000, prevalence)
        rates = (counts.sensitivity, counts.specificity, counts.ppv, counts.f1, there.ppv)
        cells = [show_threshold(threshold), *map(number, rates), number(there.cost(miss_cost), 0)]
        rows += table_row(name, cells, current=not rows)
    heads = column_heads("threshold", "sensitivity", "specificity", "PPV", "F1", "PPV", "cost")
    return (
        '<table style="margin-top:8px"><tr><th></th><th></th><th colspan="4">in these images</th>'
        f'<th colspan="2">of 1,000, {1000 * prevalence:.3g} with it</th></tr><tr><th></th>{heads}</tr>{rows}</table>'
    )


def row_metrics(threshold: float, counts: Counts, tuned: float) -> str:
    """The metrics of one finding in the list of all fourteen; a dot where the threshold is not the tuned one."""
    shown, dot = "never" if threshold >= NEVER else f"{threshold:.3f}", "•" if threshold != tuned else ""
    cells = [f"{shown}{dot:\u2002<1}", *map(number, (counts.sensitivity, counts.ppv, counts.f1))]
    look = "display:inline-block;text-align:right;font-variant-numeric:tabular-nums;width"
    widths = (58, 40, 40, 40)
    return "".join(f'<span style="{look}:{width}px">{cell}</span>' for width, cell in zip(widths, cells, strict=True))


def gallery(items: Iterable[tuple[str, str, float, bool, int]], headline: str) -> str:
    """Pictures with outcome and score. items: name, data URI or "", score, predicted positive and label per image."""
    figures = []
    for name, uri, score, positive, labelled in items:
        border = f"5px {'solid' if positive else 'dashed'} {POSITIVE if labelled else NEGATIVE}"
        picture = f'<img src="{uri}" alt="radiograph {escape(name)}"/>' if uri else f"<code>{escape(name)}</code>"
        figures.append(
            f'<figure title="{escape(name)}">{picture}<figcaption style="border-top:{border}">'
            f"<b>{_OUTCOMES[int(positive)][labelled]}</b><br>score {score:.3f}</figcaption></figure>"
        )
    return f'<div style="padding:4px 0">{headline}</div><div class="side">{"".join(figures)}</div>'


def headline(finding: str, tuned: float, now: Counts, before: Counts, changed: int) -> str:
    """What the current threshold changes against the tuned one, in a sentence."""
    against = f"against the tuned choice ({show_threshold(tuned)}) for {pretty(finding)}"
    if not changed:
        return f"<b>No image changes side</b> {against}. The next that would:"
    found, alarms = now.tp - before.tp, now.fp - before.fp
    if found >= 0 and alarms >= 0:
        words = f"{found:.0f} more found, {alarms:.0f} more false alarms"
    else:
        words = f"{-found:.0f} more missed, {-alarms:.0f} fewer false alarms"
    images = "1 image changes" if changed == 1 else f"{changed:,} images change"
    return f"<b>{images} side</b> {against}: {words}. Nearest the threshold first:"


def _stretched(score: np.ndarray) -> np.ndarray:
    """The place of a score on an axis from 0 to 1 that is stretched near 0."""
    return np.clip(score, 0, 1) ** (1 / 3)


def _pale(colour: str) -> str:
    """The colour at 38 % on white, as in the histogram."""
    return to_hex(1 - 0.38 * (1 - np.array(to_rgb(colour))))
