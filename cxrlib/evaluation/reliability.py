"""Do the scores mean what they say? Scores against shares, bin by bin, and what of a calibration error is noise."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import ndtri

from cxrlib.core.errors import InputError, nearest
from cxrlib.data.findings import FINDINGS, canonical
from cxrlib.evaluation.calibration import Calibrator, raw
from cxrlib.evaluation.metrics import ECE_BINS, figures, mass_bins, width_bins
from cxrlib.evaluation.predictions import Predictions


def reliability(predictions: Predictions, finding: str, bins: int = 10, confidence: float = 0.95) -> pd.DataFrame:
    """Scores against the share of positives, in `bins` bins of equally many images (ties share a bin).

    Columns: score (mean), share (of positives), low, high, images, patients, positives. The interval is Wilson's (1927)
    with the patients of a bin for its images: the images of one patient mostly say the same, so that their number
    promises too much.
    """
    k = FINDINGS.index(canonical(finding))
    scores, labels = predictions.scores[:, k].astype(np.float64), predictions.labels[:, k].astype(int)
    table = pd.DataFrame({"score": scores, "share": labels, "patient": predictions.patient, "positives": labels})
    grouped = table.groupby(mass_bins(predictions.scores[:, k], bins))
    table = (
        grouped[["score", "share"]]
        .mean()
        .assign(images=grouped.size(), patients=grouped["patient"].nunique(), positives=grouped["positives"].sum())
    )
    low, high = _wilson(table["share"].to_numpy(), table["patients"].to_numpy(), confidence)
    table.insert(2, "low", low)
    table.insert(3, "high", high)
    return table.reset_index(drop=True)


def _wilson(share: np.ndarray, n: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    z = ndtri((1 + confidence) / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(middle - half, 0, share), np.clip(middle + half, share, 1)  # past rounding at shares of 0 and 1


def out_of_fold(val: Predictions, method: str, folds: int = 5, seed: int = 0, **how) -> Predictions:
    """`val` with each image calibrated by a map that was fitted on other patients: what a method is worth.

    Judged on the scores it was fitted to, a method looks too good, isotonic most of all. **how: `Calibrator.fit`.
    """
    patients, patient = np.unique(val.patient, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(patients))[patient] % folds
    scores = val.scores.copy()
    for number in range(folds):
        calibrator = Calibrator.fit(val.take(fold != number), method, **how)
        scores[fold == number] = calibrator.calibrate(val.scores[fold == number])
    return replace(raw(val), scores=scores, calibration=method)


def choose_method(val: Predictions, methods: Sequence[str] = ("none", "platt", "temperature"), seed: int = 0) -> str:
    """The calibration with the lowest Brier score (macro mean) on patients it was not fitted to; the first of equals.

    "none" is among them: fitted to few patients, a map can make good scores worse. "isotonic" is not, because it ties
    scores and so costs AUROC.
    """
    brier = {
        method: np.nanmean(figures(out_of_fold(val, method, seed=seed))["brier"]) if len(val) else 0.0
        for method in methods
    }
    return min(brier, key=brier.get)


def ece_floor(predictions: Predictions, metric: str = "ece_mass", draws: int = 200, seed: int = 0) -> np.ndarray:
    """(14,) the calibration error that perfectly calibrated scores would show on so many images: noise, not error.

    Labels are drawn at the scores; the mean error of `draws` such data sets. An `ece` or `ece_mass` near its floor says
    nothing against the scores (Roelofs et al. 2022 on this bias). Images of a patient are drawn one by one, so that the
    floor is, if anything, too low.
    """
    binned = {"ece": width_bins, "ece_mass": mass_bins}
    if metric not in binned:
        raise InputError(f"{metric!r} has no floor; expected ece or ece_mass{nearest(metric, binned)}")
    rng, floor = np.random.default_rng(seed), np.empty(len(FINDINGS))
    for k, scores in enumerate(predictions.scores.T.astype(np.float64)):
        bins = binned[metric](predictions.scores[:, k])
        gaps = [
            np.abs(np.bincount(bins, (rng.random(len(scores)) < scores) - scores, ECE_BINS)).sum() for _ in range(draws)
        ]
        floor[k] = np.mean(gaps) / max(len(scores), 1)
    return floor
