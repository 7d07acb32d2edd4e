"""Which images and findings overlays show, with their scores and maps. A pair: row of predictions, finding's place."""

import numpy as np
import pandas as pd

from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import UNKNOWN, Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.explain.case_maps import case_maps


def choose(entries: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """`samples` random entries, those with a finding first; all of them where there are fewer."""
    shuffled = entries.sample(frac=1, random_state=seed)
    without = shuffled[list(FINDINGS)].sum(axis=1) == 0
    return shuffled.loc[without.sort_values(kind="stable").index].head(samples)


def highest_scoring(scores: np.ndarray, mask: np.ndarray) -> list[tuple[int, int]]:
    """For each finding, in FINDINGS' order, the row with the highest score within mask (n, 14)."""
    return [(int(np.argmax(np.where(mask[:, k], scores[:, k], -1))), k) for k in np.flatnonzero(mask.any(axis=0))]


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
