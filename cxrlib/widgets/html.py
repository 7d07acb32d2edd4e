"""Shared by the explorers: their templates, controls, and pictures as text for `ipywidgets.HTML`.

Charts are SVG text rather than matplotlib figures: ten kilobytes are written and shown between two key presses.
"""

from collections.abc import Callable
from pathlib import Path

import ipywidgets as w
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from cxrlib.core.html import data_uri, templates_in
from cxrlib.evaluation import thresholds
from cxrlib.plots.style import BLUE, ORANGE

SIDE = 448  # pixels of a radiograph under its heat map
_HEAT = colormaps["inferno"]
WRAP = {"flex_flow": "row wrap", "align_items": "flex-start"}
COLOURS = {
    "NEGATIVE": BLUE,
    "POSITIVE": ORANGE,
    "PALE_NEGATIVE": to_hex(1 - 0.38 * (1 - np.array(to_rgb(BLUE)))),  # at 38 % on white, as in the histogram
    "PALE_POSITIVE": to_hex(1 - 0.38 * (1 - np.array(to_rgb(ORANGE)))),
    "INK": "#222222",
    "SOFT": "#555555",
    "RULE": "#c8c8c8",
}


def number(value: float, digits: int = 2) -> str:
    """A value for a table; a dash where it is undefined."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


_TEMPLATES = templates_in(Path(__file__).parent / "templates")
_TEMPLATES.globals |= COLOURS | {"SIDE": SIDE, "HEAT_SCALE": ",".join(map(to_hex, _HEAT(np.linspace(0, 1, 9))))}
_TEMPLATES.filters |= {"number": number, "score": thresholds.number}
STYLE = f"<style>{_TEMPLATES.get_template('explorer.css').render()}</style>"


def macros(template: str):
    """The macros of a template, as functions that return HTML; all text that they are given is escaped."""
    return _TEMPLATES.get_template(template).module


def heat_uri(heat: np.ndarray) -> str:
    """A map (h, w) in [0, 1] as a PNG data URI, transparent where it is 0."""
    coloured = _HEAT(heat, bytes=True)
    coloured[..., 3] = 255 * np.sqrt(heat)
    return data_uri(Image.fromarray(coloured), "png", compress_level=1)


def step_slider(values, description: str, tooltip: str, width: str = "430px") -> w.SelectionSlider:
    """A slider that stops at each of `values`, without a readout: the current value may lie between two stops."""
    return w.SelectionSlider(
        options=[(f"{value:.4g}", float(value)) for value in values],
        description=description,
        readout=False,
        tooltip=tooltip,
        layout={"width": width},
        style={"description_width": "100px" if description else "0px"},
    )


def plain_button(description: str, tooltip: str, action: Callable[[], None]) -> w.Button:
    """A button as wide as its text that calls `action`."""
    button = w.Button(description=description, tooltip=tooltip, layout={"width": "auto"})
    button.on_click(lambda _: action())
    return button
