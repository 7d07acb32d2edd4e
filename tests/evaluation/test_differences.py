"""Differences between models and between groups: paired, honest where nothing differs, corrected for many looks."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import ndtr, ndtri

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import Bootstrap, interval, p_values
from cxrlib.evaluation.differences import (
    group_difference,
    holm,
    mean_against_members,
    paired_difference,
)
from cxrlib.evaluation.metrics import bootstrap, evaluate, point_estimates
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds


def make(scores, labels, patient=None):
    n = len(scores)
    return Predictions(scores, labels, [f"{i:05d}.png" for i in range(n)], np.arange(n) if patient is None else patient)


def random_predictions(seed, n=200, patients=60, prevalence=0.3):
    """Scores that say something about the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 14)) < prevalence
    return make(ndtr(rng.normal(size=(n, 14)) + labels - 0.5), labels, rng.integers(0, patients, n))


def undefined_predictions():
    """Hernia: no positive; Edema: no negative; Mass: one positive; Nodule: one patient holds all its positives."""
    predictions = random_predictions(4, n=120, patients=40)
    labels = predictions.labels.copy()
    labels[:, FINDINGS.index("Hernia")] = 0
    labels[:, FINDINGS.index("Edema")] = 1
    labels[:, FINDINGS.index("Mass")] = np.arange(120) == 5
    labels[:, FINDINGS.index("Nodule")] = predictions.patient == predictions.patient[0]
    return make(predictions.scores, labels, predictions.patient)


def test_a_model_does_not_differ_from_itself():
    a = random_predictions(5)
    table = paired_difference(a, a, replicates=50)
    assert (table[["difference", "low", "high"]] == 0).all(axis=None)
    assert (table["p"] == 1).all()


def test_images_are_matched_by_name_not_by_row():
    a = random_predictions(5)
    shuffled = a.take(np.random.default_rng(0).permutation(len(a)))
    assert (paired_difference(a, shuffled, replicates=10)["difference"] == 0).all()


def noisy(a, amount, seed=0):
    """The same model with worse scores."""
    rng = np.random.default_rng(seed)
    scores = ndtr(ndtri(np.clip(a.scores, 1e-6, 1 - 1e-6)) + amount * rng.normal(size=a.scores.shape))
    return Predictions(scores, a.labels, a.image, a.patient)


def test_pairing_narrows_the_interval_and_finds_the_worse_model():
    a = random_predictions(6, n=600, patients=200)
    b = noisy(a, 0.6)
    paired = paired_difference(a, b, replicates=400)
    alone = evaluate(a, replicates=400)
    np.testing.assert_allclose(paired["a"], alone["auroc"])
    np.testing.assert_allclose(paired["difference"], paired["a"] - paired["b"])
    width = paired["high"] - paired["low"]
    assert (width.iloc[:14] < 0.95 * (alone["auroc_high"] - alone["auroc_low"]).iloc[:14]).mean() > 0.8
    assert paired.loc["macro", "low"] > 0
    assert paired.loc["macro", "p"] == pytest.approx(2 / 401, rel=0.2), "no replicate beyond zero, many patients"


def test_p_values_are_even_where_there_is_no_difference():
    p_values = []
    for seed in range(15):
        a = random_predictions(seed, n=300, patients=300)
        p_values.append(paired_difference(noisy(a, 1, 1), noisy(a, 1, 2), replicates=200)["p"].iloc[:14])
    p_values = np.concatenate(p_values)  # 210 of them
    assert 0.01 <= np.mean(p_values <= 0.05) <= 0.10
    assert 0.40 <= np.mean(p_values <= 0.50) <= 0.60


@given(
    hnp.arrays(float, st.tuples(st.integers(20, 200), st.just(3)), elements=st.floats(-1, 3)),
    st.lists(st.integers(2, 60), min_size=3, max_size=3),
)
def test_where_p_is_small_the_interval_is_clear_of_zero(replicates, patients):
    low, high = interval(replicates, np.median(replicates, axis=0), np.array(patients))
    p = p_values(replicates, np.array(patients))
    clear = p < 0.05
    assert ((low[clear] >= 0) | (high[clear] <= 0)).all()


@pytest.mark.parametrize("patients", [5, 14, 1000])
def test_p_is_5_percent_where_the_interval_ends_at_zero(patients):
    replicates = np.sort(np.random.default_rng(patients).normal(size=4000))[:, None]
    _, end = interval(replicates, np.zeros(1), np.array([patients]))
    assert p_values(replicates - end, np.array([patients])) == pytest.approx(0.05, abs=0.005)


def test_p_is_undefined_where_the_interval_is():
    replicates = np.array([[0.1, 0.2, np.nan], [0.3, 0.1, np.nan]] * 20)
    assert np.isnan(p_values(replicates, np.array([1, 5, 5]))).tolist() == [True, False, True]


def test_each_model_has_its_own_thresholds():
    a = random_predictions(5)
    low, high = Thresholds(np.full(14, 0.2)), Thresholds(np.full(14, 0.7))
    table = paired_difference(a, a, "sensitivity", (low, high), replicates=20)
    np.testing.assert_allclose(table["a"][:14], point_estimates(a, low)["sensitivity"])
    np.testing.assert_allclose(table["b"][:14], point_estimates(a, high)["sensitivity"])
    assert (paired_difference(a, a, "sensitivity", low, replicates=20)["difference"] == 0).all()


def test_what_is_undefined_in_one_is_left_out_of_both():
    a = undefined_predictions()
    table = paired_difference(a, noisy(a, 0.5), replicates=50)
    assert table.loc[["Hernia", "Edema"], ["a", "b", "difference", "low", "high", "p"]].isna().all(axis=None)
    assert table.loc["Hernia", "note"] == "auroc is undefined in a or in b"
    assert table.loc["macro", "note"] == "macro over 12 of 14 findings"
    assert table.loc["macro", "a"] == pytest.approx(table["a"].iloc[:14].mean())


def test_groups_of_images_are_compared_over_shared_patients():
    a = random_predictions(9, n=400, patients=100)
    first = np.arange(400) % 2 == 0
    table = group_difference(a.take(first), a.take(~first), resampling=Bootstrap(100))
    np.testing.assert_allclose(table["a"][:14], point_estimates(a.take(first))["auroc"])
    assert (table["low"] <= table["difference"]).all()
    drawn = bootstrap(a.take(first), a.take(~first), a, replicates=5, metrics=["brier"])
    assert [list(one.replicates) for one in drawn] == [["brier"]] * 3
    assert [one.replicates["brier"].shape for one in drawn] == [(5, 14)] * 3
    halves, whole = (drawn[0].replicates["brier"] + drawn[1].replicates["brier"]) / 2, drawn[2].replicates["brier"]
    np.testing.assert_allclose(halves, whole, atol=0.02)  # the same draws; the halves are about as large


def test_the_scarcer_group_decides_how_wide_the_interval_is():
    a = random_predictions(9, n=400, patients=100)
    labels = a.labels.copy()
    labels[200:, 0] = a.patient[200:] == a.patient[200]  # in the second group one patient has the first finding
    a = make(a.scores, labels, a.patient)
    first, second = a.take(np.arange(200)), a.take(np.arange(200, 400))
    for pair in [(first, second), (second, first)]:
        table = group_difference(*pair, resampling=Bootstrap(50))
        assert np.isfinite(table["difference"].iloc[0])
        assert table.iloc[0][["low", "high"]].isna().all()
        assert table.iloc[1:][["low", "high"]].notna().all(axis=None)


def test_a_model_differs_from_itself_by_exactly_nothing_and_from_another_by_more_than_nothing():
    labels = np.repeat((np.arange(100) < 12)[:, None], 14, axis=1)
    a, b = (make(np.where(labels, high, 0.1), labels) for high in (0.8, 0.9))  # both find every image
    same, other = (paired_difference(a, one, "sensitivity", np.full(14, 0.5), 200).iloc[0] for one in (a, b))
    assert same[["difference", "low", "high"]].tolist() == [0, 0, 0]
    assert other["low"] < -0.1 < other["difference"] == 0 < 0.1 < other["high"]
    assert other["p"] > 0.5


def test_two_thresholds_that_call_the_same_images_may_differ_for_new_patients():
    a = random_predictions(3, n=80, patients=80)
    scores = np.sort(a.scores[:, 0])
    low, high = (np.full(14, scores[40] + share * (scores[41] - scores[40])) for share in (0.3, 0.6))
    row = group_difference(a, a, "sensitivity", (low, high)).iloc[0]
    assert row["low"] < 0 == row["difference"] < row["high"]
    assert row["p"] > 0.5
    assert group_difference(a, a, "auroc").iloc[0][["low", "high"]].tolist() == [0, 0], "the same ranking is the same"


@pytest.mark.parametrize("metric", ["ece", "ece_mass"])
def test_calibration_errors_of_different_images_are_not_compared(metric):
    """Perfectly calibrated scores of 100 and of 3,000 images: noise alone would make the difference significant."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 0.3, (3100, 14))
    whole = make(scores, rng.random(scores.shape) < scores)
    with pytest.raises(InputError, match="noise raises it, the more the fewer images"):
        group_difference(whole.take(np.arange(100)), whole.take(np.arange(100, 3100)), metric)
    assert paired_difference(whole, whole, metric, replicates=20)["difference"].eq(0).all()


def test_comparisons_refuse_what_cannot_be_compared():
    a = random_predictions(5)
    with pytest.raises(InputError, match=r"1 images are in one of the two only \(00000.png\)"):
        paired_difference(a, a.take(np.arange(1, len(a))))
    with pytest.raises(InputError, match="different labels or patients"):
        paired_difference(a, Predictions(a.scores, 1 - a.labels, a.image, a.patient))
    with pytest.raises(InputError, match="different labels or patients"):
        paired_difference(a, Predictions(a.scores, a.labels, a.image, a.patient + 1))
    with pytest.raises(InputError, match="'f1' needs thresholds"):
        paired_difference(a, a, "f1")
    with pytest.raises(InputError, match=r"'auc' is not a metric; did you mean 'auroc'"):
        paired_difference(a, a, "auc")
    with pytest.raises(InputError, match="patients by number and some by text"):
        bootstrap(a, Predictions(a.scores, a.labels, a.image, a.patient.astype(str)))


# --- many comparisons ------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    # sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1; never below the one before
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.4, np.nan, 0.02]), [0.4, np.nan, 0.04])
    assert holm([0.7, 0.8]).tolist() == [1, 1]
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=12))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p):
    p = np.array(p)
    corrected, looks = holm(p), (~np.isnan(p)).sum()
    np.testing.assert_array_equal(np.isnan(corrected), np.isnan(p))
    known = ~np.isnan(p)
    assert (p[known] <= corrected[known]).all()
    assert (corrected[known] <= np.minimum(looks * p[known], 1)).all()
    assert (np.diff(corrected[known][np.argsort(p[known])]) >= 0).all()


def test_one_look_in_twenty_is_wrong_without_holm_and_few_with_it():
    """Two models alike but for noise: of 14 findings some differ at 0.05 in most data sets, by Holm in few."""
    raw, corrected = [], []
    for seed in range(30):
        a = random_predictions(seed, n=200, patients=200)
        table = paired_difference(noisy(a, 1, 1), noisy(a, 1, 2), replicates=400).iloc[:14]
        raw.append((table["p"] <= 0.05).any())
        corrected.append((table["p_holm"] <= 0.05).any())
    assert np.mean(raw) > 0.3
    assert np.mean(corrected) < 0.2


def test_the_macro_is_one_question_and_keeps_its_p():
    a = random_predictions(6, n=300, patients=150)
    table = paired_difference(a, noisy(a, 0.6), replicates=100)
    np.testing.assert_allclose(table["p_holm"].iloc[:14], holm(table["p"].iloc[:14]))
    assert table.loc["macro", "p_holm"] == table.loc["macro", "p"]


def test_an_ensemble_is_compared_with_the_mean_of_its_members_on_the_same_patients():
    better = random_predictions(5)
    members = [noisy(better, 2.0, seed) for seed in (1, 2)]
    mean = Predictions((members[0].scores + members[1].scores) / 2, better.labels, better.image, better.patient)
    shuffled = members[1].take(np.random.default_rng(0).permutation(len(better)))
    table = mean_against_members(mean, [members[0], shuffled], Bootstrap(200))
    assert list(table.index) == ["1", "2", "members", "ensemble", "ensemble - members"]
    each = [
        evaluate(one, replicates=200).loc["macro", ["auroc", "auroc_low", "auroc_high"]] for one in [*members, mean]
    ]
    np.testing.assert_allclose(table.loc[["1", "2", "ensemble"]], np.array(each, dtype=float))
    ours = [paired_difference(mean, one, replicates=200).loc["macro"] for one in members]
    last = table.loc["ensemble - members"]
    assert last["auroc"] == pytest.approx(np.mean([one["difference"] for one in ours]))
    assert 0 < last["low"] < last["auroc"] < last["high"], "averaging takes noise off"
    assert last["high"] - last["low"] < table.loc["ensemble", "high"] - table.loc["ensemble", "low"], "paired"
    alone = mean_against_members(mean, [mean, mean], Bootstrap(20)).loc["ensemble - members"]
    assert alone.tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="compare the same images"):
        mean_against_members(mean, [members[0].take(np.arange(5))])
