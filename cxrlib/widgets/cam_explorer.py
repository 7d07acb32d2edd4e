"""`CamExplorer`: step through radiographs, findings, methods and layers, and see where the model looks."""

import base64
import io
from collections import OrderedDict
from collections.abc import Mapping
from html import escape

import ipywidgets as w
import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import BOX_FRAME
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.explain.gradcam import LAYERS, METHODS, default_layers, grad_cam
from cxrlib.models.architectures import ChestXrayModel
from cxrlib.plots.style import pretty
from cxrlib.widgets.html import INK, NEGATIVE, POSITIVE, STYLE, data_uri

SIDE = 448  # pixels of the picture on the page
KEPT = 32  # maps of so many (image, method, layer) are kept: 14 maps each
_CONTROL = {"width": "330px"}
# the finding is called, the label bears it: what such an image is called, and its button
_OUTCOMES = {
    (True, True): "true positive",
    (True, False): "false positive",
    (False, True): "false negative",
    (False, False): "true negative",
}


class CamExplorer(w.HBox):
    """A radiograph under the heat map of one finding; its scores, labels and boxes.

    model: of which the maps are. images: name -> (h, w) uint8 at the model's size, such as an `ImageCache`.
    predictions, thresholds: for scores, labels, and the steps to the next true or false positive (strongest first).
    boxes: as `read_boxes` gives them. Maps of all fourteen findings come from one pass and are kept, so that another
    finding, and the opacity, need no pass. Every control answers to observe; nothing is printed.
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
        self._called, self._truth = thresholds.apply(predictions) == 1, predictions.labels == 1
        self._boxes = boxes if boxes is None else dict(list(boxes.groupby("image")))
        self._maps = OrderedDict()
        self._build()
        right = w.VBox([*self._controls, self._steps, self._status, self._table], layout={"flex": "1 1 360px"})
        left = w.VBox([self._picture, self._opaque], layout={"width": f"{SIDE + 16}px"})
        super().__init__([w.HTML(STYLE), left, right], layout={"flex_flow": "row wrap", "align_items": "flex-start"})
        self.add_class("cxr")
        self._step("true positive", first=True)

    def __repr__(self) -> str:
        return f"CamExplorer({self._model.arch}, {len(self.predictions):,} images)"

    # ---- what is there ---------------------------------------------------------------------------------------------
    def _build(self) -> None:
        named = LAYERS[self._model.arch]
        fused = {"all of these, fused": list(named)}
        layers = {"usual for the method": "usual"} | {name: name for name in named} | fused
        most = int((self._called & self._truth).sum(axis=0).argmax())
        self._row = w.BoundedIntText(0, 0, len(self.predictions) - 1, description="Image", layout=_CONTROL)
        findings = [(pretty(name), k) for k, name in enumerate(FINDINGS)]
        self._finding = w.Dropdown(options=findings, value=most, description="Finding", layout=_CONTROL)
        self._method = w.Dropdown(options=list(METHODS), description="Method", layout=_CONTROL)
        self._layer = w.Dropdown(options=list(layers.items()), description="Layer", layout=_CONTROL)
        self._opacity = w.FloatSlider(0.6, min=0, max=1, step=0.05, description="Opacity", layout=_CONTROL)
        self._box = w.Checkbox(
            description="boxes", indent=False, disabled=self._boxes is None, layout={"width": "90px"}
        )
        self._picture, self._opaque, self._status, self._table = (w.HTML() for _ in range(4))
        self._buttons = {}
        for outcome in list(_OUTCOMES.values())[:3]:
            tip = f"The {outcome} of this finding with the next lower score"
            button = w.Button(description=f"next {outcome}", tooltip=tip, layout={"width": "auto"})
            button.on_click(lambda _, outcome=outcome: self._step(outcome))
            self._buttons[outcome] = button
        line = {"flex_flow": "row wrap"}
        self._controls = [self._row, self._finding, self._method, self._layer, w.HBox([self._opacity, self._box])]
        self._steps = w.HBox(list(self._buttons.values()), layout=line)
        for control in (self._row, self._finding, self._method, self._layer, self._box):
            control.observe(lambda _: self._show(), "value")
        self._opacity.observe(lambda _: self._fade(), "value")
        self._fade()

    # ---- what a person does ----------------------------------------------------------------------------------------
    def _step(self, outcome: str, first: bool = False) -> None:
        """To the next image that is such an outcome of the chosen finding, strongest first, from the top again."""
        k, rows = self._finding.value, self.rows(outcome)
        if not len(rows):
            return self._show(f"There is no {outcome} of {pretty(FINDINGS[k])} among these images. ")
        at = np.flatnonzero(rows == self._row.value)
        following = int(rows[(at[0] + 1) % len(rows)]) if len(at) and not first else int(rows[0])
        if following == self._row.value:
            return self._show("" if first else "There is no other. ")
        self._row.value = following

    def rows(self, outcome: str) -> np.ndarray:
        """Rows of predictions that are such an outcome ("false positive") of the chosen finding, strongest first."""
        k = self._finding.value
        called, truth = next(key for key, name in _OUTCOMES.items() if name == outcome)
        fits = np.flatnonzero((self._called[:, k] == called) & (self._truth[:, k] == truth))
        return fits[np.argsort(-self.predictions.scores[fits, k], kind="stable")]

    # ---- what is shown ---------------------------------------------------------------------------------------------
    def _fade(self) -> None:
        """Only the opacity: a few letters, whatever the picture."""
        self._opaque.value = (
            f"<style>.cxr-{self._picture.model_id} .heat {{ opacity: {self._opacity.value:g} }}</style>{_SCALE}"
        )

    def maps(self) -> np.ndarray:
        """The fourteen maps (14, h, w) of the chosen image, method and layer."""
        method, layer = self._method.value, self._layer.value
        layer = default_layers(self._model, method) if layer == "usual" else layer
        key = (self._row.value, method, str(layer))
        if key not in self._maps:
            grey = np.array(self._images[self.predictions.image[self._row.value]])
            x = torch.from_numpy(grey)[None, None]
            self._maps[key] = grad_cam(self._model, x, layer, method)[0].numpy()
            while len(self._maps) > KEPT:
                self._maps.popitem(last=False)
        self._maps.move_to_end(key)
        return self._maps[key]

    def _show(self, said: str = "") -> None:
        row, k, heat = self._row.value, self._finding.value, self.maps()[self._finding.value]
        name = str(self.predictions.image[row])
        boxes, told = self._boxed(name, k)
        outcome = _OUTCOMES[bool(self._called[row, k]), bool(self._truth[row, k])]
        score, cut = self.predictions.scores[row, k], self._thresholds.texts[k]
        empty = "" if heat.any() else " The map is empty: nothing here speaks for it."
        self._status.value = (
            f'<div role="status" aria-live="polite" style="padding:4px 0">{said}<b>{escape(name)}</b><br>'
            f"{pretty(FINDINGS[k])}: score {score:.2f}, threshold {cut}: <b>{outcome}</b>.{empty}{told}</div>"
        )
        self._picture.value = (
            f'<div class="cxr-{self._picture.model_id}" style="position:relative;width:{SIDE}px;height:{SIDE}px">'
            f'<img alt="radiograph {escape(name)}" src="{data_uri(self._images[name], SIDE)}" style="{_OVER}"/>'
            f'<img class="heat" alt="heat map of {pretty(FINDINGS[k])}" src="{_heat_uri(heat)}" style="{_OVER}"/>'
            f'<svg viewBox="0 0 {BOX_FRAME} {BOX_FRAME}" style="{_OVER}" aria-hidden="true">{boxes}</svg></div>'
        )
        self._table.value = self._scores(row, k)

    def _boxed(self, name: str, k: int) -> tuple[str, str]:
        """The finding's boxes on an image as SVG, and what is said of them."""
        if not self._box.value or self._boxes is None:
            return "", ""
        own = self._boxes.get(name)
        own = [] if own is None else list(own[own["finding"] == FINDINGS[k]].itertuples())
        drawn = "".join(
            f'<rect x="{b.x:g}" y="{b.y:g}" width="{b.w:g}" height="{b.h:g}" fill="none" stroke="{colour}" '
            f'stroke-width="{width}"/>'
            for b in own
            for colour, width in (("#000", 12), ("#fff", 6))
        )
        return drawn, "" if own else f" There is no box of {pretty(FINDINGS[k])} on it."

    def _scores(self, row: int, chosen: int) -> str:
        """All fourteen of one image: score as a number and a bar with the threshold as a line, called, labelled."""
        rows = []
        for k, name in enumerate(FINDINGS):
            score, cut = float(self.predictions.scores[row, k]), min(float(self._thresholds.values[k]), 1)
            colour = POSITIVE if self._truth[row, k] else NEGATIVE
            strokes = [("M2 7h100", "#e4e4e4", 10), (f"M2 7h{100 * score:.1f}", colour, 10)]
            strokes.append((f"M{2 + 100 * cut:.1f} 0v14", INK, 2))
            lines = "".join(f'<path d="{d}" stroke="{of}" stroke-width="{width}"/>' for d, of, width in strokes)
            bar = f'<svg width="104" height="14" aria-hidden="true">{lines}</svg>'
            kind = ' class="now"' if k == chosen else ""
            labelled, called = ("yes" if of[row, k] else "–" for of in (self._truth, self._called))
            cells = [bar, f"{score:.2f}", self._thresholds.texts[k], called, labelled]
            cells = "".join(f"<td>{cell}</td>" for cell in cells)
            rows.append(f'<tr{kind}><th scope="row">{pretty(name)}</th>{cells}</tr>')
        heads = "".join(f'<th scope="col">{head}</th>' for head in ("", "score", "threshold", "called", "labelled"))
        return f"<table><tr><th></th>{heads}</tr>{''.join(rows)}</table>"


_OVER = f"position:absolute;left:0;top:0;width:{SIDE}px;height:{SIDE}px"
_COLOURS = colormaps["inferno"]
_BAR = ",".join(to_hex(_COLOURS(t)) for t in np.linspace(0, 1, 9))
_SCALE = (
    f'<div style="display:flex;gap:8px;align-items:center;max-width:{SIDE}px">heat: none <span style="flex:1;'
    f'height:12px;background:linear-gradient(to right,{_BAR})"></span> the highest of this map</div>'
)


def _heat_uri(heat: np.ndarray) -> str:
    """A map (h, w) in [0, 1] as a PNG in the text of the page: clear where it is 0."""
    coloured = _COLOURS(heat, bytes=True)
    coloured[..., 3] = 255 * np.sqrt(heat)
    picture = io.BytesIO()
    Image.fromarray(coloured).save(picture, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
