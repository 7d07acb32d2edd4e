"""The look of every figure: one palette (safe for colour-blind readers), one font, and text for who cannot see it."""

import html
import io
from collections.abc import Sequence
from itertools import cycle, islice, repeat
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import cm, patches, patheffects
from PIL import Image

from cxrlib.core.paths import written_whole
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import BOX_FRAME
from cxrlib.explain.localization import peak

plt.style.use("cxrlib.plots.cxr")
BLUE, ORANGE, *_ = _PALETTE = plt.rcParams["axes.prop_cycle"].by_key()["color"]
GREY = "0.45"
STYLES = tuple(islice(zip(cycle(_PALETTE), cycle("oDs^vPX*")), 40))  # no two alike
DPI, PRINT = 150, 300  # for pages, and for paper
SHARPER = 1.5  # than it is shown: for dense screens
_OUTLINE = patheffects.withStroke(linewidth=2, foreground="black")  # readable over heat, too


def described(figure: plt.Figure, text: str) -> plt.Figure:
    """The figure, with alt text for readers who cannot see it: what it shows, written from the data."""
    figure.set_label(text)
    return figure


def alt_text(figure: plt.Figure) -> str:
    """The text of `described`; of a figure without it, the titles and axis labels."""
    texts = [panel.get_title(loc) for panel in figure.axes for loc in ("left", "center", "right")]
    texts += [text for panel in figure.axes[:1] for text in (panel.get_xlabel(), panel.get_ylabel())]
    return figure.get_label() or "; ".join(dict.fromkeys(text.replace("\n", " ") for text in texts if text)) or "figure"


def show(figure: plt.Figure, caption: str = "The figure in words") -> None:
    """Display a figure in a notebook, once, over its caption, which unfolds to the alt text, and close it."""
    from IPython.display import display  # not needed to save figures

    words, drawn, small = alt_text(figure), io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=SHARPER * figure.dpi, facecolor="white")
    kind = "jpeg" if any(panel.images for panel in figure.axes) else "png"
    image = Image.open(drawn).convert("RGB")
    if kind == "png":  # unlike radiographs, which no palette makes small
        image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(small, kind, quality=90, subsampling=0, optimize=True)  # the former two are of JPEG alone
    width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
    plt.close(figure)
    about = {f"image/{kind}": {"width": width, "height": height, "alt": words}}
    display({f"image/{kind}": small.getvalue(), "text/plain": words}, raw=True, metadata=about)
    folded = f"<details><summary>{html.escape(caption)}</summary>{html.escape(words)}</details>"
    display({"text/html": folded, "text/plain": caption}, raw=True)


def save_figure(figure: plt.Figure, name: str, folder: str | Path, dpi: int = DPI, pdf: bool = False) -> None:
    """Write `name`.png (and .pdf), with the alt text as its "Description"; the same figure gives the same bytes."""
    about = {"png": {"Software": None, "Description": alt_text(figure)}, "pdf": {"CreationDate": None}}
    for kind in ("png", "pdf") if pdf else ("png",):
        with written_whole(Path(folder) / f"{name}.{kind}") as path:
            quick = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}  # half the time, a tenth more bytes
            figure.savefig(path, format=kind, dpi=dpi, facecolor="white", metadata=about[kind], **quick)
            figure.set_layout_engine("none")  # laid out once, which takes as long as drawing


def pretty(finding: str) -> str:
    """A finding's name for readers: "Pleural thickening"."""
    return finding.replace("_", " ").capitalize()


def listed(values: pd.Series, spec: str = ".2f") -> str:
    """Values by finding for alt text: "Mass 0.52, Nodule 0.31"."""
    return ", ".join(f"{pretty(name)} {value:{spec}}" for name, value in values.items())


def plot_radiographs(images: Sequence, titles: Sequence[str], boxes: Sequence = (), columns: int = 4) -> plt.Figure:
    """A grid of radiographs (h, w) uint8. boxes: for each image a list of (x, y, w, h, text) in BOX_FRAME pixels."""
    figure = plot_overlays(images, repeat(None), titles, boxes, columns)
    named = "; ".join(title.replace(":\n", ": ").replace("\n", ", ") for title in titles)
    return described(figure, f"{len(images)} radiographs{', with boxes' if boxes else ''}: {named}.")


def plot_overlays(images, maps, titles: Sequence[str], boxes: Sequence = (), columns: int = 4) -> plt.Figure:
    """Radiographs under heat maps, (h, w) in [0, 1] or None, clear below a quarter; boxes: `plot_radiographs`."""
    figure, all_axes = panels(len(images), columns, 2.3)
    colours = None
    for axes, image, heat, title, own in zip(all_axes, images, maps, titles, boxes or repeat(()), strict=False):
        axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=9, loc="center", parse_math=False)
        if heat is not None:
            heat, extent = np.asarray(heat), (*axes.get_xlim(), *axes.get_ylim())
            alpha = 0.65 * np.clip((heat - 0.25) / 0.5, 0, 1)
            colours = axes.imshow(heat, cmap="inferno", alpha=alpha, vmin=0, vmax=1, extent=extent)
            if heat.any():
                x, y = np.multiply(peak(heat), len(image) / BOX_FRAME) - 0.5
                axes.plot(x, y, "+", color="white", ms=9, mew=1.5, path_effects=[_OUTLINE])
        for *box, text in own:
            x, y, w, h = np.multiply(box, len(image) / BOX_FRAME)
            axes.add_patch(patches.Rectangle((x - 0.5, y - 0.5), w, h, fill=False, ec="#56b4e9", lw=2))
            axes.text(x, y - 2, text, color="#56b4e9", fontsize=8, va="bottom", path_effects=[_OUTLINE])
    if colours is not None:
        bar = figure.colorbar(cm.ScalarMappable(colours.norm, "inferno"), ax=all_axes, aspect=40, shrink=0.6, pad=0.02)
        bar.set_label("heat (1: highest of its map)", fontsize=9)
    return figure


def panels(n: int, columns: int, width: float, height: float = 0, labels: tuple[str, str] | None = None, **options):
    """A figure of n panels (width x height inches, or square) and the list of its axes, of which spare ones are off.

    labels: of the x and y axes of all; without them the panels have no ticks and no frame. options: of `plt.subplots`.
    """
    columns = min(columns, n)
    rows = -(-n // columns)
    size = columns * width, rows * ((height or width) + 0.35)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for spare in axes.flat[n:]:
        spare.axis("off")
    if labels:
        figure.supxlabel(labels[0], fontsize=11)
        figure.supylabel(labels[1], fontsize=11)
        for above in axes.flat[max(0, n - columns) : n]:  # above a spare place: show the tick labels
            above.tick_params(labelbottom=True)
    else:
        for panel in axes.flat[:n]:  # not axis("off"): the layout would leave no room for titles
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
    return figure, list(axes.flat)


def draw_intervals(axes, y, table: pd.DataFrame, columns: Sequence[str], style=STYLES[0], **options) -> None:
    """Markers over bars at the heights y. columns: of value, low and high end; options: of `Axes.plot`."""
    value, low, high = (table[name] for name in columns)
    axes.hlines(y, low, high, color=style[0], lw=2, alpha=0.6)
    axes.plot(value, y, style[1], color=style[0], **options)


def draw_bars(axes, x, table: pd.DataFrame, columns: Sequence[str], style: tuple, **options) -> None:
    """Markers with upright error bars at the places x. columns: as in `draw_intervals`; options: of `Axes.errorbar`."""
    value, low, high = (table[name] for name in columns)
    error = np.maximum([value - low, high - value], 0)  # against rounding
    axes.errorbar(x, value, yerr=error, color=style[0], marker=style[1], **options)


def plot_intervals(tables: dict, metric: str = "auroc", label: str = "AUROC", chance: float | None = 0.5) -> plt.Figure:
    """A metric with its interval by finding, the macro last; one colour per table. tables: name -> `evaluate`'s."""
    figure, axes = plt.subplots(figsize=(8.5, 5.6))
    order = [*next(iter(tables.values())).loc[list(FINDINGS), metric].sort_values(na_position="first").index]
    rows, columns = ["macro", *order], (metric, f"{metric}_low", f"{metric}_high")
    for index, ((name, table), style) in enumerate(zip(tables.items(), STYLES, strict=False)):
        y = np.arange(len(rows)) + ((len(tables) - 1) / 2 - index) * 0.25  # the first above, as in the legend
        draw_intervals(axes, y, table.loc[rows], columns, style, label=name)
    counts = [one[["positives", "patients"]].astype(str).agg(" / ".join, axis=1) for one in tables.values()]
    named = (f"{pretty(name)} ({'; '.join(dict.fromkeys(each[name] for each in counts))})" for name in order)
    axes.set_yticks(range(len(rows)), ["MACRO MEAN", *named])
    axes.axhline(0.5, color="0.8", lw=1)
    if chance is not None:
        axes.axvline(chance, color=GREY, lw=1, ls=":")
    axes.set(xlabel=f"{label}, 95 % interval over patients", title=f"{label} on test (positive images / patients)")
    if len(tables) > 1:
        figure.legend(loc="outside lower right", ncols=2)  # no place inside is free of intervals
    values = "; ".join(f"{name}: {listed(table.loc[rows[::-1], metric])}" for name, table in tables.items())
    return described(figure, f"{label} on test with 95 % intervals, by finding. {values}.")
