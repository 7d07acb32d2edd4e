"""Figures of comparisons: accuracy against cost, differences, how many images a model needs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from cxrlib.plots.style import BLUE, GREY, ORANGE, STYLES, described, draw_bars, draw_intervals

_AUROC, _VALUES = "test macro AUROC, 95 % interval", ("auroc", "auroc_low", "auroc_high")
COSTS = {"parameters": "parameters (millions)", "gflop": "10⁹ operations per image", "minutes": "minutes of training"}


def pareto_front(table: pd.DataFrame, cost: str) -> pd.Series:
    """True where no other row has at least the AUROC and is cheaper, or more and is as cheap."""
    best = table.groupby(cost)["auroc"].max()  # at each cost, from the lowest
    ahead = best[best > best.cummax().shift(fill_value=-np.inf)]
    return table["auroc"] == table[cost].map(ahead)


def plot_costs(table: pd.DataFrame, styles: dict | None = None) -> plt.Figure:
    """Macro AUROC against each cost of `comparison_table`; grey steps: the Pareto front. styles: of each name."""
    figure, panels = plt.subplots(1, len(COSTS), figsize=(3.4 * len(COSTS) + 2, 4.2), sharey=True)
    learned = table["auroc_low"] > 0.5  # others are hollow and not on the front: nothing can be shown
    styles = styles or dict(zip(table.index, STYLES, strict=False))
    fronts = {cost: table[learned][pareto_front(table[learned], cost)].sort_values(cost) for cost in COSTS}
    for axes, (cost, label) in zip(panels, COSTS.items(), strict=True):
        axes.plot(fronts[cost][cost], fronts[cost]["auroc"], color="0.75", lw=4, zorder=0, drawstyle="steps-post")
        for name in table.index:
            look = {"ls": "none", "capsize": 3, "ms": 9, "mfc": styles[name][0] if learned[name] else "white"}
            draw_bars(axes, table.loc[[name], cost], table.loc[[name]], _VALUES, styles[name], label=name, **look)
        axes.axhline(0.5, color=GREY, lw=1, ls=":")
        ends = table[cost].min() / 1.5, table[cost].max() * 1.5  # a gap of a few percent looks like one
        axes.set(xscale="log", xlabel=label, xlim=ends)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ends[1] > 10 * ends[0] else (1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set(major_formatter="{x:g}", minor_formatter=NullFormatter())
    panels[0].set(ylabel=_AUROC, title="AUROC against cost, logarithmic (grey: Pareto front; dotted: chance)")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), alignment="left")
    values = "; ".join("{} {:.3f} ({:.3f} to {:.3f})".format(*row) for row in table[[*_VALUES]].itertuples())
    said = "; ".join(f"by {cost}: {', '.join(front.index)}" for cost, front in fronts.items())
    return described(figure, f"Test macro AUROC with 95 % intervals: {values}. Pareto front {said}.")


def plot_paired(one: np.ndarray, others: dict[str, np.ndarray], name: str, colours=(BLUE, ORANGE)) -> plt.Figure:
    """Bootstrap replicates (r,), of `one` against others' on the same patients; its difference to the first of them."""
    figure, panels = plt.subplots(1, len(others) + 1, figsize=(4.1 * len(others) + 4.1, 4.6), layout="tight")
    reach, said = np.array([-0.6, 0.6]) * max(map(np.ptp, (one, *others.values()))), []
    for axes, (other, two), colour in zip(panels, others.items(), colours, strict=False):
        spread = f"sd of difference {(one - two).std():.4f}; if independent {np.hypot(one.std(), two.std()):.4f}"
        with np.errstate(invalid="ignore"):  # of a network that scores all images alike
            together = f"{np.corrcoef(one, two)[0, 1]:.2f}".replace("nan", "undefined")
        said.append(f"{name} and {other}: correlation {together}; {spread}")
        axes.scatter(one, two, s=6, color=colour, alpha=0.5)
        axes.set(xlim=one.mean() + reach, ylim=two.mean() + reach, xlabel=name, ylabel=other, box_aspect=1)
        axes.set(title=said[-1].split(": ")[1].replace("; ", "\n"))
    first, two = next(iter(others.items()))
    loose, bins = one - np.random.default_rng(0).permutation(two), (one - two).mean() + np.linspace(*reach, 49)
    both = (one - two, "same draws", "stepfilled", "0.75"), (loose, "different draws", "step", "black")
    for values, which, kind, colour in both:
        said.append("{}: {:+.3f} to {:+.3f}".format(which, *np.quantile(values, [0.025, 0.975])).replace("-", "−"))
        panels[-1].hist(values, bins, histtype=kind, color=colour, lw=1.5, label=which)
    panels[-1].legend(loc="upper left", fontsize=9)
    panels[-1].set(xlabel=f"{name}\n− {first}", ylabel="draws", title="\n".join(said[-2:]), box_aspect=1, ymargin=0.25)
    panels[-1].locator_params(axis="x", nbins=5)
    return described(figure, f"{len(one)} draws of patients. {'; '.join(said)}.")


def plot_changes(table: pd.DataFrame, title: str) -> plt.Figure:
    """What changes of a recipe bring. table: columns variant, difference, low, high, p_holm; no values: a heading."""
    figure, texts = _plot_rows(table, table["variant"], "not told apart from zero", title)
    return described(figure, f"{title}: {'; '.join(texts[table['difference'].notna()])}.")


def plot_differences(differences: pd.DataFrame) -> plt.Figure:
    """Each pair's difference with its interval, filled where Holm's p is below 0.05; of `all_differences`."""
    names = differences["a"] + " − " + differences["b"]
    figure, texts = _plot_rows(differences, names, "not told apart", "Which pairs can be told apart")
    values = "; ".join(texts.str.replace("−", "minus") + differences["p_holm"].map(", Holm's p {:.3f}".format))
    return described(figure, f"Differences of test macro AUROC in pairs: {values}.")


def _plot_rows(table: pd.DataFrame, names: pd.Series, unclear: str, title: str) -> tuple[plt.Figure, pd.Series]:
    """One row per difference, the first at the top, filled where Holm's p is below 0.05; and each row in words."""
    figure, axes = plt.subplots(figsize=(9, 1.3 + 0.25 * len(table)))
    rows, clear = table.assign(y=np.arange(len(table))[::-1]), table["p_holm"] < 0.05
    for some, fill, label in ((rows[clear], BLUE, "Holm's p below 0.05"), (rows[~clear], "white", unclear)):
        draw_intervals(axes, some["y"], some, ("difference", "low", "high"), mfc=fill, label=label)
    axes.axvline(0, color=GREY, lw=1, ls=":")
    axes.set_yticks(rows["y"], names)
    axes.set(xlabel="difference of macro AUROC, 95 % interval", title=title, ylim=(-0.7, len(rows) - 0.3))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    values = table[["difference", "low", "high"]].to_numpy()
    return figure, names + [" {:+.3f} ({:+.3f} to {:+.3f})".format(*row) for row in values]


def plot_learning_curves(curves: dict[str, pd.DataFrame], styles=STYLES) -> plt.Figure:
    """Macro AUROC with its interval by the number of training images. curves: name -> `learning_curve`'s table."""
    (figure, axes), texts = plt.subplots(figsize=(8, 4.2)), []
    for place, ((name, curve), style) in enumerate(zip(curves.items(), styles, strict=False)):
        curve = curve.sort_values("images")
        aside = curve["images"] * 1.03 ** (place - (len(curves) - 1) / 2)  # so that no interval hides another
        draw_bars(axes, aside, curve, _VALUES, style, capsize=3, label=name)
        points = [f"{auroc:.3f} with {images:.0f}" for auroc, images in curve[["auroc", "images"]].to_numpy()]
        texts.append(f"{name}: {', '.join(points)}")
    axes.set(xlabel="training images (logarithmic)", xscale="log", ylabel=_AUROC, title="What more training images add")
    ticks = np.unique(np.concatenate([curve["images"].round() for curve in curves.values()]))
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
    axes.axhline(0.5, color=GREY, lw=1, ls=":")
    axes.legend(loc="upper left")
    return described(figure, f"Test macro AUROC by the number of training images. {'; '.join(texts)}.")
