"""Reliability of scores: reliability diagrams, out-of-fold calibration, and the noise in a calibration error."""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import ndtri

from cxrlib.data.findings import FINDINGS, canonical
from cxrlib.evaluation.bootstrap import with_macro
from cxrlib.evaluation.calibration import Calibrator
from cxrlib.evaluation.metrics import ECE_BINS, mass_bins, point_estimates
from cxrlib.evaluation.predictions import Predictions


def reliability(predictions: Predictions, finding: str, bins: int = 10) -> pd.DataFrame:
    """Scores against the share of positives, in `bins` bins of equally many images (ties share a bin).

    Columns: score (mean), share (of positives), images, patients, positives, low, high (95 %). The interval is Wilson's
    (1927) with the number of patients of a bin instead of images, which are correlated within a patient.
    """
    scores, labels, patient = list(predictions.by_finding())[FINDINGS.index(canonical(finding))]
    table = pd.DataFrame({"score": scores.astype(np.float64), "label": labels.astype(int), "patient": patient})
    of_bin = table.groupby(mass_bins(scores, bins))
    table = of_bin.agg(score=("score", "mean"), share=("label", "mean"), images=("label", "size"),
                       patients=("patient", "nunique"), positives=("label", "sum")).reset_index(drop=True)  # fmt: skip
    share, n, z = table["share"], table["patients"], ndtri(0.975)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # against rounding at shares of 0 and 1
    return table.assign(low=np.clip(middle - half, 0, share), high=np.clip(middle + half, share, 1))


def out_of_fold(val: Predictions, method: str) -> Predictions:
    """`val` with each image calibrated by a map fitted on four fifths of the patients, without its own."""
    patients, patient = np.unique(val.patient, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(patients))[patient] % 5
    scores = val.scores.copy()
    for number in range(5):
        calibrator = Calibrator.fit(val.take(fold != number), method)
        scores[fold == number] = calibrator.calibrate(val.scores[fold == number])
    return replace(val, scores=scores, calibration=method)


def choose_method(val: Predictions) -> str:
    """The calibration with the lowest Brier score (macro mean) on held-out patients, of those that keep the AUROC."""
    held_out = {method: out_of_fold(val, method) for method in ("none", "platt", "temperature")}
    return min(held_out, key=lambda method: with_macro(point_estimates(held_out[method])["brier"])[-1])


def ece_floor(predictions: Predictions) -> np.ndarray:
    """(14,) the `ece_mass` that perfectly calibrated scores would show on this number of images, by noise alone.

    The mean error of 200 data sets whose labels are drawn with the scores as probabilities, independently even within a
    patient, so that the floor is, if anything, too low. NaN where no label is known (Roelofs et al. 2022).
    """
    rng, floor = np.random.default_rng(0), np.empty(len(FINDINGS))
    for k, (scores, _, _) in enumerate(predictions.by_finding()):
        bins, scores = mass_bins(scores), scores.astype(np.float64)
        drawn = ((rng.random(len(scores)) < scores) - scores for _ in range(200))
        gaps = [np.abs(np.bincount(bins, errors, ECE_BINS)).sum() for errors in drawn]
        floor[k] = np.mean(gaps) / len(scores) if len(scores) else np.nan
    return floor
