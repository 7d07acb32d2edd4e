"""Maps of cases, rows with image and finding, as (n, h, w) float32 in [0, 1], their controls, and which to show."""

import numpy as np
import pandas as pd
import torch

from cxrlib.core.progress import bar
from cxrlib.data.cache import ImageCache
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import UNKNOWN, Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.explain.faithfulness import random_maps, take_statistics
from cxrlib.explain.gradcam import default_layers, grad_cam
from cxrlib.models.architectures import ChestXrayModel, build_model
from cxrlib.training.device import kept_memory

METHOD = "layercam"  # the highest pointing accuracy on the phantoms' validation split


def radiographs(images: ImageCache, names) -> torch.Tensor:
    """Cached radiographs as a batch for a model: (n, 1, size, size) uint8."""
    return torch.from_numpy(images.images[images.rows(names)])[:, None]


@kept_memory()
def case_maps(model, images: ImageCache, cases, method=METHOD, layer=None, batch_size=32, progress=False) -> np.ndarray:
    """The map of each case, a row with image and finding. Others as in `grad_cam`; layer None: `default_layers`."""
    layer = default_layers(model, method) if layer is None else layer
    findings = torch.tensor([FINDINGS.index(name) for name in cases["finding"]], dtype=torch.int64)
    maps = np.empty((len(cases), images.image_size, images.image_size), dtype=np.float32)
    for start in bar(range(0, len(cases), batch_size), show=progress, desc="heat maps", unit=" batches", leave=False):
        rows = slice(start, start + batch_size)
        shown = radiographs(images, cases["image"].iloc[rows])
        maps[rows] = grad_cam(model, shown, layer, method, findings=findings[rows])[:, 0].numpy()
    return maps


def control_maps(model: ChestXrayModel, images: ImageCache, cases: pd.DataFrame, maps, seed=0, **options) -> dict:
    """Controls for the model's maps, each (n, h, w): random (smooth noise), average (`average_maps`), and untrained.

    options: of `case_maps`. untrained: the architecture with random weights; its batch norms have seen some images.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = build_model(model.arch, "none", model.image_size).to(next(model.parameters()).device)
    seen = radiographs(images, cases["image"].unique()[:32])
    take_statistics(untrained, seen if len(seen) > 1 else torch.cat([seen, seen]))  # one image has no variance
    return {
        "random": random_maps(len(cases), images.image_size, seed),
        "average": average_maps(maps, cases),
        "untrained": case_maps(untrained, images, cases, **options),
    }


def average_maps(maps: np.ndarray, cases: pd.DataFrame) -> np.ndarray:
    """For each case the mean map of its finding over the other patients; zeros where there is no other patient."""
    average, patient = np.zeros_like(maps), cases["patient"].to_numpy()
    for rows in cases.groupby("finding").indices.values():
        total = maps[rows].sum(axis=0, dtype=np.float64)
        for row in rows:
            own = rows[patient[rows] == patient[row]]
            if others := len(rows) - len(own):
                average[row] = (total - maps[own].sum(axis=0, dtype=np.float64)) / others
    return average


def choose(entries: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """`samples` random entries, those with a finding first; all of them where there are fewer."""
    shuffled = entries.sample(frac=1, random_state=seed)
    without = shuffled[list(FINDINGS)].sum(axis=1) == 0
    return shuffled.loc[without.sort_values(kind="stable").index].head(samples)


def highest_labelled(predictions: Predictions) -> list[tuple[int, int]]:
    """For each row its labelled finding with the highest score; of all findings where none is labelled."""
    return list(enumerate((predictions.scores + 2.0 * (predictions.labels == 1)).argmax(axis=1)))


def score_table(predictions: Predictions, pairs: list, thresholds: Thresholds | None = None) -> pd.DataFrame:
    """One row per pair: image, finding, score, label (NA: unknown), threshold and called (or empty), all scores."""
    rows, shown = np.array(pairs).T
    label = pd.Series(predictions.labels[rows, shown], dtype="UInt8")
    table = pd.DataFrame({"image": predictions.image[rows], "finding": np.array(FINDINGS)[shown],
                          "score": predictions.scores[rows, shown], "label": label.mask(label == UNKNOWN),
                          "threshold": np.nan if thresholds is None else thresholds.values[shown]})  # fmt: skip
    called = (table["score"] >= table["threshold"]).astype("boolean").mask(table["threshold"].isna())
    return table.assign(called=called, **dict(zip(FINDINGS, predictions.scores[rows].T, strict=True)))


def overlay_maps(model, images, table: pd.DataFrame, method: str):
    """The map (h, w) of each row of `score_table`, made when it is needed. Arguments as in `case_maps`."""
    return (case_maps(model, images, table.iloc[[row]], method)[0] for row in range(len(table)))
