"""Figures of the data: labels, patients, parts, what a split leaks. Each takes plain data and returns a Figure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from cxrlib.findings import FINDINGS
from cxrlib.plots import BLUE, GREEN, GREY, ORANGE, pretty


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
