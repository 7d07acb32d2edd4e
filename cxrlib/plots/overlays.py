"""Heat maps over radiographs: score and threshold in the title, boxes where there are any."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cxrlib.core.paths import write_csv
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.thresholds import number
from cxrlib.plots.style import plot_overlays, pretty, save_figure

_SHEET = 48  # overlays on one page


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
    paths, on_sheet = [folder / f"{Path(row.image).stem}_{row.finding}.png" for row in table.itertuples()], []
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
