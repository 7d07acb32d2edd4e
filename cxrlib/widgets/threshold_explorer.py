"""`ThresholdExplorer`: move a threshold and see at once what it finds, what it misses and what it costs."""

from collections.abc import Callable
from functools import cache, partial

import ipywidgets as w
import numpy as np
from markupsafe import Markup

from cxrlib.core.errors import InputError
from cxrlib.core.html import radiograph_uri
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.calibration import operating_points
from cxrlib.evaluation.metrics import at_or_above, point_estimates
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint
from cxrlib.plots.style import pretty
from cxrlib.widgets.html import STYLE, WRAP, finding_choice, macros, plain_button
from cxrlib.widgets.operating_points import SCALE, Session, across

COSTS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000)
PREVALENCES = (*range(1, 10), *range(10, 50, 5), *range(50, 200, 10), *range(200, 1000, 50))  # in 1,000 patients
_TICKS = {tick: round(across(tick), 1) for tick in (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1)}
_PANELS = macros("threshold.html")


class ThresholdExplorer(w.VBox):
    """Set the threshold of each finding by hand, on the validation images, and save the choice.

    val: `Predictions`, never of test; thresholds: to start with; images: {name: (h, w) uint8}, to be shown; save_to and
    checkpoint: the files that "save" writes and changes, or None. `session.thresholds()` returns the current choice.
    """

    def __init__(self, val, thresholds, images=None, save_to=None, checkpoint=None):
        self.session, self._save_to, self._checkpoint = Session(val, thresholds), save_to, checkpoint
        self._thumb = cache(lambda name: "" if images is None else radiograph_uri(images[name], 92))
        self._miss_costs = np.full(len(FINDINGS), 5.0)
        self._prevalences = np.array([curve.prevalence for curve in self.session.curves])
        self._ranking, self._setting = point_estimates(val), False
        self.chosen = int((val.labels == 1).sum(axis=0).argmax())
        self._status, self._figures, self._confusion, self._numbers, self._gallery = (w.HTML() for _ in range(5))
        self._rows = [self._row(k) for k in range(len(FINDINGS))]
        rows = [w.HTML(_PANELS.list_heads()), *self._rows, self._confusion]
        lists = w.HBox([w.VBox(rows, layout={"width": "456px", "margin": "0 14px 0 0"}), self._detail()], layout=WRAP)
        super().__init__([w.HTML(STYLE), self._bar(), self._status, lists, self._gallery])
        self.add_class("cxr")
        self._update()

    def __repr__(self) -> str:
        return f"ThresholdExplorer({len(FINDINGS)} findings, {len(self.session.val):,} images)"

    def _on_change(self, control: w.Widget, action: Callable) -> None:
        """Call `action` with the new value when the user changes a control, not when `_update` sets it."""
        control.observe(lambda change: self._setting or action(change.new), "value")

    def _slider(self, values, action: Callable, tooltip: str, description: str = "", width: str = "430px"):
        """A slider that stops at each of `values`, without a readout: the current value may lie between two stops."""
        stops = [(f"{value:.4g}", float(value)) for value in values]
        slider = w.SelectionSlider(options=stops, description=description, readout=False, tooltip=tooltip)
        slider.layout.width, slider.style.description_width = width, "100px" if description else "0px"
        self._on_change(slider, action)
        return slider

    def _bar(self) -> w.HBox:
        self._finding = finding_choice(value=self.chosen, layout={"width": "250px"})
        self._on_change(self._finding, self._choose)
        tip = "Apply the four buttons before this box to all fourteen findings"
        self._all = w.Checkbox(description="all fourteen", indent=False, layout={"width": "110px"}, tooltip=tip)
        session = self.session
        given = "tuned (grid)" if session.tuned.grid else "as given"
        saves = f"Write {self._save_to}" if self._save_to else "Disabled: the explorer was opened without save_to"
        least = "The threshold of least expected cost at this cost of a miss and this prevalence"
        buttons = [
            (given, "The thresholds this explorer was opened with", lambda: self._take(session.tuned.values)),
            ("tuned (exact)", "The best of all scores of these images", lambda: self._take(session.exact.values)),
            ("0.5", "The conventional threshold", lambda: self._take(0.5)),
            ("cheapest", least, lambda: self._take(self._cheapest())),
            ("undo", "One step back", session.undo),
            ("save", saves, self._save),
        ]
        self._buttons = {name: plain_button(name, tip, lambda do=do: self._update(do())) for name, tip, do in buttons}
        *choices, undo, save = self._buttons.values()
        return w.HBox([self._finding, *choices, self._all, undo, save], layout=WRAP)

    def _row(self, k: int) -> w.HBox:
        name = w.Button(description=pretty(FINDINGS[k]), tabbable=False, layout={"width": "142px"}, tooltip="Choose")
        name.on_click(lambda _: self._choose(k))
        slider = self._slider(SCALE, partial(self._move, k), f"Threshold of {pretty(FINDINGS[k])}", width="112px")
        row = w.HBox([name, slider, w.HTML()], layout={"height": "27px", "overflow": "hidden"})
        row.add_class("cxr-row")
        return row

    def _detail(self) -> w.VBox:
        move, tip = lambda value: self._move(self.chosen, value), "Threshold of the chosen finding"
        self._threshold = self._slider(SCALE, move, tip, "Threshold")
        self._typed = w.BoundedFloatText(min=0, max=1, step=0.001, layout={"width": "90px"}, tooltip="Threshold, typed")
        self._on_change(self._typed, move)
        price, share = "Cost of a missed finding, in false alarms", "Patients with the finding, per 1,000"
        self._ratio = self._slider(COSTS, partial(self._set, self._miss_costs), price, "Cost of a miss")
        of = self._prevalences
        self._prevalence = self._slider(PREVALENCES, lambda n: self._set(of, n / 1000), share, "Prevalence")
        tip = "The prevalence of these images"
        self._as_here = plain_button("as here", tip, lambda: self._set(of, self.session.curves[self.chosen].prevalence))
        self._ratio_text, self._prevalence_text = w.HTML(), w.HTML()
        prevalence = [self._prevalence, self._prevalence_text, self._as_here]
        lines = [[self._threshold, self._typed], [self._ratio, self._ratio_text], prevalence]
        lines = [w.HBox(line, layout={"align_items": "center"}) for line in lines]
        return w.VBox([*lines, self._figures, self._numbers], layout={"flex": "1 1 640px"})

    def _move(self, k: int, value: float) -> None:
        self.session.choose(k, value)
        self._choose(k)

    def _choose(self, k: int) -> None:
        self._rows[self.chosen].remove_class("cxr-chosen")
        self.chosen = k
        self._update()

    def _set(self, values: np.ndarray, value: float) -> None:
        values[self.chosen] = value
        self._update()

    def _take(self, values: np.ndarray | float) -> None:
        self.session.choose(slice(None) if self._all.value else self.chosen, values)

    def _cheapest(self) -> np.ndarray:
        """The cheapest thresholds (14,); where one is undefined, the current one."""
        each = zip(self.session.curves, self._miss_costs, self._prevalences, self.session.values, strict=True)
        return np.array([curve.cheapest(cost, p) if curve.drawable else now for curve, cost, p, now in each])

    def _save(self) -> str:
        try:
            chosen = self.session.thresholds()
            model = None if self._checkpoint is None else load_checkpoint(self._checkpoint)
            if model is not None:  # an InputError where it has another calibration by now
                operating_points([model["calibration"]], chosen.to_dict())
            message = f"Saved to {chosen.save(self._save_to)}"
            if model is not None:
                write_checkpoint(self._checkpoint, model | {"thresholds": chosen.to_dict()})
                message += f" and {self._checkpoint}"
        except (InputError, OSError) as error:  # shown here, since errors of callbacks are only logged
            message = Markup("<b>Not saved:</b> {}").format(error)
        return message + ". "

    def _update(self, message: str | None = None) -> None:
        k, session, curve = self.chosen, self.session, self.session.curves[self.chosen]
        cost, prevalence, values = self._miss_costs[k], self._prevalences[k], session.values
        self._setting = True
        self._finding.value = k
        self._rows[k].add_class("cxr-chosen")
        for row, one, value, tuned in zip(self._rows, session.curves, values, session.tuned.values, strict=True):
            row.children[1].index = _nearest(SCALE, value)
            row.children[2].value = _PANELS.list_metrics(value, one.counts(value), tuned)
        self._threshold.index = _nearest(SCALE, values[k])
        self._typed.value = round(min(values[k], 1), 4)
        self._ratio.index = _nearest(COSTS, cost)
        self._prevalence.index = _nearest(PREVALENCES, 1000 * prevalence)
        self._setting = False
        self._ratio_text.value = f"as {cost:g} false alarms"
        self._prevalence_text.value = f"{1000 * prevalence:.3g} in 1,000"
        self._buttons["undo"].disabled = not session.past
        self._buttons["save"].disabled = self._save_to is None
        self._as_here.disabled = bool(prevalence == curve.prevalence)
        self._show_chosen(curve, cost, prevalence, message or "")

    def _show_chosen(self, curve, cost, prevalence, message) -> None:
        session, k, finding = self.session, self.chosen, pretty(FINDINGS[self.chosen])
        lines = {"now": session.values[k], "tuned": session.tuned.values[k], "tuned (exact)": session.exact.values[k]}
        lines["0.5"] = 0.5
        if curve.drawable:
            lines["cheapest"] = curve.cheapest(cost, prevalence)
        choices = {name: (threshold, curve.counts(threshold)) for name, threshold in lines.items()}
        threshold, now = choices["now"]
        marked = [name for name in ("0.5", "tuned", "cheapest", "now") if name in choices]  # the topmost last
        charts = curve.charts({name: choices[name][1] for name in marked}, prevalence) if curve.drawable else []
        ranking = (self._ranking[name][k] for name in ("auroc", "ap"))
        place = round(across(threshold), 1)
        self._figures.value = _PANELS.figures(curve, _TICKS, threshold, place, now, charts, *ranking)
        self._confusion.value = _PANELS.confusion(now, now.per(1000, prevalence), prevalence, curve.n)
        self._numbers.value = _PANELS.metrics(choices, cost, prevalence)
        changed, rows = session.changed(k)
        shown, scores = session.val.image[rows], session.val.scores[rows, k]
        sides = at_or_above(scores, session.values[k]).tolist(), session.val.labels[rows, k].tolist()
        images = zip(shown, map(self._thumb, shown), scores, *sides, strict=True)
        self._gallery.value = _PANELS.gallery(finding, *choices["tuned"], now, changed.sum(), images)
        self._status.value = _PANELS.threshold_status(message, finding, choices, curve)


def _nearest(values, value: float) -> int:
    return int(np.abs(np.asarray(values) - value).argmin())
