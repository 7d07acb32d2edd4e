"""Heat maps over radiographs: score and threshold in the title, boxes where there are any."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxrlib.core.paths import write_csv
from cxrlib.data.findings import FINDINGS
from cxrlib.plots.style import plot_overlays, pretty, save_figure

if TYPE_CHECKING:  # its module imports torch
    from cxrlib.explain.overlays import Overlay

SHEET = "contact_sheet.png"
_SHEET = 48  # overlays on one page


def overlay_figure(overlays: Iterable["Overlay"], plain: bool = False) -> Figure:
    """One panel per overlay of `make_overlays`: the radiograph under its heat map.

    plain: with the bare radiograph to the left of each. A title says so where the map is empty.
    """
    panels = []
    for overlay in overlays:
        boxes = [(*box, "box") for box in overlay.boxes]
        threshold = "no threshold tuned" if overlay.threshold is None else f"threshold {overlay.threshold:.2f}"
        label = "labelled" if overlay.labelled else "not labelled"
        title = f"{pretty(overlay.finding)}: {overlay.score:.2f}, {label}\n{threshold}"
        if not overlay.heat.any():
            title += "\n(empty: nothing speaks for it)"
        if plain:
            panels.append((overlay.picture, np.zeros_like(overlay.heat), overlay.image, boxes))
        panels.append((overlay.picture, overlay.heat, title, boxes))
    return plot_overlays(*zip(*panels, strict=True))


def write_overlays(folder: Path, overlays: Iterable["Overlay"], scores: pd.DataFrame) -> list[Path]:
    """Write one PNG per overlay, beside the bare radiograph; returns the paths.

    The folder also gets contact_sheet.png, with up to 48 of the overlays on one page, and scores.csv, the table
    `scores`. Overlays of an earlier run in the folder are removed.
    """
    earlier = re.compile(rf"{re.escape(SHEET)}|.+_({'|'.join(FINDINGS)})\.png")
    for path in folder.glob("*.png"):
        if earlier.fullmatch(path.name):
            path.unlink()
    paths, on_sheet = [], []
    for overlay in overlays:
        paths.append(folder / f"{Path(overlay.image).stem}_{overlay.finding}.png")
        _save(overlay_figure([overlay], plain=True), paths[-1])
        on_sheet = [*on_sheet, overlay][:_SHEET]
    _save(overlay_figure(on_sheet), folder / SHEET)
    write_csv(folder / "scores.csv", scores, index=False)
    return paths


def _save(figure: Figure, path: Path) -> None:
    save_figure(figure, path.stem, path.parent)
    plt.close(figure)
