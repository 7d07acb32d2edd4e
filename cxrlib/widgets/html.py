"""Shared by the explorers: the style sheet, controls, and charts, tables and pictures as text for `ipywidgets.HTML`.

Charts are SVG text rather than matplotlib figures: ten kilobytes are written and shown between two key presses.
"""

import base64
import io
from collections.abc import Callable
from html import escape
from itertools import groupby

import ipywidgets as w
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from cxrlib.plots.style import BLUE, ORANGE

NEGATIVE, POSITIVE = to_hex(BLUE), to_hex(ORANGE)
INK, SOFT, RULE = "#222222", "#555555", "#c8c8c8"
WRAP = {"flex_flow": "row wrap", "align_items": "flex-start"}

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
.cxr select, .cxr input
  {{ color: {INK} !important; border-color: #8a8a8a !important; background-color: #fff !important; }}
.cxr .cxr-row {{ border-bottom: 1px solid #e4e4e4; align-items: center; }}
.cxr .cxr-chosen {{ background: #e9e9e9; box-shadow: inset 4px 0 0 {INK}; }}
.cxr .cxr-row button {{ text-align: left; background: transparent; border-color: transparent; }}
.cxr .cxr-chosen button {{ font-weight: bold; }}
</style>"""


def data_uri(picture: Image.Image, kind: str, **options) -> str:
    """A picture as text for `<img src>`. kind: "jpeg" or "png"; options: of Pillow's writer."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def radiograph_uri(grey: np.ndarray, side: int) -> str:
    """A radiograph (h, w) uint8 as a JPEG of side x side pixels, as a data URI."""
    picture = Image.fromarray(np.asarray(grey)).resize((side, side), Image.Resampling.BILINEAR)
    return data_uri(picture, "jpeg", quality=80)


def number(value: float, digits: int = 2) -> str:
    """A value for a table; a dash where it is undefined."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


def column_heads(*names: str) -> str:
    """The header cells of a table."""
    return "".join(f'<th scope="col">{name}</th>' for name in names)


def table_row(name: str, cells: list[str], current: bool) -> str:
    """One row of a table; the current one is highlighted."""
    kind = ' class="now"' if current else ""
    return f'<tr{kind}><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


_OPEN = f'fill="#fff" stroke="{INK}" stroke-width="1.6"'
MARKS = {  # of thresholds in a chart, the topmost last
    "0.5": f'<path d="M0 -6.5L6.5 5H-6.5Z" {_OPEN}/>',
    "tuned": f'<path d="M-5 -5H5V5H-5Z" {_OPEN}/>',
    "cheapest": f'<path d="M0 -7L7 0L0 7L-7 0Z" {_OPEN}/>',
    "now": f'<circle r="5.5" fill="{INK}" stroke="#fff" stroke-width="1.5"/>',
    "elsewhere": f'<circle r="5.5" {_OPEN} stroke-dasharray="3 2"/>',
}
_NAMED = (
    f'<span style="white-space:nowrap"><svg width="18" height="18" viewBox="-9 -9 18 18" style="vertical-align:-4px" '
    f'aria-hidden="true">{MARKS[name]}</svg> {name}</span>'
    for name in ("now", "tuned", "0.5", "cheapest")
)
LEGEND = f'<div style="font-size:12px">{" &ensp; ".join(_NAMED)}</div>'


class Chart:
    """A square of the plane, both axes from 0 to 1, as SVG."""

    WIDTH, HEIGHT = 316, 240  # pixels, margins included
    LEFT, RIGHT, TOP, BOTTOM = 40, WIDTH - 12, 22, HEIGHT - 36

    def pixels(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(..., 2) pixels from the left and from the top, to one decimal."""
        across, down = x * (self.RIGHT - self.LEFT), (1 - y) * (self.BOTTOM - self.TOP)
        return np.round(np.stack([self.LEFT + across, self.TOP + down], axis=-1), 1)

    def path(self, x: np.ndarray, y: np.ndarray, style: str) -> str:
        """A line through the points; undefined points and repeats within a tenth of a pixel are left out."""
        places = self.pixels(x, y)
        distinct = groupby(places[~np.isnan(places).any(axis=1)].tolist())
        return f'<path d="M{"L".join(f"{a:g} {b:g}" for (a, b), _ in distinct)}" fill="none" {style}/>'

    def frame(self, title: str, x_label: str, y_label: str) -> str:
        """Title, grid, ticks and labels."""
        x0, x1, y0, y1 = self.LEFT, self.RIGHT, self.BOTTOM, self.TOP
        lines = [f'<text class="title" x="{x0}" y="14">{escape(title)}</text>']
        for tick in (0, 0.5, 1):
            x, y = self.pixels(tick, tick)
            lines.append(f'<path d="M{x} {y0}V{y1}M{x0} {y}H{x1}" stroke="#e4e4e4"/>')
            lines.append(f'<text x="{x}" y="{y0 + 14}" text-anchor="middle">{tick:g}</text>')
            lines.append(f'<text x="{x0 - 5}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
        lines.append(f'<path d="M{x0} {y1}V{y0}H{x1}" fill="none" stroke="{SOFT}"/>')
        lines.append(f'<text x="{(x0 + x1) / 2}" y="{y0 + 29}" text-anchor="middle">{escape(x_label)}</text>')
        turned = f'transform="translate(11 {(y0 + y1) / 2}) rotate(-90)"'
        lines.append(f'<text {turned} text-anchor="middle">{escape(y_label)}</text>')
        return "".join(lines)

    def mark(self, kind: str, x: float, y: float) -> str:
        """A point of MARKS; nothing where it is undefined."""
        x, y = self.pixels(x, y)
        return "" if np.isnan(x + y) else f'<g class="{kind}" transform="translate({x} {y})">{MARKS[kind]}</g>'

    def svg(self, label: str, *content: str) -> str:
        """The whole chart; `label` is read out by screen readers."""
        head = f'<svg width="{self.WIDTH}" height="{self.HEIGHT}" role="img" aria-label="{escape(label)}">'
        return f"{head}{''.join(content)}</svg>"


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
