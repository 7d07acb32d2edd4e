"""The bootstrap over patients (Field & Welsh 2007), and the intervals and p-values obtained from it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import betaincinv, ndtr, ndtri, stdtr, stdtrit

from cxrlib.core.errors import InputError
from cxrlib.evaluation.predictions import Predictions

_CHUNK = 4_000_000  # numbers in the largest table of one chunk of replicates: 32 MB


class Bootstrap(NamedTuple):
    """How intervals are computed: the number of replicates (0 for none), and the seed of the draws."""

    replicates: int = 1000
    seed: int = 0


class Support(NamedTuple):
    """What k metrics in [0, 1] rest on, each (k,) or a number.

    patients, carriers: effective number (`effective_number`) of all patients, and of those with the rarer outcome, such
    as the missed ones for a high sensitivity. most: independent observations at most.
    step: 1 for a share of whole images (exact limits), less for a mean, which has no steps.
    """

    patients: np.ndarray
    most: np.ndarray | float = np.inf
    carriers: np.ndarray | float = np.inf
    step: np.ndarray | float = 0


def draw_patients(patients: int, replicates: int, seed: int) -> np.ndarray:
    """How often each of p patients is drawn, with replacement: (replicates, p) uint16; each row sums to p."""
    rng = np.random.default_rng(seed)
    times = np.empty((replicates, patients), dtype=np.uint16)
    for row in times:
        row[:] = np.bincount(rng.integers(patients, size=patients), minlength=patients)
    return times


def chunks(times: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """The draws (replicates, p) as float64 weights (p, r), in chunks so small that a table (rows, r) fits in memory."""
    size = max(1, _CHUNK // max(rows, times.shape[1], 1))
    for start in range(0, max(len(times), 1), size):  # at least one chunk, even without replicates
        yield times[start : start + size].T.astype(np.float64)


def patient_sums(row: np.ndarray, patient: np.ndarray, shape: tuple[int, int], values=None) -> csr_array:
    """Table (rows, patients): the sum of `values` (default: the count) of the images of each row and patient."""
    return csr_array((np.ones(len(row)) if values is None else values, (row, patient)), shape=shape)


def effective_number(counts: csr_array | np.ndarray) -> np.ndarray:
    """Kish's number of patients (rows,), (sum of n)^2 / sum of n^2, of counts (rows, p); 0 for a row without images."""
    return ratio(counts.sum(axis=1) ** 2, (counts * counts).sum(axis=1), empty=0.0)


def ratio(above: np.ndarray, below: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """The quotient above / below; `empty` where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), empty), where=below != 0)


def limits(replicates: np.ndarray, point: np.ndarray, support: Support) -> np.ndarray:
    """Ends (2, k) of the 95 % intervals of k metrics in [0, 1]; they never have zero width.

    The exact limits of a proportion (Clopper & Pearson 1934) for the effective number of observations, which is
    point (1 - point) / variance of the replicates (r, k) (Korn & Graubard 1998), reduced where few patients carry the
    rarer outcome; at 0 and 1 it is support.patients. Tails, and where it is NaN, as in `interval`.
    """
    patients, most, carriers, step = (np.broadcast_to(value, point.shape) for value in support)
    table = pd.DataFrame(replicates)  # its variance leaves out NaN
    variance = table.var().to_numpy()
    inner = (point > 0) & (point < 1) & (variance > 0)
    n = point * (1 - point) / np.where(inner, variance, 1) * (1 - ratio(np.ones(len(point)), carriers, empty=1.0))
    n = np.where(inner, np.clip(n, np.minimum(patients, most), np.minimum(most, 1e9)), patients)
    fixed = (point > 0) & (point < 1) & (variance == 0) & (step < 1)  # such as the AUROC of equal scores
    tail = _tail(np.where(table.notna().any(), patients, 1))
    step = np.where(inner, step, 1)
    low = np.where(point > 0, betaincinv(n * point, n * (1 - point) + step, tail), 0)
    high = np.where(point < 1, 1 - betaincinv(n * (1 - point), n * point + step, tail), 1)
    ends = np.stack([np.minimum(low, point), np.maximum(high, point)])
    return np.where(np.isnan(tail), np.nan, np.where(fixed, point, ends))


def leave_ends(replicates: np.ndarray, point: np.ndarray, patients: np.ndarray, seeds: Sequence) -> np.ndarray:
    """Replicates (r, k) of metrics in [0, 1]; those that all equal a point of 0 or 1 are drawn from what is possible.

    Half of them stay; the others have the distribution of the exact limit for as many independent `patients` (k,), the
    lower half of Beta(patients, 1) at 1. seeds: of each metric; equal ones, as of a model and itself, give equal draws.
    """
    stuck = np.isin(point, (0, 1)) & (patients > 0) & ((replicates == point) | np.isnan(replicates)).all(axis=0)
    free = replicates.copy()
    for k in np.flatnonzero(stuck):
        rank = (np.random.default_rng(seeds[k]).permutation(len(free)) + 0.5) / max(len(free), 1)
        share = np.where(rank < 0.5, rank ** (1 / patients[k]), 1)
        free[:, k] = np.where(np.isnan(free[:, k]), np.nan, share if point[k] == 1 else 1 - share)
    return free


def interval(replicates: np.ndarray, point: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Ends (2, k) of the expanded percentile intervals (95 %) of k metrics (Hesterberg 2015, Am. Statistician 69).

    replicates: (r, k), NaN is ignored. point: (k,), always inside. patients: (k,) or a number, with the rarer class:
    the fewer, the wider the percentiles (Student's t with patients - 1 degrees of freedom replaces the normal).
    NaN where the point is undefined, no replicate is defined, or fewer than two patients have the rarer class.
    """
    ends = np.full((2, len(point)), np.nan)
    for k, tail in enumerate(_tail(np.broadcast_to(np.asarray(patients, dtype=np.float64), point.shape))):
        defined = replicates[~np.isnan(replicates[:, k]), k]
        if len(defined) and not np.isnan(tail):
            ends[:, k] = np.quantile(defined, [tail, 1 - tail])
    return np.stack([np.minimum(ends[0], point), np.maximum(ends[1], point)])


def _tail(patients: np.ndarray) -> np.ndarray:
    """The share of replicates beyond each end of an interval (k,); NaN for a single patient."""
    m = np.where(patients > 1, patients, np.nan)
    return ndtr(np.sqrt(m / (m - 1)) * stdtrit(m - 1, (1 - 0.95) / 2))


def p_values(replicates: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Two-sided p (k,) that differences are 0, of replicates (r, k) and the data; 0.05 where `interval` ends at 0."""
    defined = (~np.isnan(replicates)).sum(axis=0)
    beyond = np.minimum((replicates <= 0).sum(axis=0), (replicates >= 0).sum(axis=0))
    normal = ndtri(np.minimum((beyond + 1) / (defined + 1), 0.5))
    m = np.where((np.asarray(patients) >= 2) & (defined > 0), patients, np.nan)
    return 2 * stdtr(m - 1, normal * np.sqrt((m - 1) / m))


def with_macro(values: np.ndarray, defined: np.ndarray | None = None) -> np.ndarray:
    """(..., 14) values and, as the 15th, their mean over the `defined` findings (default: those that are not NaN)."""
    defined = ~np.isnan(values) if defined is None else defined
    mean = values.mean(axis=-1, where=defined) if defined.any() else np.full(values.shape[:-1], np.nan)
    return np.concatenate([values, mean[..., None]], axis=-1)


def replicates_with_macro(replicates: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(r, 14) replicates and, as the 15th, their mean over the findings with a `point` (14,), which stands for NaN."""
    filled = np.where(np.isnan(replicates), point, replicates)
    return np.column_stack([replicates, with_macro(filled, ~np.isnan(point))[:, -1]])


def shared_draws(predictions: Sequence[Predictions], replicates: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The sorted patients (p,) of several sets of predictions, and how often each is drawn (replicates, p) for all."""
    if len({one.patient.dtype.kind for one in predictions}) != 1:
        raise InputError("some predictions identify patients by number and some by text; expected the same type in all")
    patients = np.unique(np.concatenate([one.patient for one in predictions]))
    return patients, draw_patients(len(patients), replicates, seed)


def count_patients(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Patients with each finding, and with any (15,); and the smaller of those with and those without it (15,)."""
    labels, patient = predictions.labels, predictions.patient
    positive, negative = (pd.DataFrame(labels == label).groupby(patient).any() for label in (1, 0))
    having = np.append(positive.sum(), positive.any(axis=1).sum())
    return having, np.append(np.minimum(positive.sum(), negative.sum()), having[-1])
