"""Figures of tests of heat maps: against boxes and controls, by place, sanity, faithfulness."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxrlib.evaluation.bootstrap import draw_patients, ratio
from cxrlib.plots.style import BLUE, GREY, ORANGE, STYLES, described, draw_intervals, pretty


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


def plot_places(density: pd.DataFrame) -> Figure:
    """How dense heat lies in each place; 1 is what a flat map has there.

    density: one row per map, with columns group (such as "true positives"), patient, and one per place.
    """
    groups = density.groupby("group", sort=False)
    figure, axes = plt.subplots(figsize=(8, 0.6 * (density.shape[1] - 2) + 1.4))
    texts = []
    for n, ((name, maps), style) in enumerate(zip(groups, STYLES, strict=False)):
        table = _mean_interval(maps.drop(columns="group").groupby("patient").mean())
        y = np.arange(len(table)) + 0.2 * (n - (len(groups) - 1) / 2)
        label = f"{name} ({len(maps)} maps, {maps['patient'].nunique()} patients)"
        draw_intervals(axes, y, table, ("value", "low", "high"), style, label=label, ms=7)
        texts.append(f"{label}: " + ", ".join(f"{row.Index} {row.value:.1f} ({row.low:.1f} to {row.high:.1f})"
                                              for row in table.itertuples()))  # fmt: skip
    axes.axvline(1, color=GREY, lw=1, ls=":")
    axes.set_yticks(range(len(table)), table.index)
    axes.invert_yaxis()
    axes.set(xlabel="density of the heat (1: as in a flat map), mean and 95 % interval over patients", xlim=(0, None))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
    return described(figure, f"Mean density of the heat by place. {'; '.join(texts)}.")


def plot_sanity(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Mean rank correlation with the trained model's map, as layers become random. tables: method -> `sanity`'s.

    An image whose map is empty or flat at a step is left out of that mean. Bars: 95 % interval over the images.
    """
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    texts = []
    for n, ((name, table), (colour, marker)) in enumerate(zip(tables.items(), STYLES, strict=False)):
        mean = _mean_interval(table.pivot_table("rank", "image", "step", dropna=False))
        _with_bars(axes, mean.index + 0.05 * n, mean, color=colour, marker=marker, label=name)
        texts.append(f"{name}: {', '.join(f'{value:.2f}' for value in mean['value'])}")
    first = next(iter(tables.values()))
    steps = first["step"].unique()
    rest = len(steps) - 2  # the layers in equal groups, after the head
    axes.set_xticks(steps, ["nothing", "the head", *(f"{100 * n / rest:.0f} %" for n in range(1, rest + 1))])
    axes.axhline(0, color=GREY, lw=1, ls=":")
    images = f"{first['image'].nunique()} radiographs"
    axes.set(ylim=(-1, 1.1), xlabel="layers made random, from the head on", ylabel="rank correlation",
             title=f"Likeness to the map of the trained model ({images})")  # fmt: skip
    axes.legend(loc="lower right")
    what = f"Rank correlation with the trained model's map as layers become random, {images}"
    return described(figure, f"{what}. {'; '.join(texts)}.")


def plot_faithfulness(curves: pd.DataFrame) -> Figure:
    """Deletion and insertion: mean score against the share of the image, hottest places first and in random order.

    curves: of `perturbation`. Bars: 95 % interval over the images.
    """
    figure, both = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    areas = []
    for axes, kind in zip(both, ("deletion", "insertion"), strict=True):
        orders = (("map", "hottest first", BLUE, "o", 0), ("random", "random order", ORANGE, "D", 0.6))
        for order, name, colour, marker, aside in orders:
            rows = curves[(curves["kind"] == kind) & (curves["order"] == order)]
            mean = _mean_interval(rows.pivot_table("score", "image", "share"))
            area = np.trapezoid(mean["value"], mean.index)
            label = f"{name}: area {area:.2f}"
            _with_bars(axes, 100 * mean.index + aside, mean, color=colour, marker=marker, label=label)
            areas.append(f"{kind} by {order} {area:.2f}")
        axes.set(xlabel=f"{'blurred' if kind == 'deletion' else 'shown sharp'} (% of the image)")
        title = f"{kind.capitalize()} ({curves['image'].nunique()} radiographs)"
        axes.legend(title=title, alignment="left", loc="lower left", bbox_to_anchor=(0, 1))  # no bar is covered
    both[0].set(ylabel="mean score", ylim=(0, None))
    what = f"Mean score of {curves['image'].nunique()} radiographs as the hottest places are taken or given first"
    return described(figure, f"{what}. Areas: {', '.join(areas)}.")


def _mean_interval(table: pd.DataFrame) -> pd.DataFrame:
    """Mean of each column over the rows (patients or images), with its 95 % bootstrap interval: value, low, high."""
    times, known = draw_patients(len(table), 1000, 0).astype(float), table.notna().to_numpy(float)
    means = ratio(times @ table.fillna(0).to_numpy(), times @ known)
    low, high = pd.DataFrame(means).quantile([0.025, 0.975]).to_numpy()  # NaN, and no warning, where all are NaN
    return pd.DataFrame({"value": table.mean(), "low": low, "high": high})


def _with_bars(axes, x, mean: pd.DataFrame, **options) -> None:
    error = np.maximum([mean["value"] - mean["low"], mean["high"] - mean["value"]], 0)
    axes.errorbar(x, mean["value"], yerr=error, capsize=2, elinewidth=1, **options)
