"""`CamExplorer`: step through radiographs, findings, methods and layers, and see where the model looks."""

from collections.abc import Mapping
from functools import lru_cache, partial

import ipywidgets as w
import numpy as np
import pandas as pd
import torch

from cxrlib.core.errors import InputError
from cxrlib.core.html import radiograph_uri
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.explain.gradcam import METHODS, default_layers, grad_cam
from cxrlib.models.architectures import ARCHITECTURES, ChestXrayModel
from cxrlib.plots.style import pretty
from cxrlib.widgets import html
from cxrlib.widgets.html import SIDE

KEPT = 32  # (image, method, layer) whose maps are kept: 14 maps each
_CONTROL = {"width": "330px"}
_SHOW = html.macros("heat.html")


class CamExplorer(w.HBox):
    """A radiograph under the heat map of one finding, with scores, labels and boxes.

    The maps of all fourteen findings come from one pass and are kept: another finding or opacity needs no new pass.
    All controls use observe and nothing is printed.

    Args:
        model: the model to explain.
        images: name -> (h, w) uint8 at the model's image size, such as an `ImageCache`.
        predictions: scores and labels of the images to step through.
        thresholds: to tell true from false positives.
        boxes: as `read_boxes` returns them.
    """

    def __init__(
        self,
        model: ChestXrayModel,
        images: Mapping[str, np.ndarray],
        predictions: Predictions,
        thresholds: Thresholds,
        boxes: pd.DataFrame | None = None,
    ):
        if not len(predictions):
            raise InputError("there is no image to explore; expected predictions with at least one row")
        self._model, self._images, self.predictions, self._thresholds = model, images, predictions, thresholds
        self._positive = thresholds.apply(predictions)
        names = np.array([["true negative", "false negative"], ["false positive", "true positive"]])
        named = names[self._positive, (predictions.labels == 1).astype(int)]
        self._outcomes = np.where(predictions.known, named, "label unknown")
        boxes = pd.DataFrame(columns=["image", "finding"]) if boxes is None else boxes
        self._boxes = {key: of.to_dict("records") for key, of in boxes.groupby(["image", "finding"])}
        self._maps = lru_cache(KEPT)(self._make_maps)
        self._picture, self._opaque, self._status, self._table = (w.HTML() for _ in range(4))
        left = w.VBox([self._picture, self._opaque], layout={"width": f"{SIDE + 16}px"})
        right = w.VBox([*self._controls(), self._status, self._table], layout={"flex": "1 1 360px"})
        super().__init__([w.HTML(html.STYLE), left, right], layout=html.WRAP)
        self.add_class("cxr")
        self._fade()
        self._step("true positive", start=True)

    def __repr__(self) -> str:
        return f"CamExplorer({self._model.arch}, {len(self.predictions):,} images)"

    def _controls(self) -> list[w.Widget]:
        named = ARCHITECTURES[self._model.arch].cam_layers
        layers = [
            ("usual for the method", "usual"),
            *((one, one) for one in named),
            ("all of these, fused", list(named)),
        ]
        findings = [(pretty(name), k) for k, name in enumerate(FINDINGS)]
        most = int((self._outcomes == "true positive").sum(axis=0).argmax())
        self._row = w.BoundedIntText(0, 0, len(self.predictions) - 1, description="Image", layout=_CONTROL)
        self._finding = w.Dropdown(options=findings, value=most, description="Finding", layout=_CONTROL)
        self._method = w.Dropdown(options=list(METHODS), description="Method", layout=_CONTROL)
        self._layer = w.Dropdown(options=layers, description="Layer", layout=_CONTROL)
        self._opacity = w.FloatSlider(0.6, min=0, max=1, step=0.05, description="Opacity", layout=_CONTROL)
        width = {"width": "90px"}
        self._box = w.Checkbox(description="boxes", indent=False, disabled=not self._boxes, layout=width)
        for control in (self._row, self._finding, self._method, self._layer, self._box):
            control.observe(lambda _: self._show(), "value")
        self._opacity.observe(lambda _: self._fade(), "value")
        self._buttons = {}
        for outcome in ("true positive", "false positive", "false negative"):
            tip = f"The {outcome} of this finding with the next lower score"
            self._buttons[outcome] = html.plain_button(f"next {outcome}", tip, partial(self._step, outcome))
        opacity, steps = w.HBox([self._opacity, self._box]), w.HBox(list(self._buttons.values()), layout=html.WRAP)
        return [self._row, self._finding, self._method, self._layer, opacity, steps]

    def _step(self, outcome: str, start: bool = False) -> None:
        """Go to the next image with this outcome of the finding, by falling score; from the last one to the first."""
        rows, finding = self.rows(outcome), pretty(FINDINGS[self._finding.value])
        if not len(rows):
            return self._show(f"There is no {outcome} of {finding} among these images. ")
        at = np.flatnonzero(rows == self._row.value)
        following = int(rows[(at[0] + 1) % len(rows)]) if len(at) and not start else int(rows[0])
        if following == self._row.value:
            return self._show("" if start else f"There is no other {outcome} of {finding}. ")
        self._row.value = following

    def rows(self, outcome: str) -> np.ndarray:
        """Rows of predictions with an outcome ("false positive") of the chosen finding, highest score first."""
        k = self._finding.value
        fits = np.flatnonzero(self._outcomes[:, k] == outcome)
        return fits[np.argsort(-self.predictions.scores[fits, k], kind="stable")]

    def maps(self) -> np.ndarray:
        """The fourteen maps (14, h, w) of the chosen image, method and layer."""
        method, layer = self._method.value, self._layer.value
        layer = default_layers(self._model, method) if layer == "usual" else layer
        return self._maps(self._row.value, method, tuple(layer) if isinstance(layer, list) else layer)

    def _make_maps(self, row: int, method: str, layer: str | tuple[str, ...] | None) -> np.ndarray:
        grey = np.array(self._images[self.predictions.image[row]])
        return grad_cam(self._model, torch.from_numpy(grey)[None, None], layer, method)[0].numpy()

    def _fade(self) -> None:
        """Set the opacity alone, so that no picture is sent again."""
        self._opaque.value = _SHOW.fading(self._picture.model_id, self._opacity.value)

    def _show(self, message: str = "") -> None:
        row, k, heat = self._row.value, self._finding.value, self.maps()[self._finding.value]
        name, finding = str(self.predictions.image[row]), pretty(FINDINGS[k])
        boxes = self._boxes.get((name, FINDINGS[k]), []) if self._box.value else []
        lacking = "" if heat.any() else " The map is empty: no region speaks for the finding."
        if self._box.value and not len(boxes):
            lacking += f" There is no box of {finding} on it."
        rows = self._scores(row)
        self._status.value = _SHOW.case_status(message, name, finding, rows[k], lacking)
        radiograph = radiograph_uri(self._images[name], SIDE)
        self._picture.value = _SHOW.case_picture(
            self._picture.model_id, name, finding, radiograph, html.heat_uri(heat), boxes
        )
        self._table.value = _SHOW.case_table(rows, k)

    def _scores(self, row: int) -> list[dict]:
        """The findings of an image: score, threshold, prediction and label."""
        columns = {
            "finding": [pretty(name) for name in FINDINGS],
            "score": self.predictions.scores[row],
            "threshold": self._thresholds.texts,
            "line": self._thresholds.values,
            "positive": self._positive[row],
            "label": pd.Series(self.predictions.labels[row]).map({0: "–", 1: "yes"}).fillna("unknown"),
            "outcome": self._outcomes[row, range(len(FINDINGS))],
        }
        return pd.DataFrame(columns).to_dict("records")
