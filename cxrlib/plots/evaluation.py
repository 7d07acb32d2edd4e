"""Figures of evaluation: thresholds, calibration, gaps between groups."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from sklearn.metrics import precision_recall_curve

from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.reliability import reliability
from cxrlib.evaluation.thresholds import Thresholds, number
from cxrlib.plots.style import BLUE, GREY, ORANGE, STYLES, described, draw_intervals, panels, pretty

_LEAST_IN_MEAN = 3  # findings: a mean of fewer says little about the others


def plot_prevalence(
    prevalence: Sequence[float], at_half: Sequence[float], best: Sequence[float], auroc: float
) -> Figure:
    """F1 of one model against the prevalence: at the threshold 0.5 and at the best one."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    axes.axhline(auroc, color=GREY, ls="--", lw=1.5)
    axes.text(prevalence[0], auroc + 0.02, f"AUROC {auroc:.2f}, at any prevalence", color=GREY)
    axes.plot(prevalence, best, "-o", color=BLUE, label="F1 at the best threshold")
    axes.plot(prevalence, at_half, "-D", color=ORANGE, label="F1 at the threshold 0.5")
    axes.set(xscale="log", ylim=(0, 1), xlabel="prevalence: images with the finding, of 100", ylabel="AUROC, F1")
    axes.set_xticks(list(prevalence), [f"{100 * value:g}" for value in prevalence])
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    values = ", ".join(f"{100 * p:g} %: {b:.2f} and {h:.2f}" for p, b, h in zip(prevalence, best, at_half, strict=True))
    what = f"AUROC {auroc:.2f} throughout; F1 at the best threshold and at 0.5 by prevalence"
    return described(figure, f"{what}: {values}.")


def plot_threshold_curves(grid: np.ndarray, f1: np.ndarray, thresholds: Thresholds) -> Figure:
    """F1 on validation against the threshold, one panel per finding. grid: (g,); f1: (g, 14)."""
    labels = "threshold (orange: chosen on validation, with its 95 % interval)", "F1 on validation"
    figure, all_axes = panels(len(FINDINGS), 5, 2.2, height=1.8, labels=labels, sharex=True, sharey=True)
    titles = [text if tuned else "not tuned" for text, tuned in zip(thresholds.texts, thresholds.tuned, strict=True)]
    for k, (axes, name) in enumerate(zip(all_axes, FINDINGS, strict=False)):
        axes.plot(grid, f1[:, k], "-o", ms=3, color=BLUE if thresholds.tuned[k] else "0.7")
        if thresholds.tuned[k]:
            axes.axvline(thresholds.values[k], color=ORANGE, lw=2)
            axes.axvspan(thresholds.low[k], thresholds.high[k], color=ORANGE, alpha=0.15, lw=0)
        axes.set_title(f"{pretty(name)}: {titles[k]}", fontsize=10)
    all_axes[0].set(xlim=(min(grid) - 0.02, max(grid) + 0.02), ylim=(0, None))
    chosen = "; ".join(f"{pretty(name)} {title}" for name, title in zip(FINDINGS, titles, strict=True))
    return described(figure, f"F1 on validation against the threshold for each finding. Chosen: {chosen}.")


def plot_pr_curves(predictions: Predictions, points: dict[str, Thresholds]) -> Figure:
    """Precision-recall curves and chance, the prevalence. points: name -> thresholds on the scores of `predictions`."""
    labels = "recall (sensitivity); dotted: the prevalence, which is what guessing gives", "precision (PPV)"
    figure, all_axes = panels(len(FINDINGS), 5, 2.2, height=1.9, labels=labels, sharex=True, sharey=True)
    handles = {}
    for k, (axes, name) in enumerate(zip(all_axes, FINDINGS, strict=False)):
        rows = predictions.rows_of(k)
        truth, scores = predictions.labels[rows, k] == 1, predictions.scores[rows, k]
        axes.set_title(pretty(name), fontsize=10)
        if not truth.any():
            axes.text(0.5, 0.5, "no positive", ha="center", va="center", color=GREY)
            continue
        precision, recall, _ = precision_recall_curve(truth, scores)
        axes.step(recall, precision, where="post", color="0.4", lw=1.2)
        axes.axhline(truth.mean(), color=GREY, lw=1, ls=":")
        for (label, thresholds), (colour, marker) in zip(points.items(), STYLES, strict=False):
            positive = thresholds.apply(predictions)[rows, k] == 1
            if positive.any():
                point = (positive & truth).sum() / truth.sum(), truth[positive].mean()
                [handles[label]] = axes.plot(*point, marker, color=colour, ms=7, label=label, ls="none")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    figure.legend(handles.values(), handles.keys(), loc="lower right", bbox_to_anchor=(1.0, 0.05))
    return described(figure, f"Precision-recall curve of each finding, with the operating points {', '.join(points)}.")


def plot_reliability(tables: dict[str, Predictions], findings: Sequence[str], bins: int = 8) -> Figure:
    """Share of positives against the score, in bins of equal counts; square-root axes; the diagonal is ideal."""
    labels = "score (mean of a bin)", "share of positives, 95 % interval"
    figure, all_axes = panels(len(findings), 4, 2.7, height=2.5, labels=labels)
    texts = []
    for axes, finding in zip(all_axes, findings, strict=False):
        highest = 0.02
        for (name, predictions), (colour, marker) in zip(tables.items(), STYLES, strict=False):
            table = reliability(predictions, finding, bins)
            if table.empty:  # no label is known
                continue
            spread = np.array([table["share"] - table["low"], table["high"] - table["share"]])
            axes.errorbar(table["score"], table["share"], yerr=spread, fmt=f"-{marker}", color=colour, ms=5, lw=1,
                          elinewidth=1.5, capsize=2, label=name)  # fmt: skip
            highest = max(highest, table["score"].max(), table["high"].max())
            top = table.iloc[-1]
            ends = f"the highest scores, {number(top['score'])}, meet {number(top['share'])}"
            texts.append(f"{pretty(finding)}, {name}: {ends}")
        axes.plot([0, highest], [0, highest], color=GREY, ls=":", lw=1)
        for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
            scale("function", functions=(lambda share: np.sqrt(np.maximum(share, 0)), np.square))  # most scores are low
            axis.set_major_locator(FixedLocator([0, 0.02, 0.1, 0.25, 0.5, 0.75, 1]))
            axis.set_major_formatter("{x:g}")
        axes.set(xlim=(0, 1.05 * highest), ylim=(0, 1.05 * highest))
        axes.set_title(f"{pretty(finding)} ({int(table['positives'].sum())})", fontsize=10)
    all_axes[0].legend(fontsize=9, loc="upper left")
    return described(figure, f"Share of positives against the score. {'; '.join(texts)}.")


def plot_choices(tables: dict[str, pd.DataFrame]) -> Figure:
    """Macro F1 with its interval, one row per choice of thresholds. tables: name -> `evaluate`'s."""
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(tables) + 1.2))
    columns, rows = ["f1", "f1_low", "f1_high"], np.arange(len(tables))
    macro = pd.DataFrame({name: table.loc["macro", columns] for name, table in tables.items()}).T.astype(float)[::-1]
    draw_intervals(axes, rows, macro, columns, lw=2.5, ms=8)
    axes.set_yticks(rows, macro.index)
    axes.set(xlabel="macro F1 on test, 95 % interval over patients", ylim=(-0.6, len(macro) - 0.4), xlim=(0, None))
    axes.grid(axis="x")
    values = [f"{name} {value:.3f} ({low:.3f} to {high:.3f})" for name, value, low, high in macro[::-1].itertuples()]
    return described(figure, f"macro F1 on test: {', '.join(values)}.")


def plot_gaps(table: pd.DataFrame) -> Figure:
    """Gaps between each group and all others: strokes for findings, a dot for the mean of three or more, of `audit`."""
    figure, sides = plt.subplots(1, 2, figsize=(10, 0.5 * table["group"].nunique() + 1.4), sharey=True)
    names, texts = list(table["group"].unique()), []
    metrics = (("auroc", "gap in AUROC", "left"), ("miss_rate", "gap in miss rate", "right"))
    for axes, (metric, label, worse) in zip(sides, metrics, strict=True):
        for row, name in enumerate(names):
            gaps = table[(table["group"] == name) & (table["metric"] == metric)]
            single, [macro] = gaps[gaps["finding"] != "macro"], gaps[gaps["finding"] == "macro"].to_dict("records")
            axes.plot(single["gap"], np.full(len(single), row + 0.22), "|", color="0.55", ms=7)
            count = single["gap"].notna().sum()
            if count < _LEAST_IN_MEAN:
                texts.append(f"{name}, {label}: too few findings for a mean ({count})")
                continue
            axes.hlines(row, macro["low"], macro["high"], color=BLUE, lw=2.5, alpha=0.6)
            axes.plot(macro["gap"], row, "o", color=BLUE, ms=8)
            place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"{count}", (macro["high"], row), fontsize=9, **place)
            texts.append(f"{name}, {label} {macro['gap']:+.2f} ({macro['low']:+.2f} to {macro['high']:+.2f})")
        axes.axvline(0, color=GREY, lw=1, ls=":")
        axes.set(xlabel=f"{label} (worse: to the {worse})")
        axes.grid(axis="x")
    sides[0].set_yticks(range(len(names)), [f"{name} - others" for name in names])
    sides[0].set(ylim=(len(names) - 0.4, -0.6))
    how = "Strokes: single findings; dot: their mean, 95 % interval, and of how many"
    figure.suptitle(how, fontsize=11, x=0.01, ha="left")
    return described(figure, f"Each group against all others, mean over findings: {'; '.join(texts)}.")
