"""The look of every figure: one palette (safe for colour-blind readers), one font, labels with units; and its alt text.

Each `plot_*`, here and in the modules `plots_*`, takes plain data and returns a matplotlib Figure. `show` displays it
in a notebook, `save_figure` exports it; both carry the text for readers who cannot see it (`described`, `alt_text`).
"""

import html
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import BOX_FRAME

BLUE, ORANGE, GREEN, RED = (sns.color_palette("colorblind")[i] for i in (0, 1, 2, 3))
GREY = "0.45"
DPI = 150  # of pictures on pages
PRINT = 300  # of pictures on paper
SHARPER = 1.5
_OUTLINE = withStroke(linewidth=2, foreground="black")  # readable over heat, too


def set_style() -> None:
    """The look of all figures; called when this module is imported."""
    sns.set_theme(style="ticks", context="notebook", font="DejaVu Sans", palette="colorblind")
    plt.rcParams |= {
        "figure.dpi": 80,
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid.axis": "x",
        "grid.color": "0.9",
        "legend.frameon": False,
        "svg.hashsalt": "cxrlib",
        "figure.constrained_layout.use": True,
    }


set_style()


def described(figure: Figure, text: str) -> Figure:
    """The figure with the text that tells readers who cannot see it what it shows, said from the data it was given."""
    figure.set_label(text)
    return figure


def alt_text(figure: Figure) -> str:
    """What `described` said; of a figure without a description, its titles and axis labels."""
    if figure.get_label():
        return str(figure.get_label())
    said = [panel.get_title(loc) for panel in figure.axes for loc in ("left", "center", "right")]
    said += [label for panel in figure.axes[:1] for label in (panel.get_xlabel(), panel.get_ylabel())]
    return "; ".join(dict.fromkeys(text.replace("\n", " ") for text in said if text)) or "figure"


def show(figure: Figure, caption: str = "The figure in words") -> None:
    """Display a figure in a notebook, once, over its caption, and close it. The caption unfolds to the alt text.

    JupyterLab does not hand an output's alt text to screen readers yet, so it stands in the page as well. As the
    outputs' text it is also what nbval compares, which compares no picture.
    """
    from IPython.display import display  # scripts that only save figures do without it

    words = alt_text(figure)
    kind, picture = _small_picture(figure)
    width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
    plt.close(figure)
    about = {kind: {"width": width, "height": height, "alt": words}}
    display({kind: picture, "text/plain": words}, raw=True, metadata=about)
    folded = f"<details><summary>{html.escape(caption)}</summary>{html.escape(words)}</details>"
    display({"text/html": folded, "text/plain": caption}, raw=True)


def _small_picture(figure: Figure) -> tuple[str, bytes]:
    """MIME type and bytes of a figure, with more dots than it is shown with: sharp on dense screens, and small.

    A notebook holds a dozen: drawings take a palette of 256 colours, radiographs, which no palette makes small, JPEG.
    """
    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=SHARPER * figure.dpi, facecolor="white")
    with Image.open(drawn) as image:
        if any(panel.images for panel in figure.axes):
            image.convert("RGB").save(picture, "jpeg", quality=90, subsampling=0, optimize=True)
            return "image/jpeg", picture.getvalue()
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, "png", optimize=True)
        return "image/png", picture.getvalue()


def save_figure(figure: Figure, name: str, *folders: str | Path, dpi: int = DPI, pdf: bool = False) -> None:
    """Write `name`.png (150 dots an inch, white) into each folder; the same figure gives the same bytes.

    pdf: also `name`.pdf, whose lines and letters stay sharp at any size. The PNG's text chunk "Description" holds the
    alt text.
    """
    # each drawn once: the layout is not settled after the first drawing, so a second one differs
    written = {"png": _drawn(figure, "png", {"Software": None, "Description": alt_text(figure)}, dpi)}
    if pdf:
        written["pdf"] = _drawn(figure, "pdf", {"CreationDate": None}, dpi)
    for folder in map(Path, folders):
        folder.mkdir(parents=True, exist_ok=True)
        for kind, content in written.items():
            (folder / f"{name}.{kind}").write_bytes(content)


def _drawn(figure: Figure, kind: str, about: dict, dpi: int) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=dpi, facecolor="white", metadata=about)
    return picture.getvalue()


def pretty(finding: str) -> str:
    """A finding's name for readers: "Pleural thickening"."""
    return finding.replace("_", " ").capitalize()


def plot_radiographs(
    images: Sequence, titles: Sequence[str], boxes: Sequence | None = None, columns: int = 4
) -> Figure:
    """A grid of radiographs. images: (h, w) uint8; boxes: of each image, (x, y, w, h, text) in BOX_FRAME pixels."""
    figure, all_axes = panels(len(images), columns, 2.3)
    for index, (axes, image, title) in enumerate(zip(all_axes, images, titles, strict=False)):
        show_image(axes, image, title)
        for x, y, w, h, text in boxes[index] if boxes else ():
            draw_box(axes, image, (x, y, w, h), text)
    named = "; ".join(title.replace(":\n", ": ").replace("\n", ", ") for title in titles)
    return described(figure, f"{len(images)} radiographs{', with boxes' if boxes else ''}: {named}.")


def plot_overlays(
    images: Sequence, maps: Sequence, titles: Sequence[str], boxes: Sequence | None = None, columns: int = 4
) -> Figure:
    """Radiographs under their heat maps. maps: (h, w) in [0, 1] each; boxes as in `plot_radiographs`."""
    figure, all_axes = panels(len(images), columns, 2.3)
    for index, (axes, image, heat, title) in enumerate(zip(all_axes, images, maps, titles, strict=False)):
        show_image(axes, image, title)
        heat = np.asarray(heat)
        axes.imshow(
            heat, cmap="inferno", alpha=0.55 * heat**0.5, vmin=0, vmax=1, extent=(*axes.get_xlim(), *axes.get_ylim())
        )
        for x, y, w, h, text in boxes[index] if boxes else ():
            draw_box(axes, image, (x, y, w, h), text)
    return figure


def plot_intervals(
    tables: dict[str, pd.DataFrame], metric: str = "auroc", label: str = "AUROC", chance: float | None = 0.5
) -> Figure:
    """A metric with its interval by finding, the macro last; one colour a table. tables: name -> `evaluate`'s table."""
    figure, axes = plt.subplots(figsize=(8, 5.6))
    first = next(iter(tables.values()))
    order = [*first.loc[list(FINDINGS), metric].sort_values(na_position="first").index]
    rows = {name: row for row, name in enumerate(["macro", *order])}
    styles = zip(tables.items(), (BLUE, ORANGE, GREEN, RED), "oDs^", strict=False)
    for index, ((name, table), colour, marker) in enumerate(styles):
        table = table.loc[list(rows)]
        y = np.arange(len(rows)) + (index - (len(tables) - 1) / 2) * 0.25
        axes.hlines(y, table[f"{metric}_low"], table[f"{metric}_high"], color=colour, lw=2, alpha=0.6)
        axes.plot(table[metric], y, marker, color=colour, label=name, ls="none")
    positives = first["positives"].to_dict()
    names = ["MACRO MEAN"] + [f"{pretty(name)} ({positives[name]:.0f})" for name in order]
    axes.set_yticks(range(len(rows)), names)
    axes.axhline(0.5, color="0.8", lw=1)
    if chance is not None:
        axes.axvline(chance, color=GREY, lw=1, ls=":")
    axes.set(xlabel=f"{label}, 95 % interval over patients", title=f"{label} on test, by finding (positive images)")
    if len(tables) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))  # no place inside is free of intervals
    said = "; ".join(f"{name}: " + ", ".join(f"{pretty(row)} {table.loc[row, metric]:.2f}" for row in reversed(rows))
                     for name, table in tables.items())  # fmt: skip
    return described(figure, f"{label} on test with 95 % intervals, by finding. {said}.")


def panels(n: int, columns: int, width: float, height: float | None = None, frame: bool = False, **options):
    """A figure of n panels, the spare ones switched off."""
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    size = (columns * width, rows * ((height or width) + 0.35))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for spare in axes.flat[n:]:
        spare.axis("off")
    if not frame:
        for panel in axes.flat[:n]:  # not axis("off"): the layout would leave no room for titles
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
    if frame:  # panels above a spare place show the numbers of their axis themselves
        for above in axes.flat[max(0, n - columns) : n]:
            above.tick_params(labelbottom=True)
    return figure, list(axes.flat)


def show_image(axes, image: np.ndarray, title: str) -> None:
    axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=9, loc="center")


def draw_box(axes, image: np.ndarray, box: tuple, text: str) -> None:
    scale = np.shape(image)[0] / BOX_FRAME
    x, y, w, h = (value * scale for value in box)
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, ec="#56b4e9", lw=2))
    axes.text(x, y - 2, text, color="#56b4e9", fontsize=8, va="bottom", path_effects=[_OUTLINE])
