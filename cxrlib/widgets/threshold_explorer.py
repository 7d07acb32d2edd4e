"""`ThresholdExplorer`: move a threshold, and see at once what it finds, what it misses and what it costs."""

from collections.abc import Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path

import ipywidgets as w
import numpy as np

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.metrics import point_estimates
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds, tune_thresholds
from cxrlib.plots.style import pretty
from cxrlib.widgets.html import STYLE, data_uri, legend, plain_button, step_slider
from cxrlib.widgets.operating_points import SCALE, Session
from cxrlib.widgets.threshold_panels import (
    Histogram,
    PrPanel,
    RocPanel,
    confusion_table,
    figures_table,
    gallery,
    headline,
    row_figures,
    show_threshold,
)

COSTS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000)
PREVALENCES = (*range(1, 10), *range(10, 50, 5), *range(50, 200, 10), *range(200, 1000, 50))  # in 1,000 patients
SHOWN = 12  # pictures at most
_WRAP = {"flex_flow": "row wrap", "align_items": "flex-start"}
_LINE = {"align_items": "center"}
_HALF = np.full(len(FINDINGS), 0.5)


class ThresholdExplorer(w.VBox):
    """Set the threshold of each finding by hand, on the validation images, and save the choice.

    val: the predictions on which thresholds are chosen (never the test part). thresholds: where to start and what to
    compare with. exact: what the button "tuned (exact)" takes; default: tuned for the same objective over all scores.
    images: name -> (h, w) uint8, such as an `ImageCache`, for the gallery; without them it lists names and scores.
    save_to: where the button "save" writes `Thresholds`, for example `run.thresholds`; without it the button is off.
    checkpoint: of the model whose scores these are; "save" puts the choice into it, too, where heat maps look for it.

    `session` holds the choice so far, `session.thresholds()` gives it as `Thresholds`. Every control answers to
    observe; nothing is printed, so that a notebook with an explorer also runs headless.
    """

    def __init__(
        self,
        val: Predictions,
        thresholds: Thresholds,
        exact: Thresholds | None = None,
        images: Mapping[str, np.ndarray] | None = None,
        save_to: str | Path | None = None,
        checkpoint: str | Path | None = None,
    ):
        objective = "f1" if thresholds.objective.startswith("by hand") else thresholds.objective
        exact = exact or tune_thresholds(val, grid=None, objective=objective, resampling=Bootstrap(0))
        self.session = Session(val, thresholds, exact)
        self._images, self._save_to, self._checkpoint, self._thumbs = images, save_to, checkpoint, {}
        self._ratios = np.full(len(FINDINGS), 5.0)
        self._prevalences = np.array([curve.prevalence for curve in self.session.curves])
        self._ranking = point_estimates(val)
        self._panels, self._quiet, self.chosen = {}, False, int(val.labels.sum(axis=0).argmax())
        self._build()
        both = w.HBox([self._table, self._detail], layout=_WRAP)
        super().__init__([w.HTML(STYLE), self._bar, self._status, both, self._gallery])
        self.add_class("cxr")
        self._choose(self.chosen)

    def __repr__(self) -> str:
        return f"ThresholdExplorer({len(FINDINGS)} findings, {len(self.session.val):,} images)"

    # ---- what is there ---------------------------------------------------------------------------------------------
    def _build(self) -> None:
        names = [(pretty(name), k) for k, name in enumerate(FINDINGS)]
        self._finding = w.Dropdown(options=names, description="Finding", layout={"width": "250px"})
        self._threshold = step_slider(SCALE, "Threshold", "Threshold of the chosen finding")
        self._typed = w.BoundedFloatText(min=0, max=1, step=0.001, layout={"width": "90px"}, tooltip="Threshold, typed")
        self._ratio = step_slider(COSTS, "Cost of a miss", "How many false alarms one missed finding costs as much as")
        self._prevalence = step_slider(PREVALENCES, "Prevalence", "How many of 1,000 patients bear the finding")
        self._as_here = plain_button("as here", "The prevalence of these images")
        self._ratio_text, self._prevalence_text, self._status = w.HTML(), w.HTML(), w.HTML()
        self._figures, self._confusion, self._numbers, self._gallery = (w.HTML() for _ in range(4))
        self._all = w.Checkbox(description="all fourteen", indent=False, layout={"width": "110px"},
                               tooltip="Whether the four buttons before set all fourteen findings")  # fmt: skip
        given = "tuned (grid)" if self.session.tuned.grid else "as given"
        self._buttons = {
            name: plain_button(name, tip)
            for name, tip in {
                given: "The thresholds this explorer was opened with",
                "tuned (exact)": "The best of all score values on these images",
                "0.5": "The usual threshold, one half",
                "cheapest": "The threshold of least expected cost at this cost of a miss and this prevalence",
                "undo": "One step back",
                "save": f"Write {self._save_to}" if self._save_to else "Off: the explorer was opened without save_to",
            }.items()
        }
        self._rows = [self._row(k) for k in range(len(FINDINGS))]
        self._lay_out()
        self._observe(given)

    def _row(self, k: int) -> w.HBox:
        name = w.Button(description=pretty(FINDINGS[k]), tabbable=False, layout={"width": "142px"}, tooltip="Choose")
        slider = step_slider(SCALE, "", f"Threshold of {pretty(FINDINGS[k])}", "112px")
        row = w.HBox([name, slider, w.HTML()], layout={"height": "27px", "overflow": "hidden"})
        row.add_class("cxr-row")
        name.on_click(lambda _: self._choose(k))
        slider.observe(lambda change: self._moved(k, change.new), "value")
        return row

    def _lay_out(self) -> None:
        *choices, undo, save = self._buttons.values()
        self._bar = w.HBox([self._finding, *choices, self._all, undo, save], layout=_WRAP)
        head = "".join(
            f'<span style="display:inline-block;width:{width}px;text-align:right">{name}</span>'
            for name, width in (("threshold", 322), ("sens.", 40), ("PPV", 40), ("F1", 40))
        )
        left = [w.HTML(head), *self._rows, self._confusion]
        self._table = w.VBox(left, layout={"width": "456px", "margin": "0 14px 0 0"})
        sliders = [
            w.HBox([self._threshold, self._typed], layout=_LINE),
            w.HBox([self._ratio, self._ratio_text], layout=_LINE),
            w.HBox([self._prevalence, self._prevalence_text, self._as_here], layout=_LINE),
        ]
        self._detail = w.VBox([*sliders, self._figures, self._numbers], layout={"flex": "1 1 640px"})

    def _observe(self, given: str) -> None:
        self._finding.observe(lambda change: self._choose(change.new), "value")
        self._threshold.observe(lambda change: self._moved(self.chosen, change.new), "value")
        self._typed.observe(lambda change: self._moved(self.chosen, change.new), "value")
        self._ratio.observe(lambda change: self._elsewhere(self._ratios, change.new), "value")
        self._prevalence.observe(lambda change: self._elsewhere(self._prevalences, change.new / 1000), "value")
        self._as_here.on_click(lambda _: self._elsewhere(self._prevalences, self._curve.prevalence))
        take = {given: self.session.tuned.values, "tuned (exact)": self.session.exact.values, "0.5": _HALF}
        for name, values in take.items():
            self._buttons[name].on_click(lambda _, values=values: self._take(values))
        self._buttons["cheapest"].on_click(lambda _: self._take(self._cheapest()))
        self._buttons["undo"].on_click(lambda _: self._undo())
        self._buttons["save"].on_click(lambda _: self._save())

    # ---- what a person does ----------------------------------------------------------------------------------------
    def _moved(self, k: int, value: float) -> None:
        if not self._quiet:
            self.session.move(k, value)
            self._choose(k)

    def _choose(self, k: int) -> None:
        if not self._quiet:
            if k != self.chosen:
                self._rows[self.chosen].remove_class("cxr-chosen")
                self.chosen = k
            self._follow()

    def _elsewhere(self, of: np.ndarray, value: float) -> None:
        if not self._quiet:
            of[self.chosen] = value
            self._follow()

    def _take(self, values: np.ndarray) -> None:
        self.session.choose(values, None if self._all.value else self.chosen)
        self._follow()

    def _cheapest(self) -> np.ndarray:
        """Fourteen cheapest thresholds; where it is undefined, the present one."""
        ways = zip(self.session.curves, self._ratios, self._prevalences, self.session.values, strict=True)
        return np.array([curve.cheapest(r, p) if curve.drawable else now for curve, r, p, now in ways])

    def _undo(self) -> None:
        self.session.undo()
        self._follow()

    def _save(self) -> None:
        try:
            said = f"Saved to {self._write()}. "
        except (InputError, OSError) as error:  # said where a person looks, since a callback's error is only logged
            said = f"<b>Not saved:</b> {escape(str(error))}. "
        self._follow(said)

    def _write(self) -> str:
        made = self.session.thresholds()
        told = str(made.save(self._save_to))
        if self._checkpoint is not None:
            from cxrlib.models.checkpoints import (  # torch, which moving thresholds needs not
                load_checkpoint,
                write_checkpoint,
            )

            write_checkpoint(self._checkpoint, load_checkpoint(self._checkpoint) | {"thresholds": made.to_dict()})
            told += f" and {self._checkpoint}"
        return told

    # ---- what is shown ---------------------------------------------------------------------------------------------
    @property
    def _curve(self):
        return self.session.curves[self.chosen]

    def _follow(self, said: str = "") -> None:
        """Let every control and every panel show the session."""
        with self._silence():
            self._set_controls()
        for k in range(len(FINDINGS)):
            self._show_row(k)
        self._show_chosen(said)

    @contextmanager
    def _silence(self):
        """Controls that are set, not moved by a person, answer nothing."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _set_controls(self) -> None:
        k, values = self.chosen, self.session.values
        self._finding.value = k
        self._rows[k].add_class("cxr-chosen")
        for slider, value in zip([row.children[1] for row in self._rows], values, strict=True):
            slider.index = _nearest(SCALE, value)
        self._threshold.index = _nearest(SCALE, values[k])
        self._typed.value = round(min(values[k], 1), 4)
        self._ratio.index = _nearest(COSTS, self._ratios[k])
        self._prevalence.index = _nearest(PREVALENCES, 1000 * self._prevalences[k])
        self._buttons["undo"].disabled = not self.session.can_undo
        self._buttons["save"].disabled = self._save_to is None
        self._as_here.disabled = bool(self._prevalences[k] == self._curve.prevalence)

    def _show_row(self, k: int) -> None:
        value, tuned = self.session.values[k], self.session.tuned.values[k]
        self._rows[k].children[2].value = row_figures(value, self.session.curves[k].counts(value), tuned)

    def _show_chosen(self, said: str) -> None:
        k, curve = self.chosen, self._curve
        value, tuned = self.session.values[k], self.session.tuned.values[k]
        ratio, prevalence = self._ratios[k], self._prevalences[k]
        now, before = curve.counts(value), curve.counts(tuned)
        cheapest = curve.cheapest(ratio, prevalence) if curve.drawable else np.nan
        self._ratio_text.value = f"as {ratio:g} false alarms"
        self._prevalence_text.value = f"{1000 * prevalence:.3g} in 1,000"
        points = {"half": curve.counts(0.5), "tuned": before, "cheapest": curve.counts(cheapest), "now": now}
        self._figures.value = self._drawn(k, value, points, ratio, prevalence)
        self._confusion.value = confusion_table(now, now.per(1000, prevalence), prevalence, curve.n)
        choices = {"now": value, "tuned": tuned, "tuned (exact)": self.session.exact.values[k], "0.5": 0.5}
        if curve.drawable:
            choices["cheapest"] = cheapest
        choices = {name: (at, curve.counts(at)) for name, at in choices.items()}
        self._numbers.value = figures_table(choices, ratio, prevalence)
        self._gallery.value = self._pictures(k, now, before)
        self._status.value = (
            f'<div role="status" aria-live="polite">{said}{pretty(FINDINGS[k])} at {show_threshold(value)}: '
            f"{now.tp:.0f} of {curve.positives} found, {now.fp:.0f} of {curve.negatives} others called in error.</div>"
        )

    def _drawn(self, k: int, value: float, points: dict, ratio: float, prevalence: float) -> str:
        """Histogram and curves; what does not move is drawn once a finding."""
        val, curve = self.session.val, self._curve
        if k not in self._panels:
            at = {name: self._ranking[name][k] for name in ("auroc", "ap")}
            self._panels[k] = (
                Histogram(val.scores[:, k], val.labels[:, k]),
                RocPanel(curve, at["auroc"]) if curve.drawable else None,
                PrPanel(curve, at["ap"]) if curve.drawable else None,
            )
        histogram, roc, pr = self._panels[k]
        now = points["now"]
        if roc is None:
            kind = "with" if curve.positives == 0 else "without"
            curves = f"<p>No curves: there is no image {kind} the finding among these {curve.n:,}.</p>"
        else:
            curves = roc.at(points, ratio, prevalence) + pr.at(points, prevalence)
        marks = legend(now="now", tuned="tuned", half="0.5", cheapest="cheapest")
        return f'<div>{histogram.at(value, now)}</div><div class="side">{curves}</div>{marks}'

    def _pictures(self, k: int, now, before) -> str:
        val, session = self.session.val, self.session
        changed, rows = session.changed(k, SHOWN)
        called = val.scores[rows, k] >= np.float32(session.values[k])
        outcomes = [
            ("found" if call else "missed") if truth else ("false alarm" if call else "left alone")
            for call, truth in zip(called, val.labels[rows, k], strict=True)
        ]
        items = [
            (str(val.image[row]), self._thumb(val.image[row]), float(val.scores[row, k]), outcome)
            for row, outcome in zip(rows, outcomes, strict=True)
        ]
        text = headline(FINDINGS[k], session.values[k], now, session.tuned.values[k], before, len(changed))
        return gallery(items, text)

    def _thumb(self, name: str) -> str:
        if self._images is None:
            return ""
        if name not in self._thumbs:
            self._thumbs[name] = data_uri(self._images[name], 92)
        return self._thumbs[name]


def _nearest(values, value: float) -> int:
    return int(np.abs(np.asarray(values) - value).argmin())
