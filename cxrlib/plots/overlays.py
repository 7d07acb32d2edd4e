"""Heat maps over radiographs: score and threshold in the title, boxes where there are any."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxrlib.core.paths import write_csv
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.thresholds import number
from cxrlib.plots.style import plot_overlays, pretty, save_figure

_SHEET = 48  # overlays on one page
Images = Mapping[str, np.ndarray]  # such as an ImageCache


def overlay_figure(
    maps: Iterable[np.ndarray], table: pd.DataFrame, images: Images, boxes: pd.DataFrame | None = None, plain=False
) -> Figure:
    """One panel per row of `score_table`: the radiograph under its map, with the boxes of that finding on that image.

    boxes: as `read_boxes` gives them; plain: the bare radiograph is shown to the left of each.
    """
    panels = []
    for heat, row in zip(maps, table.itertuples(), strict=True):
        picture, own = images[row.image], []
        if boxes is not None:
            of_pair = (boxes["image"] == row.image) & (boxes["finding"] == row.finding)
            drawn = boxes.loc[of_pair, ["x", "y", "w", "h"]].to_numpy()
            own = [(*box, "" if n else "box") for n, box in enumerate(drawn)]  # labels of two may overlap
        labelled = "label unknown" if pd.isna(row.label) else "labelled" if row.label else "not labelled"
        title = f"{pretty(row.finding)}: {number(row.score)}, {labelled}\n"
        title += "no threshold tuned" if np.isnan(row.threshold) else f"threshold {number(row.threshold)}"
        title += "" if heat.any() else "\n(empty: nothing speaks for it)"
        if plain:
            panels.append((picture, np.zeros_like(heat), row.image, own))
        panels.append((picture, heat, title, own))
    return plot_overlays(*zip(*panels, strict=True))


def write_overlays(
    folder: Path, maps: Iterable[np.ndarray], table: pd.DataFrame, images: Images, boxes: pd.DataFrame | None = None
) -> list[Path]:
    """Write one PNG per row of `score_table`, beside the bare radiograph; returns the paths.

    The folder also gets contact_sheet.png, with up to 48 of the overlays on one page, and the table as scores.csv.
    Overlays of an earlier run in the folder are removed.
    """
    paths, on_sheet = [folder / f"{Path(row.image).stem}_{row.finding}.png" for row in table.itertuples()], []
    for n, (path, heat) in enumerate(zip(paths, maps, strict=True)):
        on_sheet = [*on_sheet, heat][:_SHEET]
        _save(overlay_figure([heat], table.iloc[[n]], images, boxes, plain=True), path)
    _save(overlay_figure(on_sheet, table[:_SHEET], images, boxes), folder / "contact_sheet.png")
    write_csv(folder / "scores.csv", table, index=False)
    earlier = re.compile(rf".+_({'|'.join(FINDINGS)})\.png")
    for path in set(folder.glob("*.png")) - set(paths):
        if earlier.fullmatch(path.name):
            path.unlink(missing_ok=True)
    return paths


def _save(figure: Figure, path: Path) -> None:
    save_figure(figure, path.stem, path.parent)
    plt.close(figure)
