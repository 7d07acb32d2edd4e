"""Heat maps over radiographs, for people to look at: score and threshold in the title, boxes where there are any."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cxrlib.cache import ImageCache
from cxrlib.findings import FINDINGS
from cxrlib.gradcam import grad_cam
from cxrlib.models import ChestXrayModel
from cxrlib.plots import plot_overlays, pretty, save_figure
from cxrlib.predictions import Predictions
from cxrlib.thresholds import Thresholds


def radiographs(cache: ImageCache, names) -> torch.Tensor:
    """Cached radiographs as a batch for a model: (n, 1, size, size) uint8."""
    return torch.from_numpy(cache.images[cache.rows(names)])[:, None]


def overlay_figure(
    model: ChestXrayModel,
    cache: ImageCache,
    predictions: Predictions,
    pairs: list[tuple[int, int]],
    thresholds: Thresholds | None = None,
    boxes: pd.DataFrame | None = None,
    plain: bool = False,
) -> Figure:
    """One panel for each (row of predictions, column of FINDINGS): the radiograph under its heat map.

    thresholds: for the titles; boxes: as `read_boxes` gives them, drawn where they are of that finding on that image;
    plain: the bare radiograph stands beside each. A title says so where nothing in the image speaks for the finding.
    """
    pictures, maps, titles, drawn = [], [], [], []
    for row, k in pairs:
        x = radiographs(cache, predictions.image[[row]])
        heat = grad_cam(model, x)[0, k].numpy()
        own = (
            ()
            if boxes is None
            else boxes[(boxes["image"] == predictions.image[row]) & (boxes["finding"] == FINDINGS[k])]
        )
        own = [(box.x, box.y, box.w, box.h, "box") for box in own.itertuples()] if len(own) else []
        threshold = "no threshold tuned" if thresholds is None else f"threshold {thresholds.values[k]:.2f}"
        title = f"{pretty(FINDINGS[k])}: {predictions.scores[row, k]:.2f}\n{threshold}"
        if not heat.any():
            title += "\n(empty: nothing speaks for it)"
        if plain:
            titles.append(predictions.image[row])
            pictures, maps, drawn = [*pictures, x[0, 0]], [*maps, np.zeros_like(heat)], [*drawn, own]
        pictures, maps, titles, drawn = [*pictures, x[0, 0]], [*maps, heat], [*titles, title], [*drawn, own]
    return plot_overlays(pictures, maps, titles, drawn)


def strongest(scores: np.ndarray, mask: np.ndarray) -> list[tuple[int, int]]:
    """For each finding the highest-scored row within mask, (n, 14) bool: (row, column) pairs in FINDINGS' order."""
    return [(int(np.argmax(np.where(mask[:, k], scores[:, k], -1))), k) for k in np.flatnonzero(mask.any(axis=0))]


def write_overlays(
    folder: Path,
    model: ChestXrayModel,
    cache: ImageCache,
    predictions: Predictions,
    thresholds: Thresholds | None = None,
    boxes: pd.DataFrame | None = None,
) -> list[Path]:
    """One PNG a row of predictions, for its labelled finding with the highest score; returns the paths.

    An image without a finding shows the highest score of all. Beside the PNGs, scores.csv holds the fourteen scores.
    """
    labelled = np.where(predictions.labels.any(axis=1, keepdims=True), predictions.labels == 1, True)
    best = np.where(labelled, predictions.scores, -1).argmax(axis=1)
    paths = []
    for row, k in enumerate(best):
        figure = overlay_figure(model, cache, predictions, [(row, int(k))], thresholds, boxes, plain=True)
        name = f"{Path(predictions.image[row]).stem}_{FINDINGS[k]}"
        save_figure(figure, name, folder)
        plt.close(figure)
        paths.append(folder / f"{name}.png")
    index = pd.Index(predictions.image, name="image")
    pd.DataFrame(predictions.scores, columns=list(FINDINGS), index=index).to_csv(folder / "scores.csv")
    return paths
