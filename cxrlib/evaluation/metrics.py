"""Metrics of the scores per finding, each with an interval.

Every metric here is computed from sums over images, so that all replicates of the bootstrap come from one matrix
product (`bootstrap`). Comparisons of models and groups: `differences`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, nearest, some
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import chunks, count_patients, interval, patient_sums, ratio, shared_draws, with_macro
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.saved import fourteen

RANKING_METRICS = ("auroc", "ap", "ap_lift", "brier", "ece", "ece_mass")
THRESHOLD_METRICS = ("f1", "sensitivity", "specificity", "ppv", "npv")
ECE_BINS = 15  # as in Guo et al. 2017
ROWS = pd.Index([*FINDINGS, "macro"], name="finding")
_EMPTY = {"ppv": "at or above the threshold", "npv": "below the threshold"}


def evaluate(
    predictions: Predictions,
    thresholds: Sequence[float] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """One row per finding and a last row "macro"; each metric with its patient-bootstrap interval.

    thresholds: 14 values in the order of FINDINGS, or Thresholds; an image is positive where score >= threshold.
    replicates: 0 leaves the intervals NaN.

    Columns: positives and patients (images and patients with the finding), n (images), prevalence; for each metric
    `name`, `name_low`, `name_high`:
      auroc   area under the ROC curve, ties count half (scikit-learn's roc_auc_score)
      ap      average precision, the step-wise area under the precision-recall curve (average_precision_score)
      ap_lift ap / prevalence: 1 is chance
      brier   mean squared difference of score and label
      ece     expected calibration error over 15 bins of equal width (Guo et al. 2017). Noise raises it above the truth,
              and replicates by as much above the data, so its interval is reflected about the estimate; in simulations
              it covers 88 % (plain percentiles 65 %), and less where the truth is close to 0
      ece_mass  the same over 15 bins of equally many images (Nixon et al. 2019), as a rare finding needs: nearly all
              its scores lie in the first bin of equal width. Replicates keep the bins of the data. How much of
              it is noise: `reliability.ece_floor`
    and, with thresholds: threshold, f1, sensitivity, specificity, ppv, npv (intervals for that threshold, frozen).
    `note` states what is undefined and why.

    NaN is undefined and enters no mean; the macro row notes how many findings each mean covers. How patients are
    drawn: `bootstrap`; how intervals are computed: `interval`.
    Raises InputError for predictions without images or for thresholds that are not 14 numbers.
    """
    if not len(predictions):
        raise InputError("there is no image to evaluate; expected predictions with at least one row")
    point = point_estimates(predictions, thresholds)
    [drawn] = bootstrap(predictions, thresholds=thresholds, replicates=replicates, seed=seed)
    labels = predictions.labels
    positive, scarcest = count_patients(predictions)
    columns = {
        "positives": np.append(labels.sum(axis=0), labels.sum()),
        "patients": positive,
        "n": np.full(len(ROWS), len(predictions)),
        "prevalence": with_macro(labels.mean(axis=0)),
    }
    for name, value in point.items():
        if name == THRESHOLD_METRICS[0]:
            columns["threshold"] = np.append(threshold_values(thresholds), np.nan)
        replicate = with_macro(drawn[name], ~np.isnan(value))
        value = with_macro(value)
        if name in ("ece", "ece_mass"):
            replicate = np.maximum(2 * value - replicate, 0)
        low, high = interval(replicate, value, scarcest, confidence)
        columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
    columns["note"] = _notes(labels, positive, point, drawn)
    return pd.DataFrame(columns, index=ROWS)


def point_estimates(
    predictions: Predictions, thresholds: Sequence[float] | None = None, metrics: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The `metrics` (default: all) of `evaluate` without intervals: {metric: (14,) float64}, NaN where undefined."""
    patients = np.unique(predictions.patient)
    computed = _Metrics(predictions, patients, thresholds, metrics)(np.ones((len(patients), 1)))
    return {name: value[0] for name, value in computed.items()}


def bootstrap(
    *predictions: Predictions,
    thresholds: Sequence | None = None,
    metrics: Sequence[str] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> list[dict[str, np.ndarray]]:
    """The metrics in `replicates` draws of patients: for each of `predictions`, {metric: (replicates, 14) float64}.

    Each draw takes as many whole patients as the data hold, with replacement, so that the images of a patient stay
    together (Field & Welsh 2007). A draw that leaves a finding without a positive or without a negative image is
    repeated, up to 20 times; where that fails, the metric is NaN in this replicate. (Drawing within strata of the
    findings would ensure the same, but fixes the number of positives, and so hides much of the uncertainty of F1, PPV
    and AP.)

    Several predictions share the draws: two models on the same images, or two groups of images (women and men, AP and
    PA). Differences between them are then paired.

    thresholds: 14 values (or Thresholds) for all, or a list with one such item for each of `predictions`.
    metrics: only these (default: all that the thresholds allow).
    """
    patients, times = shared_draws(predictions, replicates, seed)
    thresholds = one_each(thresholds, len(predictions))
    each = [_Metrics(one, patients, values, metrics) for one, values in zip(predictions, thresholds, strict=True)]
    drawn = [[one(weights) for one in each] for weights in chunks(times, max(one.rows for one in each))]
    return [{name: np.concatenate([chunk[name] for chunk in of]) for name in of[0]} for of in zip(*drawn, strict=True)]


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


class _Metrics:
    """All metrics of one set of predictions, as a function of how often each patient counts."""

    def __init__(self, predictions, patients, thresholds=None, metrics=None):
        check_calibration(predictions, thresholds)
        thresholds = threshold_values(thresholds)
        possible = RANKING_METRICS if thresholds is None else RANKING_METRICS + THRESHOLD_METRICS
        self.metrics = possible if metrics is None else [_known(name, possible) for name in metrics]
        patient = np.searchsorted(patients, predictions.patient)
        thresholds = [None] * len(FINDINGS) if thresholds is None else thresholds
        self.findings = [
            _Finding(scores, labels == 1, patient, len(patients), threshold)
            for scores, labels, threshold in zip(predictions.scores.T, predictions.labels.T, thresholds, strict=True)
        ]
        self.rows = max(finding.negatives.shape[0] for finding in self.findings)

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """weights: (patients, r), how often each patient counts in each replicate. Returns {metric: (r, 14)}."""
        each = [finding(weights, self.metrics) for finding in self.findings]
        return {name: np.stack([one[name] for one in each], axis=1) for name in self.metrics}


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
            values |= _threshold_metrics(*(self.cells @ weights))
        return values


def _threshold_metrics(tn, fp, fn, tp) -> dict[str, np.ndarray]:
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


def one_each(thresholds, count: int) -> list:
    """Thresholds for each of `count` predictions: the same for all, or those of a list."""
    if isinstance(thresholds, list | tuple) and len(thresholds) == count and not np.isscalar(thresholds[0]):
        return list(thresholds)
    return [thresholds] * count


def _notes(labels: np.ndarray, patients: np.ndarray, point: dict, drawn: dict) -> list[str]:
    """Why a metric is undefined, per finding; for the macro row, how many findings each mean covers."""
    notes = []
    for j, positives in enumerate(labels.sum(axis=0)):
        undefined = [name for name, value in point.items() if np.isnan(value[j])]
        if positives in (0, len(labels)):
            reasons = [f"no {'negative' if positives else 'positive'} among {len(labels)} images"]
        else:
            reasons = [f"{name} undefined: no image {_EMPTY[name]}" for name in undefined]
        if patients[j] == 1:
            reasons.append("a single patient has it: no interval")
        skipped = max(np.isnan(drawn[name][:, j]).sum() for name in point if name not in undefined)
        if skipped:
            reasons.append(f"undefined in {skipped} replicates, which the intervals leave out")
        notes.append("; ".join(reasons))
    over = {}  # number of findings -> the metrics whose mean covers that many
    for name, value in point.items():
        over.setdefault((~np.isnan(value)).sum(), []).append(name)
    which = [f" ({', '.join(names)})" if len(over) > 1 else "" for names in over.values()]
    means = [f"{count} of {len(FINDINGS)} findings{names}" for count, names in zip(over, which, strict=True)]
    return [*notes, "macro over " + ", ".join(means)]
