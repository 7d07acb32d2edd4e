"""The bootstrap over patients, and the intervals and p-values obtained from it.

An image belongs to a patient, and a replicate draws whole patients (Field & Welsh 2007): a sum over images is then a
sum over patients, and a replicate only changes how often each patient counts. The sums of all replicates are one
matrix product: (sums per patient) @ (how often each patient counts, one column per replicate).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions

_CHUNK = 4_000_000  # numbers in the largest table of one chunk of replicates: 32 MB


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are computed: the number of replicates (0 for none), the seed of the draws, the confidence."""

    replicates: int = 1000
    seed: int = 0
    confidence: float = 0.95


DEFAULT = Bootstrap()


def draw_patients(has: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """How often each of p patients is drawn: (replicates, p) uint16; each row sums to p.

    has: (p, k) bool, such as the findings of each patient. A draw that leaves a column empty that is not empty in the
    data is repeated, up to 20 times.
    """
    if replicates != int(replicates) or replicates < 0:
        raise InputError(f"replicates is {replicates}; expected a whole number, 0 for no interval")
    rng = np.random.default_rng(seed)
    has = has[:, has.any(axis=0)].astype(np.float32)
    patients = len(has)
    times = np.empty((int(replicates), patients), dtype=np.uint16)
    for row in times:
        for _ in range(20):
            row[:] = np.bincount(rng.integers(patients, size=patients), minlength=patients)
            if (row.astype(np.float32) @ has).all():
                break
    return times


def chunks(times: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """The draws (replicates, p) as float64 weights (p, r), in chunks so small that a table (rows, r) fits in memory."""
    size = max(1, _CHUNK // max(rows, times.shape[1], 1))
    for start in range(0, max(len(times), 1), size):  # at least one chunk, even without replicates
        yield times[start : start + size].T.astype(np.float64)


def patient_sums(row: np.ndarray, patient: np.ndarray, shape: tuple[int, int], values=None) -> csr_array:
    """Table (rows, patients): the sum of `values` (default: the count) of the images of each row and patient."""
    values = np.ones(len(row)) if values is None else values
    return csr_array((values, (row, patient)), shape=shape)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The quotient above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)


def interval(replicates: np.ndarray, point: np.ndarray, patients: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Ends (2, k) of the expanded percentile intervals of k metrics (Hesterberg 2015, The American Statistician 69).

    replicates: (r, k), NaN is ignored. point: (k,), always inside. patients: (k,), the number with the rarer class: the
    fewer, the wider the percentiles (Student's t with patients - 1 degrees of freedom replaces the normal).
    NaN where the point is undefined, no replicate is defined, or fewer than two patients have the rarer class.

    In simulations the 95 % interval of AUROC, AP, F1 and PPV covers 92 to 97 % with 24 or more positive patients, and
    93 to 96 % with 14, but only 89 % for an AUROC of 0.95. AP is overestimated where positives are few (0.16 instead of
    0.11 with 20 of them); the macro AP averages out the noise but not this bias, and its interval then misses.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    ends = np.full((2, len(point)), np.nan)
    for k, m in enumerate(patients):
        defined = replicates[~np.isnan(replicates[:, k]), k]
        if m >= 2 and len(defined):
            tail = ndtr(np.sqrt(m / (m - 1)) * stdtrit(m - 1, (1 - confidence) / 2))
            ends[:, k] = np.quantile(defined, [tail, 1 - tail])
    return np.stack([np.minimum(ends[0], point), np.maximum(ends[1], point)])


def p_values(replicates: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Two-sided p (k,) that differences are 0, the counterpart of `interval`: 0.05 where the 95 % interval ends at 0.

    replicates: (r, k) of the differences, NaN is ignored; patients: (k,) as in `interval`. The observed data count as
    one replicate, so that p is never 0. NaN where no replicate is defined or fewer than two patients have the class.
    """
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


def label_table(patients: np.ndarray, predictions: Predictions) -> np.ndarray:
    """(p, 28) bool: which of the sorted `patients` have an image with each finding, and which have one without it."""
    patient = np.searchsorted(patients, predictions.patient)
    has = np.zeros((len(patients), 2, len(FINDINGS)), dtype=bool)
    for k, rows in enumerate((predictions.labels == 1, predictions.labels == 0)):
        image, finding = np.nonzero(rows)
        has[patient[image], k, finding] = True
    return has.reshape(len(patients), 2 * len(FINDINGS))


def shared_draws(predictions: Sequence[Predictions], replicates: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The sorted patients (p,) of several sets of predictions, and how often each is drawn (replicates, p) for all."""
    if len({one.patient.dtype.kind for one in predictions}) != 1:
        raise InputError("some predictions identify patients by number and some by text; expected the same type in all")
    patients = np.unique(np.concatenate([one.patient for one in predictions]))
    has = np.hstack([label_table(patients, one) for one in predictions])
    return patients, draw_patients(has, replicates, seed)


def count_patients(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Patients with each finding, and with any (15,); and the smaller of those with and those without it (15,)."""
    has = label_table(np.unique(predictions.patient), predictions)
    positive, negative = has.sum(axis=0).reshape(2, -1)
    any_positive = has[:, : len(FINDINGS)].any(axis=1).sum()
    return np.append(positive, any_positive), np.append(np.minimum(positive, negative), any_positive)
