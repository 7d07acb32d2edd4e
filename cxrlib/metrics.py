"""How good the scores are, finding by finding, with an interval beside every figure.

Every figure here is made of sums over images. An image belongs to a patient, so these are sums over patients, and a
bootstrap replicate, which draws whole patients with replacement, only changes how often each patient counts. The sums
of all replicates are therefore one product: (sums a patient) @ (how often each patient counts, a column a replicate).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import ndtr, stdtrit

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
      ece     expected calibration error over 15 bins of equal width (Guo et al. 2017). Noise raises it above the truth,
              and replicates as much above the data, so its interval is reflected about the figure; in simulations it
              covers 88 % (plain percentiles 65 %), and less where the truth is next to 0
    and, with thresholds: threshold, f1, sensitivity, specificity, ppv, npv (intervals for that threshold, frozen).
    `note` says what is undefined and why.

    NaN is undefined: it enters no mean, and the macro row notes over how many findings each mean goes. How patients are
    drawn: `bootstrap`; how intervals come of it: `interval`.
    Raises InputError for no image at all or for thresholds that are not 14 numbers.
    """
    if not len(predictions):
        raise InputError("there is no image to evaluate; expected predictions with at least one row")
    point = figures(predictions, thresholds)
    [drawn] = bootstrap(predictions, thresholds=thresholds, replicates=replicates, seed=seed)
    labels = predictions.labels
    positive, scarcest = count_patients(predictions)
    columns = {
        "positives": np.append(labels.sum(axis=0), labels.sum()),
        "patients": positive,
        "n": np.full(len(_ROWS), len(predictions)),
        "prevalence": with_macro(labels.mean(axis=0)),
    }
    for name, value in point.items():
        if name == THRESHOLD_METRICS[0]:
            columns["threshold"] = np.append(threshold_values(thresholds), np.nan)
        replicate = with_macro(drawn[name], ~np.isnan(value))
        value = with_macro(value)
        if name == "ece":
            replicate = np.maximum(2 * value - replicate, 0)
        low, high = interval(replicate, value, scarcest, confidence)
        columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
    columns["note"] = _notes(labels, positive, point, drawn)
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

    As many whole patients as there are are drawn with replacement, so that the images of one stay together (Field &
    Welsh 2007). A draw that leaves a finding without a positive or without a negative image is drawn again, up to 20
    times; where that fails, the figure is NaN in this replicate. (Drawing within strata of the findings would make as
    sure, but holds the number of positives fixed, and with it much of what makes F1, PPV and AP uncertain.)

    Several predictions share the draws: two models on the same images, or two groups of images (women and men, AP and
    PA). Differences between them are then paired.

    thresholds: 14 values (or Thresholds) for all, or a list of such, one for each of `predictions`.
    metrics: only these (default: all that the thresholds allow).
    """
    patients = _all_patients(predictions)
    thresholds = _one_each(thresholds, len(predictions))
    of = [_Figures(one, patients, values, metrics) for one, values in zip(predictions, thresholds, strict=True)]
    tables = [label_table(patients, one) for one in predictions]
    times = draw_patients(np.hstack(tables), replicates, seed)
    drawn = [[] for _ in of]
    for weights in chunks(times, max(figure.rows for figure in of)):
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
    p_value: two-sided, twice the smaller share of replicates on either side of zero, never below 2 / (replicates + 1).
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
    return difference_table(a, b, metric, thresholds, replicates, seed, confidence)


def difference_table(
    a, b, metric, thresholds=None, replicates=1000, seed=0, confidence=0.95, include: np.ndarray | None = None
) -> pd.DataFrame:
    """What both differences above share. include: (14,) bool, False leaves a finding out as if it were undefined."""
    each = _one_each(thresholds, 2)
    first, second = (figures(one, values)[_known(metric, values)] for one, values in zip((a, b), each, strict=True))
    drawn = bootstrap(a, b, thresholds=each, metrics=[metric], replicates=replicates, seed=seed)
    defined = ~np.isnan(first - second) & (True if include is None else include)
    first, second = (with_macro(np.where(defined, value, np.nan), defined) for value in (first, second))
    differences = with_macro(drawn[0][metric] - drawn[1][metric], defined)
    scarcest = np.minimum(count_patients(a)[1], count_patients(b)[1])
    low, high = interval(differences, first - second, scarcest, confidence)
    columns = {"a": first, "b": second, "difference": first - second, "low": low, "high": high}
    columns["p_value"] = np.where(np.isnan(first - second), np.nan, _p_value(differences))
    notes = np.where(defined, "", f"{metric} is undefined in a or in b")
    columns["note"] = [*notes, f"macro over {defined.sum()} of {len(FINDINGS)} findings"]
    return pd.DataFrame(columns, index=_ROWS)


def with_macro(values: np.ndarray, defined: np.ndarray | None = None) -> np.ndarray:
    """(..., 14) values and, as the 15th, their mean over the `defined` findings (default: those without a NaN)."""
    defined = ~np.isnan(values) if defined is None else defined
    mean = values.mean(axis=-1, where=defined) if defined.any() else np.full(values.shape[:-1], np.nan)
    return np.concatenate([values, mean[..., None]], axis=-1)


def interval(replicates: np.ndarray, point: np.ndarray, patients: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Ends (2, k) of the expanded percentile intervals of k figures (Hesterberg 2015, The American Statistician 69).

    replicates: (r, k), NaN left out. point: (k,), always inside. patients: (k,), how many carry the rarer class: the
    fewer they are, the further out the percentiles (Student's t with patients - 1 degrees of freedom for the normal).
    NaN where the point is undefined, where no replicate is defined, and where it all hangs on fewer than two patients.

    In simulations the 95 % interval of AUROC, AP, F1, PPV covers 92 to 97 % from 24 patients with the finding on; with
    14 still 93 to 96 %, but of an AUROC of 0.95 it covers 89 %. AP comes out too high where positives are few (0.16 for
    0.11 with 20 of them); the macro AP averages the noise away but not this bias, and its interval then misses.
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


def draw_patients(has: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """How often each of p patients is drawn: (replicates, p) uint16; each row sums to p.

    has: (p, k) bool, what each patient has. A draw in which nobody has what somebody has is repeated, 20 times at most.
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
    """The draws (replicates, p) as float64 weights (p, r), in pieces so small that a table (rows, r) fits in memory."""
    size = max(1, _CHUNK // max(rows, times.shape[1], 1))
    for start in range(0, max(len(times), 1), size):  # at least one piece, be it of no replicate
        yield times[start : start + size].T.astype(np.float64)


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


def label_table(patients: np.ndarray, predictions: Predictions) -> np.ndarray:
    """(p, 28) bool: which of the sorted `patients` has an image with each finding, and which has one without it."""
    patient = np.searchsorted(patients, predictions.patient)
    has = np.zeros((len(patients), 2, len(FINDINGS)), dtype=bool)
    for k, rows in enumerate((predictions.labels == 1, predictions.labels == 0)):
        image, finding = np.nonzero(rows)
        has[patient[image], k, finding] = True
    return has.reshape(len(patients), -1)


def count_patients(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Patients with each finding and with any; the same for the scarcer of those with and those without it. (15,)"""
    has = label_table(np.unique(predictions.patient), predictions)
    positive, negative = has.sum(axis=0).reshape(2, -1)
    any_positive = has[:, : len(FINDINGS)].any(axis=1).sum()
    return np.append(positive, any_positive), np.append(np.minimum(positive, negative), any_positive)


def _p_value(differences: np.ndarray) -> np.ndarray:
    """Two-sided, of (r, 15) replicates; the observed data count as one replicate, so that it is never 0."""
    defined = (~np.isnan(differences)).sum(axis=0)
    sides = np.minimum((differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0))
    return np.where(defined > 0, np.minimum(2 * (sides + 1) / (defined + 1), 1), np.nan)


def _notes(labels: np.ndarray, patients: np.ndarray, point: dict, drawn: dict) -> list[str]:
    """Why a figure is undefined, finding by finding; for the macro row, over how many findings each mean goes."""
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
    over = {}  # number of findings -> the metrics whose mean goes over so many
    for name, value in point.items():
        over.setdefault((~np.isnan(value)).sum(), []).append(name)
    which = [f" ({', '.join(names)})" if len(over) > 1 else "" for names in over.values()]
    means = [f"{count} of {len(FINDINGS)} findings{names}" for count, names in zip(over, which, strict=True)]
    return [*notes, "macro over " + ", ".join(means)]
