"""Figures of training: losses, learning rates, the course of one run."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from cxrlib.plots.style import BLUE, GREEN, ORANGE, RED, described

_LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, ":"), (RED, "-."))


def plot_losses(scores: Sequence[float], curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """The loss by the score (0-1). curves: name -> (losses of a positive, losses of a negative), one per score."""
    figure, both = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for axes, side, title in zip(both, (0, 1), ("the finding is there", "the finding is not there"), strict=True):
        for (name, losses), (colour, line) in zip(curves.items(), _LINES, strict=False):
            axes.plot(scores, losses[side], color=colour, ls=line, lw=2, label=name)
        axes.set(xlabel="score", title=title, xlim=(0, 1), ylim=(0, 4))
    both[0].set_ylabel("loss")
    both[1].legend(loc="upper left")
    what = "Two panels, of a positive and of a negative: the loss against the score"
    return described(figure, f"{what} for {', '.join(curves)}.")


def plot_schedule(rates: pd.DataFrame) -> Figure:
    """Learning rates over a run. rates: index the epoch (a fraction), one column per kind of layer."""
    figure, axes = plt.subplots(figsize=(8, 2.8))
    for name, (colour, line) in zip(rates, _LINES, strict=False):
        axes.plot(rates.index, rates[name], color=colour, ls=line, lw=2, label=name)
    axes.set(xlabel="epoch", ylabel="learning rate", title="Up, then slowly down", ylim=(0, None), xlim=(0, None))
    axes.legend(loc="upper right")
    highest = ", ".join(f"{name} up to {rates[name].max():.1e}" for name in rates)
    return described(figure, f"Learning rate against the epoch: {highest}; each rises briefly and falls to nearly 0.")


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
    right.annotate(f"kept: {kept['val_auroc']:.3f}", (kept["epoch"], kept["val_auroc"]), xytext=(4, -30),
                   textcoords="offset points", ha="right")  # fmt: skip
    right.set(xlabel="epoch", ylabel="macro AUROC", title="Validation macro AUROC chooses the epoch", ymargin=0.15)
    for axes in (left, right):
        axes.set(xticks=history["epoch"], xlim=(0.5, history["epoch"].max() + 0.5))
    ends = ", ".join(f"{name.replace('_', ' ')} from {history[name].iloc[0]:.3f} to {history[name].iloc[-1]:.3f}"
                     for name in ("train_loss", "val_loss", "val_auroc"))  # fmt: skip
    return described(figure, f"Two panels by epoch: {ends}; kept is epoch {kept['epoch']:.0f} with "
                     f"{kept['val_auroc']:.3f}.")  # fmt: skip
