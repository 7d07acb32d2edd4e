"""Is one model better than another, or one group of images served worse? Differences with intervals, p and Holm's p.

Both sides share the drawn patients, so that what is hard or easy for both falls out of the difference.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import count_patients, interval, p_values, with_macro
from cxrlib.evaluation.metrics import ROWS, bootstrap, figures, known_metric, one_each
from cxrlib.evaluation.predictions import Predictions


def paired_difference(
    a: Predictions,
    b: Predictions,
    metric: str = "auroc",
    thresholds: Sequence | None = None,
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """`metric` of two models on the same images: columns a, b, difference (a - b), low, high, p, p_holm, note.

    Rows are the findings and "macro" (over the findings defined in both). The same patients are drawn for both.
    p: two-sided, of the replicates on either side of zero, widened for few patients as the interval is (`p_values`).
    p_holm: p of the findings, corrected for looking at all of them (`holm`); the macro is one question and keeps its p.
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
    each = one_each(thresholds, 2)
    first, second = (
        figures(one, values)[known_metric(metric, values)] for one, values in zip((a, b), each, strict=True)
    )
    drawn = bootstrap(a, b, thresholds=each, metrics=[metric], replicates=replicates, seed=seed)
    defined = ~np.isnan(first - second) & (True if include is None else include)
    first, second = (with_macro(np.where(defined, value, np.nan), defined) for value in (first, second))
    differences = with_macro(drawn[0][metric] - drawn[1][metric], defined)
    scarcest = np.minimum(count_patients(a)[1], count_patients(b)[1])
    low, high = interval(differences, first - second, scarcest, confidence)
    columns = {"a": first, "b": second, "difference": first - second, "low": low, "high": high}
    columns["p"] = np.where(np.isnan(first - second), np.nan, p_values(differences, scarcest))
    columns["p_holm"] = np.append(holm(columns["p"][:-1]), columns["p"][-1])
    notes = np.where(defined, "", f"{metric} is undefined in a or in b")
    columns["note"] = [*notes, f"macro over {defined.sum()} of {len(FINDINGS)} findings"]
    return pd.DataFrame(columns, index=ROWS)


def differences_from(
    reference: str,
    models: dict[str, Predictions],
    metric: str = "auroc",
    thresholds: dict[str, Sequence] | None = None,
    finding: str = "macro",
    **how,
) -> pd.DataFrame:
    """`metric` of one model minus that of each other, on the same images: one row a model, named by its key.

    Columns: value (of that model), difference (reference - model), low, high, p, p_holm (Holm's over the models).
    finding: whose figure, or "macro". **how: replicates, seed, confidence of `paired_difference`.
    """
    if reference not in models:
        raise InputError(f"there is no model {reference!r} to compare with; expected one of {some(models, 10)}")
    rows = {}
    for name, model in models.items():
        if name != reference:
            cut = None if thresholds is None else (thresholds[reference], thresholds[name])
            rows[name] = paired_difference(models[reference], model, metric, cut, **how).loc[finding]
    table = pd.DataFrame(rows, index=["b", "difference", "low", "high", "p"]).T.astype(float)
    return table.rename(columns={"b": "value"}).assign(p_holm=holm(table["p"].to_numpy()))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values (k,) corrected for being k looks at once (Holm 1979, Scandinavian Journal of Statistics 6).

    The chance that any of the true null hypotheses falls below 0.05 is at most 5 %, however the tests depend on each
    other. NaN stays NaN and does not count as a look.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)[: (~np.isnan(p)).sum()]  # NaN are last
    corrected = np.full(p.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected


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
