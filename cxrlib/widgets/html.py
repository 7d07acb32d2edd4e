"""Shared by the explorers: templates, buttons, and a radiograph under a heat map."""

from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets as w
import numpy as np
from matplotlib import colormaps, colors
from PIL import Image

from cxrlib.core.html import data_uri, radiograph_uri, templates_in
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation import thresholds
from cxrlib.plots.style import BLUE, ORANGE, pretty

SIDE = 448  # pixels of a radiograph under its heat map
CONTROL = {"width": "330px"}
WRAP = {"flex_flow": "row wrap", "align_items": "flex-start"}
COLOURS = {"NEGATIVE": BLUE, "POSITIVE": ORANGE, "INK": "#222222", "SOFT": "#555555", "RULE": "#c8c8c8"}
for _name in ("NEGATIVE", "POSITIVE"):  # at 38 % on white, as in the histogram
    COLOURS[f"PALE_{_name}"] = colors.to_hex(1 - 0.38 * (1 - np.array(colors.to_rgb(COLOURS[_name]))))
_HEAT = colormaps["inferno"]
_TEMPLATES = templates_in(Path(__file__).parent / "templates")
_TEMPLATES.globals |= COLOURS | {"SIDE": SIDE, "HEAT_SCALE": ",".join(map(colors.to_hex, _HEAT(np.linspace(0, 1, 9))))}
_TEMPLATES.filters["score"] = thresholds.number
_TEMPLATES.filters["number"] = lambda value, digits=2: "–" if np.isnan(value) else f"{value:.{digits}f}"
STYLE = f"<style>{_TEMPLATES.get_template('explorer.css').render()}</style>"


def macros(template: str):
    """The macros of a template, as functions that return HTML; all text that they are given is escaped."""
    return _TEMPLATES.get_template(template).module


def plain_button(description: str, tooltip: str, action: Callable[[], None]) -> w.Button:
    """A button as wide as its text that calls `action`."""
    button = w.Button(description=description, tooltip=tooltip, layout={"width": "auto"})
    button.on_click(lambda _: action())
    return button


def finding_choice(**options) -> w.Dropdown:
    """A choice of one of the findings, whose value is its place in FINDINGS."""
    return w.Dropdown(options=[(pretty(name), k) for k, name in enumerate(FINDINGS)], description="Finding", **options)


class HeatExplorer(w.HBox):
    """A radiograph under the heat map of one finding, beside controls; all use observe, and nothing is printed."""

    _macros = macros("heat.html")

    def __init__(self, finding: w.Dropdown):
        self._finding = finding
        self._opacity = w.FloatSlider(0.6, min=0, max=1, step=0.05, description="Opacity", layout=CONTROL)
        self._picture, self._opaque, self._status, self._table = (w.HTML() for _ in range(4))
        self._finding.observe(lambda _: self._show(), "value")
        self._opacity.observe(lambda _: self._fade(), "value")
        super().__init__(layout=WRAP)
        self.add_class("cxr")

    def _arrange(self, *right: w.Widget) -> None:
        left = w.VBox([self._picture, self._opaque], layout={"width": f"{SIDE + 16}px"})
        right = w.VBox([*right, self._status, self._table], layout={"flex": "1 1 360px"})
        self.children = [w.HTML(STYLE), left, right]
        self._fade()

    def _fade(self) -> None:
        """Set the opacity alone, so that no picture is sent again."""
        self._opaque.value = self._macros.fading(self._picture.model_id, self._opacity.value)

    def _draw(self, name: str, pixels: np.ndarray, heat: np.ndarray, boxes: Sequence[dict] = ()) -> None:
        """Show a radiograph with a map (h, w) in [0, 1] over it, transparent where it is 0."""
        coloured, finding = _HEAT(heat, bytes=True), pretty(FINDINGS[self._finding.value])
        coloured[..., 3] = 255 * np.sqrt(heat)
        uris = radiograph_uri(pixels, SIDE), data_uri(Image.fromarray(coloured), "png", compress_level=1)
        self._picture.value = self._macros.case_picture(self._picture.model_id, name, finding, *uris, boxes)
