"""Figures of training runs: the course of one, the comparison of several."""

from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cxrlib.plots import BLUE, GREY, ORANGE


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
