"""The panels of `ThresholdExplorer` as text: SVG and HTML from numbers, nothing that knows of widgets."""

from html import escape

import numpy as np

from cxrlib.evaluation.thresholds import NEVER
from cxrlib.plots.style import pretty
from cxrlib.widgets.html import INK, NEGATIVE, POSITIVE, SOFT, Chart, number
from cxrlib.widgets.operating_points import Counts, Curve

_TICKS = (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1)
_BINS = 48
_THUMB = 92
_KEY = (
    '<p style="max-width:430px;margin:10px 0 0">Cost is counted in false alarms. Dashed in the ROC: what costs as much '
    "as now; dashed in the PR: the curve at another prevalence. Dotted: guessing. A dot in the table: not as tuned. "
    "Thresholds are chosen here, on validation; what they are worth is read on test.</p>"
)
_LINE = f'stroke="{INK}" stroke-width="1.8"'
_FAINT = f'stroke="{SOFT}" stroke-width="1.2" stroke-dasharray="4 3"'


def show_threshold(value: float) -> str:
    """A threshold for readers."""
    return "never called" if value >= NEVER else f"{value:.3f}"


def stretched(score):
    """Where a score stands on an axis that is fine near 0, from 0 to 1."""
    return np.clip(score, 0, 1) ** (1 / 3)


class Histogram:
    """Scores of the images without the finding (up) and with it (down), and the cut. What moves is drawn by `at`."""

    def __init__(self, scores: np.ndarray, labels: np.ndarray, width: int = 640, height: int = 196):
        self.width, self.height = width, height
        self.left, self.w, self.middle, self.half = 8, width - 16, 88, 62
        self.bars = [
            self._bars(scores[labels == of], up) for of, up in ((0, True), (1, False))
        ]  # of each class, to its own height
        ticks = [f'<text x="{self._x(t):.1f}" y="{height - 18}" text-anchor="middle">{t:g}</text>'
                 f'<path d="M{self._x(t):.1f} {self.middle - self.half}v{2 * self.half}" stroke="#e4e4e4"/>'
                 for t in _TICKS]  # fmt: skip
        label = f'<text x="{width / 2}" y="{height - 3}" text-anchor="middle">score (axis stretched near 0)</text>'
        self.ground = "".join(ticks) + label

    def _x(self, score: float) -> float:
        return self.left + self.w * float(stretched(score))

    def _bars(self, scores: np.ndarray, up: bool) -> str:
        counts = np.histogram(stretched(scores), bins=_BINS, range=(0, 1))[0]
        heights = self.half * counts / max(counts.max(), 1)
        step = self.w / _BINS
        return "".join(
            f"M{self.left + i * step + 0.5:.1f} {self.middle}v{-h if up else h:.1f}h{step - 1:.1f}V{self.middle}z"
            for i, h in enumerate(heights)
            if h
        )

    def at(self, threshold: float, counts: Counts) -> str:
        """The whole panel for one cut: left of it pale (not called), right of it full (called)."""
        cut, (up, down) = self._x(threshold), self.bars
        bars = f'<path d="{up}" fill="{NEGATIVE}"/><path d="{down}" fill="{POSITIVE}"/>'
        right = self.width - cut
        size = f"{right:.1f} {self.height}"
        called = (
            f'<svg x="{cut:.1f}" width="{right:.1f}" height="{self.height}" viewBox="{cut:.1f} 0 {size}">{bars}</svg>'
        )
        down_to = f"M{cut:.1f} {self.middle - self.half - 4}v{2 * self.half + 8}"
        line = f'<path class="cut" d="{down_to}" stroke="{INK}" stroke-width="2.5"/>'
        zero = f'<path d="M{self.left} {self.middle}h{self.w}" stroke="{INK}"/>'
        words = self._words(counts)
        says = f"Histogram of scores, cut at {show_threshold(threshold)}"
        head = f'<svg width="{self.width}" height="{self.height}" role="img" aria-label="{says}">'
        return f'{head}{self.ground}<g opacity="0.38">{bars}</g>{called}{zero}{line}{words}</svg>'

    def _words(self, counts: Counts) -> str:
        """What stands on either side of the cut, above and below the bars."""
        above, below, end = self.middle - self.half - 10, self.middle + self.half + 15, self.left + self.w

        def say(y: float, before: str, n: float, after: str, right: bool = False) -> str:
            place = f'x="{end}" text-anchor="end"' if right else f'x="{self.left}"'
            return f'<text {place} y="{y}">{before}<tspan font-weight="bold">{n:,.0f}</tspan> {after}</text>'

        return "".join(
            [
                say(above, "without the finding: ", counts.tn, "left alone"),
                say(above, "", counts.fp, "false alarms", right=True),
                say(below, "with the finding: ", counts.fn, "missed"),
                say(below, "", counts.tp, "found", right=True),
            ]
        )


class RocPanel:
    """Sensitivity against false alarms, with the line on which all points cost the same."""

    def __init__(self, curve: Curve, auroc: float, width: int = 316, height: int = 240):
        self.curve, self.chart = curve, Chart(width, height)
        title = f"ROC, AUROC {number(auroc)}"
        self.ground = self.chart.frame(title, "1 – specificity", "sensitivity") + self.chart.path(
            np.array([0, 1]), np.array([0, 1]), f'stroke="{SOFT}" stroke-dasharray="1 3"'
        )
        self.ground += self.chart.path(curve.fpr, curve.tpr, _LINE)

    def at(self, points: dict[str, Counts], ratio: float, prevalence: float) -> str:
        """points: the confusion matrix of each mark. All points of the dashed line cost as much as the present one."""
        now = points["now"]
        x, y = 1 - now.specificity, now.sensitivity
        slope = (1 - prevalence) / (ratio * prevalence) if prevalence else np.inf
        same = ""
        if np.isfinite(slope) and not np.isnan(x + y):
            same = self.chart.inside(self.chart.path(np.array([-1, 2]), y + slope * (np.array([-1, 2]) - x), _FAINT))
        marks = "".join(self.chart.mark(kind, 1 - at.specificity, at.sensitivity) for kind, at in points.items())
        says = f"ROC curve; sensitivity {number(y)} at specificity {number(now.specificity)}"
        return self.chart.svg(says, self.ground, same, marks)


class PrPanel:
    """PPV against sensitivity at the prevalence of the images, and, dashed, at another."""

    def __init__(self, curve: Curve, ap: float, width: int = 316, height: int = 240):
        self.curve, self.chart = curve, Chart(width, height)
        self.ground = self.chart.frame(f"PR, AP {number(ap)}", "sensitivity", "PPV")
        self.ground += self._curve(curve.prevalence, _LINE)

    def _curve(self, prevalence: float, style: str) -> str:
        chance = f'stroke="{SOFT}" stroke-dasharray="1 3"'
        level = np.array([prevalence, prevalence])
        return self.chart.path(np.array([0, 1]), level, chance) + self.chart.path(
            self.curve.tpr, self.curve.precision(prevalence), style
        )

    def at(self, points: dict[str, Counts], prevalence: float) -> str:
        now = points["now"]
        elsewhere, says = "", f"PR curve; PPV {number(now.ppv)} at sensitivity {number(now.sensitivity)}"
        if prevalence != self.curve.prevalence:
            there = now.per(1000, prevalence)
            ring = f'<circle r="5.5" fill="#fff" stroke="{INK}" stroke-width="1.6" stroke-dasharray="3 2"/>'
            elsewhere = self._curve(prevalence, _FAINT)
            if not np.isnan(there.ppv):
                x, y = self.chart.x(there.sensitivity), self.chart.y(there.ppv)
                elsewhere += f'<g class="elsewhere" transform="translate({x} {y})">{ring}</g>'
        marks = "".join(self.chart.mark(kind, at.sensitivity, at.ppv) for kind, at in points.items())
        return self.chart.svg(says, self.ground, elsewhere, marks)


def confusion_table(here: Counts, there: Counts, prevalence: float, n: int) -> str:
    """The four fields as counts, and among 1,000 patients at a prevalence."""

    def field(name: str, part: str, colour: str, ink: str = "#000") -> str:
        each = getattr(there, part)
        per = "–" if np.isnan(each) else f"{each:.0f}" if each >= 10 or each == 0 else f"{each:.1f}"
        look = f"background:{colour};color:{ink};text-align:center;padding:5px 14px;border:2px solid #fff"
        count = f'<b style="font-size:17px">{getattr(here, part):,.0f}</b> {name}'
        return f'<td class="{part}" style="{look}">{count}<br>{per} per 1,000</td>'

    heads = "".join(f'<th scope="col" style="text-align:center">{head}</th>' for head in ("called", "not called"))
    ill = field("found", "tp", POSITIVE) + field("missed", "fn", _pale(POSITIVE))
    well = field("false alarms", "fp", NEGATIVE, "#fff") + field("left alone", "tn", _pale(NEGATIVE))
    return (
        f'<table style="margin-top:10px"><caption>{n:,} images; and 1,000 patients, {1000 * prevalence:.3g} of them '
        f'with the finding</caption><tr><th></th>{heads}</tr><tr><th scope="row">with it</th>{ill}</tr>'
        f'<tr><th scope="row">without it</th>{well}</tr></table>{_KEY}'
    )


def figures_table(choices: dict[str, tuple[float, Counts]], ratio: float, prevalence: float) -> str:
    """Sensitivity to F1 in the images, and PPV and cost at the prevalence; a row a choice, the first is the present."""
    rows = []
    for name, (threshold, counts) in choices.items():
        there = counts.per(1000, prevalence)
        rates = (counts.sensitivity, counts.specificity, counts.ppv, counts.f1, there.ppv)
        cells = [show_threshold(threshold), *map(number, rates), number(there.cost(ratio), 0)]
        cells = "".join(f"<td>{cell}</td>" for cell in cells)
        kind = ' class="now"' if not rows else ""
        rows.append(f'<tr{kind}><th scope="row">{escape(name)}</th>{cells}</tr>')
    heads = ["threshold", "sensitivity", "specificity", "PPV", "F1"]
    heads = "".join(f'<th scope="col">{head}</th>' for head in heads)
    here, there = "in these images", f"of 1,000, {1000 * prevalence:.3g} with it"
    return (
        '<table style="margin-top:8px">'
        f'<tr><th></th><th></th><th colspan="4">{here}</th><th colspan="2">{there}</th></tr>'
        f'<tr><th></th>{heads}<th scope="col">PPV</th><th scope="col">cost</th></tr>{"".join(rows)}</table>'
    )


def row_figures(threshold: float, counts: Counts, tuned: float) -> str:
    """The numbers of one finding in the table of all fourteen; a dot where it is not as tuned."""
    dot = "•" if threshold != tuned else ""
    shown = "never" if threshold >= NEVER else f"{threshold:.3f}"
    cells = [f"{shown}{dot:\u2002<1}", *map(number, (counts.sensitivity, counts.ppv, counts.f1))]
    look = "display:inline-block;text-align:right;font-variant-numeric:tabular-nums;width"
    widths = (58, 40, 40, 40)
    return "".join(f'<span style="{look}:{width}px">{cell}</span>' for width, cell in zip(widths, cells, strict=True))


def gallery(items: list[tuple[str, str, float, str]], headline: str) -> str:
    """Pictures with their score and what became of them. items: (name, data URI or "", score, outcome)."""
    shown = []
    for name, uri, score, outcome in items:
        colour = POSITIVE if outcome in ("found", "missed") else NEGATIVE
        line = "solid" if outcome in ("found", "false alarm") else "dashed"
        picture = f'<img src="{uri}" alt="radiograph {escape(name)}"/>' if uri else f"<code>{escape(name)}</code>"
        shown.append(
            f'<figure title="{escape(name)}">{picture}<figcaption style="border-top:5px {line} {colour}">'
            f"<b>{outcome}</b><br>score {score:.3f}</figcaption></figure>"
        )
    return f'<div style="padding:4px 0">{headline}</div><div class="side">{"".join(shown)}</div>'


def headline(finding: str, threshold: float, now: Counts, tuned: float, before: Counts, changed: int) -> str:
    """What the present threshold changes against the tuned one, in a sentence."""
    against = f"against the tuned choice ({show_threshold(tuned)}) for {escape(pretty(finding))}"
    if not changed:
        return f"<b>No image changes side</b> {against}. The next that would:"
    found, alarms = now.tp - before.tp, now.fp - before.fp
    if found >= 0 and alarms >= 0:
        words = f"{found:.0f} more found, {alarms:.0f} more false alarms"
    else:
        words = f"{-found:.0f} more missed, {-alarms:.0f} fewer false alarms"
    images = "1 image changes" if changed == 1 else f"{changed:,} images change"
    return f"<b>{images} side</b> {against}: {words}. Nearest the threshold first:"


def _pale(colour: str) -> str:
    """The colour at 38 per cent on white, as in the histogram."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - 0.38 * (255 - part)):02x}" for part in parts)
