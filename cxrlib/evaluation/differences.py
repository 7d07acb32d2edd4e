"""Differences of two models, or two groups of images, on the same draws of patients; p-values, Holm's correction."""

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation import bootstrap, metrics
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.predictions import Predictions


def paired_difference(a, b, metric="auroc", thresholds=None, replicates=1000, seed=0) -> pd.DataFrame:
    """`group_difference` of two models on the same images; InputError for others, or for other patients or labels."""
    return group_difference(a, _in_order_of(a, b), metric, thresholds, Bootstrap(replicates, seed))


def group_difference(a, b, metric="auroc", thresholds=None, resampling=Bootstrap(), include=None) -> pd.DataFrame:
    """`metric` in the Predictions of two groups of images (women and men); a patient in both is drawn for both.

    Rows are the findings and "macro" (over the findings defined in both); columns a, b, difference (a - b), low, high,
    p (two-sided: `p_values`), p_holm (corrected for all findings: `holm`; the macro keeps its p), note.
    thresholds: for f1, sensitivity, ...: 14 values for both, or a pair, for a and for b.
    include: (14,) bool, False leaves a finding out as if it were undefined.
    """
    if metric in metrics.BINNED and not np.array_equal(a.image, b.image):
        said = f"{metric} of different images cannot be compared: noise raises it, the more the fewer images there are"
        raise InputError(f"{said}; compare each group with its own noise floor (calibration.ece_floor)")
    pair = thresholds if isinstance(thresholds, tuple) and len(thresholds) == 2 else (thresholds, thresholds)
    drawn = metrics.bootstrap(a, b, thresholds=pair, metrics=[metric], **resampling._asdict())
    first, second = (one.point[metric] for one in drawn)
    defined = ~np.isnan(first - second) & (True if include is None else include)
    first, second = (bootstrap.with_macro(np.where(defined, value, np.nan)) for value in (first, second))
    difference = first - second
    replicates = bootstrap.replicates_with_macro(_replicates(*drawn, metric, resampling.seed), difference[:-1])
    scarcest = np.minimum(bootstrap.count_patients(a)[1], bootstrap.count_patients(b)[1])
    low, high = bootstrap.interval(replicates, difference, scarcest)
    columns = {"a": first, "b": second, "difference": difference, "low": low, "high": high}
    columns["p"] = np.where(np.isnan(difference), np.nan, bootstrap.p_values(replicates, scarcest))
    columns["p_holm"] = np.append(holm(columns["p"][:-1]), columns["p"][-1])
    notes = np.where(defined, "", f"{metric} is undefined in a or in b")
    columns["note"] = [*notes, f"macro over {defined.sum()} of {len(FINDINGS)} findings"]
    return pd.DataFrame(columns, index=metrics.ROWS)


def mean_against_members(mean: Predictions, members: list[Predictions], resampling=Bootstrap()) -> pd.DataFrame:
    """Macro AUROC of an ensemble, its members and their mean, on shared draws of patients; InputError for other images.

    Rows "1", "2", ... (members), "members" (their mean), "ensemble", "ensemble - members"; columns auroc, low, high.
    """
    members = [_in_order_of(mean, one) for one in members]
    drawn = metrics.bootstrap(*members, mean, metrics=["auroc"], **resampling._asdict())
    aurocs = [(one.point["auroc"], one.replicates["auroc"]) for one in drawn]
    # of each model: of the data, then of the replicates
    *each, whole = (bootstrap.replicates_with_macro(np.vstack(both), both[0])[:, -1] for both in aurocs)
    average = sum(each) / len(each)
    values = np.column_stack([*each, average, whole, whole - average])
    low, high = bootstrap.interval(values[1:], values[0], bootstrap.count_patients(mean)[1][-1])
    names = [*(str(number) for number, _ in enumerate(each, 1)), "members", "ensemble", "ensemble - members"]
    return pd.DataFrame({"auroc": values[0], "low": low, "high": high}, index=pd.Index(names, name="model"))


def _replicates(a: metrics.Drawn, b: metrics.Drawn, metric: str, seed: int) -> np.ndarray:
    """Differences (r, 14); where models differ, but none at the thresholds, as large as so many patients can hide."""
    differences = a.replicates[metric] - b.replicates[metric]
    if metric not in metrics.THRESHOLD_METRICS:
        return differences
    alike = ((differences == 0) | np.isnan(differences)).all(axis=0) & (np.array(a.content) != np.array(b.content))
    patients = np.minimum(a.support[metric].patients, b.support[metric].patients)
    seeds = [(seed, *pair) for pair in zip(a.content, b.content, strict=True)]
    hidden = bootstrap.leave_ends(differences, np.where(alike, 0, np.nan), patients, seeds)
    sign = np.random.default_rng(seed).choice([-1, 1], differences.shape)
    return np.where(alike, sign * hidden, differences)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values (k,) corrected for testing k hypotheses (Holm 1979); NaN stays NaN and does not count as a test."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)[: (~np.isnan(p)).sum()]  # NaN are last
    corrected = np.full(p.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected


def _in_order_of(a: Predictions, b: Predictions) -> Predictions:
    """Put the images of b in the order of a."""
    if only := sorted(set(a.image.tolist()) ^ set(b.image.tolist())):
        raise InputError(f"{len(only)} images are in one of the two only ({some(only, 3)}); compare the same images")
    b = b.take(pd.Index(b.image).get_indexer(a.image))
    if (a.patient != b.patient).any() or (a.labels != b.labels).any():
        raise InputError("the two give an image different labels or patients; predict both on the same entries")
    return b
