"""Figures of training: losses, the steps of a loop, the epochs of a run."""

import matplotlib.pyplot as plt
import pandas as pd

from cxrlib.plots.style import BLUE, GREY, ORANGE, described


def plot_losses(scores, curves: dict) -> plt.Figure:
    """The loss by the scores (n,); the first is a broad band. curves: name -> (losses of a positive, of a negative)."""
    figure, both = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    titles = "Positive: the finding is there", "Negative: the finding is absent"
    for side, (axes, title) in enumerate(zip(both, titles, strict=True)):
        for (name, losses), line in zip(curves.items(), ("-", "--", ":", "-."), strict=False):
            band = {"lw": 8, "alpha": 0.3} if line == "-" else {"lw": 2}
            axes.plot(scores, losses[side], ls=line, label=name, **band)
        axes.set(xlabel="score", title=title, xlim=(0, 1), yscale="log", ylim=(1e-4, 20))
    both[0].set_ylabel("loss of one answer (logarithmic)")
    both[1].legend(loc="lower right")
    what = "Two panels, of a positive and of a negative: the loss against the score, on a logarithmic scale"
    return described(figure, f"{what}, for {', '.join(curves)}.")


def plot_steps(rates: list[float], losses: list[float], prevalence: float) -> plt.Figure:
    """Learning rate and training loss by step, with its mean over five; prevalence: a loss to draw as a dotted line."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    left.plot(rates, color=BLUE, lw=2)
    left.set(xlabel="step", ylabel="learning rate", title="The learning rate: up, then slowly down", ylim=(0, None))
    smooth = pd.Series(losses).rolling(5, min_periods=1).mean()
    right.plot(losses, color=BLUE, lw=1, alpha=0.5, label="each step")
    right.plot(smooth, color=ORANGE, lw=2, label="mean of the last five")
    right.axhline(prevalence, color=GREY, ls=":", lw=2, label=f"prevalence alone: {prevalence:.3f}")
    right.set(xlabel="step", ylabel="training loss", title="The loss of each batch", ylim=(0, None))
    right.legend()
    rate = f"the learning rate rises to {max(rates):.1e} and falls to {rates[-1]:.1e}"
    loss = f"the training loss goes from {losses[0]:.2f} to {smooth.iloc[-1]:.2f}"
    return described(figure, f"Two panels over {len(losses)} steps: {rate}; {loss}.")


def plot_history(history: pd.DataFrame, prevalence: float, by: str = "epoch") -> plt.Figure:
    """Losses (prevalence: one to draw as a dotted line) and macro AUROC by epoch or penalty; the kept one is marked."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    at, kept = history["epoch"], history.loc[history["best"]].iloc[-1]
    left.plot(at, history["train_loss"], "-o", color=BLUE, label="train (augmented)" if by == "epoch" else "train")
    left.plot(at, history["val_loss"], "-D", color=ORANGE, label="validation")
    left.axhline(prevalence, color=GREY, ls=":", lw=2, label=f"prevalence alone: {prevalence:.3f}")
    left.set(xlabel=by, ylabel="loss", title="Loss")
    left.legend(loc="lower left")
    right.plot(at, history["val_auroc"], "-D", color=ORANGE)
    right.plot(kept["epoch"], kept["val_auroc"], "o", ms=14, mfc="none", mec="black")
    right.annotate(f"kept: {kept['val_auroc']:.3f}", (kept["epoch"], kept["val_auroc"]), xytext=(0, -30),
                   textcoords="offset points", ha="center")  # fmt: skip
    right.set(xlabel=by, ylabel="macro AUROC", title=f"Validation macro AUROC chooses the {by}", ymargin=0.15)
    for axes in (left, right):
        axes.set(xticks=at, xticklabels=history[by].map("{:g}".format), xlim=(0.5, at.max() + 0.5))
    ends = ", ".join(f"{name.replace('_', ' ')} from {history[name].iloc[0]:.3f} to {history[name].iloc[-1]:.3f}"
                     for name in ("train_loss", "val_loss", "val_auroc"))  # fmt: skip
    return described(figure, f"Two panels by {by}: {ends}; kept is {by} {kept[by]:g} with {kept['val_auroc']:.3f}.")
