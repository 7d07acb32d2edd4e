"""Figures of heat maps over radiographs, and of their tests: boxes and controls, places, sanity, faithfulness."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cxrlib.core.paths import write_csv
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import draw_patients, ratio
from cxrlib.evaluation.thresholds import number
from cxrlib.plots.style import GREY, STYLES, described, draw_bars, draw_intervals, plot_overlays, pretty, save_figure

_SHEET = 48  # overlays on one page
_VALUES = ("value", "low", "high")
_THIN = {"capsize": 2, "elinewidth": 1}


def plot_localization(tables: dict[str, pd.DataFrame], order: list[str] | tuple = ()) -> plt.Figure:
    """The pointing game of `score_boxes`' tables, a panel for each title. order: findings from the top, then others."""
    games = {title: table[table["metric"] == "pointing"].set_index("finding") for title, table in tables.items()}
    model = next(iter(games.values())).query("maps == 'model'").drop("macro").sort_values("value", ascending=False)
    names = sorted(model.index, key=lambda name: [*order, name].index(name))
    rows, texts, before = ["macro", *names[::-1]], [], None
    most = pd.concat(games)["high"].max()
    figure, panels = plt.subplots(1, len(games), figsize=(4.2 * len(games) + 3.8, 8.2), squeeze=False)
    for axes, (title, game) in zip(panels.flat, games.items(), strict=True):
        kinds, y = dict(list(game.groupby("maps", sort=False))), np.arange(len(rows))
        for n, (kind, style) in enumerate(zip(kinds, [STYLES[0], (GREY, "|"), *STYLES[1:]], strict=False)):
            height = y + 0.32 * (1 - 2 * n / max(1, len(kinds) - 1))
            draw_intervals(axes, height, kinds[kind].loc[rows], _VALUES, style, label=kind, ms=5)
        on = [f"\n{row.cases} cases, {row.patients} patients" for row in kinds["model"].loc[rows].itertuples()]
        axes.set_yticks(y, [] if on == before else [pretty(row) + text for row, text in zip(rows, on, strict=True)])
        axes.axhline(0.5, color="0.8", lw=1)
        axes.set(xlim=(-0.02, 1.04 * most), xlabel="pointing game, 95 % interval over patients", title=title)
        macro = ", ".join(f"{kind} {of.loc['macro', 'value']:.2f}" for kind, of in kinds.items())
        texts, before = [*texts, f"{title}, macro mean: {macro}."], on
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return described(figure, f"Pointing game by finding, with 95 % intervals. {' '.join(texts)}")


def plot_places(density: pd.DataFrame) -> plt.Figure:
    """How dense heat lies in each place (1: as in a flat map). density: a row per map; group, patient, each place."""
    groups = density.groupby("group", sort=False)
    (figure, axes), texts = plt.subplots(figsize=(8, 0.6 * (density.shape[1] - 2) + 1.4)), []
    for n, ((name, maps), style) in enumerate(zip(groups, STYLES, strict=False)):
        table = _mean_interval(maps.drop(columns="group").groupby("patient").mean())
        y = np.arange(len(table)) + 0.2 * (n - (len(groups) - 1) / 2)
        label = f"{name} ({len(maps)} maps, {maps['patient'].nunique()} patients)"
        draw_intervals(axes, y, table, _VALUES, style, label=label, ms=7)
        means = ("{} {:.1f} ({:.1f} to {:.1f})".format(*row) for row in table.itertuples())
        texts.append(f"{label}: {', '.join(means)}")
    axes.axvline(1, color=GREY, lw=1, ls=":")
    axes.set_yticks(range(len(table)), table.index)
    axes.invert_yaxis()
    axes.set(xlabel="density of the heat (1: as in a flat map), mean and 95 % interval over patients", xlim=(0, None))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
    return described(figure, f"Mean density of the heat by place. {'; '.join(texts)}.")


def plot_sanity(tables: dict[str, pd.DataFrame]) -> plt.Figure:
    """Mean rank correlation with the trained model's map, where it is defined. tables: method -> `sanity`'s."""
    (figure, axes), texts = plt.subplots(figsize=(7.5, 3.6)), []
    for n, ((name, table), style) in enumerate(zip(tables.items(), STYLES, strict=False)):
        mean = _mean_interval(table.pivot_table("rank", "image", "step", dropna=False))
        draw_bars(axes, mean.index + 0.05 * n, mean, _VALUES, style, label=name, **_THIN)
        texts.append(f"{name}: {', '.join(f'{value:.2f}' for value in mean['value'])}")
    rest = len(mean) - 2  # the layers in equal groups, after the head
    axes.set_xticks(mean.index, ["nothing", "the head", *(f"{100 * n / rest:.0f} %" for n in range(1, rest + 1))])
    axes.axhline(0, color=GREY, lw=1, ls=":")
    images = f"{table['image'].nunique()} radiographs"
    axes.set(ylim=(-1, 1.1), xlabel="layers made random, from the head on", ylabel="rank correlation",
             title=f"Likeness to the map of the trained model ({images})")  # fmt: skip
    axes.legend(loc="lower right")
    what = f"Rank correlation with the trained model's map as layers become random, {images}"
    return described(figure, f"{what}. {'; '.join(texts)}.")


def plot_faithfulness(curves: pd.DataFrame) -> plt.Figure:
    """Deletion and insertion: mean score by the share of the image. curves: of `perturbation`, or with more orders."""
    (figure, both), areas = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True), []
    images = f"{curves['image'].nunique()} radiographs"
    for axes, kind in zip(both, ("deletion", "insertion"), strict=True):
        for n, order in enumerate(curves["order"].unique()):
            name = {"map": "hottest first", "random": "random order"}.get(order, f"hottest of {order} first")
            rows = curves[(curves["kind"] == kind) & (curves["order"] == order)]
            mean = _mean_interval(rows.pivot_table("score", "image", "share"))
            area = f"{np.trapezoid(mean['value'], mean.index):.2f}"
            draw_bars(axes, 100 * mean.index + 0.6 * n, mean, _VALUES, STYLES[n], label=f"{name}: area {area}", **_THIN)
            areas.append(f"{kind} by {order} {area}")
        axes.set(xlabel=f"{'blurred' if kind == 'deletion' else 'shown sharp'} (% of the image)")
        title = f"{kind.capitalize()} ({images})"
        axes.legend(title=title, alignment="left", loc="lower left", bbox_to_anchor=(0, 1))  # no bar is covered
    both[0].set(ylabel="mean score", ylim=(0, None))
    what = f"Mean score of {images} as the hottest places are taken or given first"
    return described(figure, f"{what}. Areas: {', '.join(areas)}.")


def _mean_interval(table: pd.DataFrame) -> pd.DataFrame:
    """Mean of each column over the rows (patients or images), with its 95 % bootstrap interval: value, low, high."""
    times = draw_patients(len(table), 1000, 0).astype(float)
    means = ratio(times @ table.fillna(0).to_numpy(), times @ table.notna().to_numpy(float))
    low, high = pd.DataFrame(means).quantile([0.025, 0.975]).to_numpy()  # NaN, and no warning, where all are NaN
    return pd.DataFrame({"value": table.mean(), "low": low, "high": high})


def overlay_figure(maps: Iterable, table: pd.DataFrame, images: Mapping, boxes=None, plain=False) -> plt.Figure:
    """One panel per row of `score_table`: the radiograph (name -> (h, w) uint8) under its map.

    boxes: of `read_boxes`; those of the finding on the image are drawn. plain: the bare radiograph is to the left.
    """
    panels = []
    for heat, row in zip(maps, table.itertuples(), strict=True):
        picture, own = images[row.image], []
        if boxes is not None:
            drawn = boxes[(boxes["image"] == row.image) & (boxes["finding"] == row.finding)][["x", "y", "w", "h"]]
            own = [(*box, "") for box in drawn.to_numpy()]
        labelled = "label unknown" if pd.isna(row.label) else "labelled" if row.label else "not labelled"
        limit = "no threshold tuned" if np.isnan(row.threshold) else f"threshold {number(row.threshold)}"
        title = f"{pretty(row.finding)}: {number(row.score)}, {labelled}\n{limit}"
        title += "" if heat.any() else "\n(empty: nothing speaks for it)"
        panels += [(picture, np.zeros_like(heat), row.image, own)] if plain else []
        panels.append((picture, heat, title, own))
    return plot_overlays(*zip(*panels, strict=True))


def write_overlays(folder: Path, maps: Iterable, table: pd.DataFrame, images: Mapping, boxes=None) -> list[Path]:
    """Write an `overlay_figure` per row, contact_sheet.png with up to 48, and scores.csv; earlier ones are removed."""
    names = [re.sub(r"\.(png|jpe?g|dcm|dicom)$", "", name, flags=re.I).replace("/", "+") for name in table["image"]]
    paths, on_sheet = [folder / f"{name}_{of}.png" for name, of in zip(names, table["finding"], strict=True)], []
    for n, (path, heat) in enumerate(zip(paths, maps, strict=True)):
        on_sheet = [*on_sheet, heat][:_SHEET]
        save_figure(overlay_figure([heat], table.iloc[[n]], images, boxes, plain=True), path.stem, folder)
        plt.close()
    save_figure(overlay_figure(on_sheet, table[:_SHEET], images, boxes), "contact_sheet", folder)
    plt.close()
    write_csv(folder / "scores.csv", table, index=False)
    for path in {path for finding in FINDINGS for path in folder.glob(f"?*_{finding}.png")} - set(paths):
        path.unlink(missing_ok=True)
    return paths
