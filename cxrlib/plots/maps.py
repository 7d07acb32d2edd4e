"""Figures of tests of heat maps: against boxes and controls, by place, sanity, faithfulness."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxrlib.plots.style import BLUE, GREEN, GREY, ORANGE, RED, STYLES, described, draw_intervals, pretty


def plot_localization(table: pd.DataFrame, metric: str = "pointing", label: str = "pointing game") -> Figure:
    """One metric of `score_boxes`' table: the model and its controls by finding, with intervals, and the macro mean."""
    rows = table[table["metric"] == metric].set_index("finding")
    kinds = dict(list(rows.groupby("maps", sort=False)))
    order = ["macro", *kinds["model"].drop("macro").sort_values("value").index]
    y = np.arange(len(order))
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(order) + 1.4))
    for n, (kind, style) in enumerate(zip(kinds, [STYLES[0], (GREY, "|"), *STYLES[1:]], strict=False)):
        height = y + 0.32 * (1 - 2 * n / max(1, len(kinds) - 1))
        draw_intervals(axes, height, kinds[kind].loc[order], ("value", "low", "high"), style, label=kind, ms=7)
    cases = kinds["model"]["cases"]
    axes.set_yticks(y, [f"{'MACRO MEAN' if name == 'macro' else pretty(name)} ({cases[name]})" for name in order])
    axes.axhline(0.5, color="0.8", lw=1)
    axes.set(xlim=(-0.02, 1.02), xlabel=f"{label}, 95 % interval over patients")
    axes.set_title("Does the map find the box? (cases)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    macro = ", ".join(f"{kind} {of.loc['macro', 'value']:.2f}" for kind, of in kinds.items())
    return described(figure, f"{label} by finding, with 95 % intervals, for {len(kinds)} kinds of maps. "
                     f"Macro mean: {macro}.")  # fmt: skip


def plot_places(shares: pd.DataFrame) -> Figure:
    """Where heat lies. shares: mean shares, sum 1; index the group (such as "true positives"), one column per place."""
    figure, axes = plt.subplots(figsize=(8, 0.7 * len(shares) + 1.2))
    left, looks = 0, ((BLUE, ""), (GREEN, "//"), (ORANGE, ".."), (RED, "xx"), ("0.85", ""))
    for place, (colour, hatch) in zip(shares, looks, strict=False):
        bars = axes.barh(shares.index, shares[place], left=left, color=colour, hatch=hatch, ec="white", label=place)
        texts = [f"{value:.0%}" if value > 0.04 else "" for value in shares[place]]
        text = {"color": "black"} if colour == "0.85" else {"bbox": {"fc": colour, "ec": "none", "pad": 2}}
        axes.bar_label(bars, texts, label_type="center", fontsize=9, **{"color": "white"} | text)
        left += shares[place]
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the heat", title="Where the heat lies")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    values = [f"{group}: {', '.join(f'{place} {value:.0%}' for place, value in row.items())}"
              for group, row in shares.iterrows()]  # fmt: skip
    return described(figure, f"Mean share of the heat by place. {'; '.join(values)}.")


def plot_sanity(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Mean rank correlation with the trained model's map, as layers become random. tables: method -> `sanity`'s.

    An image whose map is empty or flat at a step is left out of that mean.
    """
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    texts = []
    for (name, table), (colour, marker) in zip(tables.items(), STYLES, strict=False):
        mean = table.groupby("step")["rank"].mean()
        axes.plot(mean.index, mean, f"-{marker}", color=colour, label=name)
        texts.append(f"{name}: {', '.join(f'{value:.2f}' for value in mean)}")
    layers = next(iter(tables.values())).drop_duplicates("step").set_index("step")["layer"]
    names = ["nothing", "the head", *(f"down to\n{layer}" for layer in layers[2:])]
    axes.set_xticks(layers.index, names, fontsize=9)
    axes.axhline(0, color=GREY, lw=1, ls=":")
    axes.set(ylim=(-1, 1.05), xlabel="what is random", ylabel="rank correlation",
             title="A map of what was learned forgets it with the model")  # fmt: skip
    axes.legend(loc="lower right")
    what = "Rank correlation with the trained model's map as layers become random"
    return described(figure, f"{what}. {'; '.join(texts)}.")


def plot_faithfulness(curves: pd.DataFrame) -> Figure:
    """Deletion and insertion: mean score against the share of the image, by the map and in random order."""
    figure, both = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    areas = []
    for axes, kind in zip(both, ("deletion", "insertion"), strict=True):
        for order, colour, style in (("map", BLUE, "-o"), ("random", ORANGE, "--D")):
            mean = curves[(curves["kind"] == kind) & (curves["order"] == order)].groupby("share")["score"].mean()
            area = np.trapezoid(mean, mean.index)
            axes.plot(100 * mean.index, mean, style, color=colour, label=f"{order}: area {area:.2f}")
            areas.append(f"{kind} by {order} {area:.2f}")
        what = "blurred" if kind == "deletion" else "sharp"
        axes.set(xlabel=f"{what}, hottest first (% of the image)", title=kind.capitalize())
        axes.legend()
    both[0].set_ylabel("mean score")
    return described(figure, f"Mean score as the hottest places are taken or given first. Areas: {', '.join(areas)}.")
