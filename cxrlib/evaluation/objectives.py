"""What a threshold is chosen for: an objective to maximize on validation, or a promise for new patients."""

import re
from collections.abc import Callable

import numpy as np
from scipy.special import bdtr, rel_entr  # scipy.stats, which has a name for bdtr, takes a second to import

from cxrlib.core.errors import InputError, nearest
from cxrlib.evaluation.bootstrap import patient_sums
from cxrlib.evaluation.metrics import at_or_above

_EXAMPLES = ("f1", "f2", "f0.5", "youden", "sensitivity>=0.9", "sensitivity>=0.9@0.95", "specificity>=0.9", "cost=10")


def parse_objective(text: str) -> tuple[Callable, tuple[float, float] | None]:
    """The objective that `text` names, such as "f1" or "cost=10", and the promise (sensitivity, confidence) after @.

    It is a function (tp, fp, positives, negatives) -> (value to maximize, condition met), where tp and fp are
    (candidates, replicates), all positives and negatives (replicates,); ties are exact, as quotients of integers.
    Raises InputError for an unknown objective.
    """
    pattern = r"(youden)|(f|sensitivity>=|specificity>=|cost=)([\d.]+)(@0?\.\d+)?"
    try:
        named, kind, number, at = re.fullmatch(pattern, re.sub(r"\s", "", str(text))).groups()
        kind, number = named or kind.rstrip(">="), float(number or 1)
        promise = (number, float(at[1:])) if at else None
        if promise and not (kind == "sensitivity" and number < 1 and promise[1] > 0):
            raise ValueError
    except (AttributeError, ValueError):
        expected = f"{', '.join(_EXAMPLES)} (@: for new patients, with this confidence), or another number"
        raise InputError(f"the objective {text!r} is unknown{nearest(text, _EXAMPLES)}; expected {expected}") from None
    if number <= 0 or (number > 1 and kind in ("sensitivity", "specificity")):
        raise InputError(f"the objective {text!r} has the number {number}; expected one above 0, and shares at most 1")
    return lambda *counts: _OBJECTIVES[kind](number, *counts), promise


def _sensitivity(minimum, tp, fp, positives, negatives):
    """Fewest false positives, then most true ones; ranked below these, where the condition fails: most true ones."""
    reached = tp >= minimum * positives * (1 - 1e-12)
    return np.where(reached, tp - fp * (positives + 1), tp - (negatives + 1) * (positives + 1)), reached


def _specificity(minimum, tp, fp, positives, negatives):
    """Most true positives, then fewest false ones; ranked below these, where the condition fails: fewest false ones."""
    reached = negatives - fp >= minimum * negatives * (1 - 1e-12)
    return np.where(reached, tp * (negatives + 1) - fp, -fp - (negatives + 1)), reached


_OBJECTIVES = {
    "f": lambda beta, tp, fp, p, n: ((1 + beta**2) * tp / np.maximum(beta**2 * p + tp + fp, 1), tp >= 0),
    "youden": lambda _, tp, fp, p, n: (tp * n - fp * p, tp >= 0),
    "cost": lambda ratio, tp, fp, p, n: (-(ratio * (p - tp) + fp), tp >= 0),
    "sensitivity": _sensitivity,
    "specificity": _specificity,
}


def guaranteed(
    scores: np.ndarray, positive: np.ndarray, patient: np.ndarray, candidates: np.ndarray, promise: tuple[float, float]
) -> tuple[float | None, str]:
    """The highest of the rising `candidates` that keeps the promise (sensitivity, confidence); or None, and why.

    It is kept for new patients in 95 of 100 validation sets (Learn then Test, Angelopoulos et al. 2021,
    arXiv 2110.01052). Candidates are tested upwards, each at the full level, until one fails.
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
