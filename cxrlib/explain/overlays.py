"""What overlays show: which images and findings, their heat maps, and the scores beside them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxrlib.data.cache import ImageCache
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.explain.case_maps import radiographs
from cxrlib.explain.gradcam import default_layers, grad_cam
from cxrlib.models.architectures import ChestXrayModel


@dataclass(frozen=True)
class Overlay:
    """The heat map (h, w) in [0, 1] of one finding on a radiograph (h, w) uint8; boxes: (m, 4), of this finding."""

    image: str
    finding: str
    score: float
    labelled: bool
    threshold: float | None  # on the scale of the score; None: not tuned
    picture: np.ndarray
    heat: np.ndarray
    boxes: np.ndarray  # x, y, w, h in BOX_FRAME pixels


def make_overlays(
    model: ChestXrayModel,
    cache: ImageCache,
    predictions: Predictions,
    pairs: Iterable[tuple[int, int]],
    thresholds: Thresholds | None = None,
    boxes: pd.DataFrame | None = None,
    method: str = "gradcam",
) -> Iterator[Overlay]:
    """One overlay for each (row of predictions, column of FINDINGS), computed when it is needed.

    thresholds: on the scale of the predictions' scores; boxes: as `read_boxes` gives them; method: as in `grad_cam`,
    read from its `default_layers`.
    """
    layers = default_layers(model, method)
    for row, k in pairs:
        image, finding = predictions.image[row], FINDINGS[k]
        x = radiographs(cache, [image])
        drawn = np.empty((0, 4))
        if boxes is not None:
            of_pair = (boxes["image"] == image) & (boxes["finding"] == finding)
            drawn = boxes.loc[of_pair, ["x", "y", "w", "h"]].to_numpy()
        yield Overlay(
            image=image,
            finding=finding,
            score=predictions.scores[row, k],
            labelled=bool(predictions.labels[row, k]),
            threshold=None if thresholds is None else thresholds.values[k],
            picture=x[0, 0].numpy(),
            heat=grad_cam(model, x, layers, method)[0, k].numpy(),
            boxes=drawn,
        )


def highest_scoring(scores: np.ndarray, mask: np.ndarray) -> list[tuple[int, int]]:
    """For each finding the row with the highest score within mask (n, 14): (row, column) pairs in FINDINGS' order."""
    return [(int(np.argmax(np.where(mask[:, k], scores[:, k], -1))), k) for k in np.flatnonzero(mask.any(axis=0))]


def highest_labelled(predictions: Predictions) -> np.ndarray:
    """For each row the column of its labelled finding with the highest score; of any finding where none is labelled."""
    labelled = np.where(predictions.labels.any(axis=1, keepdims=True), predictions.labels == 1, True)
    return np.where(labelled, predictions.scores, -1).argmax(axis=1)


def choose(entries: pd.DataFrame, samples: int, seed: int = 0) -> pd.DataFrame:
    """`samples` random entries, those with a finding first; all of them where there are fewer."""
    shuffled = entries.sample(frac=1, random_state=seed)
    without = shuffled[list(FINDINGS)].sum(axis=1) == 0
    return shuffled.loc[without.sort_values(kind="stable").index].head(samples)


def score_table(predictions: Predictions, shown: np.ndarray, thresholds: Thresholds | None) -> pd.DataFrame:
    """One row per image: its finding `shown` (n,), score, label, threshold, called, and all fourteen scores.

    called is empty without a threshold.
    """
    rows = np.arange(len(shown))
    limit = np.full(len(shown), np.nan) if thresholds is None else np.asarray(thresholds.values)[shown]
    score = predictions.scores[rows, shown]
    table = pd.DataFrame({"image": predictions.image, "finding": np.array(FINDINGS)[shown], "score": score,
                          "label": predictions.labels[rows, shown], "threshold": limit})  # fmt: skip
    called = pd.Series(score >= limit, dtype="boolean").mask(np.isnan(limit))
    return table.assign(called=called, **dict(zip(FINDINGS, predictions.scores.T, strict=True)))
