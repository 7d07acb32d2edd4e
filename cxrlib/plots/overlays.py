"""Heat maps over radiographs, for people to look at: score and threshold in the title, boxes where there are any."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cxrlib.data.cache import ImageCache
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.explain.gradcam import grad_cam, usual_layers
from cxrlib.models.architectures import ChestXrayModel
from cxrlib.plots.style import plot_overlays, pretty, save_figure

SHEET = "contact_sheet.png"
_SHEET = 48  # overlays on one page


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
    method: str = "gradcam",
) -> Figure:
    """One panel for each (row of predictions, column of FINDINGS): the radiograph under its heat map.

    thresholds: on the scale of the predictions' scores, for the titles; boxes: as `read_boxes` gives them, drawn where
    they are of that finding on that image; plain: the bare radiograph stands beside each; method: as in `grad_cam`,
    from its `usual_layers`. A title says so where nothing in the image speaks for the finding.
    """
    pictures, maps, titles, drawn = [], [], [], []
    for row, k in pairs:
        x = radiographs(cache, predictions.image[[row]])
        heat = grad_cam(model, x, usual_layers(model, method), method)[0, k].numpy()
        own = (
            ()
            if boxes is None
            else boxes[(boxes["image"] == predictions.image[row]) & (boxes["finding"] == FINDINGS[k])]
        )
        own = [(box.x, box.y, box.w, box.h, "box") for box in own.itertuples()] if len(own) else []
        label = "labelled" if predictions.labels[row, k] else "not labelled"
        threshold = "no threshold tuned" if thresholds is None else f"threshold {thresholds.values[k]:.2f}"
        title = f"{pretty(FINDINGS[k])}: {predictions.scores[row, k]:.2f}, {label}\n{threshold}"
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


def choose(entries: pd.DataFrame, samples: int, seed: int = 0) -> pd.DataFrame:
    """`samples` of the entries by chance, those with a finding first; all of them where there are fewer."""
    shuffled = entries.sample(frac=1, random_state=seed)
    without = shuffled[list(FINDINGS)].sum(axis=1) == 0
    return shuffled.loc[without.sort_values(kind="stable").index].head(samples)


def write_overlays(
    folder: Path,
    model: ChestXrayModel,
    cache: ImageCache,
    predictions: Predictions,
    thresholds: Thresholds | None = None,
    boxes: pd.DataFrame | None = None,
    method: str = "gradcam",
) -> list[Path]:
    """One PNG a row of predictions, for its labelled finding with the highest score; returns the paths.

    An image without a finding shows the highest score of all. Beside the PNGs, contact_sheet.png has up to 48 of the
    overlays on one page, and scores.csv a row an image: finding (shown), score, label, threshold, called, and all
    fourteen scores. Overlays of an earlier run in the folder are removed.
    """
    labelled = np.where(predictions.labels.any(axis=1, keepdims=True), predictions.labels == 1, True)
    best = np.where(labelled, predictions.scores, -1).argmax(axis=1)
    pairs = [(row, int(k)) for row, k in enumerate(best)]
    _remove_earlier(folder)
    paths = []
    for row, k in pairs:
        figure = overlay_figure(model, cache, predictions, [(row, k)], thresholds, boxes, plain=True, method=method)
        paths.append(folder / f"{Path(predictions.image[row]).stem}_{FINDINGS[k]}.png")
        _save(figure, paths[-1])
    _save(overlay_figure(model, cache, predictions, pairs[:_SHEET], thresholds, boxes, method=method), folder / SHEET)
    _scores(predictions, best, thresholds).to_csv(folder / "scores.csv", index=False)
    return paths


def _save(figure: Figure, path: Path) -> None:
    save_figure(figure, path.stem, path.parent)
    plt.close(figure)


def _remove_earlier(folder: Path) -> None:
    ours = re.compile(rf".+_({'|'.join(FINDINGS)})\.png")
    for path in folder.glob("*.png"):
        if path.name == SHEET or ours.fullmatch(path.name):
            path.unlink()


def _scores(predictions: Predictions, shown: np.ndarray, thresholds: Thresholds | None) -> pd.DataFrame:
    rows = np.arange(len(shown))
    limit = np.full(len(shown), np.nan) if thresholds is None else np.asarray(thresholds.values)[shown]
    score = predictions.scores[rows, shown]
    table = pd.DataFrame({"image": predictions.image, "finding": np.array(FINDINGS)[shown], "score": score,
                          "label": predictions.labels[rows, shown], "threshold": limit})  # fmt: skip
    called = pd.Series(score >= limit, dtype="boolean").mask(np.isnan(limit))  # unknown without a threshold
    return table.assign(called=called, **dict(zip(FINDINGS, predictions.scores.T, strict=True)))
