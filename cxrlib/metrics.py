"""How good the scores are, finding by finding, with an interval beside every figure.

Every figure here is made of sums over images. An image belongs to a patient, so these are sums over patients, and a
bootstrap replicate, which draws whole patients with replacement, only changes how often each patient counts. The sums
of all replicates are therefore one product: (sums a patient) @ (how often each patient counts, a column a replicate).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from cxrlib.errors import InputError, nearest, some
from cxrlib.findings import FINDINGS
from cxrlib.predictions import Predictions

RANKING_METRICS = ("auroc", "ap", "ap_lift", "brier", "ece")
THRESHOLD_METRICS = ("f1", "sensitivity", "specificity", "ppv", "npv")
ECE_BINS = 15  # of equal width over [0, 1], as in Guo et al. 2017
_EMPTY = {"ppv": "at or above the threshold", "npv": "below the threshold"}
_ROWS = pd.Index([*FINDINGS, "macro"], name="finding")
_CHUNK = 4_000_000  # numbers in the largest table of one chunk of replicates: 32 MB


def evaluate(
    predictions: Predictions,
    thresholds: Sequence[float] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """One row a finding and a last row "macro"; each metric with its patient-bootstrap interval.

    thresholds: 14 values in the order of FINDINGS, or Thresholds; an image is positive where score >= threshold.
    replicates: 0 leaves the intervals NaN.

    Columns: positives and patients (images and patients with the finding), n (images), prevalence; for each metric
    `name`, `name_low`, `name_high`:
      auroc   area under the ROC curve, ties counted half (scikit-learn's roc_auc_score)
      ap      average precision, the step-wise area under the precision-recall curve (average_precision_score)
      ap_lift ap / prevalence: 1 is chance
      brier   mean squared difference of score and label
      ece     expected calibration error over 15 bins of equal width (Guo et al. 2017); sampling noise raises it, in
              replicates more than in the data, so its interval leans upwards
    and, with thresholds: threshold, f1, sensitivity, specificity, ppv, npv (intervals for that threshold, frozen).
    `note` says what is undefined and why.

    NaN is undefined: it enters no mean, and the macro row notes over how many findings each mean goes. Intervals are
    percentiles over patients drawn with replacement (Efron & Tibshirani 1993; for clusters Field & Welsh 2007).
    Raises InputError for no image at all or for thresholds that are not 14 numbers.
    """
    if not len(predictions):
        raise InputError("there is no image to evaluate; expected predictions with at least one row")
    point = figures(predictions, thresholds)
    [drawn] = bootstrap(predictions, thresholds=thresholds, replicates=replicates, seed=seed)
    labels = predictions.labels
    columns = {
        "positives": np.append(labels.sum(axis=0), labels.sum()),
        "patients": _positive_patients(predictions),
        "n": np.full(len(FINDINGS) + 1, len(predictions)),
        "prevalence": with_macro(labels.mean(axis=0)),
    }
    for name, value in point.items():
        if name == THRESHOLD_METRICS[0]:
            columns["threshold"] = np.append(threshold_values(thresholds), np.nan)
        low, high = interval(with_macro(drawn[name], ~np.isnan(value)), confidence)
        columns |= {name: with_macro(value), f"{name}_low": low, f"{name}_high": high}
    columns["note"] = _notes(labels, point, drawn)
    return pd.DataFrame(columns, index=_ROWS)


def figures(predictions: Predictions, thresholds: Sequence[float] | None = None) -> dict[str, np.ndarray]:
    """The figures without intervals: {metric: (14,) float64}, NaN where undefined. Metrics as in `evaluate`."""
    patients = np.unique(predictions.patient)
    figure = _Figures(predictions, patients, thresholds)
    return {name: value[0] for name, value in figure(np.ones((len(patients), 1))).items()}


def bootstrap(
    *predictions: Predictions,
    thresholds: Sequence | None = None,
    metrics: Sequence[str] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> list[dict[str, np.ndarray]]:
    """The figures in `replicates` draws of patients: for each of `predictions`, {metric: (replicates, 14) float64}.

    Whole patients are drawn with replacement, so that their images stay together. Several predictions share the
    draws: two models on the same images, or two groups of images (women and men, AP and PA). Differences between them
    are then paired. Draws are stratified by the rarest finding a patient has, so that a replicate without a positive
    is as rare as can be; where there is one nevertheless, its figure is NaN.

    thresholds: 14 values (or Thresholds) for all, or a list of such, one for each of `predictions`.
    metrics: only these (default: all that the thresholds allow).
    """
    patients = _all_patients(predictions)
    thresholds = _one_each(thresholds, len(predictions))
    of = [_Figures(one, patients, values, metrics) for one, values in zip(predictions, thresholds, strict=True)]
    times = draw_patients(strata(patients, *predictions), replicates, seed)
    chunk = max(1, _CHUNK // max(len(patients), *(figure.rows for figure in of), 1))
    starts = range(0, max(replicates, 1), chunk)  # at least one chunk, be it of no replicate
    drawn = [[] for _ in of]
    for start in starts:
        weights = times[start : start + chunk].T.astype(np.float64)
        for results, figure in zip(drawn, of, strict=True):
            results.append(figure(weights))
    return [{name: np.concatenate([part[name] for part in results]) for name in results[0]} for results in drawn]


def paired_difference(
    a: Predictions,
    b: Predictions,
    metric: str = "auroc",
    thresholds: Sequence | None = None,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """`metric` of two models on the same images: columns a, b, difference (a - b), low, high, p_value, note.

    Rows are the findings and "macro" (over the findings defined in both). The same patients are drawn for both.
    p_value: twice the smaller share of replicates on either side of zero (Efron & Tibshirani 1993, chapter 15).
    thresholds: for f1, sensitivity, ...: 14 values for both, or a pair, for a and for b.
    Raises InputError where a and b do not hold the same images, patients and labels.
    """
    b = _in_order_of(a, b)
    return group_difference(a, b, metric, thresholds, replicates, seed, confidence)


def group_difference(
    a: Predictions,
    b: Predictions,
    metric: str = "auroc",
    thresholds: Sequence | None = None,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """`metric` in two groups of images (women and men, AP and PA), as `paired_difference` returns it for two models.

    A patient with images in both groups is drawn for both.
    """
    metrics = [metric]
    each = _one_each(thresholds, 2)
    point = [figures(one, values)[_known(metric, values)] for one, values in zip((a, b), each, strict=True)]
    drawn = bootstrap(a, b, thresholds=each, metrics=metrics, replicates=replicates, seed=seed)
    defined = ~np.isnan(point[0] + point[1])
    values = [with_macro(value, defined) for value in point]
    differences = with_macro(drawn[0][metric] - drawn[1][metric], defined)
    low, high = interval(differences, confidence)
    note = np.where(defined, "", f"{metric} is undefined in a or in b")
    columns = {"a": values[0], "b": values[1], "difference": values[0] - values[1], "low": low, "high": high}
    columns["p_value"] = _p_value(differences)
    columns["note"] = [*note, f"mean over {defined.sum()} of {len(FINDINGS)} findings"]
    return pd.DataFrame(columns, index=_ROWS)


def with_macro(values: np.ndarray, defined: np.ndarray | None = None) -> np.ndarray:
    """(..., 14) values and, as the 15th, their mean over the `defined` findings (default: those without a NaN)."""
    defined = ~np.isnan(values) if defined is None else defined
    mean = values.mean(axis=-1, where=defined) if defined.any() else np.full(values.shape[:-1], np.nan)
    return np.concatenate([values, mean[..., None]], axis=-1)


def interval(replicates: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Lower and upper percentile of (r, ...) replicates: (2, ...). NaN replicates are left out; all NaN gives NaN."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    ends = np.full((2, *replicates.shape[1:]), np.nan)
    some_defined = ~np.isnan(replicates).all(axis=0)
    if some_defined.any():
        share = (1 - confidence) / 2
        ends[:, some_defined] = np.nanquantile(replicates[:, some_defined], [share, 1 - share], axis=0)
    return ends


def at_or_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Where score >= threshold, both as float32, the precision of stored scores: one stored as 0.35 reaches 0.35."""
    return np.asarray(scores, dtype=np.float32) >= np.asarray(thresholds, dtype=np.float32)


def threshold_values(thresholds: Sequence[float] | None) -> np.ndarray | None:
    """The 14 values (float64) of Thresholds or of a sequence; None stays None. Raises InputError for anything else."""
    if thresholds is None:
        return None
    try:
        values = np.asarray(getattr(thresholds, "values", thresholds), dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (len(FINDINGS),) or np.isnan(values).any():
        raise InputError(f"thresholds are {thresholds!r}; expected {len(FINDINGS)} numbers, one a finding, none NaN")
    return values


def draw_patients(stratum: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """How often each patient is drawn: (replicates, p) uint16, with replacement within each stratum (p,)."""
    rng = np.random.default_rng(seed)
    order = np.argsort(stratum, kind="stable")
    _, first, size = np.unique(stratum[order], return_index=True, return_counts=True)
    first, size = np.repeat(first, size), np.repeat(size, size)
    times = np.empty((replicates, len(stratum)), dtype=np.uint16)
    for row in times:
        row[order] = np.bincount(first + rng.integers(size), minlength=len(stratum))
    return times


def strata(patients: np.ndarray, *predictions: Predictions) -> np.ndarray:
    """Stratum of each of the sorted `patients`: the finding it has that the fewest patients have; 14 for none."""
    has = np.zeros((len(patients), len(FINDINGS) + 1), dtype=bool)
    for one in predictions:
        image, finding = np.nonzero(one.labels)
        has[np.searchsorted(patients, one.patient[image]), finding] = True
    has[:, -1] = True  # "none", the last choice
    rarest_first = np.append(np.argsort(has[:, :-1].sum(axis=0), kind="stable"), len(FINDINGS))
    return rarest_first[has[:, rarest_first].argmax(axis=1)]


def patient_sums(row: np.ndarray, patient: np.ndarray, shape: tuple[int, int], values=None) -> csr_array:
    """Table (rows, patients): the sum of `values` (default: the count) of the images of each row and patient."""
    values = np.ones(len(row)) if values is None else values
    return csr_array((values, (row, patient)), shape=shape)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)


class _Figures:
    """All figures of one set of predictions, as a function of how often each patient counts."""

    def __init__(self, predictions, patients, thresholds=None, metrics=None):
        thresholds = threshold_values(thresholds)
        self.metrics = [_known(name, thresholds) for name in metrics or _possible(thresholds)]
        patient = np.searchsorted(patients, predictions.patient)
        cut = [None] * len(FINDINGS) if thresholds is None else thresholds
        self.findings = [
            _Finding(predictions.scores[:, j], predictions.labels[:, j] == 1, patient, len(patients), cut[j])
            for j in range(len(FINDINGS))
        ]
        self.rows = max(finding.negatives.shape[0] for finding in self.findings)

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """weights: (patients, r), how often each patient counts in each replicate. Returns {metric: (r, 14)}."""
        each = [finding(weights, self.metrics) for finding in self.findings]
        return {name: np.stack([one[name] for one in each], axis=1) for name in self.metrics}


class _Finding:
    """The sums a patient that the figures of one finding need.

    Only the scores of positives matter as steps: between two of them neither curve turns. Every negative lies on a
    step (tied with positives) or between two steps. Counted from the highest score: 0 above all steps, 1 on the
    first, 2 below it, 3 on the second, ...
    """

    def __init__(self, scores, positive, patient, patients, threshold):
        steps = np.unique(scores[positive])
        place = 2 * len(steps) - np.searchsorted(steps, scores, "left") - np.searchsorted(steps, scores, "right")
        negative = ~positive
        self.positives = patient_sums(place[positive] // 2, patient[positive], (len(steps), patients))
        self.negatives = patient_sums(place[negative], patient[negative], (2 * len(steps) + 1, patients))

        error = positive - scores.astype(np.float64)
        self.squared = patient_sums(np.zeros_like(patient), patient, (1, patients), error**2)
        bin_ = np.searchsorted(np.linspace(0, 1, ECE_BINS + 1)[1:-1], scores)
        self.bins = patient_sums(bin_, patient, (ECE_BINS, patients), error)
        self.cells = None
        if threshold is not None:
            cell = 2 * positive + at_or_above(scores, threshold)
            self.cells = patient_sums(cell, patient, (4, patients))

    def __call__(self, weights: np.ndarray, metrics: Sequence[str]) -> dict[str, np.ndarray]:
        figures = {}
        positives = self.positives @ weights
        negatives = np.cumsum(self.negatives @ weights, axis=0)  # at or above each place
        total_positive, total_negative = positives.sum(axis=0), negatives[-1]
        total = total_positive + total_negative
        if not {"auroc", "ap", "ap_lift"}.isdisjoint(metrics):
            higher, at_least = negatives[0:-1:2], negatives[1::2]  # negatives above each step; above or on it
            beaten = total_negative - (higher + at_least) / 2  # a tie is half a win
            figures["auroc"] = ratio((positives * beaten).sum(axis=0), total_positive * total_negative)
            found = np.cumsum(positives, axis=0)
            precision = found / np.maximum(found + at_least, 1)  # 0 / 0 only where the step holds no positive
            figures["ap"] = ratio((positives * precision).sum(axis=0), total_positive)
            figures["ap_lift"] = ratio(figures["ap"] * total, total_positive)
        figures["brier"] = ratio((self.squared @ weights)[0], total)
        figures["ece"] = ratio(np.abs(self.bins @ weights).sum(axis=0), total)
        if self.cells is not None:
            figures |= _threshold_figures(*(self.cells @ weights))
        return figures


def _threshold_figures(tn, fp, fn, tp) -> dict[str, np.ndarray]:
    """What a threshold costs, from the counts (r,). Without a positive f1 and ppv are undefined, not 0; so is npv
    without a negative."""
    positive, negative = tp + fn, tn + fp
    return {
        "f1": ratio(2 * tp, (positive > 0) * (2 * tp + fp + fn)),
        "sensitivity": ratio(tp, positive),
        "specificity": ratio(tn, negative),
        "ppv": ratio(tp, (positive > 0) * (tp + fp)),
        "npv": ratio(tn, (negative > 0) * (tn + fn)),
    }


def _possible(thresholds) -> tuple[str, ...]:
    return RANKING_METRICS if thresholds is None else RANKING_METRICS + THRESHOLD_METRICS


def _known(metric: str, thresholds) -> str:
    if metric in _possible(thresholds):
        return metric
    if metric in THRESHOLD_METRICS:
        raise InputError(f"{metric} needs thresholds and there are none; give 14 values or Thresholds")
    everything = RANKING_METRICS + THRESHOLD_METRICS
    raise InputError(f"{metric!r} is not a metric{nearest(metric, everything)}; expected one of {some(everything, 10)}")


def _one_each(thresholds, count: int) -> list:
    """Thresholds for each of `count` predictions: the same for all, or one of a list each."""
    if isinstance(thresholds, list | tuple) and len(thresholds) == count and not np.isscalar(thresholds[0]):
        return [threshold_values(one) for one in thresholds]
    return [threshold_values(thresholds)] * count


def _all_patients(predictions: Sequence[Predictions]) -> np.ndarray:
    if len({one.patient.dtype.kind for one in predictions}) != 1:
        raise InputError("some predictions name patients by number and some by text; expected the same for all")
    return np.unique(np.concatenate([one.patient for one in predictions]))


def _in_order_of(a: Predictions, b: Predictions) -> Predictions:
    """b with its images in the order of a."""
    order = np.argsort(b.image)
    found = order[np.searchsorted(b.image, a.image, sorter=order) % max(len(b), 1)] if len(b) else np.empty(0, int)
    if len(a) != len(b) or (b.image[found] != a.image).any():
        only = set(a.image.tolist()) ^ set(b.image.tolist())
        raise InputError(
            f"{len(only)} images are in one of the two only, such as {some(sorted(only), 3)}; compare the same"
        )
    b = b.take(found)
    if (a.patient != b.patient).any() or (a.labels != b.labels).any():
        raise InputError("the two give an image different labels or patients; predict both on the same entries")
    return b


def _positive_patients(predictions: Predictions) -> np.ndarray:
    """Patients with each finding, and with any."""
    image, finding = np.nonzero(predictions.labels)
    pairs = np.unique(np.stack([np.unique(predictions.patient, return_inverse=True)[1][image], finding]), axis=1)
    return np.append(np.bincount(pairs[1], minlength=len(FINDINGS)), len(np.unique(pairs[0])))


def _p_value(differences: np.ndarray) -> np.ndarray:
    """Two-sided, of (r, 15) replicates; the observed data count as one replicate, so that it is never 0."""
    defined = (~np.isnan(differences)).sum(axis=0)
    sides = np.minimum((differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0))
    return np.where(defined > 0, np.minimum(2 * (sides + 1) / (defined + 1), 1), np.nan)


def _notes(labels: np.ndarray, point: dict, drawn: dict) -> list[str]:
    """Why a figure is undefined, finding by finding; for the macro row, over how many findings its means go."""
    notes = []
    for finding in range(len(FINDINGS)):
        positives = labels[:, finding].sum()
        undefined = {name for name, value in point.items() if np.isnan(value[finding])}
        if positives == 0:
            why = [f"no positive among {len(labels)} images"]
        elif positives == len(labels):
            why = [f"no negative among {len(labels)} images"]
        else:
            why = [f"{name} undefined: no image {where}" for name, where in _EMPTY.items() if name in undefined]
        missing = max(np.isnan(drawn[name][:, finding]).sum() for name in point if name not in undefined)
        if missing:
            why.append(f"intervals leave out up to {missing} replicates in which the figure is undefined")
        notes.append("; ".join(why))
    over = {}
    for name, value in point.items():
        over.setdefault(int((~np.isnan(value)).sum()), []).append(name)
    means = (
        f"{count} of {len(FINDINGS)} findings" + f" ({', '.join(names)})" * (len(over) > 1)
        for count, names in over.items()
    )
    return [*notes, "macro over " + ", ".join(means)]
