"""Every figure of the course, in one look: one palette (safe for colour-blind readers), one font, labels with units.

Each `plot_*` takes plain data and returns a matplotlib Figure; `save_figure` exports it.
"""

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from cxrlib.findings import FINDINGS
from cxrlib.metadata import BOX_FRAME

BLUE, ORANGE, GREEN, RED = (sns.color_palette("colorblind")[i] for i in (0, 1, 2, 3))
GREY = "0.45"
DPI = 150


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


def save_figure(figure: Figure, name: str, *folders: str | Path) -> None:
    """Write `name`.png (150 dots an inch, white) into each folder; the same figure gives the same bytes."""
    picture = io.BytesIO()  # drawn once: the layout is not settled after the first drawing, so a second one differs
    figure.savefig(picture, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    for folder in map(Path, folders):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(picture.getvalue())


def pretty(finding: str) -> str:
    """A finding's name for readers: "Pleural thickening"."""
    return finding.replace("_", " ").capitalize()


def plot_label_counts(entries: pd.DataFrame) -> Figure:
    """How many images bear each finding, most frequent first, with their share."""
    counts = entries[list(FINDINGS)].sum().sort_values()
    figure, axes = plt.subplots(figsize=(8, 5))
    bars = axes.barh([pretty(name) for name in counts.index], counts, color=BLUE)
    shares = [f"{count:,} ({count / len(entries):.1%})" for count in counts]
    axes.bar_label(bars, shares, padding=4, fontsize=9, color="0.25")
    axes.set(xlabel=f"images of {len(entries):,}", title="Few findings are common, most are rare")
    axes.margins(x=0.2)
    return figure


def plot_cooccurrence(entries: pd.DataFrame) -> Figure:
    """Of the images with the row's finding, the share that also bears the column's."""
    labels = entries[list(FINDINGS)].to_numpy(float)
    together = labels.T @ labels
    with np.errstate(invalid="ignore"):
        share = 100 * together / np.diag(together)[:, None]
    np.fill_diagonal(share, np.nan)
    names = [pretty(name) for name in FINDINGS]
    figure, axes = plt.subplots(figsize=(9, 7.5))
    sns.heatmap(share, ax=axes, annot=True, fmt=".0f", cmap="Blues", square=True, linewidths=0.5, annot_kws={"size": 8},
                xticklabels=names, yticklabels=names, cbar_kws={"label": "per cent", "shrink": 0.6})  # fmt: skip
    axes.tick_params(left=False, bottom=False)
    axes.set(title="Of the images with the row's finding, how many (%) also bear the column's")
    return figure


def plot_visits(entries: pd.DataFrame) -> Figure:
    """Images a patient, and how many of all images the most photographed patients hold."""
    visits = entries.groupby("patient").size().sort_values(ascending=False)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    edges = np.unique(np.geomspace(1, max(visits.max(), 2) + 1, 20).round()) - 0.5  # between whole numbers
    left.hist(visits, bins=edges, color=BLUE)
    left.set(xscale="log", yscale="log", xlabel="images of one patient", ylabel="patients", title="Images a patient")
    patients = 100 * np.arange(1, len(visits) + 1) / len(visits)
    images = 100 * visits.cumsum() / visits.sum()
    right.plot(patients, images, color=BLUE, lw=2)
    right.plot([0, 100], [0, 100], color=GREY, lw=1, ls=":")
    half = int(np.searchsorted(images, 50))
    right.plot(patients[half], 50, "o", color=ORANGE)
    right.annotate(f"half of the images\ncome from {patients[half]:.0f} % of the patients", (patients[half], 50),
                   xytext=(45, 18), fontsize=10, arrowprops={"arrowstyle": "-", "color": GREY})  # fmt: skip
    right.set(xlabel="patients, most images first (%)", ylabel="images (%)", title="A few patients hold most images")
    return figure


def plot_shift(entries: pd.DataFrame, part: pd.Series, first: str = "train_val", second: str = "test") -> Figure:
    """Prevalence of each finding in two parts, joined by a line."""
    labels = entries[list(FINDINGS)]
    share = pd.DataFrame({name: 100 * labels[part == name].mean() for name in (first, second)}).sort_values(second)
    figure, axes = plt.subplots(figsize=(8, 5))
    rows = np.arange(len(share))
    axes.hlines(rows, share[first], share[second], color="0.75", lw=2, zorder=1)
    axes.scatter(share[first], rows, color=BLUE, label=first, zorder=2)
    axes.scatter(share[second], rows, color=ORANGE, marker="D", label=second, zorder=2)
    axes.set_yticks(rows, [pretty(name) for name in share.index])
    axes.set(xlabel="images with the finding (%)", title="The official test part is not like the training part")
    axes.legend(loc="lower right")
    return figure


def plot_radiographs(
    images: Sequence, titles: Sequence[str], boxes: Sequence | None = None, columns: int = 4
) -> Figure:
    """A grid of radiographs. images: (h, w) uint8; boxes: of each image, (x, y, w, h, text) in BOX_FRAME pixels."""
    figure, all_axes = panels(len(images), columns, 2.3)
    for index, (axes, image, title) in enumerate(zip(all_axes, images, titles, strict=False)):
        show_image(axes, image, title)
        for x, y, w, h, text in boxes[index] if boxes else ():
            draw_box(axes, image, (x, y, w, h), text)
    return figure


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


def plot_parts(entries: pd.DataFrame) -> Figure:
    """How many positives of each finding stand in train, val and test (logarithmic)."""
    counts = entries.groupby("part")[list(FINDINGS)].sum().T.rename(index=pretty)
    counts = counts[["train", "val", "test"]].sort_values("train")
    figure, axes = plt.subplots(figsize=(8, 5))
    for name, colour, marker in (("train", BLUE, "o"), ("test", ORANGE, "D"), ("val", GREEN, "s")):
        axes.plot(counts[name], counts.index, marker, color=colour, label=name, ms=7)
    axes.set_xscale("symlog", linthresh=1)  # as a logarithm, with room for 0
    axes.set(xlim=(-0.2, None), xlabel="images with the finding (logarithmic)", title="Positives in each part")
    axes.grid(axis="x")
    axes.legend(loc="lower right")
    return figure


def plot_leakage(leaks: pd.DataFrame) -> Figure:
    """Test images whose patient is also in train (%), by split. leaks: the rows "test" of `leakage`, index the kind."""
    figure, axes = plt.subplots(figsize=(7, 2.4))
    share = 100 * leaks["share_leaked"]
    bars = axes.barh(leaks.index, share, color=[ORANGE if value else BLUE for value in share])
    axes.bar_label(bars, [f"{value:.0f} %" for value in share], padding=4)
    axes.set(xlabel="test images whose patient is in train (%)", xlim=(0, 105), title="What a split by image leaks")
    return figure


def plot_history(history: pd.DataFrame) -> Figure:
    """Loss on train and validation, and the validation macro AUROC, by epoch; the kept epoch is marked."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    left.plot(history["epoch"], history["train_loss"], "-o", color=BLUE, label="train (augmented)")
    left.plot(history["epoch"], history["val_loss"], "-D", color=ORANGE, label="validation")
    left.set(xlabel="epoch", ylabel="loss", title="Loss")
    left.legend()
    right.plot(history["epoch"], history["val_auroc"], "-D", color=ORANGE)
    kept = history.loc[history["best"]].iloc[-1]
    right.plot(kept["epoch"], kept["val_auroc"], "o", ms=14, mfc="none", mec="black")
    right.annotate(f" kept: {kept['val_auroc']:.3f}", (kept["epoch"], kept["val_auroc"]), xytext=(8, -16),
                   textcoords="offset points")  # fmt: skip
    right.set(xlabel="epoch", ylabel="macro AUROC", title="Validation macro AUROC chooses the epoch")
    for axes in (left, right):
        axes.set(xticks=history["epoch"], xlim=(0.5, history["epoch"].max() + 0.5))
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
        axes.legend(loc="lower right")
    return figure


def plot_comparison(table: pd.DataFrame) -> Figure:
    """Macro AUROC with its interval against training time. table: index arch; auroc*, minutes, parameters (million)."""
    figure, axes = plt.subplots(figsize=(9.5, 4.6))
    styles = zip(sns.color_palette("colorblind", len(table)), cycle("oDs^vPX"), strict=False)
    for (arch, row), (colour, marker) in zip(
        table.sort_values("auroc", ascending=False).iterrows(), styles, strict=False
    ):
        error = [[row["auroc"] - row["auroc_low"]], [row["auroc_high"] - row["auroc"]]]
        axes.errorbar(row["minutes"], row["auroc"], yerr=error, fmt=marker, ms=9, color=colour, capsize=3,
                      label=f"{arch} ({row['parameters']:.1f} M)")  # fmt: skip
    axes.legend(title="best first (parameters)", loc="center left", bbox_to_anchor=(1, 0.5), alignment="left")
    axes.axhline(0.5, color=GREY, lw=1, ls=":")
    axes.set(xscale="log")
    axes.margins(x=0.1)
    for axis_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_formatter(FuncFormatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in "125" else ""))
    axes.set( xlabel="training time (minutes, logarithmic)", ylabel="test macro AUROC, 95 % interval",
             title="Accuracy against cost")  # fmt: skip
    return figure


def plot_threshold_curves(grid: np.ndarray, f1: np.ndarray, chosen: np.ndarray, tuned: np.ndarray) -> Figure:
    """F1 on validation against the threshold, a panel a finding. grid: (g,); f1: (g, 14); chosen, tuned: (14,)."""
    figure, all_axes = panels(len(FINDINGS), 5, 2.2, height=1.8, frame=True, sharex=True, sharey=True)
    for k, (axes, name) in enumerate(zip(all_axes, FINDINGS, strict=False)):
        axes.plot(grid, f1[:, k], color=BLUE if tuned[k] else "0.7")
        if tuned[k]:
            axes.axvline(chosen[k], color=ORANGE, lw=2)
        axes.set_title(f"{pretty(name)}: {f'{chosen[k]:.2f}' if tuned[k] else 'not tuned'}", fontsize=10)
    figure.supxlabel("threshold (orange: chosen on validation)", fontsize=11)
    figure.supylabel("F1 on validation", fontsize=11)
    return figure


def plot_pr_curves(scores: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> Figure:
    """Precision-recall curves, a panel a finding, with operating point and chance (the prevalence). Arrays (n, 14)."""
    from sklearn.metrics import precision_recall_curve

    figure, all_axes = panels(len(FINDINGS), 5, 2.2, height=1.9, frame=True, sharex=True, sharey=True)
    for k, (axes, name) in enumerate(zip(all_axes, FINDINGS, strict=False)):
        truth = labels[:, k].astype(bool)
        axes.set_title(pretty(name), fontsize=10)
        if not truth.any():
            axes.text(0.5, 0.5, "no positive", ha="center", va="center", color=GREY)
            continue
        precision, recall, _ = precision_recall_curve(truth, scores[:, k])
        axes.step(recall, precision, where="post", color=BLUE)
        axes.axhline(truth.mean(), color=GREY, lw=1, ls=":")
        called = scores[:, k] >= thresholds[k]
        if called.any():
            axes.plot((called & truth).sum() / truth.sum(), truth[called].mean(), "o", color=ORANGE)
        axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.supxlabel("recall (sensitivity)", fontsize=11)
    figure.supylabel("precision (PPV)", fontsize=11)
    return figure


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
    axes.text(x, y - 2, text, color="#56b4e9", fontsize=8, va="bottom")
