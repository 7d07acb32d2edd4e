"""Thresholds with a promise for new patients: Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052).

"sensitivity>=0.9" is met on validation, and for new patients about as often missed as kept. "sensitivity>=0.9@0.95" is
chosen so that, in 95 of 100 validation sets, it is kept for new patients of the same kind, whatever the distribution.

Of each patient with the finding, the loss at a threshold is the share of the positive images below it; the promise is
that its mean over patients is at most 1 - sensitivity. The thresholds are tested from the lowest upwards, each at the
full level, until one fails; the last that passed is taken. This needs no correction for many tests.
"""

import re

import numpy as np
from scipy.special import bdtr, rel_entr  # scipy.stats, which has a name for bdtr, takes a second to import

from cxrlib.evaluation.bootstrap import patient_sums
from cxrlib.evaluation.sums import at_or_above


def parse_guarantee(objective: str) -> tuple[float, float] | None:
    """(sensitivity, confidence) of "sensitivity>=0.9@0.95"; None for any other text."""
    found = re.fullmatch(r"\s*sensitivity\s*>=\s*(0?\.\d+)\s*@\s*(0?\.\d+)\s*", str(objective))
    sensitivity, confidence = map(float, found.groups()) if found else (0, 0)
    return (sensitivity, confidence) if 0 < sensitivity < 1 and 0 < confidence < 1 else None


def guaranteed(
    scores: np.ndarray, positive: np.ndarray, patient: np.ndarray, candidates: np.ndarray, promise: tuple[float, float]
) -> tuple[float | None, str]:
    """The highest of the rising `candidates` that keeps the promise; or None, and the reason.

    scores: (n,), positive: (n,) bool, patient: (n,); promise: (sensitivity, confidence).
    """
    (sensitivity, confidence), (_, codes) = promise, np.unique(patient[positive], return_inverse=True)
    patients, level = codes.max(initial=-1) + 1, 1 - confidence
    missed = ~at_or_above(scores[positive], candidates[:, None])  # (candidates, positive images)
    row, image = np.nonzero(missed)
    losses = patient_sums(row, codes[image], (len(candidates), patients)).toarray() / np.bincount(codes)
    p = p_of_risk(losses, 1 - sensitivity)
    passed = int(np.argmin(np.append(p <= level, False)))
    if passed:
        return float(candidates[passed - 1]), ""
    needed = int(np.ceil(np.log(level) / np.log(sensitivity)))
    if patients < needed:
        return None, f"{patients} patients with the finding, and the promise needs at least {needed}"
    return None, f"already the lowest threshold, {candidates[0]:.2g}, misses too many"


def p_of_risk(losses: np.ndarray, risk: float) -> np.ndarray:
    """(k,) p-values of "the mean loss of new patients is above `risk`", from losses (k, patients) in [0, 1].

    The exact binomial test where all losses are 0 or 1, as with one positive image per patient; else the bound of
    Hoeffding and Bentkus (Bates et al. 2021, Journal of the ACM 68), which holds for any losses in [0, 1].
    """
    n, mean = losses.shape[1], losses.mean(axis=1)
    tail = bdtr(np.floor(n * mean + 1e-9), n, risk)
    if np.isin(losses, (0, 1)).all():
        return tail
    below = np.minimum(mean, risk)
    hoeffding = np.exp(-n * (rel_entr(below, risk) + rel_entr(1 - below, 1 - risk)))
    return np.minimum(np.minimum(hoeffding, np.e * bdtr(np.ceil(n * mean - 1e-9), n, risk)), 1)
