"""Figures of the data: labels, patients, views, splits, agreement, leaks."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from cxrlib.data.findings import FINDINGS
from cxrlib.plots.style import BLUE, GREY, ORANGE, STYLES, described, draw_intervals, listed, pretty

_ANATOMY = (  # name, the place it points to and where it is written, as shares of the side
    ("apex", (0.4, 0.12), (0.12, 0.07)), ("right lung", (0.27, 0.42), (0.1, 0.36)),
    ("left lung", (0.73, 0.36), (0.9, 0.3)), ("hilum", (0.41, 0.45), (0.16, 0.55)),
    ("heart", (0.58, 0.62), (0.88, 0.55)), ("diaphragm", (0.33, 0.68), (0.42, 0.93)),
    ("costophrenic\nangle", (0.14, 0.81), (0.14, 0.95)), ("clavicle", (0.72, 0.135), (0.86, 0.08)),
)  # fmt: skip


def plot_label_counts(entries: pd.DataFrame) -> plt.Figure:
    """How many images have each finding, most frequent first, with their share."""
    counts = entries[list(FINDINGS)].sum().sort_values().rename(pretty)
    figure, axes = plt.subplots(figsize=(8, 5))
    shares = [f"{count:,} ({count / len(entries):.1%})" for count in counts]
    axes.bar_label(axes.barh(counts.index, counts, color=BLUE), shares, padding=4, fontsize=9, color="0.25")
    axes.set(xlabel=f"images (of {len(entries):,})", title="A few findings are common, most are rare", xmargin=0.2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    said = f"Bar chart, images of {len(entries):,} that bear each finding"
    return described(figure, f"{said}: {listed(counts[::-1], ',')}.")


def plot_cooccurrence(entries: pd.DataFrame) -> plt.Figure:
    """How many times as often as by chance two findings are together; in brackets: by chance, under ten images."""
    labels = entries[list(FINDINGS)].to_numpy(float)
    by_chance = np.outer(labels.sum(axis=0), labels.mean(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        lift = labels.T @ labels / by_chance
    names = [pretty(name) for name in FINDINGS]
    figure, axes = plt.subplots(figsize=(9.5, 7.4))
    upper, few = np.triu(np.ones(lift.shape, bool)), by_chance < 10
    written = np.char.mod(np.where(few, "(%.1f)", "%.1f"), lift)
    shared = {"ax": axes, "annot": written, "fmt": "", "xticklabels": names, "yticklabels": names}
    sns.heatmap(np.log2(lift.clip(1 / 16)), mask=upper | few, cmap="RdBu_r", vmin=-4.5, vmax=4.5, **shared,
                cbar_kws={"label": "times as often as by chance", "ticks": range(-3, 4), "shrink": 0.6})  # fmt: skip
    sns.heatmap(0 * lift, mask=upper | ~few, cmap=["white"], cbar=False, **shared)
    axes.collections[0].colorbar.set_ticklabels(["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set(xlim=(0, len(lift) - 1), ylim=(len(lift), 1), title="Which findings are labelled together")
    axes.tick_params(left=False, bottom=False)
    pairs = [(lift[i, j], names[i], names[j]) for j, i in np.argwhere(~upper & ~few)]
    most = ", ".join(f"{one} and {other} {times:.1f} times" for times, one, other in sorted(pairs, reverse=True)[:5])
    return described(figure, f"Table of the fourteen findings by each other. Together most above chance: {most}.")


def plot_visits(entries: pd.DataFrame) -> plt.Figure:
    """Patients by their number of images, and how many of all images each group holds (%)."""
    visits = entries.groupby("patient").size()
    names = ["1", "2", "3-4", "5-9", "10-19", "20-49", "50 or more"]
    group = pd.cut(visits, [0, 1, 2, 4, 9, 19, 49, np.inf], labels=names)
    share = pd.DataFrame({"patients": group.value_counts(normalize=True),
                          "images": visits.groupby(group, observed=False).sum() / len(entries)}).loc[names]  # fmt: skip
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for place, (name, colour) in enumerate(zip(share, (BLUE, ORANGE), strict=True)):
        bars = axes.barh(np.arange(len(share)) + 0.4 * place, 100 * share[name], 0.38, color=colour, label=name)
        axes.bar_label(bars, [f"{value:.0%}" for value in share[name]], padding=3, fontsize=9)
    axes.set_yticks(np.arange(len(share)) + 0.2, share.index)
    axes.invert_yaxis()
    axes.set(ylabel="images per patient", xlabel="share of all patients, and of all images (%)", xmargin=0.12,
             title="A few patients have many of the images")  # fmt: skip
    axes.legend(loc="lower right")
    values = "; ".join(f"{name} {one:.0%} and {two:.0%}" for name, one, two in share.itertuples())
    return described(figure, f"Shares of the patients and of the images by images per patient: {values}.")


def plot_views(entries: pd.DataFrame) -> plt.Figure:
    """Distribution of the ages by view, and how often each finding is labelled in AP relative to PA (logarithmic)."""
    views = {name: entries[entries["view"] == name] for name in ("PA", "AP")}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), width_ratios=(1, 1.15))
    for (name, rows), colour, line in zip(views.items(), (BLUE, ORANGE), ("-", "--"), strict=True):
        left.hist(rows["age"].dropna(), bins=np.arange(0, 101, 5), histtype="step", lw=2, color=colour, ls=line,
                  weights=np.full(rows["age"].count(), 100 / max(rows["age"].count(), 1)),
                  label=f"{name}: {len(rows):,} images, median age {rows['age'].median():.0f}")  # fmt: skip
    left.set(xlabel="age (years)", ylabel="images of the view (%)", title="Ages", xlim=(0, 100), ymargin=0.3)
    left.legend(loc="upper left", fontsize=10)
    share = pd.DataFrame({name: 100 * rows[list(FINDINGS)].mean() for name, rows in views.items()})
    ratio = (share["AP"] / share["PA"]).replace([0, np.inf], np.nan).sort_values(na_position="first").rename(pretty)
    right.hlines(ratio.index, 1, ratio, color="0.75", lw=2)
    right.plot(ratio, ratio.index, "o", color=ORANGE)
    right.axvline(1, color=GREY, lw=1)
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:g}")
    right.set(xlabel="times as often in AP as in PA (logarithmic)", title="Findings in AP, relative to PA")
    return described(figure, f"Ages by view; share of images with each finding in PA and in AP: {_shares_text(share)}.")


def plot_shift(entries: pd.DataFrame, part: pd.Series, first: str = "train_val", second: str = "test") -> plt.Figure:
    """Prevalence of each finding in two splits (logarithmic), joined by a line. part: the split of each entry."""
    labels, (figure, axes) = entries[list(FINDINGS)].rename(columns=pretty), plt.subplots(figsize=(8, 5))
    share = pd.DataFrame({name: 100 * labels[part == name].mean() for name in (first, second)}).sort_values(second)
    axes.hlines(share.index, share[first], share[second], color="0.75", lw=2, zorder=1)
    for name, (colour, marker) in zip(share, STYLES, strict=False):
        axes.scatter(share[name], share.index, color=colour, marker=marker, label=name, zorder=2)
    axes.set(xscale="log", xlabel="images with the finding (%, logarithmic)", title="The official parts differ")
    axes.set_xticks([0.2, 0.5, 1, 2, 5, 10, 20], ["0.2", "0.5", "1", "2", "5", "10", "20"])
    axes.legend(loc="lower right")
    return described(figure, f"Share of images with each finding in {first} and {second}: {_shares_text(share[::-1])}.")


def plot_agreement(table: pd.DataFrame, nih: pd.DataFrame | None = None) -> plt.Figure:
    """Cohen's kappa of labels against a reference, with intervals. table: `agreement`'s; nih: another, to compare."""
    columns, table = ("kappa", "kappa_low", "kappa_high"), table.sort_values("kappa", na_position="first")
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.27 * len(table)))
    values = listed(table["kappa"][::-1])
    y, rows = np.arange(len(table)), [f"{pretty(name)} ({positives})" for name, positives in table["expert"].items()]
    draw_intervals(axes, y, table, columns, label="these labels against the reference")
    if nih is not None:
        draw_intervals(axes, y - 0.25, nih.loc[table.index], columns, STYLES[1], label="NIH's labels against readers")
        figure.legend(loc="outside lower right", ncols=2)
        values += f"; of NIH's: {listed(nih.loc[table.index, 'kappa'][::-1])}"
    axes.axvline(0, color=GREY, lw=1, ls=":")
    axes.set_yticks(y, rows)
    axes.set(xlabel="Cohen's kappa, 95 % interval over patients", ylim=(-0.6, len(table) - 0.4),
             title="Labels against a reference (in brackets: positive in the blue one)", xlim=(None, 1.02))  # fmt: skip
    return described(figure, f"Cohen's kappa of the mined labels on {table['images'].iloc[0]:,} images: {values}.")


def plot_anatomy(image: np.ndarray) -> plt.Figure:
    """A frontal radiograph, clean and beside it with the names of its parts, at their usual places."""
    figure, (clean, named) = plt.subplots(1, 2, figsize=(9, 4.6))
    for axes, title in ((clean, "A radiograph without a labelled finding"), (named, "The same with its parts named")):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[], title=title)
    for text, *places in _ANATOMY:
        named.annotate(text, *np.multiply(places, len(image)), color="white", fontsize=9, ha="center",
                       arrowprops={"arrowstyle": "->", "color": ORANGE, "lw": 1.5},
                       bbox={"fc": "black", "ec": "none", "alpha": 0.6, "pad": 1.5})  # fmt: skip
    parts = ", ".join(text for text, *_ in _ANATOMY).replace("\n", " ")
    return described(figure, f"A frontal radiograph, clean and with its parts named: {parts}.")


def plot_parts(entries: pd.DataFrame) -> plt.Figure:
    """How many positives of each finding are in train, val and test (logarithmic)."""
    counts = entries.groupby("part")[list(FINDINGS)].sum().reindex(["train", "val", "test"], fill_value=0).T
    counts = counts.rename(index=pretty).sort_values("train")
    figure, axes = plt.subplots(figsize=(8, 5))
    for name, (colour, marker) in zip(counts, (STYLES[0], STYLES[2], STYLES[1]), strict=True):
        axes.plot(counts[name], counts.index, marker, color=colour, label=name, ms=7)
    axes.set_xscale("symlog", linthresh=1, linscale=0.3)  # as a logarithm, with room for 0
    least, most = counts.to_numpy().min(), counts.to_numpy().max()
    ticks = [tick for tick in (0, *np.outer(10 ** np.arange(6), (1, 2, 5)).ravel()) if 0.8 * least <= tick <= most]
    axes.set(xlabel="images with the finding (logarithmic)", title="Positives in each part", xticks=ticks,
             xlim=(-0.2 if least < 2 else 0.8 * least, None))  # fmt: skip
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.grid(axis="both")
    figure.legend(loc="outside lower right", ncols=3)
    values = "; ".join(f"{name} {', '.join(map(str, row))}" for name, *row in counts[::-1].itertuples())
    return described(figure, f"Positive images in train, val and test: {values}.")


def plot_leakage(table: pd.DataFrame, gain: pd.Series) -> plt.Figure:
    """Macro AUROC with and without a leak (rows: auroc, auroc_low, auroc_high), and the difference, low and high."""
    figure, (top, below) = plt.subplots(2, 1, figsize=(8, 2.4 + 0.5 * len(table)), height_ratios=(len(table), 1))
    gained, columns = gain[["difference", "low", "high"]].astype(float), ["auroc", "auroc_low", "auroc_high"]
    for axes, rows, none in (top, table[columns], 0.5), (below, gained.to_frame("difference").T, 0):
        draw_intervals(axes, range(len(rows)), rows, rows.columns, ms=9)
        axes.axvline(none, color=GREY, lw=1, ls=":")
        for row, value in enumerate(rows.iloc[:, 0]):
            axes.annotate(f"{value:.3f}", (value, row), (0, 9), textcoords="offset points", ha="center", fontsize=10)
        axes.set(yticks=range(len(rows)), yticklabels=rows.index, ylim=(len(rows) - 0.5, -0.6))
    top.set(xlabel="macro AUROC on test, 95 % interval over patients")
    below.set(xlabel="difference (first minus second), 95 % interval")
    values = ", ".join(f"{name} {value:.3f}" for name, value in table["auroc"].items())
    said = "Macro AUROC on test with 95 % intervals: {}; difference {:.3f} [{:.3f}, {:.3f}]."
    return described(figure, said.format(values, *gained))


def _shares_text(share: pd.DataFrame) -> str:
    return ", ".join(f"{pretty(name)} {one:.1f} and {two:.1f} %" for name, one, two in share.itertuples())
