"""Figures of evaluation: thresholds, calibration, gaps between groups."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.scale import FuncScale
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.calibration import reliability
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds, number
from cxrlib.plots.style import BLUE, GREY, ORANGE, STYLES, described, draw_bars, panels, pretty

_ROOT = FuncScale(None, (lambda value: np.sign(value) * np.abs(value) ** 0.5, lambda root: np.abs(root) * root))


def plot_roc(scores: np.ndarray, positive: np.ndarray, draws: np.ndarray, name: str) -> plt.Figure:
    """The ROC curve of one finding, and the AUROCs of draws of patients with their middle 95 %, without NaN."""
    figure, (curve, spread) = plt.subplots(1, 2, figsize=(10, 4))
    beside, found, _ = roc_curve(positive, scores)
    area, draws = auc(beside, found), np.asarray(draws)[np.isfinite(draws)]
    low, high = np.percentile(draws, [2.5, 97.5])
    curve.fill_between(beside, found, color=BLUE, alpha=0.15)
    curve.plot(beside, found, color=BLUE, lw=2)
    curve.plot([0, 1], [0, 1], color=GREY, ls=":", lw=1.5)
    curve.text(0.62, 0.3, f"area\n{area:.3f}", color=BLUE, ha="center", size=13)
    curve.set(xlabel="1 − specificity", ylabel="sensitivity", title=f"{name}: ROC curve", aspect="equal")
    spread.hist(draws, bins=20, color=BLUE, alpha=0.5)
    spread.axvline(area, color=BLUE, lw=2, label="AUROC of the test part")
    for end in (low, high):
        spread.axvline(end, color=ORANGE, ls="--", lw=2, label="2.5 % and 97.5 %" if end == low else None)
    spread.set(xlabel="AUROC", ylabel="number of draws", title=f"AUROC in {len(draws)} draws")
    spread.legend(loc="upper left", bbox_to_anchor=(0, -0.18), ncols=2)
    said = f"The ROC curve of {name} with an area of {area:.3f}, beside the AUROCs of {len(draws)} draws of patients"
    return described(figure, f"{said}; 95 % of these lie between {low:.3f} and {high:.3f}.")


def plot_prevalence(prevalence: np.ndarray, at_half, best, auroc: float) -> plt.Figure:
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
    return described(figure, f"AUROC {auroc:.2f} throughout; the best F1 and that at 0.5 by prevalence: {values}.")


def plot_threshold_curves(grid: np.ndarray, f1: np.ndarray, thresholds: Thresholds) -> plt.Figure:
    """F1 on validation by threshold, with the threshold's own interval. grid: (g,); f1: (g, 14)."""
    labels = "threshold (orange: chosen, with its 95 % interval; dotted: half of the best F1)", "F1 on validation"
    figure, all_axes = panels(len(FINDINGS), 5, 2.2, height=1.8, labels=labels, sharex=True, sharey=True)
    titles = np.where(thresholds.tuned, [number(value) for value in thresholds.values], "not tuned")
    for k, (axes, name) in enumerate(zip(all_axes, FINDINGS, strict=False)):
        axes.plot(grid, f1[:, k], "-o", ms=3, color=BLUE if thresholds.tuned[k] else "0.7")
        if thresholds.tuned[k]:
            axes.axvline(thresholds.values[k], color=ORANGE, lw=2)
            axes.axvline(f1[:, k].max() / 2, color=GREY, lw=1.5, ls=":")
            axes.hlines(0.02, thresholds.low[k], thresholds.high[k], color=ORANGE, lw=5, alpha=0.5)
            axes.plot(max(grid) + 0.005, 0.02, ">", color=ORANGE, ms=9, visible=thresholds.high[k] >= max(grid))
        axes.set_title(f"{pretty(name)}: {titles[k]}", fontsize=10)
    all_axes[0].set(xlim=(min(grid) - 0.02, max(grid) + 0.02), ylim=(0, None))
    chosen = "; ".join(f"{pretty(name)} {title}" for name, title in zip(FINDINGS, titles, strict=True))
    return described(figure, f"F1 on validation against the threshold for each finding. Chosen: {chosen}.")


def plot_pr_curves(predictions: Predictions, points: dict[str, Thresholds]) -> plt.Figure:
    """Precision-recall curves and chance, the prevalence. points: name -> thresholds on the scores of `predictions`."""
    labels = "recall (sensitivity); dotted: the prevalence, which is what guessing gives", "precision (PPV)"
    figure, all_axes = panels(len(FINDINGS), 5, 2.2, height=1.9, labels=labels, sharex=True, sharey=True)
    handles = {}
    each = zip(all_axes, FINDINGS, predictions.by_finding(), strict=False)
    for k, (axes, name, (scores, truth, _)) in enumerate(each):
        axes.set_title(pretty(name), fontsize=10)
        if not truth.any():
            axes.text(0.5, 0.5, "no positive", ha="center", va="center", color=GREY)
            continue
        precision, recall, _ = precision_recall_curve(truth, scores)  # the last, 1 at recall 0, is a convention
        axes.step(recall, np.append(precision[:-1], precision[-2]), where="post", color="0.4", lw=1.2)
        axes.axhline(truth.mean(), color=GREY, lw=1, ls=":")
        for (label, thresholds), (colour, marker) in zip(points.items(), STYLES, strict=False):
            positive = thresholds.apply(predictions)[predictions.known[:, k], k] == 1
            if positive.any():
                point = (positive & truth).sum() / truth.sum(), truth[positive].mean()
                [handles[label]] = axes.plot(*point, marker, color=colour, ms=7, label=label, ls="none")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    figure.legend(handles.values(), handles.keys(), loc="lower right", bbox_to_anchor=(1.0, 0.05))
    return described(figure, f"Precision-recall curve of each finding, with the operating points {', '.join(points)}.")


def plot_reliability(tables: dict[str, Predictions], findings: list[str], bins: int = 5) -> plt.Figure:
    """Share of positives against the mean score, in bins of equally many images; the dotted diagonal is ideal."""
    labels = "mean score of a bin (both axes: square-root scale)", "share of positives in the bin"
    figure, all_axes = panels(len(findings), 2, 4.3, height=3.6, labels=labels, sharex=True, sharey=True)
    texts, ticks, ends = [], (0, 0.05, 0.2, 0.5, 1), (-0.002, 1.06)
    for axes, finding in zip(all_axes, findings, strict=False):
        axes.plot([0, 1], [0, 1], color=GREY, ls=":", lw=1)
        positives = 0
        for (name, predictions), style in zip(tables.items(), STYLES, strict=False):
            table = reliability(predictions, finding, bins)
            if table.empty:  # no label is known
                continue
            look = {"ms": 5, "mfc": "white" if style is STYLES[1] else None, "lw": 1, "elinewidth": 1}
            draw_bars(axes, table["score"], table, ("share", "low", "high"), style, label=name, **look)
            positives, (score, share) = table["positives"].sum(), map(number, table.iloc[-1][["score", "share"]])
            texts.append(f"{pretty(finding)}, {name}: the highest scores, {score}, meet {share}")
        axes.set(xscale=_ROOT, yscale=_ROOT, xlim=ends, ylim=ends, xticks=ticks, yticks=ticks, aspect="equal")
        axes.set_title(f"{pretty(finding)} ({positives})", fontsize=10)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(tables), fontsize=9)
    return described(figure, f"Share of positives against the score. {'; '.join(texts)}.")


def plot_gaps(table: pd.DataFrame) -> plt.Figure:
    """Gaps between each group and all others, of `audit`: single findings, and the mean of three or more."""
    names, texts, sizes = list(table["group"].unique()), [], {}
    figure, sides = plt.subplots(1, 2, figsize=(10, 0.75 * len(names) + 1.4), sharey=True)
    metrics = (("auroc", "gap in AUROC", "left", "idxmin"), ("miss_rate", "gap in miss rate", "right", "idxmax"))
    for axes, (metric, label, worse, worst) in zip(sides, metrics, strict=True):
        ends = np.interp([0.15, 0.85], [0, 1], table.loc[table["metric"] == metric, "gap"].quantile([0, 1]))
        for row, name in enumerate(names):
            gaps = table[(table["group"] == name) & (table["metric"] == metric)].set_index("finding")
            single, macro = gaps["gap"].drop("macro").dropna(), gaps.loc["macro"]
            axes.plot(single, np.full(len(single), row + 0.25), ".", color="0.6", ms=5)
            sizes[name] = f"{macro['patients']:.0f} and {macro['patients_others']:.0f} patients, {len(single)} findings"
            if len(single) < 3:  # their mean says little about the others
                texts.append(f"{name}, {label}: too few findings for a mean ({len(single)})")
                continue
            place = getattr(single, worst)()
            side = ("left", "center", "right")[np.digitize(single[place], ends)]  # so that the name stays in the panel
            axes.plot(single[place], row + 0.25, "8", mfc="none", color="0.3", ms=8)
            axes.annotate(pretty(place), (single[place], row + 0.35), ha=side, va="top", fontsize=9, color="0.3")
            axes.hlines(row, macro["low"], macro["high"], color=BLUE, lw=2.5, alpha=0.6)
            axes.plot(macro["gap"], row, "o", color=BLUE, ms=8)
            texts.append(f"{name}, {label} {macro['gap']:+.2f} ({macro['low']:+.2f} to {macro['high']:+.2f}), "
                         f"worst {pretty(place)} {single[place]:+.2f}")  # fmt: skip
        axes.axvline(0, color=GREY, lw=1, ls=":")
        axes.set(xlabel=f"{label} (worse: to the {worse})", ylim=(len(names) - 0.3, -0.5))
        axes.grid(axis="x")
    sides[0].set_yticks(range(len(names)), [f"{name} − others\n{sizes[name]}" for name in names])
    return described(figure, f"Each group against all others, mean over findings: {'; '.join(texts)}.")
