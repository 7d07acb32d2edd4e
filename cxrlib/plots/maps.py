"""Figures of tests of heat maps: against boxes and controls, by place, sanity, faithfulness."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxrlib.evaluation.bootstrap import draw_patients, ratio
from cxrlib.plots.style import GREY, STYLES, described, draw_intervals, pretty


def plot_localization(tables: Mapping[str, pd.DataFrame], order: Sequence[str] = ()) -> Figure:
    """The pointing game of `score_boxes`' tables, a panel for each title: the model and its controls by finding.

    order: findings from the top; those that it lacks follow by the model's value in the first table.
    """
    games = {title: table[table["metric"] == "pointing"].set_index("finding") for title, table in tables.items()}
    model = next(iter(games.values())).query("maps == 'model'").drop("macro").sort_values("value", ascending=False)
    names = sorted(model.index, key=lambda name: [*order, name].index(name))
    rows, texts, before = ["macro", *names[::-1]], [], None
    figure, panels = plt.subplots(1, len(games), figsize=(4.2 * len(games) + 3.8, 0.6 * len(rows) + 1.4), squeeze=False)
    for axes, (title, game) in zip(panels.flat, games.items(), strict=True):
        kinds, y = dict(list(game.groupby("maps", sort=False))), np.arange(len(rows))
        for n, (kind, style) in enumerate(zip(kinds, [STYLES[0], (GREY, "|"), *STYLES[1:]], strict=False)):
            height = y + 0.32 * (1 - 2 * n / max(1, len(kinds) - 1))
            draw_intervals(axes, height, kinds[kind].loc[rows], ("value", "low", "high"), style, label=kind, ms=7)
        on = [f"\n{row.cases} cases, {row.patients} patients" for row in kinds["model"].loc[rows].itertuples()]
        axes.set_yticks(y, [] if on == before else [pretty(row) + text for row, text in zip(rows, on, strict=True)])
        axes.axhline(0.5, color="0.8", lw=1)
        axes.set(xlim=(-0.02, 1.02), xlabel="pointing game, 95 % interval over patients", title=title)
        macro = ", ".join(f"{kind} {of.loc['macro', 'value']:.2f}" for kind, of in kinds.items())
        texts, before = [*texts, f"{title}, macro mean: {macro}."], on
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return described(figure, f"Pointing game by finding, with 95 % intervals. {' '.join(texts)}")


def plot_places(density: pd.DataFrame) -> Figure:
    """How dense heat lies in each place; 1 is what a flat map has there.

    density: one row per map, with columns group (such as "true positives"), patient, and one per place.
    """
    groups = density.groupby("group", sort=False)
    (figure, axes), texts = plt.subplots(figsize=(8, 0.6 * (density.shape[1] - 2) + 1.4)), []
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
    (figure, axes), texts = plt.subplots(figsize=(7.5, 3.6)), []
    for n, ((name, table), style) in enumerate(zip(tables.items(), STYLES, strict=False)):
        mean = _mean_interval(table.pivot_table("rank", "image", "step", dropna=False))
        _with_bars(axes, mean.index + 0.05 * n, mean, *style, label=name)
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

    curves: of `perturbation`; another order is named as it is. Bars: 95 % interval over the images.
    """
    (figure, both), areas = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True), []
    for axes, kind in zip(both, ("deletion", "insertion"), strict=True):
        for n, order in enumerate(curves["order"].unique()):
            name = {"map": "hottest first", "random": "random order"}.get(order, f"hottest of {order} first")
            rows = curves[(curves["kind"] == kind) & (curves["order"] == order)]
            mean = _mean_interval(rows.pivot_table("score", "image", "share"))
            area = f"{np.trapezoid(mean['value'], mean.index):.2f}"
            _with_bars(axes, 100 * mean.index + 0.6 * n, mean, *STYLES[n], label=f"{name}: area {area}")
            areas.append(f"{kind} by {order} {area}")
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


def _with_bars(axes, x, mean: pd.DataFrame, colour: str, marker: str, label: str) -> None:
    error = np.maximum([mean["value"] - mean["low"], mean["high"] - mean["value"]], 0)
    axes.errorbar(x, mean["value"], yerr=error, capsize=2, elinewidth=1, color=colour, marker=marker, label=label)
