"""Metrics of the scores per finding, each with an interval.

Comparisons of models and groups: `differences`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import (
    chunks,
    count_patients,
    interval,
    ratio,
    replicates_with_macro,
    shared_draws,
    with_macro,
)
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.sums import BINNED, THRESHOLD_METRICS, Drawn, PatientSums, threshold_values

ROWS = pd.Index([*FINDINGS, "macro"], name="finding")
_EMPTY = {"ppv": ": no image at or above the threshold", "npv": ": no image below the threshold"}


def evaluate(
    predictions: Predictions,
    thresholds: Sequence[float] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per finding and a last row "macro"; each metric with its 95 % patient-bootstrap interval.

    thresholds: 14 values in the order of FINDINGS, or Thresholds; an image is positive where score >= threshold.
    replicates: 0 leaves the intervals NaN.

    Columns: positives and patients (images and patients with the finding), n (images whose label is known), prevalence
    among these; for each metric `name`, `name_low`, `name_high`:
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
    [drawn] = bootstrap(predictions, thresholds=thresholds, replicates=replicates, seed=seed)
    positives, known = (predictions.labels == 1).sum(axis=0), predictions.known
    positive, scarcest = count_patients(predictions)
    columns = {
        "positives": np.append(positives, positives.sum()),
        "patients": positive,
        "n": np.append(known.sum(axis=0), known.any(axis=1).sum()),
        "prevalence": with_macro(ratio(positives, known.sum(axis=0))),
    }
    for name, point in drawn.point.items():
        if name == THRESHOLD_METRICS[0]:
            columns["threshold"] = np.append(threshold_values(thresholds), np.nan)
        replicate, value = replicates_with_macro(drawn.replicates[name], point), with_macro(point)
        if name in BINNED:
            replicate = np.where(value > 0, np.maximum(2 * value - replicate, 0), replicate)
        low, high = interval(replicate, value, scarcest)
        if name in drawn.support:
            low[:-1], high[:-1] = drawn.limits(name)
        if name == "ap_lift":  # at least what the interval of ap says, for this prevalence
            ends = drawn.limits("ap") / columns["prevalence"][:-1]
            low[:-1], high[:-1] = np.minimum(low[:-1], ends[0]), np.maximum(high[:-1], ends[1])
        columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
    columns["note"] = _notes(positives, columns["n"], positive, drawn)
    return pd.DataFrame(columns, index=ROWS)


def point_estimates(
    predictions: Predictions, thresholds: Sequence[float] | None = None, metrics: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The `metrics` (default: all) of `evaluate` without intervals: {metric: (14,) float64}, NaN where undefined."""
    [drawn] = bootstrap(predictions, thresholds=thresholds, metrics=metrics, replicates=0)
    return drawn.point


def bootstrap(
    *predictions: Predictions,
    thresholds: Sequence | None = None,
    metrics: Sequence[str] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> list[Drawn]:
    """The metrics in `replicates` draws of patients, for each of `predictions`.

    Each draw takes as many whole patients as the data hold, with replacement, so that the images of a patient stay
    together (Field & Welsh 2007). Where none of the patients with a finding is drawn, its metrics are NaN in this
    replicate. (To redraw until all findings are there would count their few patients too often; to draw within strata
    of the findings would fix the number of positives, and so hide much of the uncertainty of F1, PPV and AP.)

    Several predictions share the draws: two models on the same images, or two groups of images (women and men, AP and
    PA). Differences between them are then paired.

    thresholds: 14 values (or Thresholds) for all, or a list with one such item for each of `predictions`.
    metrics: only these (default: all that the thresholds allow).
    """
    patients, times = shared_draws(predictions, replicates, seed)
    several = isinstance(thresholds, list | tuple) and len(thresholds) == len(predictions)
    if not several or np.isscalar(thresholds[0]):
        thresholds = [thresholds] * len(predictions)
    each = [PatientSums(one, patients, values, metrics) for one, values in zip(predictions, thresholds, strict=True)]
    drawn = [[one(weights) for one in each] for weights in chunks(times, max(one.rows for one in each))]
    return [one.freed([chunk[k] for chunk in drawn], replicates, seed) for k, one in enumerate(each)]


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
        skipped = max(
            (np.isnan(values[:, j]).sum() for name, values in drawn.replicates.items() if name not in undefined),
            default=0,
        )
        if skipped:
            reasons.append(f"undefined in {skipped} replicates, which the intervals leave out")
        notes.append("; ".join(reasons))
    over = {}  # number of findings -> the metrics whose mean covers that many
    for name, value in drawn.point.items():
        over.setdefault((~np.isnan(value)).sum(), []).append(name)
    which = [f" ({', '.join(names)})" if len(over) > 1 else "" for names in over.values()]
    means = [f"{count} of {len(FINDINGS)} findings{names}" for count, names in zip(over, which, strict=True)]
    return [*notes, "macro over " + ", ".join(means)]
