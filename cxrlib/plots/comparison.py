"""Figures of comparisons: accuracy against cost, pairwise differences, how many images a model needs."""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cxrlib.plots.style import BLUE, GREY, STYLES, described, draw_intervals

# column of the table -> its label
COSTS = {
    "parameters": "parameters (millions, logarithmic)",
    "gflop": "10⁹ operations an image (logarithmic)",
    "minutes": "minutes of training (logarithmic)",
    "memory": "memory at the peak of training (GiB, logarithmic)",
}


def on_front(table: pd.DataFrame, cost: str, gain: str = "auroc") -> pd.Series:
    """The Pareto front: True where no other row is at least as good and cheaper, or better and as cheap."""
    value, price = table[gain].to_numpy(), table[cost].to_numpy()
    as_good, as_cheap = np.greater_equal.outer(value, value), np.less_equal.outer(price, price)
    beaten = as_good & as_cheap & ~(as_good.T & as_cheap.T)  # [i, j]: i beats j
    return pd.Series(~beaten.any(axis=0), index=table.index, name="front")


def plot_costs(table: pd.DataFrame, costs: tuple[str, ...] = ("parameters", "gflop", "minutes")) -> Figure:
    """Macro AUROC with its interval against each cost; a grey line joins the Pareto front.

    table: one row per candidate, with auroc, auroc_low, auroc_high and the columns `costs`.
    """
    figure, panels = plt.subplots(1, len(costs), figsize=(3.7 * len(costs) + 2, 4.6), sharey=True, squeeze=False)
    table = table.sort_values("auroc", ascending=False)
    colours = sns.color_palette("colorblind", len(table))
    for axes, cost in zip(panels.flat, costs, strict=True):
        front = table[on_front(table, cost)].sort_values(cost)
        axes.plot(front[cost], front["auroc"], color="0.75", lw=4, zorder=0)
        for (name, row), colour, marker in zip(table.iterrows(), colours, cycle("oDs^vPX*"), strict=False):
            error = [[row["auroc"] - row["auroc_low"]], [row["auroc_high"] - row["auroc"]]]
            axes.errorbar(row[cost], row["auroc"], yerr=error, fmt=marker, ms=9, color=colour, capsize=3, label=name)
        axes.axhline(0.5, color=GREY, lw=1, ls=":")
        axes.set(xscale="log", xlabel=COSTS[cost])
        axes.margins(x=0.12)
        sparse = FuncFormatter(lambda tick, _: f"{tick:g}" if f"{tick:.0e}"[0] in "125" else "")  # 1, 2, 5, 10, ...
        axes.xaxis.set_major_formatter(sparse)
        axes.xaxis.set_minor_formatter(sparse)
    panels[0, 0].set(ylabel="test macro AUROC, 95 % interval")
    panels[0, 0].set_title("Accuracy against cost (grey line: best for its cost)")
    panels[0, -1].legend(title="best first", loc="center left", bbox_to_anchor=(1, 0.5), alignment="left")
    values = "; ".join(f"{name} {row['auroc']:.3f} ({row['auroc_low']:.3f} to {row['auroc_high']:.3f})"
                       for name, row in table.iterrows())  # fmt: skip
    fronts = "; ".join(f"by {cost}: {', '.join(table.index[on_front(table, cost)])}" for cost in costs)
    return described(figure, f"Test macro AUROC with 95 % intervals: {values}. Best for their cost, {fronts}.")


def plot_differences(differences: pd.DataFrame, level: float = 0.05) -> Figure:
    """Each pair's difference with its interval, filled where Holm's p is below `level`; of `all_differences`."""
    rows = differences.iloc[::-1].reset_index(drop=True)
    figure, axes = plt.subplots(figsize=(9.5, 1.4 + 0.27 * len(rows)))
    clear = (rows["p_holm"] < level).to_numpy()
    groups = ((clear, BLUE, f"Holm's p below {level:g}"), (~clear, "white", "cannot be told apart"))
    for (chosen, fill, label), style in zip(groups, STYLES, strict=False):
        some = rows[chosen]
        draw_intervals(axes, some.index, some, ("difference", "low", "high"), style, mfc=fill, label=label)
    axes.axvline(0, color=GREY, lw=1, ls=":")
    axes.set_yticks(rows.index, [f"{a} − {b}" for a, b in zip(rows["a"], rows["b"], strict=True)], fontsize=9)
    axes.set(xlabel="difference of test macro AUROC, 95 % interval", title="Who is better than whom")
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    values = "; ".join(
        f"{row.a} minus {row.b} {row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f}), Holm's p {row.p_holm:.3f}"
        for row in differences.itertuples()
    )
    return described(figure, f"Differences of test macro AUROC in pairs: {values}.")


def plot_learning_curves(curves: dict[str, pd.DataFrame]) -> Figure:
    """Macro AUROC with its interval by the number of training images. curves: name -> `learning_curve`'s table."""
    figure, axes = plt.subplots(figsize=(8, 4.2))
    texts = []
    styles = zip(sns.color_palette("colorblind"), cycle("oDs^vPX"), strict=False)
    for place, ((name, curve), (colour, marker)) in enumerate(zip(curves.items(), styles, strict=False)):
        curve = curve.sort_values("images")
        aside = curve["images"] * 1.03 ** (place - (len(curves) - 1) / 2)  # so that no interval hides another
        error = np.array([curve["auroc"] - curve["auroc_low"], curve["auroc_high"] - curve["auroc"]])
        axes.errorbar(aside, curve["auroc"], yerr=error, fmt=f"-{marker}", color=colour, capsize=3, label=name)
        points = [f"{row['auroc']:.3f} with {row['images']:.0f}" for _, row in curve.iterrows()]
        texts.append(f"{name}: {', '.join(points)}")
    ticks = np.unique(np.concatenate([curve["images"].round() for curve in curves.values()]))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
    axes.axhline(0.5, color=GREY, lw=1, ls=":")
    axes.set(xlabel="training images (logarithmic)", ylabel="test macro AUROC, 95 % interval",
             title="How many images does a model need?")  # fmt: skip
    axes.legend(loc="upper left")
    return described(figure, f"Test macro AUROC by the number of training images. {'; '.join(texts)}.")
