"""`ThresholdExplorer`: move a threshold and see at once what it finds, what it misses and what it costs."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import ipywidgets as w
import numpy as np
import pandas as pd
from markupsafe import Markup

from cxrlib.core.errors import InputError
from cxrlib.core.html import radiograph_uri
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.metrics import at_or_above, point_estimates
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds, tune_thresholds
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint
from cxrlib.plots.style import pretty
from cxrlib.widgets.html import STYLE, WRAP, plain_button, step_slider
from cxrlib.widgets.operating_points import SCALE, Curve, Session
from cxrlib.widgets.threshold_panels import PANELS, Figures

COSTS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000)
PREVALENCES = (*range(1, 10), *range(10, 50, 5), *range(50, 200, 10), *range(200, 1000, 50))  # in 1,000 patients
SHOWN = 12  # pictures at most


class ThresholdExplorer(w.VBox):
    """Set the threshold of each finding by hand, on the validation images, and save the choice.

    `session` holds the current choice; `session.thresholds()` returns it as `Thresholds`. All controls use observe and
    nothing is printed, so that a notebook with an explorer also runs headless.

    Args:
        val: predictions on which thresholds are chosen (never the test split).
        thresholds: where to start, and what to compare with.
        images: name -> (h, w) uint8, such as an `ImageCache`, for the gallery; without it, names and scores are listed.
        save_to: file that the button "save" writes, such as `run.thresholds`; without it the button is disabled.
        checkpoint: of the model with these scores; "save" also stores the thresholds there, for heat maps.
    """

    def __init__(
        self,
        val: Predictions,
        thresholds: Thresholds,
        images: Mapping[str, np.ndarray] | None = None,
        save_to: str | Path | None = None,
        checkpoint: str | Path | None = None,
    ):
        objective = "f1" if thresholds.objective.startswith("by hand") else thresholds.objective
        exact = tune_thresholds(val, grid=None, objective=objective, resampling=Bootstrap(0))
        self.session = Session(val, thresholds, exact)
        self._save_to, self._checkpoint = save_to, checkpoint
        self._thumb = cache(lambda name: "" if images is None else radiograph_uri(images[name], 92))
        self._miss_costs = np.full(len(FINDINGS), 5.0)
        self._prevalences = np.array([curve.prevalence for curve in self.session.curves])
        self._ranking, self._figures_of = point_estimates(val), cache(self._make_figures)
        self._setting, self.chosen = False, int((val.labels == 1).sum(axis=0).argmax())
        self._status, self._figures, self._confusion, self._numbers, self._gallery = (w.HTML() for _ in range(5))
        self._rows = [self._row(k) for k in range(len(FINDINGS))]
        lists = w.HBox([self._list(), self._detail()], layout=WRAP)
        super().__init__([w.HTML(STYLE), self._bar(), self._status, lists, self._gallery])
        self.add_class("cxr")
        self._update()

    def __repr__(self) -> str:
        return f"ThresholdExplorer({len(FINDINGS)} findings, {len(self.session.val):,} images)"

    # ---- controls --------------------------------------------------------------------------------------------------
    def _on_change(self, control: w.Widget, action: Callable) -> None:
        """Call `action` with the new value when the user changes a control, not when `_update` sets it."""
        control.observe(lambda change: self._setting or action(change.new), "value")

    def _bar(self) -> w.HBox:
        names = [(pretty(name), k) for k, name in enumerate(FINDINGS)]
        self._finding = w.Dropdown(options=names, value=self.chosen, description="Finding", layout={"width": "250px"})
        self._on_change(self._finding, self._choose)
        tip = "Apply the four buttons before this box to all fourteen findings"
        self._all = w.Checkbox(description="all fourteen", indent=False, layout={"width": "110px"}, tooltip=tip)
        session, half = self.session, np.full(len(FINDINGS), 0.5)
        given = "tuned (grid)" if session.tuned.grid else "as given"
        saves = f"Write {self._save_to}" if self._save_to else "Disabled: the explorer was opened without save_to"
        least = "The threshold of least expected cost at this cost of a miss and this prevalence"
        buttons = [
            (given, "The thresholds this explorer was opened with", lambda: self._take(session.tuned.values)),
            ("tuned (exact)", "The best of all scores of these images", lambda: self._take(session.exact.values)),
            ("0.5", "The conventional threshold", lambda: self._take(half)),
            ("cheapest", least, lambda: self._take(self._cheapest())),
            ("undo", "One step back", self._undo),
            ("save", saves, self._save),
        ]
        self._buttons = {button[0]: plain_button(*button) for button in buttons}
        *choices, undo, save = self._buttons.values()
        return w.HBox([self._finding, *choices, self._all, undo, save], layout=WRAP)

    def _row(self, k: int) -> w.HBox:
        name = w.Button(description=pretty(FINDINGS[k]), tabbable=False, layout={"width": "142px"}, tooltip="Choose")
        name.on_click(lambda _: self._choose(k))
        slider = step_slider(SCALE, "", f"Threshold of {pretty(FINDINGS[k])}", "112px")
        self._on_change(slider, lambda value: self._move(k, value))
        row = w.HBox([name, slider, w.HTML()], layout={"height": "27px", "overflow": "hidden"})
        row.add_class("cxr-row")
        return row

    def _list(self) -> w.VBox:
        return w.VBox(
            [w.HTML(PANELS.list_heads()), *self._rows, self._confusion],
            layout={"width": "456px", "margin": "0 14px 0 0"},
        )

    def _detail(self) -> w.VBox:
        self._threshold = step_slider(SCALE, "Threshold", "Threshold of the chosen finding")
        self._typed = w.BoundedFloatText(min=0, max=1, step=0.001, layout={"width": "90px"}, tooltip="Threshold, typed")
        self._ratio = step_slider(COSTS, "Cost of a miss", "Cost of a missed finding, in false alarms")
        self._prevalence = step_slider(PREVALENCES, "Prevalence", "Patients with the finding, per 1,000")
        self._ratio_text, self._prevalence_text = w.HTML(), w.HTML()
        self._as_here = plain_button(
            "as here", "The prevalence of these images", lambda: self._set(self._prevalences, self._curve.prevalence)
        )
        for control in (self._threshold, self._typed):
            self._on_change(control, lambda value: self._move(self.chosen, value))
        self._on_change(self._ratio, lambda value: self._set(self._miss_costs, value))
        self._on_change(self._prevalence, lambda value: self._set(self._prevalences, value / 1000))
        lines = [
            [self._threshold, self._typed],
            [self._ratio, self._ratio_text],
            [self._prevalence, self._prevalence_text, self._as_here],
        ]
        lines = [w.HBox(line, layout={"align_items": "center"}) for line in lines]
        return w.VBox([*lines, self._figures, self._numbers], layout={"flex": "1 1 640px"})

    # ---- actions of the user ---------------------------------------------------------------------------------------
    def _move(self, k: int, value: float) -> None:
        self.session.move(k, value)
        self._choose(k)

    def _choose(self, k: int) -> None:
        if k != self.chosen:
            self._rows[self.chosen].remove_class("cxr-chosen")
            self.chosen = k
        self._update()

    def _set(self, values: np.ndarray, value: float) -> None:
        values[self.chosen] = value
        self._update()

    def _take(self, values: np.ndarray) -> None:
        self.session.choose(values, None if self._all.value else self.chosen)
        self._update()

    def _cheapest(self) -> np.ndarray:
        """The cheapest thresholds (14,); where one is undefined, the current one."""
        each = zip(self.session.curves, self._miss_costs, self._prevalences, self.session.values, strict=True)
        return np.array([curve.cheapest(cost, p) if curve.drawable else now for curve, cost, p, now in each])

    def _undo(self) -> None:
        self.session.undo()
        self._update()

    def _save(self) -> None:
        try:
            chosen = self.session.thresholds()
            message = f"Saved to {chosen.save(self._save_to)}"
            if self._checkpoint is not None:
                write_checkpoint(self._checkpoint, load_checkpoint(self._checkpoint) | {"thresholds": chosen.to_dict()})
                message += f" and {self._checkpoint}"
        except (InputError, OSError) as error:  # shown here, since errors of callbacks are only logged
            message = Markup("<b>Not saved:</b> {}").format(error)
        self._update(message + ". ")

    # ---- display ---------------------------------------------------------------------------------------------------
    @property
    def _curve(self) -> Curve:
        return self.session.curves[self.chosen]

    def _update(self, message: str = "") -> None:
        """Show the session in all controls and panels."""
        self._setting = True
        try:
            self._set_controls()
        finally:
            self._setting = False
        each = zip(self._rows, self.session.curves, self.session.values, self.session.tuned.values, strict=True)
        for row, curve, value, tuned in each:
            row.children[2].value = PANELS.list_metrics(value, curve.counts(value), tuned)
        self._show_chosen(message)

    def _set_controls(self) -> None:
        k, values = self.chosen, self.session.values
        self._finding.value = k
        self._rows[k].add_class("cxr-chosen")
        for row, value in zip(self._rows, values, strict=True):
            row.children[1].index = _nearest(SCALE, value)
        self._threshold.index = _nearest(SCALE, values[k])
        self._typed.value = round(min(values[k], 1), 4)
        self._ratio.index = _nearest(COSTS, self._miss_costs[k])
        self._prevalence.index = _nearest(PREVALENCES, 1000 * self._prevalences[k])
        self._buttons["undo"].disabled = not self.session.past
        self._buttons["save"].disabled = self._save_to is None
        self._as_here.disabled = bool(self._prevalences[k] == self._curve.prevalence)

    def _show_chosen(self, message: str) -> None:
        k, curve, session = self.chosen, self._curve, self.session
        cost, prevalence = self._miss_costs[k], self._prevalences[k]
        choices = {"now": session.values, "tuned": session.tuned.values, "tuned (exact)": session.exact.values}
        choices = {name: values[k] for name, values in choices.items()} | {"0.5": 0.5}
        if curve.drawable:
            choices["cheapest"] = curve.cheapest(cost, prevalence)
        choices = {name: (threshold, curve.counts(threshold)) for name, threshold in choices.items()}
        now = choices["now"][1]
        self._ratio_text.value = f"as {cost:g} false alarms"
        self._prevalence_text.value = f"{1000 * prevalence:.3g} in 1,000"
        self._figures.value = self._figures_of(k).at(choices, cost, prevalence)
        self._confusion.value = PANELS.confusion(now, now.per(1000, prevalence), prevalence, curve.n)
        self._numbers.value = PANELS.metrics(choices, cost, prevalence)
        changed, images = self._images()
        self._gallery.value = PANELS.gallery(pretty(FINDINGS[k]), *choices["tuned"], now, changed, images)
        self._status.value = PANELS.threshold_status(message, pretty(FINDINGS[k]), choices, curve)

    def _make_figures(self, k: int) -> Figures:
        val, ranking = self.session.val, self._ranking
        return Figures(
            self.session.curves[k], val.scores[:, k], val.labels[:, k], ranking["auroc"][k], ranking["ap"][k]
        )

    def _images(self) -> tuple[int, list[dict]]:
        """How many images change side, and those that the gallery shows."""
        k, val = self.chosen, self.session.val
        changed, rows = self.session.changed(k, SHOWN)
        columns = {
            "name": val.image[rows],
            "uri": [self._thumb(name) for name in val.image[rows]],
            "score": val.scores[rows, k],
            "positive": at_or_above(val.scores[rows, k], self.session.values[k]),
            "labelled": val.labels[rows, k],
        }
        return len(changed), pd.DataFrame(columns).to_dict("records")


def _nearest(values, value: float) -> int:
    return int(np.abs(np.asarray(values) - value).argmin())
