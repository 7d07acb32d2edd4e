"""Metrics as sums over the images of a patient.

Every metric is computed from such sums, so that all replicates of the bootstrap come from one matrix product.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrlib.core.errors import InputError, nearest, some
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import Support, effective_number, leave_ends, limits, patient_sums, ratio
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.saved import fourteen

RANKING_METRICS = ("auroc", "ap", "ap_lift", "brier", "ece", "ece_mass")
THRESHOLD_METRICS = ("f1", "sensitivity", "specificity", "ppv", "npv")
BINNED = ("ece", "ece_mass")  # noise raises them: reflected intervals
UNBOUNDED = ("ap_lift",)  # may lie outside [0, 1]: intervals from percentiles
# of the threshold metrics that are shares of images: which of tn, fp, fn, tp (0 to 3) count as hits, which as misses
_SHARES = {"f1": ([3], [1, 2]), "sensitivity": ([3], [2]), "specificity": ([0], [1]), "ppv": ([3], [1]),
           "npv": ([0], [2])}  # fmt: skip
ECE_BINS = 15  # as in Guo et al. 2017


@dataclass(frozen=True)
class Drawn:
    """Metrics of one set of predictions: point {metric: (14,)}, replicates {metric: (r, 14)}, and their support."""

    point: dict[str, np.ndarray]
    replicates: dict[str, np.ndarray]
    support: dict[str, Support]  # of the metrics in [0, 1] but BINNED
    content: tuple[int, ...] = ()  # of each finding, equal for equal scores and thresholds

    def limits(self, name: str) -> np.ndarray:
        """The ends (2, 14) of the 95 % interval of one metric."""
        change, back = _AS_SHARE.get(name, (np.asarray, np.asarray))
        return back(limits(change(self.replicates[name]), change(self.point[name]), self.support[name]))


# F1 as a share of images, tp / (tp + fp + fn), and back
_AS_SHARE = {"f1": (lambda f1: f1 / (2 - f1), lambda share: 2 * share / (1 + share))}


def at_or_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Whether score >= threshold, both as float32, the precision of stored scores: one stored as 0.35 reaches 0.35."""
    return np.asarray(scores, dtype=np.float32) >= np.asarray(thresholds, dtype=np.float32)


def threshold_values(thresholds: Sequence[float] | None) -> np.ndarray | None:
    """The 14 values (float64) of Thresholds or of a sequence; None stays None. Raises InputError for anything else."""
    return None if thresholds is None else fourteen("thresholds", getattr(thresholds, "values", thresholds), nan=False)


def width_bins(scores: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """The bin of each score (n,), counted from 0, of `bins` bins of equal width over [0, 1]."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], scores)


def mass_bins(scores: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """The bin of each score (n,), counted from 0, of `bins` bins of equally many images; ties share a bin."""
    return np.searchsorted(np.sort(scores), scores) * bins // max(len(scores), 1)


class PatientSums:
    """All metrics of one set of predictions, as a function of how often each patient counts.

    An image enters the sums of a finding only where its label of that finding is known.

    patients: the sorted patients of the draws; thresholds: 14 values, Thresholds or None; metrics: only these.
    """

    def __init__(self, predictions, patients, thresholds=None, metrics=None):
        check_calibration(predictions, thresholds)
        thresholds = threshold_values(thresholds)
        possible = RANKING_METRICS if thresholds is None else RANKING_METRICS + THRESHOLD_METRICS
        self.metrics = possible if metrics is None else [_known(name, possible) for name in metrics]
        patient = np.searchsorted(patients, predictions.patient)
        self.findings = []
        for k in range(len(FINDINGS)):
            rows, threshold = predictions.rows_of(k), None if thresholds is None else thresholds[k]
            scores, positive = predictions.scores[rows, k], predictions.labels[rows, k] == 1
            self.findings.append(_Finding(scores, positive, patient[rows], len(patients), threshold))
        self.rows = max(finding.negatives.shape[0] for finding in self.findings)
        self.patients = len(patients)

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """weights: (patients, r), how often each patient counts in each replicate. Returns {metric: (r, 14)}."""
        each = [finding(weights, self.metrics) for finding in self.findings]
        return {name: np.stack([one[name] for one in each], axis=1) for name in self.metrics}

    def freed(self, chunks: list[dict], replicates: int, seed: int) -> Drawn:
        """The replicates of all chunks, with those that cannot leave 0 or 1 drawn from what is possible."""
        point = {name: value[0] for name, value in self(np.ones((self.patients, 1))).items()}
        drawn = {name: np.concatenate([chunk[name] for chunk in chunks])[:replicates] for name in self.metrics}
        support = {}
        for name in set(self.metrics) - set(UNBOUNDED):
            each = [one.support(name, value) for one, value in zip(self.findings, point[name], strict=True)]
            support[name] = Support(*np.array(each).T)
            change, back = _AS_SHARE.get(name, (np.asarray, np.asarray))
            seeds = [(seed, zlib.crc32(name.encode()), finding.content) for finding in self.findings]
            drawn[name] = back(leave_ends(change(drawn[name]), change(point[name]), support[name].patients, seeds))
        bounded = {name: one for name, one in support.items() if name not in BINNED}
        return Drawn(point, drawn, bounded, tuple(finding.content for finding in self.findings))


class _Finding:
    """The sums per patient from which the metrics of one finding are computed.

    The steps of both curves are the scores of positives. Every negative lies on a step (tied with positives) or between
    two steps. Places are counted from the highest score: 0 above all steps, 1 on the first, 2 below it, 3 on the
    second, ...
    """

    def __init__(self, scores, positive, patient, patients, threshold):
        steps = np.unique(scores[positive])
        place = 2 * len(steps) - np.searchsorted(steps, scores, "left") - np.searchsorted(steps, scores, "right")
        negative = ~positive
        self.positives = patient_sums(place[positive] // 2, patient[positive], (len(steps), patients))
        self.negatives = patient_sums(place[negative], patient[negative], (2 * len(steps) + 1, patients))

        self.content = zlib.crc32(np.append(scores, np.float32(threshold or 0)).tobytes())
        self.counts = patient_sums(positive.astype(int), patient, (2, patients)).toarray()  # negatives, positives
        error = positive - scores.astype(np.float64)
        self.squared = patient_sums(np.zeros_like(patient), patient, (1, patients), error**2)
        self.bins = patient_sums(width_bins(scores), patient, (ECE_BINS, patients), error)
        self.mass_bins = patient_sums(mass_bins(scores), patient, (ECE_BINS, patients), error)
        self.cells = None
        if threshold is not None:
            cell = 2 * positive + at_or_above(scores, threshold)
            self.cells = patient_sums(cell, patient, (4, patients))

    def __call__(self, weights: np.ndarray, metrics: Sequence[str]) -> dict[str, np.ndarray]:
        values = {}
        positives = self.positives @ weights
        negatives = np.cumsum(self.negatives @ weights, axis=0)  # at or above each place
        total_positive, total_negative = positives.sum(axis=0), negatives[-1]
        total = total_positive + total_negative
        if not {"auroc", "ap", "ap_lift"}.isdisjoint(metrics):
            higher, at_least = negatives[0:-1:2], negatives[1::2]  # negatives above each step; above or on it
            beaten = total_negative - (higher + at_least) / 2  # a tie is half a win
            values["auroc"] = ratio((positives * beaten).sum(axis=0), total_positive * total_negative)
            found = np.cumsum(positives, axis=0)
            precision = found / np.maximum(found + at_least, 1)  # 0 / 0 only where the step holds no positive
            values["ap"] = ratio((positives * precision).sum(axis=0), total_positive)
            values["ap_lift"] = ratio(values["ap"] * total, total_positive)
        values["brier"] = ratio((self.squared @ weights)[0], total)
        values["ece"] = ratio(np.abs(self.bins @ weights).sum(axis=0), total)
        values["ece_mass"] = ratio(np.abs(self.mass_bins @ weights).sum(axis=0), total)
        if self.cells is not None:
            values |= threshold_metrics(*(self.cells @ weights))
        return values

    def support(self, name: str, value: float) -> Support:
        """What the metric `name`, which is `value`, rests on."""
        negative, positive = effective_number(self.counts)
        if name == "auroc":
            # at least half the variance of as many independent images (Hanley & McNeil 1982): near 1, where few images
            # decide, replicates vary too little
            without, having = self.counts.sum(axis=1)
            spread = ratio(value, (1 + value) * having) + ratio(1 - value, (2 - value) * without)
            return Support(min(positive, negative), ratio(2.0, spread, empty=0.0), step=0.5)
        if name == "ap":
            return Support(positive, step=0.5)
        if name in ("brier", *BINNED):
            return Support(effective_number(self.counts.sum(axis=0, keepdims=True))[0])
        if name not in _SHARES:  # nothing more is known: as certain as its rarer class
            return Support(min(positive, negative), step=0.5)
        hits, misses = (self.cells[rows].sum(axis=0) for rows in _SHARES[name])
        right, wrong, patients = effective_number(np.stack([hits, misses, hits + misses]))
        images = (hits + misses).sum()
        if name == "f1":  # only its positives can be found: as many patients as give their sensitivity its limit
            patients = positive if positive <= 1 else positive * images / self.counts[1].sum()
        return Support(patients, images, min(right, wrong), step=1)


def threshold_metrics(tn, fp, fn, tp) -> dict[str, np.ndarray]:
    """THRESHOLD_METRICS from counts (r,). Without positives f1 and ppv are undefined, not 0; npv without negatives."""
    positive, negative = tp + fn, tn + fp
    return {
        "f1": ratio(2 * tp, (positive > 0) * (2 * tp + fp + fn)),
        "sensitivity": ratio(tp, positive),
        "specificity": ratio(tn, negative),
        "ppv": ratio(tp, (positive > 0) * (tp + fp)),
        "npv": ratio(tn, (negative > 0) * (tn + fn)),
    }


def _known(metric: str, possible: Sequence[str]) -> str:
    """`metric`, or InputError where it does not exist or needs thresholds that are not given."""
    if metric not in possible and metric in THRESHOLD_METRICS:
        raise InputError(f"{metric} needs thresholds; expected 14 values or Thresholds")
    if metric not in possible:
        every = RANKING_METRICS + THRESHOLD_METRICS
        raise InputError(f"{metric!r} is not a metric{nearest(metric, every)}; expected one of {some(every, 10)}")
    return metric


def check_calibration(predictions: Predictions, thresholds) -> None:
    """Raise InputError where thresholds were tuned on scores of another calibration."""
    tuned_on = getattr(thresholds, "calibration", None)
    if tuned_on not in (None, predictions.calibration):
        raise InputError(
            f"the thresholds were tuned on scores of calibration {tuned_on}, these scores have calibration "
            f"{predictions.calibration}; expected the same: apply the calibrator first, or tune again"
        )
