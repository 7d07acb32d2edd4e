"""What the explorers share: their style sheet, and small charts and pictures as text for `ipywidgets.HTML`.

Charts are SVG text, not figures of matplotlib: a text of ten kilobytes is written and shown between two key presses.
"""

import base64
import io
from html import escape

import ipywidgets as w
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from cxrlib.plots.style import BLUE, ORANGE

NEGATIVE, POSITIVE = to_hex(BLUE), to_hex(ORANGE)
INK, SOFT, RULE = "#222222", "#555555", "#c8c8c8"

STYLE = f"""<style>
.cxr {{ background: #fff; color: {INK}; padding: 10px 12px; border: 1px solid {RULE}; border-radius: 6px;
  max-width: 1190px; --jp-widgets-label-color: {INK}; --jp-widgets-font-size: 13px; font-size: 13px; }}
.cxr .widget-html-content, .cxr .jupyter-widget-html-content {{ line-height: 1.35; font-size: 13px; }}
.cxr svg text {{ font-family: "DejaVu Sans", Verdana, sans-serif; font-size: 11px; fill: {INK};
  font-variant-numeric: tabular-nums; }}
.cxr svg .title {{ font-size: 12px; font-weight: bold; }}
.cxr table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
.cxr th, .cxr td {{ padding: 2px 8px; text-align: right; border-bottom: 1px solid #e4e4e4; color: {INK}; }}
.cxr th {{ font-weight: normal; color: {SOFT}; }}
.cxr th[scope=row] {{ text-align: left; color: {INK}; }}
.cxr caption {{ text-align: left; font-weight: bold; padding: 2px 0 4px; }}
.cxr .now td, .cxr .now th[scope=row] {{ font-weight: bold; background: #f0f0f0; }}
.cxr .side {{ display: flex; flex-wrap: wrap; gap: 6px 8px; align-items: flex-start; }}
.cxr figure {{ margin: 0; width: 90px; }}
.cxr figure img {{ width: 90px; height: 90px; display: block; background: #000; }}
.cxr figcaption {{ font-size: 11px; line-height: 1.3; padding-top: 2px; overflow-wrap: anywhere; }}
.cxr .noUi-handle:focus, .cxr button:focus-visible, .cxr select:focus-visible, .cxr input:focus-visible
  {{ outline: 3px solid {INK} !important; outline-offset: 2px; box-shadow: none; }}
.cxr .noUi-handle {{ border: 2px solid {SOFT} !important; }}
.cxr .noUi-connect {{ background: {SOFT} !important; }}
.cxr button {{ border: 1px solid #8a8a8a; color: {INK}; background: #f4f4f4; }}
.cxr button:disabled {{ color: {SOFT}; border-color: {RULE}; }}
.cxr select, .cxr input {{ color: {INK} !important; border-color: #8a8a8a !important; }}
.cxr select, .cxr input {{ background-color: #fff !important; }}
.cxr .cxr-row {{ border-bottom: 1px solid #e4e4e4; align-items: center; }}
.cxr .cxr-chosen {{ background: #e9e9e9; box-shadow: inset 4px 0 0 {INK}; }}
.cxr .cxr-row button {{ text-align: left; background: transparent; border-color: transparent; }}
.cxr .cxr-chosen button {{ font-weight: bold; }}
</style>"""


def data_uri(grey: np.ndarray, side: int) -> str:
    """A radiograph (h, w) uint8 as a small JPEG in the text of a page; a browser asks no host for it."""
    picture = io.BytesIO()
    Image.fromarray(np.asarray(grey)).resize((side, side), Image.Resampling.BILINEAR).save(picture, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(picture.getvalue()).decode()


def number(value: float, digits: int = 2) -> str:
    """A figure for a table; an undefined one is a dash."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


class Chart:
    """A frame whose axes run from 0 to 1, and places in it. width, height: pixels of the whole; margins around it."""

    LEFT, RIGHT, TOP, BOTTOM = 40, 12, 22, 36

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.w, self.h = width - self.LEFT - self.RIGHT, height - self.TOP - self.BOTTOM

    def x(self, value):
        return np.round(self.LEFT + np.asarray(value, float) * self.w, 1)

    def y(self, value):
        return np.round(self.TOP + (1 - np.asarray(value, float)) * self.h, 1)

    def path(self, x: np.ndarray, y: np.ndarray, style: str, step: bool = False) -> str:
        """A line through the points, or steps that keep their height until the next; what a pixel hides is left out."""
        places = np.stack([self.x(x), self.y(y)], axis=1)
        places = places[~np.isnan(places).any(axis=1)]
        if len(places) == 0:
            return ""
        places = places[np.append(True, (np.diff(places, axis=0) != 0).any(axis=1))].tolist()
        (x0, y0), *rest = places
        to = "".join(f"H{a:g}V{b:g}" if step else f"L{a:g} {b:g}" for a, b in rest)
        return f'<path d="M{x0:g} {y0:g}{to}" fill="none" {style}/>'

    def frame(self, title: str, x_label: str, y_label: str, ticks=(0, 0.5, 1)) -> str:
        """Title, grid, ticks and labels: what does not move."""
        x0, x1, y0, y1 = self.x(0), self.x(1), self.y(0), self.y(1)
        lines = [f'<text class="title" x="{x0}" y="14">{escape(title)}</text>']
        for tick in ticks:
            x, y = self.x(tick), self.y(tick)
            lines.append(f'<path d="M{x} {y0}V{y1}M{x0} {y}H{x1}" stroke="#e4e4e4"/>')
            lines.append(f'<text x="{x}" y="{y0 + 14}" text-anchor="middle">{tick:g}</text>')
            lines.append(f'<text x="{x0 - 5}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
        lines.append(f'<path d="M{x0} {y1}V{y0}H{x1}" fill="none" stroke="{SOFT}"/>')
        lines.append(f'<text x="{x0 + self.w / 2}" y="{y0 + 29}" text-anchor="middle">{escape(x_label)}</text>')
        turned = f'transform="translate(11 {y1 + self.h / 2}) rotate(-90)"'
        lines.append(f'<text {turned} text-anchor="middle">{escape(y_label)}</text>')
        return "".join(lines)

    def mark(self, kind: str, x: float, y: float) -> str:
        """A point of MARKS, such as "now"; nothing where it is undefined."""
        if np.isnan(x) or np.isnan(y):
            return ""
        return f'<g class="{kind}" transform="translate({self.x(x)} {self.y(y)})">{MARKS[kind]}</g>'

    def inside(self, body: str) -> str:
        """`body` cut off at the frame."""
        x, y = self.x(0), self.y(1)
        return (
            f'<svg x="{x}" y="{y}" width="{self.w}" height="{self.h}" viewBox="{x} {y} {self.w} {self.h}">{body}</svg>'
        )

    def svg(self, says: str, *parts: str) -> str:
        """The whole chart; `says` is what a screen reader reads out."""
        head = f'<svg width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}" role="img"'
        return f'{head} aria-label="{escape(says)}">{"".join(parts)}</svg>'


_OPEN = f'fill="#fff" stroke="{INK}" stroke-width="1.6"'
MARKS = {
    "tuned": f'<path d="M-5 -5H5V5H-5Z" {_OPEN}/>',
    "half": f'<path d="M0 -6.5L6.5 5H-6.5Z" {_OPEN}/>',
    "cheapest": f'<path d="M0 -7L7 0L0 7L-7 0Z" {_OPEN}/>',
    "now": f'<circle r="5.5" fill="{INK}" stroke="#fff" stroke-width="1.5"/>',
}


def legend(**names: str) -> str:
    """The marks with their names, in one line."""
    items = [
        f'<span style="white-space:nowrap"><svg width="18" height="18" viewBox="-9 -9 18 18" '
        f'style="vertical-align:-4px" aria-hidden="true">{MARKS[kind]}</svg> {escape(name)}</span>'
        for kind, name in names.items()
    ]
    return f'<div style="font-size:12px">{" &ensp; ".join(items)}</div>'


def step_slider(values, description: str, tooltip: str, width: str = "430px") -> w.SelectionSlider:
    """A slider that stops at each of `values`; its readout is left to who knows the exact value."""
    options = [(f"{value:.4g}", float(value)) for value in values]
    layout = {"width": width}
    style = {"description_width": "100px" if description else "0px"}
    return w.SelectionSlider(
        options=options, description=description, readout=False, tooltip=tooltip, layout=layout, style=style
    )


def plain_button(description: str, tooltip: str) -> w.Button:
    """A button as wide as its words."""
    return w.Button(description=description, tooltip=tooltip, layout={"width": "auto"})
