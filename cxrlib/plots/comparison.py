"""Figures of comparisons: accuracy against cost, differences, how many images a model needs."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from cxrlib.plots.style import BLUE, GREY, ORANGE, STYLES, described, draw_intervals

_AUROC = "test macro AUROC, 95 % interval"
# column of the table -> its label
COSTS = {
    "parameters": "parameters (millions)",
    "gflop": "10⁹ operations per image",
    "minutes": "minutes of training",
}


def pareto_front(table: pd.DataFrame, cost: str, gain: str = "auroc") -> pd.Series:
    """True where no other row is at least as good and cheaper, or better and as cheap."""
    value, price = table[gain].to_numpy(), table[cost].to_numpy()
    as_good, as_cheap = np.greater_equal.outer(value, value), np.less_equal.outer(price, price)
    beaten = as_good & as_cheap & ~(as_good.T & as_cheap.T)  # [i, j]: i beats j
    return pd.Series(~beaten.any(axis=0), index=table.index, name="front")


def plot_costs(table: pd.DataFrame, styles: dict | None = None) -> Figure:
    """Macro AUROC with its interval against each cost; grey steps are the Pareto front.

    A candidate whose interval includes 0.5 has learned nothing that can be shown: it is hollow and not on the front.
    table: one row per candidate, with auroc, auroc_low, auroc_high and the columns of COSTS. styles: of each name.
    """
    figure, panels = plt.subplots(1, len(COSTS), figsize=(3.4 * len(COSTS) + 2, 4.2), sharey=True)
    learned, styles = table["auroc_low"] > 0.5, styles or dict(zip(table.index, STYLES, strict=False))
    fronts = {cost: table[learned][pareto_front(table[learned], cost)].sort_values(cost) for cost in COSTS}
    for axes, (cost, label) in zip(panels, COSTS.items(), strict=True):
        axes.plot(fronts[cost][cost], fronts[cost]["auroc"], color="0.75", lw=4, zorder=0, drawstyle="steps-post")
        for name, style in ((name, styles[name]) for name in table.index):
            fill = style[0] if learned[name] else "white"
            _error_bars(axes, table.loc[[name], cost], table.loc[[name]], style, ls="none", ms=9, mfc=fill, label=name)
        axes.axhline(0.5, color=GREY, lw=1, ls=":")
        ends = table[cost].min() / 1.5, table[cost].max() * 1.5  # a gap of a few percent looks like one
        axes.set(xscale="log", xlabel=label, xlim=ends)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ends[1] > 10 * ends[0] else (1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set(major_formatter="{x:g}", minor_formatter=NullFormatter())
    panels[0].set(ylabel=_AUROC, title="Accuracy against cost (grey: Pareto front; logarithmic scales)")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), alignment="left")
    values = "; ".join(f"{name} {row['auroc']:.3f} ({row['auroc_low']:.3f} to {row['auroc_high']:.3f})"
                       for name, row in table.iterrows())  # fmt: skip
    said = "; ".join(f"by {cost}: {', '.join(front.index)}" for cost, front in fronts.items())
    return described(figure, f"Test macro AUROC with 95 % intervals: {values}. Pareto front {said}.")


def plot_paired(one: np.ndarray, others: dict[str, np.ndarray], name: str, colours=(BLUE, ORANGE)) -> Figure:
    """Bootstrap replicates (r,), of `one` against others' on the same patients; its difference to the first of them."""
    figure, panels = plt.subplots(1, len(others) + 1, figsize=(4.1 * len(others) + 4.1, 4.6), layout="tight")
    reach, said = np.array([-0.6, 0.6]) * max(map(np.ptp, (one, *others.values()))), []
    for axes, (other, two), colour in zip(panels, others.items(), colours, strict=False):
        spread = f"sd of difference {(one - two).std():.4f}, independent {np.hypot(one.std(), two.std()):.4f}"
        said.append(f"{name} and {other}: correlation {np.corrcoef(one, two)[0, 1]:.2f}; {spread}")
        axes.scatter(one, two, s=6, color=colour, alpha=0.5)
        axes.set(xlim=one.mean() + reach, ylim=two.mean() + reach, xlabel=name, ylabel=other, box_aspect=1)
        axes.set(title=said[-1].split(": ")[1].replace("; ", "\n"))
    first, two = next(iter(others.items()))
    loose, bins = one - np.random.default_rng(0).permutation(two), (one - two).mean() + np.linspace(*reach, 49)
    for values, which, colour in ((loose, "other patients (light)", "0.6"), (one - two, "same patients (dark)", "0.2")):
        said.append("{}: {:+.3f} to {:+.3f}".format(which, *np.quantile(values, [0.025, 0.975])))
        panels[-1].hist(values, bins, color=colour, alpha=0.6)
    panels[-1].set(xlabel=f"difference to {first}", ylabel="draws", title="\n".join(said[-2:]), box_aspect=1)
    panels[-1].locator_params(axis="x", nbins=5)
    return described(figure, f"{len(one)} draws of patients. {'; '.join(said)}.")


def plot_changes(table: pd.DataFrame, title: str) -> Figure:
    """What changes of a recipe bring. table: columns variant, difference, low, high, p_holm; no values: a heading."""
    labels = "Holm's p below 0.05", "not told apart from zero"
    figure = _plot_rows(table, table["variant"], table["p_holm"] < 0.05, labels, title)
    values = "; ".join(f"{row.variant} {row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
                       for row in table.dropna(subset="difference").itertuples())  # fmt: skip
    return described(figure, f"{title}: {values}.")


def plot_differences(differences: pd.DataFrame) -> Figure:
    """Each pair's difference with its interval, filled where Holm's p is below 0.05; of `all_differences`."""
    names, labels = differences["a"] + " − " + differences["b"], ("Holm's p below 0.05", "cannot be told apart")
    clear = differences["p_holm"] < 0.05
    figure = _plot_rows(differences, names, clear, labels, "Which pairs can be told apart")
    values = "; ".join(
        f"{row.a} minus {row.b} {row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f}), Holm's p {row.p_holm:.3f}"
        for row in differences.itertuples()
    )
    return described(figure, f"Differences of test macro AUROC in pairs: {values}.")


def _plot_rows(table: pd.DataFrame, names: pd.Series, clear: pd.Series, labels: tuple[str, str], title: str) -> Figure:
    """One row per difference, the first at the top, with its interval; filled where `clear`."""
    figure, axes = plt.subplots(figsize=(9, 1.3 + 0.25 * len(table)))
    rows = table.assign(y=np.arange(len(table))[::-1])
    for some, fill, label in ((rows[clear], BLUE, labels[0]), (rows[~clear], "white", labels[1])):
        draw_intervals(axes, some["y"], some, ("difference", "low", "high"), STYLES[0], mfc=fill, label=label)
    axes.axvline(0, color=GREY, lw=1, ls=":")
    axes.set_yticks(rows["y"], names, fontsize=9)
    axes.set(xlabel="difference of macro AUROC, 95 % interval", title=title, ylim=(-0.7, len(rows) - 0.3))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_learning_curves(curves: dict[str, pd.DataFrame], styles: Sequence = STYLES) -> Figure:
    """Macro AUROC with its interval by the number of training images. curves: name -> `learning_curve`'s table."""
    figure, axes = plt.subplots(figsize=(8, 4.2))
    texts = []
    for place, ((name, curve), style) in enumerate(zip(curves.items(), styles, strict=False)):
        curve = curve.sort_values("images")
        aside = curve["images"] * 1.03 ** (place - (len(curves) - 1) / 2)  # so that no interval hides another
        _error_bars(axes, aside, curve, style, ls="-", label=name)
        points = [f"{auroc:.3f} with {images:.0f}" for auroc, images in curve[["auroc", "images"]].to_numpy()]
        texts.append(f"{name}: {', '.join(points)}")
    axes.set(xlabel="training images (logarithmic)", xscale="log", ylabel=_AUROC, title="What more training images add")
    ticks = np.unique(np.concatenate([curve["images"].round() for curve in curves.values()]))
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
    axes.axhline(0.5, color=GREY, lw=1, ls=":")
    axes.legend(loc="upper left")
    return described(figure, f"Test macro AUROC by the number of training images. {'; '.join(texts)}.")


def _error_bars(axes, x: pd.Series, table: pd.DataFrame, style: tuple, **options) -> None:
    """Macro AUROC with its interval at the places x. options: of `Axes.errorbar`."""
    error = table["auroc"] - table["auroc_low"], table["auroc_high"] - table["auroc"]
    axes.errorbar(x, table["auroc"], yerr=error, color=style[0], marker=style[1], capsize=3, **options)
