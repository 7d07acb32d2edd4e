"""Labels that nobody gave: an image enters a finding only where its label of that finding is known.

Every figure of one finding equals that of the images whose label is known, whatever the others hold.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.agreement import agreement
from cxrlib.evaluation.audits import against_experts, audit
from cxrlib.evaluation.bootstrap import Bootstrap, count_patients
from cxrlib.evaluation.calibration import METHODS, Calibrator, choose_method, ece_floor, reliability
from cxrlib.evaluation.differences import group_difference, paired_difference
from cxrlib.evaluation.metrics import RANKING_METRICS, THRESHOLD_METRICS, bootstrap, evaluate, point_estimates
from cxrlib.evaluation.predictions import UNKNOWN, Predictions
from cxrlib.evaluation.protocol import evaluate_at_tuned
from cxrlib.evaluation.thresholds import Thresholds, tune_thresholds

HALF = Thresholds(np.full(14, 0.5))
K = 4  # the finding whose labels are partly unknown in most tests


def some_predictions(seed=0, n=150, patients=50, unknown=0.0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 14)) < 0.4).astype(float)
    scores = np.round(np.clip(rng.normal(0.3 + 0.3 * labels, 0.2), 0, 1), 2)
    labels[rng.random((n, 14)) < unknown] = np.nan
    return Predictions(scores, labels, [f"{i}.png" for i in range(n)], rng.integers(0, patients, n))


def subset(predictions, k=K):
    """The images whose label of finding k is known."""
    return predictions.take(predictions.labels[:, k] != UNKNOWN)


@pytest.fixture(scope="module")
def partly():
    return some_predictions(unknown=0.5)


@st.composite
def predictions(draw):
    seed, n = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 40))
    return some_predictions(seed, n, draw(st.integers(1, 12)), draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0])))


some_findings = st.sets(st.integers(0, 13), min_size=3, max_size=3)  # of all fourteen, each example checks these


@settings(max_examples=30)
@given(predictions(), some_findings)
def test_every_metric_in_every_replicate_is_that_of_the_images_of_known_label(given, findings):
    known = [subset(given, k) for k in findings]
    found, *each = bootstrap(given, *known, thresholds=[HALF] * (1 + len(known)), replicates=5, seed=1)
    for k, expected in zip(findings, each, strict=True):
        assert set(found.replicates) == {*RANKING_METRICS, *THRESHOLD_METRICS}
        for name, value in found.replicates.items():
            np.testing.assert_array_equal(value[:, k], expected.replicates[name][:, k], err_msg=name)


@settings(max_examples=15)
@given(predictions(), some_findings)
def test_the_table_is_that_of_the_images_of_known_label(given, findings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = evaluate(given, HALF, replicates=20)
    counts = ["positives", "patients", "n", "prevalence"]
    for k in findings:
        name, known = FINDINGS[k], subset(given, k)
        row = table.loc[name]
        if not len(known):
            assert row["n"] == 0
            assert row[["auroc", "brier", "f1", "prevalence", "auroc_low", "ece_high"]].isna().all()
            assert "no image is known" in row["note"]
            continue
        expected = evaluate(known, HALF, replicates=0).loc[name]
        columns = [*counts, *RANKING_METRICS, *THRESHOLD_METRICS]
        assert row[columns].tolist() == pytest.approx(expected[columns].tolist(), nan_ok=True, abs=1e-12)
    assert table.loc["macro", "positives"] == table["positives"][:-1].sum()


def test_intervals_rest_on_what_is_known():
    """Half the labels unknown: intervals as wide as those of the half, not as those of the whole."""
    whole = some_predictions(3, n=400, patients=400)
    labels = whole.labels.astype(float)
    labels[::2, K] = np.nan
    partly = Predictions(whole.scores, labels, whole.image, whole.patient)
    full, half, known = (evaluate(one, HALF).loc[FINDINGS[K]] for one in (whole, partly, subset(partly)))
    for metric in ("auroc", "f1", "sensitivity", "brier"):
        width, expected, narrow = (row[f"{metric}_high"] - row[f"{metric}_low"] for row in (half, known, full))
        assert width == pytest.approx(expected, rel=0.12), metric
        assert width > 1.2 * narrow, metric


def test_patients_are_counted_by_known_labels(partly):
    having, scarcest = count_patients(partly)
    known = subset(partly)
    groups = pd.Series(known.labels[:, K]).groupby(known.patient)
    with_it, without = (groups.max() == 1).sum(), (groups.min() == 0).sum()
    assert having[K] == with_it
    assert scarcest[K] == min(with_it, without)


@pytest.mark.parametrize("objective", ["f1", "youden", "sensitivity>=0.8", "cost=5"])
@pytest.mark.parametrize("grid", [None, (0.05, 0.4, 0.05)])
def test_thresholds_are_tuned_on_known_labels(partly, objective, grid):
    found = tune_thresholds(partly, grid, objective, resampling=Bootstrap(20))
    expected = tune_thresholds(subset(partly), grid, objective, resampling=Bootstrap(20))
    assert found.values[K] == expected.values[K]
    assert found.notes[K] == expected.notes[K]
    assert found.low[K] <= found.values[K] <= found.high[K]


@pytest.mark.parametrize("method", METHODS)
def test_calibration_is_fitted_on_known_labels(partly, method):
    found, expected = Calibrator.fit(partly, method), Calibrator.fit(subset(partly), method)
    assert found.maps[K] == expected.maps[K]
    assert found.notes[K] == expected.notes[K]


def test_reliability_and_noise_rest_on_known_labels(partly):
    known = subset(partly)
    pd.testing.assert_frame_equal(reliability(partly, FINDINGS[K]), reliability(known, FINDINGS[K]))
    only = Predictions(known.scores, np.where(np.arange(14) == K, known.labels, np.nan), known.image, known.patient)
    labels = np.where(np.arange(14) == K, partly.labels, UNKNOWN)
    blank = Predictions(partly.scores, labels, partly.image, partly.patient)
    assert choose_method(blank) in ("none", "platt", "temperature")
    np.testing.assert_array_equal(ece_floor(blank), ece_floor(only))
    assert np.isnan(np.delete(ece_floor(blank), K)).all()


def test_a_finding_of_which_nothing_is_known_is_undefined_and_stops_nothing(partly):
    labels = partly.labels.astype(float)
    labels[:, K] = np.nan
    given = Predictions(partly.scores, labels, partly.image, partly.patient)
    done = evaluate_at_tuned([given], [given], "auto", replicates=50)
    row = done.table.loc[FINDINGS[K]]
    assert row["n"] == 0
    assert np.isnan(row["auroc"])
    assert done.table.loc["macro", "note"].startswith("macro over 13 of 14")
    assert "0 positive of 0 images" in done.thresholds.notes[K]
    assert done.calibrators[0].method == "none" or "0 positive of 0 images" in done.calibrators[0].notes[K]


def test_no_known_label_at_all_is_undefined_everywhere():
    nothing = some_predictions(unknown=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_method(nothing) == "none"
        table = evaluate(nothing, HALF, replicates=10)
    assert table[["auroc", "f1", "ece", "auroc_low", "prevalence"]].isna().all(axis=None)
    assert (table["n"] == 0).all()
    assert all(np.isnan(value).all() for value in point_estimates(nothing).values())


def test_models_are_compared_on_the_same_known_images(partly):
    better = Predictions(partly.scores**0.5, partly.labels, partly.image, partly.patient)
    found = paired_difference(better, partly, "brier", replicates=100).loc[FINDINGS[K]]
    known = partly.labels[:, K] != UNKNOWN
    expected = paired_difference(better.take(known), partly.take(known), "brier", replicates=0).loc[FINDINGS[K]]
    assert [found["a"], found["b"]] == pytest.approx([expected["a"], expected["b"]])
    assert found["low"] < found["difference"] < found["high"]
    labels = partly.labels.copy()
    labels[np.flatnonzero(known)[0], K] = UNKNOWN
    with pytest.raises(InputError, match="different labels"):
        paired_difference(Predictions(partly.scores, labels, partly.image, partly.patient), partly)
    first, second = partly.take(np.arange(75)), partly.take(np.arange(75, 150))
    groups = group_difference(first, second, resampling=Bootstrap(50)).loc[FINDINGS[K]]
    assert groups["a"] == pytest.approx(point_estimates(subset(first))["auroc"][K])


def test_audits_leave_out_what_is_unknown(partly):
    entries = pd.DataFrame({"image": partly.image, "sex": np.where(np.arange(len(partly)) % 2, "F", "M")})
    table = audit(partly, entries, HALF, replicates=50)
    [gap] = table[(table["finding"] == FINDINGS[K]) & (table["metric"] == "auroc")].to_dict("records")
    women = subset(partly.take(np.arange(len(partly)) % 2 == 1))
    assert gap["value"] == pytest.approx(point_estimates(women)["auroc"][K])
    assert gap["patients"] == len(np.unique(women.patient[women.labels[:, K] == 1]))


def test_expert_labels_are_compared_where_both_are_known(partly):
    rng = np.random.default_rng(5)
    read = np.where(rng.random(len(partly)) < 0.3, np.nan, rng.integers(0, 2, len(partly)))
    experts = pd.DataFrame({"image": partly.image, FINDINGS[K]: read, "Nodule or mass": 1.0})
    row = against_experts(partly, experts, replicates=50).loc[FINDINGS[K]]
    both = (partly.labels[:, K] != UNKNOWN) & ~np.isnan(read)
    assert row["images"] == both.sum()
    assert row["mined"] == (partly.labels[both, K] == 1).sum()
    assert row["expert"] == read[both].sum()
    assert row["auroc_mined"] == pytest.approx(point_estimates(partly.take(both))["auroc"][K])
    # of two findings one is enough for a yes, both are needed for a no
    nodule, mass = (partly.labels[:, FINDINGS.index(name)] for name in ("Nodule", "Mass"))
    yes, no = (nodule == 1) | (mass == 1), (nodule == 0) & (mass == 0)
    row = against_experts(partly, experts, replicates=10).loc["Nodule or mass"]
    assert (row["images"], row["mined"]) == ((yes | no).sum(), yes.sum())


def test_agreement_counts_images_where_both_labels_are_known(partly):
    rng = np.random.default_rng(6)
    labels = np.where(partly.labels == UNKNOWN, np.nan, partly.labels)
    entries = pd.DataFrame(
        {"image": partly.image, "patient": partly.patient, **dict(zip(FINDINGS, labels.T, strict=True))}
    )
    read = np.where(rng.random(len(partly)) < 0.3, np.nan, rng.integers(0, 2, len(partly)))
    expert = pd.DataFrame({"image": partly.image, FINDINGS[K]: read, "Hernia": np.nan})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = agreement(entries, expert, {name: [name] for name in (FINDINGS[K], "Hernia")}, replicates=50)
    both = entries[FINDINGS[K]].notna() & ~np.isnan(read)
    expected = agreement(entries[both], expert[both], {FINDINGS[K]: [FINDINGS[K]]}, replicates=0)
    columns = ["images", "mined", "expert", "both", "kappa", "ppv", "sensitivity"]
    assert table.loc[FINDINGS[K], columns].tolist() == expected.loc[FINDINGS[K], columns].tolist()
    # all known labels of one patient: no interval, however many patients have unknown ones
    patient = np.where(both, -1, np.arange(len(both)))
    one = agreement(entries.assign(patient=patient), expert, {FINDINGS[K]: [FINDINGS[K]]}, replicates=50).iloc[0]
    assert np.isnan(one[["kappa_low", "kappa_high"]].astype(float)).all()
    assert table.loc["Hernia", "images"] == 0
    assert np.isnan(table.loc["Hernia", ["kappa", "kappa_low", "ppv"]].astype(float)).all()


def test_a_file_keeps_what_is_unknown(partly, tmp_path):
    again = Predictions.load(partly.save(tmp_path / "p.npz"))
    np.testing.assert_array_equal(again.labels, partly.labels)
    assert again.labels.dtype == np.uint8
    assert (again.known == (partly.labels != UNKNOWN)).all()
    assert 0.3 < again.known.mean() < 0.7
