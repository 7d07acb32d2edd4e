"""Figures of the data: labels, patients, views, splits, agreement, leaks."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from cxrlib.data.findings import FINDINGS
from cxrlib.plots.style import BLUE, GREY, ORANGE, STYLES, described, draw_intervals, listed, pretty


def plot_label_counts(entries: pd.DataFrame) -> Figure:
    """How many images have each finding, most frequent first, with their share."""
    counts = entries[list(FINDINGS)].sum().sort_values()
    figure, axes = plt.subplots(figsize=(8, 5))
    bars = axes.barh([pretty(name) for name in counts.index], counts, color=BLUE)
    shares = [f"{count:,} ({count / len(entries):.1%})" for count in counts]
    axes.bar_label(bars, shares, padding=4, fontsize=9, color="0.25")
    axes.set(xlabel=f"images of {len(entries):,}", title="Few findings are common, most are rare", xmargin=0.2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    what = f"Bar chart, images of {len(entries):,} that bear each finding"
    return described(figure, f"{what}: {listed(counts[::-1], ',')}.")


def plot_cooccurrence(entries: pd.DataFrame) -> Figure:
    """Of the images with the row's finding, the share (%) with the column's; coloured by its ratio to that of all."""
    labels = entries[list(FINDINGS)].to_numpy(float)
    together = labels.T @ labels
    with np.errstate(invalid="ignore", divide="ignore"):
        share = together / np.diag(together)[:, None]
        lift = share / labels.mean(axis=0)
    np.fill_diagonal(lift, np.nan)
    names = [pretty(name) for name in FINDINGS]
    figure, axes = plt.subplots(figsize=(9.5, 7.8))
    sns.heatmap(lift, ax=axes, annot=100 * share, fmt=".0f", cmap="Blues", vmin=1, vmax=5, square=True, linewidths=0.5,
                annot_kws={"size": 9}, xticklabels=names, yticklabels=names,
                cbar_kws={"label": "times as often as among all images", "shrink": 0.6, "extend": "both"})  # fmt: skip
    axes.tick_params(left=False, bottom=False)
    axes.set_title("Of the images with the row's finding, how many (%) also bear the column's")
    upper = zip(*np.triu_indices(len(names), 1), strict=True)
    pairs = [(lift[i, j], names[i], names[j]) for i, j in upper if lift[i, j] > 0]
    most = ", ".join(f"{one} and {other} {times:.1f} times" for times, one, other in sorted(pairs, reverse=True)[:5])
    return described(figure, f"Table of the fourteen findings by each other. Together most above chance: {most}.")


def plot_visits(entries: pd.DataFrame) -> Figure:
    """Images per patient, and the share of all images from the patients with most."""
    visits = entries.groupby("patient").size().sort_values(ascending=False)
    most = max(visits.max(), 2)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    left.hist(visits, bins=np.unique(np.geomspace(1, most + 1, 20).round()) - 0.5, color=BLUE)  # between whole numbers
    left.set(xscale="log", yscale="log", xlabel="images of one patient", ylabel="patients", title="Images a patient")
    _count_ticks(left, 1, most)
    patients = 100 * np.arange(1, len(visits) + 1) / len(visits)
    images = 100 * visits.cumsum() / visits.sum()
    right.plot(patients, images, color=BLUE, lw=2)
    right.plot([0, 100], [0, 100], color=GREY, lw=1, ls=":")
    half = patients[np.searchsorted(images, 50)]
    right.plot(half, 50, "o", color=ORANGE)
    right.annotate(f"half of the images\ncome from {half:.0f} % of the patients", (half, 50), xytext=(45, 18),
                   fontsize=10, arrowprops={"arrowstyle": "-", "color": GREY})  # fmt: skip
    right.set(xlabel="patients, most images first (%)", ylabel="images (%)")
    right.set_title("A few patients hold half of the images")
    return described(figure, f"Two panels. Histogram of images a patient, from {visits.min()} to {visits.max()}: "
                     f"{(visits == 1).mean():.0%} of {len(visits):,} patients have one. Curve of the share of images "
                     f"held by the patients with most: half of the images come from {half:.0f} % of the "
                     "patients.")  # fmt: skip


def plot_views(entries: pd.DataFrame) -> Figure:
    """Ages by view, and the share of images with each finding in PA and in AP."""
    views = {name: entries[entries["view"] == name] for name in ("PA", "AP")}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), width_ratios=(1, 1.15))
    for (name, rows), colour, line in zip(views.items(), (BLUE, ORANGE), ("-", "--"), strict=True):
        left.hist(rows["age"].dropna(), bins=np.arange(0, 101, 5), histtype="step", lw=2, color=colour, ls=line,
                  label=f"{name}: {len(rows):,} images, median age {rows['age'].median():.0f}")  # fmt: skip
    left.set(xlabel="age (years)", ylabel="images", title="Ages", xlim=(0, 100), ymargin=0.3)
    left.yaxis.set_major_formatter("{x:,.0f}")
    left.legend(loc="upper left", fontsize=10)
    share = pd.DataFrame({name: 100 * rows[list(FINDINGS)].mean() for name, rows in views.items()})
    order = (share["AP"] / share["PA"]).sort_values().index
    _dumbbells(right, "Who cannot stand is sicker (ordered by AP / PA)", share.loc[order])
    what = "Two panels: ages by view, and the share of images with each finding in PA and AP"
    return described(figure, f"{what}: {_shares_text(share)}.")


def plot_shift(entries: pd.DataFrame, part: pd.Series, first: str = "train_val", second: str = "test") -> Figure:
    """Prevalence of each finding in two splits, joined by a line. part: the split of each entry."""
    labels, (figure, axes) = entries[list(FINDINGS)], plt.subplots(figsize=(8, 5))
    share = pd.DataFrame({name: 100 * labels[part == name].mean() for name in (first, second)}).sort_values(second)
    _dumbbells(axes, "The official test part is not like the training part", share)
    what = f"Share of images with each finding in {first} and in {second}"
    return described(figure, f"{what}: {_shares_text(share[::-1])}.")


def plot_agreement(table: pd.DataFrame) -> Figure:
    """Cohen's kappa of mined labels against readers, by finding, with intervals. table: `agreement`'s."""
    table = table.sort_values("kappa", na_position="first")
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.27 * len(table)))
    rows = np.arange(len(table))
    draw_intervals(axes, rows, table, ("kappa", "kappa_low", "kappa_high"))
    axes.set_yticks(rows, [f"{pretty(name)} ({positives})" for name, positives in table["expert"].items()])
    axes.axvline(0, color=GREY, lw=1, ls=":")
    axes.set(xlabel="Cohen's kappa, 95 % interval over patients", ylim=(-0.6, len(table) - 0.4))
    axes.set(title="Do mined labels and readers agree? (positive by the readers)",
             xlim=(min(-0.1, table["kappa_low"].min() - 0.05), 1.02))  # fmt: skip
    values = listed(table["kappa"][::-1])
    return described(figure, f"Cohen's kappa of the mined labels on {table['images'].iloc[0]:,} images: {values}.")


def plot_parts(entries: pd.DataFrame) -> Figure:
    """How many positives of each finding are in train, val and test (logarithmic)."""
    counts = entries.groupby("part")[list(FINDINGS)].sum().T.rename(index=pretty)
    counts = counts[["train", "val", "test"]].sort_values("train")
    figure, axes = plt.subplots(figsize=(8, 5))
    for name, (colour, marker) in zip(counts, (STYLES[0], STYLES[2], STYLES[1]), strict=True):
        axes.plot(counts[name], counts.index, marker, color=colour, label=name, ms=7)
    axes.set_xscale("symlog", linthresh=1, linscale=0.3)  # as a logarithm, with room for 0
    least, most = counts.to_numpy().min(), counts.to_numpy().max()
    axes.set(xlim=(-0.2 if least < 2 else 0.8 * least, None))
    axes.set(xlabel="images with the finding (logarithmic)", title="Positives in each part")
    _count_ticks(axes, 0.8 * least, most)
    axes.grid(axis="both")
    axes.legend(loc="upper left")
    values = "; ".join(f"{name} {', '.join(map(str, row))}" for name, *row in counts[::-1].itertuples())
    return described(figure, f"Positive images in train, val and test: {values}.")


def plot_leakage(leaks: pd.DataFrame) -> Figure:
    """Test images whose patient is also in train (%), by split. leaks: the row "test" of `leakage` for each."""
    figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.5 * len(leaks)))
    share = 100 * leaks["share_leaked"]
    bars = axes.barh(leaks.index, share, color=[ORANGE if value else BLUE for value in share])
    axes.bar_label(bars, [f"{value:.0f} %" for value in share], padding=4)
    axes.invert_yaxis()
    axes.set(xlabel="test images whose patient is in train (%)", xlim=(0, 105), title="What a split by image leaks")
    values = ", ".join(f"{name} {value:.0f} %" for name, value in share.items())
    return described(figure, f"Test images whose patient is also in train: {values}.")


def _count_ticks(axes, least: float, most: float) -> None:
    """Ticks from least to most at 0 and at 1, 2 and 5 times the powers of ten."""
    steps = [0, *np.outer(10 ** np.arange(6), (1, 2, 5)).ravel()]
    ticks = [tick for tick in steps if least <= tick <= most]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _shares_text(share: pd.DataFrame) -> str:
    return ", ".join(f"{pretty(name)} {one:.1f} and {two:.1f} %" for name, one, two in share.itertuples())


def _dumbbells(axes, title: str, share: pd.DataFrame) -> None:
    """Two shares (%) per finding, joined by a line. share: two columns; index the findings from the bottom up."""
    rows = np.arange(len(share))
    axes.hlines(rows, *share.to_numpy().T, color="0.75", lw=2, zorder=1)
    for name, (colour, marker) in zip(share, STYLES, strict=False):
        axes.scatter(share[name], rows, color=colour, marker=marker, label=name, zorder=2)
    axes.set_yticks(rows, [pretty(name) for name in share.index])
    axes.set(xlim=(0, None), xlabel="images with the finding (%)", title=title)
    axes.legend(loc="lower right")
