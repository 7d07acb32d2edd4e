"""Metrics of the scores per finding with intervals; from sums per patient, so that a matrix product gives all draws."""

import zlib
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, nearest, some
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation import bootstrap as resampling
from cxrlib.evaluation.bootstrap import Support, effective_number, patient_sums, ratio, with_macro
from cxrlib.evaluation.predictions import Predictions, fourteen

ROWS = pd.Index([*FINDINGS, "macro"], name="finding")
RANKING_METRICS = ("auroc", "ap", "ap_lift", "brier", "ece", "ece_mass")
THRESHOLD_METRICS = ("f1", "sensitivity", "specificity", "ppv", "npv")
BINNED = ("ece", "ece_mass")  # noise raises them: reflected intervals
UNBOUNDED = ("ap_lift",)  # may lie outside [0, 1]: intervals from percentiles
# of the threshold metrics that are shares of images: which of tn, fp, fn, tp (0 to 3) count as hits, which as misses
_SHARES = {"f1": ([3], [1, 2]), "sensitivity": ([3], [2]), "specificity": ([0], [1]), "ppv": ([3], [1]),
           "npv": ([0], [2])}  # fmt: skip
_AS_SHARE = {"f1": (lambda f1: f1 / (2 - f1), lambda share: 2 * share / (1 + share))}  # tp / (tp + fp + fn), and back
_EMPTY = {"ppv": ": no image at or above the threshold", "npv": ": no image below the threshold"}
ECE_BINS = 15  # as in Guo et al. 2017


def evaluate(predictions: Predictions, thresholds=None, replicates=1000, seed=0) -> pd.DataFrame:
    """One row per finding and a last row "macro"; each metric with its 95 % patient-bootstrap interval.

    thresholds: 14 values in the order of FINDINGS, or Thresholds; an image is positive where score >= threshold.
    Columns: positives and patients (images and patients with the finding), n (images whose label is known), prevalence
    among these; for each metric `name`, `name_low`, `name_high` (NaN without replicates):
      auroc, ap (scikit-learn's roc_auc_score, average_precision_score); ap_lift, ap / prevalence: 1 is chance
      brier     mean squared difference of score and label
      ece       expected calibration error over 15 bins of equal width (Guo et al. 2017). Noise raises it, so its
                interval is reflected about the estimate (docs/intervals.md)
      ece_mass  the same over 15 bins of equally many images (Nixon et al. 2019), as a rare finding needs: nearly all
                its scores lie in the first bin of equal width. How much of it is noise: `calibration.ece_floor`
    and, with thresholds: threshold, f1, sensitivity, specificity, ppv, npv (intervals for that threshold, frozen).
    `note` states what is undefined (NaN, which enters no mean) and why; of the macro, how many findings it covers.
    """
    [drawn] = bootstrap(predictions, thresholds=[thresholds], replicates=replicates, seed=seed)
    positives, known = (predictions.labels == 1).sum(axis=0), predictions.known
    positive, scarcest = resampling.count_patients(predictions)
    columns = {"positives": np.append(positives, positives.sum()), "patients": positive}
    columns["n"] = np.append(known.sum(axis=0), known.any(axis=1).sum())
    columns["prevalence"] = with_macro(ratio(positives, known.sum(axis=0)))
    for name, point in drawn.point.items():
        if name == THRESHOLD_METRICS[0]:
            columns["threshold"] = np.append(fourteen("thresholds", thresholds, nan=False), np.nan)
        replicate, value = resampling.replicates_with_macro(drawn.replicates[name], point), with_macro(point)
        if name in BINNED:
            replicate = np.where(value > 0, np.maximum(2 * value - replicate, 0), replicate)
        low, high = resampling.interval(replicate, value, scarcest)
        if name not in (*BINNED, *UNBOUNDED):
            change, back = _AS_SHARE.get(name, (np.asarray, np.asarray))
            shares = change(drawn.replicates[name]), change(point)
            low[:-1], high[:-1] = back(resampling.limits(*shares, drawn.support[name]))
        if name == "ap_lift":  # at least what the interval of ap says, for this prevalence
            ends = np.stack([columns["ap_low"], columns["ap_high"]])[:, :-1] / columns["prevalence"][:-1]
            low[:-1], high[:-1] = np.minimum(low[:-1], ends[0]), np.maximum(high[:-1], ends[1])
        columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
    columns["note"] = _notes(positives, columns["n"], positive, drawn)
    return pd.DataFrame(columns, index=ROWS)


def point_estimates(predictions: Predictions, thresholds=None, metrics=None) -> dict[str, np.ndarray]:
    """The `metrics` (default: all) of `evaluate` without intervals: {metric: (14,) float64}, NaN where undefined."""
    return bootstrap(predictions, thresholds=[thresholds], metrics=metrics, replicates=0)[0].point


class Drawn(NamedTuple):
    """Metrics of one set of predictions: point {metric: (14,)}, replicates {metric: (r, 14)}, and their support."""

    point: dict[str, np.ndarray]
    replicates: dict[str, np.ndarray]
    support: dict[str, Support]  # of the metrics in [0, 1]
    content: tuple[int, ...]  # of each finding, equal for equal scores and thresholds


def bootstrap(*predictions: Predictions, thresholds=None, metrics=None, replicates=1000, seed=0) -> list[Drawn]:
    """The metrics in draws of whole patients, shared by all `predictions`; NaN where nobody drawn has the finding.

    thresholds: 14 values, or Thresholds, for each of `predictions`. metrics: only these (default: all).
    """
    patients, times = resampling.shared_draws(predictions, replicates, seed)
    pairs = zip(predictions, thresholds or [None] * len(predictions), strict=True)
    return [_drawn(one, values, metrics, patients, times, seed) for one, values in pairs]


def _drawn(predictions, thresholds, metrics, patients, times, seed) -> Drawn:
    """The metrics in the draws `times` (r, patients) of the sorted `patients`; see `leave_ends`."""
    check_calibration(predictions.calibration, thresholds)
    possible = RANKING_METRICS if thresholds is None else RANKING_METRICS + THRESHOLD_METRICS
    metrics = possible if metrics is None else metrics
    for name in set(metrics) - set(possible):
        wrong = "needs thresholds" if name in THRESHOLD_METRICS else f"is not a metric{nearest(name, possible)}"
        raise InputError(f"{name!r} {wrong}; expected one of {some(possible, 11)}")
    values = [None] * len(FINDINGS) if thresholds is None else fourteen("thresholds", thresholds, nan=False)
    findings = [_Finding(*each, patients, value) for each, value in zip(predictions.by_finding(), values, strict=True)]

    def measured(weights: np.ndarray) -> dict[str, np.ndarray]:  # (patients, r) to {metric: (r, 14)}
        each = [finding(weights, metrics) for finding in findings]
        return {name: np.stack([one[name] for one in each], axis=1) for name in metrics}

    point = {name: value[0] for name, value in measured(np.ones((len(patients), 1))).items()}
    steps = max(finding.negatives.shape[0] for finding in findings)
    parts, replicates, support = [measured(weights) for weights in resampling.chunks(times, steps)], {}, {}
    for name in metrics:
        replicates[name] = np.concatenate([part[name] for part in parts])
        if name in UNBOUNDED:
            continue
        each = [one.support(name, value) for one, value in zip(findings, point[name], strict=True)]
        support[name] = Support(*np.array(each).T)
        change, back = _AS_SHARE.get(name, (np.asarray, np.asarray))
        seeds = [(seed, zlib.crc32(name.encode()), finding.content) for finding in findings]
        shares = change(replicates[name]), change(point[name])
        replicates[name] = back(resampling.leave_ends(*shares, support[name].patients, seeds))
    return Drawn(point, replicates, support, tuple(finding.content for finding in findings))


class _Finding:
    """The sums per patient from which the metrics of one finding are computed.

    The steps of both curves are the scores of positives; every negative lies on a step (tied with positives) or between
    two. Places are counted from the highest score: 0 above all steps, 1 on the first, 2 below it, 3 on the second, ...
    """

    def __init__(self, scores, positive, patient, patients, threshold):
        patient, patients = np.searchsorted(patients, patient), len(patients)
        steps = np.unique(scores[positive])
        place = 2 * len(steps) - np.searchsorted(steps, scores, "left") - np.searchsorted(steps, scores, "right")
        self.positives = patient_sums(place[positive] // 2, patient[positive], (len(steps), patients))
        self.negatives = patient_sums(place[~positive], patient[~positive], (2 * len(steps) + 1, patients))
        self.content = zlib.crc32(np.append(scores, np.float32(threshold or 0)).tobytes())
        self.counts = patient_sums(positive.astype(int), patient, (2, patients)).toarray()  # negatives, positives
        error = positive - scores.astype(np.float64)
        self.squared = patient_sums(np.zeros_like(patient), patient, (1, patients), error**2)
        bins = {"ece": np.searchsorted(np.linspace(0, 1, ECE_BINS + 1)[1:-1], scores), "ece_mass": mass_bins(scores)}
        self.bins = {name: patient_sums(each, patient, (ECE_BINS, patients), error) for name, each in bins.items()}
        self.cells = None
        if threshold is not None:
            self.cells = patient_sums(2 * positive + at_or_above(scores, threshold), patient, (4, patients))

    def __call__(self, weights: np.ndarray, metrics) -> dict[str, np.ndarray]:
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
        values |= {name: ratio(np.abs(sums @ weights).sum(axis=0), total) for name, sums in self.bins.items()}
        if self.cells is not None:
            values |= threshold_metrics(*(self.cells @ weights))
        return values

    def support(self, name: str, value: float) -> Support:
        """What the metric `name`, which is `value`, rests on."""
        negative, positive = effective_number(self.counts)
        if name == "auroc":
            # at least half the variance of as many independent images (Hanley & McNeil 1982)
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


def mass_bins(scores: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """The bin of each score (n,), counted from 0, of `bins` bins of equally many images; ties share a bin."""
    return np.searchsorted(np.sort(scores), scores) * bins // max(len(scores), 1)


def at_or_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Whether score >= threshold, both as float32, the precision of stored scores: one stored as 0.35 reaches 0.35."""
    return np.asarray(scores, dtype=np.float32) >= np.asarray(thresholds, dtype=np.float32)


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


def check_calibration(calibration: str, thresholds) -> None:
    """Raise InputError where thresholds were tuned on scores of another calibration than that of the scores."""
    tuned_on = getattr(thresholds, "calibration", None)
    if tuned_on not in (None, calibration):
        raise InputError(f"the thresholds are on scores of calibration {tuned_on}, these scores have calibration "
                         f"{calibration}; expected the same: calibrate first, or tune again (cxr eval)")  # fmt: skip


def _notes(positives: np.ndarray, known: np.ndarray, patients: np.ndarray, drawn: Drawn) -> list[str]:
    """Why a metric is undefined, per finding; for the macro row, how many findings each mean covers."""
    notes = []
    for j, having in enumerate(positives):
        undefined = [name for name, value in drawn.point.items() if np.isnan(value[j])]
        if known[j] == 0:
            reasons = ["the label of no image is known"]
        elif having in (0, known[j]):
            reasons = [f"no {'negative' if having else 'positive'} among {known[j]} images"]
        else:
            reasons = [f"{name} undefined{_EMPTY.get(name, '')}" for name in undefined]
        if patients[j] == 1:
            reasons.append("a single patient has it: no interval of what rests on the positives")
        defined = [name for name in drawn.point if name not in undefined]
        if skipped := max((np.isnan(drawn.replicates[name][:, j]).sum() for name in defined), default=0):
            reasons.append(f"undefined in {skipped} replicates, which the intervals leave out")
        notes.append("; ".join(reasons))
    covered = pd.Series({name: (~np.isnan(value)).sum() for name, value in drawn.point.items()})
    over = covered.index.to_series().groupby(covered, sort=False).agg(", ".join)  # number of findings -> metrics
    means = [f"{n} of {len(FINDINGS)} findings" + f" ({names})" * (len(over) > 1) for n, names in over.items()]
    return [*notes, "macro over " + ", ".join(means)]
