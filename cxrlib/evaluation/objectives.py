"""Objectives for a threshold: F-beta, Youden's index, a minimum sensitivity or specificity, the expected cost.

An objective is a function (tp, fp, positives, negatives) -> (value to maximize, condition met), where tp and fp are
(candidates, replicates), all positives and negatives (replicates,). For integer and half-integer betas and costs the
value is an integer, or a single quotient of integers, so that ties are exact.
"""

import re
from collections.abc import Callable

import numpy as np

from cxrlib.core.errors import InputError, nearest


def parse_objective(text: str) -> Callable:
    """The objective that `text` names, such as "f1" or "cost=10". Raises InputError for an unknown one."""
    match = re.fullmatch(
        r"\s*(?:(f)([\d.]+)|(youden)|(sensitivity|specificity)\s*>=\s*([\d.]+)|(cost)\s*=\s*([\d.]+))\s*", str(text)
    )
    try:
        kind, number = (next(filter(None, match.group(1, 3, 4, 6))), next(filter(None, match.group(2, 5, 7)), None))
        number = None if number is None else float(number)
    except (AttributeError, ValueError):
        hint = nearest(text, ["f1", "f2", "f0.5", "youden", "sensitivity>=0.9", "specificity>=0.9", "cost=10"])
        raise InputError(
            f"the objective {text!r} is unknown{hint}; expected f1 (or another beta: f2), youden, sensitivity>=0.9, "
            "specificity>=0.9 or cost=10"
        ) from None
    if kind in ("sensitivity", "specificity") and not 0 < number <= 1:
        raise InputError(f"the objective {text!r} requires a {kind} of {number}; expected more than 0 and at most 1")
    if kind in ("f", "cost") and number <= 0:
        raise InputError(f"the objective {text!r} has the number {number}; expected one above 0")
    return lambda *counts: _OBJECTIVES[kind](number, *counts)


def _f_beta(beta, tp, fp, positives, negatives):
    return (1 + beta**2) * tp / np.maximum(beta**2 * positives + tp + fp, 1), np.ones_like(tp, dtype=bool)


def _youden(_, tp, fp, positives, negatives):
    return tp * negatives - fp * positives, np.ones_like(tp, dtype=bool)


def _sensitivity(minimum, tp, fp, positives, negatives):
    """Fewest false positives, then most true ones; ranked below these, where the condition fails: most true ones."""
    reached = tp >= minimum * positives * (1 - 1e-12)
    return np.where(reached, tp - fp * (positives + 1), tp - (negatives + 1) * (positives + 1)), reached


def _specificity(minimum, tp, fp, positives, negatives):
    """Most true positives, then fewest false ones; ranked below these, where the condition fails: fewest false ones."""
    reached = negatives - fp >= minimum * negatives * (1 - 1e-12)
    return np.where(reached, tp * (negatives + 1) - fp, -fp - (negatives + 1)), reached


def _cost(ratio, tp, fp, positives, negatives):
    return -(ratio * (positives - tp) + fp), np.ones_like(tp, dtype=bool)


_OBJECTIVES = {"f": _f_beta, "youden": _youden, "sensitivity": _sensitivity, "specificity": _specificity, "cost": _cost}
