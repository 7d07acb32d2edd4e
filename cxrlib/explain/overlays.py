"""Which images and findings overlays show, with their scores and heat maps."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from cxrlib.data.cache import ImageCache
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import UNKNOWN, Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.explain.case_maps import case_maps
from cxrlib.models.architectures import ChestXrayModel

Pairs = Iterable[tuple[int, int]]  # (row of predictions, column of FINDINGS)


def choose(entries: pd.DataFrame, samples: int, seed: int = 0) -> pd.DataFrame:
    """`samples` random entries, those with a finding first; all of them where there are fewer."""
    shuffled = entries.sample(frac=1, random_state=seed)
    without = shuffled[list(FINDINGS)].sum(axis=1) == 0
    return shuffled.loc[without.sort_values(kind="stable").index].head(samples)


def highest_scoring(scores: np.ndarray, mask: np.ndarray) -> list[tuple[int, int]]:
    """For each finding, in FINDINGS' order, the row with the highest score within mask (n, 14)."""
    return [(int(np.argmax(np.where(mask[:, k], scores[:, k], -1))), k) for k in np.flatnonzero(mask.any(axis=0))]


def highest_labelled(predictions: Predictions) -> Pairs:
    """For each row its labelled finding with the highest score; of all findings where none is labelled."""
    labelled = predictions.labels == 1
    labelled = np.where(labelled.any(axis=1, keepdims=True), labelled, True)
    return list(enumerate(np.where(labelled, predictions.scores, -1).argmax(axis=1)))


def score_table(predictions: Predictions, pairs: Pairs, thresholds: Thresholds | None = None) -> pd.DataFrame:
    """One row per pair: image, finding, its score, label (None: unknown), threshold, called, and all fourteen scores.

    thresholds: on the scale of the predictions' scores; without them threshold and called are empty.
    """
    rows, shown = np.array(list(pairs)).T
    limit = np.full(len(shown), np.nan) if thresholds is None else np.asarray(thresholds.values)[shown]
    score = predictions.scores[rows, shown]
    label = pd.Series(predictions.labels[rows, shown])
    label = label if predictions.known[rows, shown].all() else label.astype("UInt8").mask(label == UNKNOWN)
    table = pd.DataFrame({"image": predictions.image[rows], "finding": np.array(FINDINGS)[shown], "score": score,
                          "label": label, "threshold": limit})  # fmt: skip
    called = pd.Series(score >= limit, dtype="boolean").mask(np.isnan(limit))
    return table.assign(called=called, **dict(zip(FINDINGS, predictions.scores[rows].T, strict=True)))


def overlay_maps(
    model: ChestXrayModel, images: ImageCache, table: pd.DataFrame, method: str = "gradcam"
) -> Iterator[np.ndarray]:
    """The map (h, w) of each row of `score_table`, made when it is needed."""
    for row in range(len(table)):
        yield case_maps(model, images, table.iloc[[row]], method)[0]
