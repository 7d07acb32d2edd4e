"""`CamExplorer`: step through radiographs, findings, methods and layers, and see where the model looks."""

from functools import lru_cache, partial

import ipywidgets as w
import numpy as np
import torch

from cxrlib.data.findings import FINDINGS
from cxrlib.explain.gradcam import METHODS, default_layers, grad_cam
from cxrlib.models.architectures import ARCHITECTURES
from cxrlib.plots.style import pretty
from cxrlib.widgets.html import CONTROL, WRAP, HeatExplorer, finding_choice, plain_button

KEPT = 32  # (image, method, layer) whose maps are kept: 14 maps each


class CamExplorer(HeatExplorer):
    """A radiograph under the heat map of one finding, with scores, labels and boxes.

    model: `ChestXrayModel`; images: {name: (h, w) uint8} at its size; its predictions; boxes: of `read_boxes`, or None.
    """

    def __init__(self, model, images, predictions, thresholds, boxes=None):
        self._model, self._images, self.predictions, self._thresholds = model, images, predictions, thresholds
        self._positive = thresholds.apply(predictions)
        names = np.array(["true negative", "false negative", "false positive", "true positive"])
        named = names[2 * self._positive + (predictions.labels == 1)]
        self._outcomes = np.where(predictions.known, named, "label unknown")
        grouped = () if boxes is None else boxes.groupby(["image", "finding"])
        self._boxes = {key: of_image.to_dict("records") for key, of_image in grouped}
        self._maps = lru_cache(KEPT)(self._make_maps)
        most = int((self._outcomes == "true positive").sum(axis=0).argmax())
        super().__init__(finding_choice(value=most, layout=CONTROL))
        layers = ARCHITECTURES[model.arch].cam_layers
        layers = [("usual for the method", "usual"), *((one, one) for one in layers), ("all of these, fused", layers)]
        first = next(iter(self._ranked("true positive")), 0)
        self._row = w.BoundedIntText(first, 0, len(predictions) - 1, description="Image", layout=CONTROL)
        self._method = w.Dropdown(options=list(METHODS), description="Method", layout=CONTROL)
        self._layer = w.Dropdown(options=layers, description="Layer", layout=CONTROL)
        self._box = w.Checkbox(description="boxes", indent=False, disabled=not self._boxes, layout={"width": "90px"})
        for control in (self._row, self._method, self._layer, self._box):
            control.observe(lambda _: self._show(), "value")
        kinds, tip = names[1:][::-1], "The {} of this finding with the next lower score"
        self._buttons = {one: plain_button(f"next {one}", tip.format(one), partial(self._step, one)) for one in kinds}
        opacity, steps = w.HBox([self._opacity, self._box]), w.HBox(list(self._buttons.values()), layout=WRAP)
        self._arrange(self._row, self._finding, self._method, self._layer, opacity, steps)
        self._show()

    def __repr__(self) -> str:
        return f"CamExplorer({self._model.arch}, {len(self.predictions):,} images)"

    def _ranked(self, outcome: str) -> list[int]:
        """The rows with this outcome of the finding, by falling score."""
        k = self._finding.value
        rows = np.flatnonzero(self._outcomes[:, k] == outcome)
        return rows[np.argsort(-self.predictions.scores[rows, k], kind="stable")].tolist()

    def _step(self, outcome: str) -> None:
        """Go to the next image with this outcome of the finding; from the last one to the first."""
        rows = self._ranked(outcome)
        following = dict(zip(rows, rows[1:] + rows[:1], strict=True)).get(self._row.value, next(iter(rows), None))
        if following in (None, self._row.value):
            finding = pretty(FINDINGS[self._finding.value])
            self._show(f"There is no {'other ' if rows else ''}{outcome} of {finding} among these images. ")
        else:
            self._row.value = following

    def _make_maps(self, row: int, method: str, layer: str | tuple[str, ...]) -> np.ndarray:
        grey = np.array(self._images[self.predictions.image[row]])
        layer = default_layers(self._model, method) if layer == "usual" else layer
        return grad_cam(self._model, torch.from_numpy(grey)[None, None], layer, method)[0].numpy()

    def _show(self, message: str = "") -> None:
        row, k = self._row.value, self._finding.value
        heat = self._maps(row, self._method.value, self._layer.value)[k]
        name, finding = str(self.predictions.image[row]), pretty(FINDINGS[k])
        boxes = self._boxes.get((name, FINDINGS[k]), []) if self._box.value else []
        lacking = "" if heat.any() else " The map is empty: no region speaks for the finding."
        if self._box.value and not boxes:
            lacking += f" There is no box of {finding} on it."
        labels = [{0: "–", 1: "yes"}.get(label, "unknown") for label in self.predictions.labels[row]]
        scores, outcomes = self.predictions.scores[row].tolist(), self._outcomes[row]
        columns = map(pretty, FINDINGS), scores, self._thresholds.values, self._positive[row], labels, outcomes
        names = ("finding", "score", "threshold", "positive", "label", "outcome")
        rows = [dict(zip(names, each, strict=True)) for each in zip(*columns, strict=True)]
        self._status.value = self._macros.case_status(message, name, finding, rows[k], lacking)
        self._draw(name, self._images[name], heat, boxes)
        self._table.value = self._macros.case_table(rows, k)
