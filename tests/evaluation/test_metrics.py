"""Metrics against scikit-learn and against brute force; intervals against the truth of simulations."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.special import ndtr, ndtri
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from benchmarks.coverage import coverage as coverage_of
from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation import bootstrap as resampling, metrics
from cxrlib.evaluation.bootstrap import interval, replicates_with_macro, with_macro
from cxrlib.evaluation.differences import paired_difference
from cxrlib.evaluation.metrics import bootstrap, evaluate, point_estimates
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds

EXACT = {"rtol": 0, "atol": 1e-9, "equal_nan": True}


def make(scores, labels, patient=None):
    n = len(scores)
    return Predictions(scores, labels, [f"{i:05d}.png" for i in range(n)], np.arange(n) if patient is None else patient)


def random_predictions(seed, n=200, patients=60, levels=None, prevalence=0.3):
    """Scores that say something about the labels; of few `levels`, so that many are tied."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 14)) < prevalence
    scores = ndtr(rng.normal(size=(n, 14)) + labels - 0.5)
    if levels:
        scores = np.round(scores * levels) / levels
    return make(scores, labels, rng.integers(0, patients, n))


def with_sklearn(labels, scores, threshold, weight=None):
    """The metrics of one finding by scikit-learn; NaN where this project defines them as undefined."""
    labels, called = labels.astype(int), scores >= np.float32(threshold)
    kept = np.ones(len(labels), dtype=bool) if weight is None else weight > 0
    has_positive, has_negative = labels[kept].any(), not labels[kept].all()
    scores64 = scores.astype(np.float64)
    prevalence = np.average(labels, weights=weight)

    def rate(name, of, **how):
        how = {"sample_weight": weight, "zero_division": np.nan} | how
        return getattr(sk, name)(labels, called, **how) if of else np.nan

    auroc = sk.roc_auc_score(labels, scores, sample_weight=weight) if has_positive and has_negative else np.nan
    ap = sk.average_precision_score(labels, scores, sample_weight=weight) if has_positive else np.nan
    return {
        "auroc": auroc,
        "ap": ap,
        "ap_lift": ap / prevalence if has_positive else np.nan,
        "brier": np.average((labels - scores64) ** 2, weights=weight),
        "f1": rate("f1_score", has_positive),
        "sensitivity": rate("recall_score", has_positive),
        "specificity": rate("recall_score", has_negative, pos_label=0),
        "ppv": rate("precision_score", has_positive),
        "npv": rate("precision_score", has_negative, pos_label=0),
    }


@st.composite
def small_predictions(draw):
    """Few images, few levels of the scores: ties within and across classes, all-positive and all-negative columns."""
    n = draw(st.integers(1, 25))
    levels = draw(st.sampled_from([1, 2, 4, 20, 1000]))
    scores = draw(st.lists(st.integers(0, levels), min_size=14 * n, max_size=14 * n))
    rate = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    labels = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((n, 14)) < rate
    patient = draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    return make(np.reshape(scores, (n, 14)) / levels, labels, patient)


@settings(max_examples=40)
@given(small_predictions(), st.sampled_from([0.0, 0.25, 0.35, 0.5, 1.0]))
def test_every_figure_is_scikit_learns(predictions, threshold):
    found = point_estimates(predictions, np.full(14, threshold))
    for name in found.keys() - set(metrics.UNBOUNDED):
        assert not ((found[name] < 0) | (found[name] > 1)).any(), f"{name} belongs to UNBOUNDED"
    for j in range(0, 14, 3):
        expected = with_sklearn(predictions.labels[:, j], predictions.scores[:, j], threshold)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][j], value, err_msg=f"{name} of column {j}", **EXACT)


@settings(max_examples=25)
@given(small_predictions(), st.integers(0, 1000))
def test_every_replicate_is_scikit_learns_with_patients_as_weights(predictions, seed):
    thresholds = np.full(14, 0.5)
    [drawn] = bootstrap(predictions, thresholds=[thresholds], replicates=3, seed=seed)
    patients, patient = np.unique(predictions.patient, return_inverse=True)
    times = resampling.draw_patients(len(patients), 3, seed)
    for r in range(3):
        weight = times[r, patient].astype(float)
        for j in (0, 13):
            expected = with_sklearn(predictions.labels[:, j], predictions.scores[:, j], 0.5, weight)
            for name, value in expected.items():
                if drawn.point[name][j] not in (0, 1):  # see "no interval of zero width"
                    found = drawn.replicates[name][r, j]
                    np.testing.assert_allclose(found, value, err_msg=f"{name} of column {j}", **EXACT)


def test_a_replicate_is_the_figure_of_the_drawn_images_written_out():
    predictions = random_predictions(3, n=80, patients=25, levels=10)
    [drawn] = bootstrap(predictions, replicates=4, seed=5)
    patients, patient = np.unique(predictions.patient, return_inverse=True)
    times = resampling.draw_patients(len(patients), 4, 5)
    assert (times.sum(axis=1) == len(patients)).all()
    for r in range(4):
        rows = np.repeat(np.arange(80), times[r, patient])
        copies = make(predictions.scores[rows], predictions.labels[rows], np.arange(len(rows)))
        for name, value in point_estimates(copies).items():
            if name != "ece_mass":  # its bins are those of the data
                np.testing.assert_allclose(drawn.replicates[name][r], value, **EXACT)


def test_calibration_error_is_the_gap_of_scikit_learns_calibration_curve():
    predictions = random_predictions(0, n=500)
    found = point_estimates(predictions)["ece"]
    for j in range(14):
        scores, labels = predictions.scores[:, j].astype(np.float64), predictions.labels[:, j]
        share, mean = calibration_curve(labels, scores, n_bins=15)
        count = np.bincount(np.searchsorted(np.linspace(0, 1, 16)[1:-1], scores), minlength=15)
        assert found[j] == pytest.approx(np.average(np.abs(share - mean), weights=count[count > 0]), abs=1e-9)


def test_calibration_error_by_hand():
    scores = np.full((4, 14), 0.9)
    labels = np.zeros((4, 14))
    labels[0] = 1
    scores[2:] = [[0.0], [1.0]]
    # bins: {0.9, 0.9} with one positive, {0.0}, {1.0}; of 4 images
    np.testing.assert_allclose(point_estimates(make(scores, labels))["ece"], (abs(1 - 1.8) + 0 + 1) / 4, atol=1e-7)


def test_calibration_error_over_bins_of_equally_many_images_by_hand():
    scores = np.zeros((30, 14))
    scores[:, 0] = np.arange(30) / 100  # two images a bin
    scores[:, 1] = np.repeat([0.1, 0.2], 15)  # ties share a bin: two bins
    labels = np.zeros((30, 14))
    labels[-3:, :2] = 1
    gaps = np.abs((labels - scores)[:, 0].reshape(15, 2).sum(axis=1)).sum(), 15 * 0.1 + abs(3 - 15 * 0.2)
    found = point_estimates(make(scores, labels))["ece_mass"]
    np.testing.assert_allclose(found[:3], [gaps[0] / 30, gaps[1] / 30, 0], atol=1e-7)


def test_chunks_do_not_change_the_replicates(monkeypatch):
    predictions = random_predictions(1)
    [whole] = bootstrap(predictions, replicates=20, seed=3)
    monkeypatch.setattr(resampling, "_CHUNK", 1000)
    [pieces] = bootstrap(predictions, replicates=20, seed=3)
    for name, value in whole.replicates.items():
        np.testing.assert_array_equal(value, pieces.replicates[name])


def test_seeds_decide():
    predictions = random_predictions(1)
    pd.testing.assert_frame_equal(evaluate(predictions, replicates=20), evaluate(predictions, replicates=20, seed=0))
    assert not evaluate(predictions, replicates=20).equals(evaluate(predictions, replicates=20, seed=1))


def test_a_score_stored_as_the_threshold_is_positive():
    scores = np.tile(np.float32([0.34, 0.35, 0.36])[:, None], (1, 14))
    labels = np.tile([[0], [1], [1]], (1, 14))
    for threshold in (0.35, np.float64(0.35), float(np.float32(0.35))):
        assert point_estimates(make(scores, labels), np.full(14, threshold))["f1"] == pytest.approx(np.ones(14))


def test_table_has_a_row_a_finding_and_the_macro():
    predictions = random_predictions(2)
    table = evaluate(predictions, np.full(14, 0.4), replicates=200)
    assert table.index.tolist() == [*FINDINGS, "macro"]
    named, ranking = metrics.RANKING_METRICS + metrics.THRESHOLD_METRICS, 3 * len(metrics.RANKING_METRICS)
    for name in named:
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
        assert table[name].iloc[-1] == pytest.approx(table[name].iloc[:-1].mean())
    spread = [name for name in table if name.removesuffix("_low").removesuffix("_high") in named]
    assert list(table) == [
        "positives",
        "patients",
        "n",
        "prevalence",
        *spread[:ranking],
        "threshold",
        *spread[ranking:],
        "note",
    ]
    assert table["positives"].tolist() == [*predictions.labels.sum(axis=0), predictions.labels.sum()]
    patients = [len(np.unique(predictions.patient[predictions.labels[:, j] == 1])) for j in range(14)]
    assert table["patients"].tolist()[:-1] == patients
    assert table["note"].tolist() == [""] * 14 + ["macro over 14 of 14 findings"]
    pd.testing.assert_frame_equal(table, evaluate(predictions, Thresholds(np.full(14, 0.4)), replicates=200))
    assert "f1" not in evaluate(predictions, replicates=0)
    assert evaluate(predictions, replicates=0).filter(regex="_low|_high").isna().all(axis=None)


def test_a_new_metric_follows_the_recipe_and_leaves_the_others_as_they_were(monkeypatch):
    one = random_predictions(2, n=60, patients=30, prevalence=0.1)
    other, thresholds = make(one.scores**2, one.labels, one.patient), np.full(14, 0.4)
    before = evaluate(one, thresholds, replicates=50)
    sensitivity = paired_difference(one, other, "sensitivity", thresholds, 50)
    monkeypatch.setattr(metrics, "RANKING_METRICS", (*metrics.RANKING_METRICS, "odds_against"))
    monkeypatch.setattr(
        metrics, "THRESHOLD_METRICS", (*metrics.THRESHOLD_METRICS, "balanced_accuracy", "false_per_hit")
    )
    monkeypatch.setattr(metrics, "UNBOUNDED", (*metrics.UNBOUNDED, "odds_against", "false_per_hit"))
    figures = metrics._Finding.__call__

    def with_the_new(self, weights, names):
        values = figures(self, weights, names)
        negatives, positives = self.counts @ weights
        values["odds_against"] = metrics.ratio(negatives, positives)
        if self.cells is not None:
            values["balanced_accuracy"] = (values["sensitivity"] + values["specificity"]) / 2
            _, false, _, hits = self.cells @ weights
            values["false_per_hit"] = metrics.ratio(false, hits)
        return values

    monkeypatch.setattr(metrics._Finding, "__call__", with_the_new)
    after = evaluate(one, thresholds, replicates=50)
    pd.testing.assert_frame_equal(after[before.columns[:-1]], before[before.columns[:-1]])
    pd.testing.assert_frame_equal(paired_difference(one, other, "sensitivity", thresholds, 50), sensitivity)
    assert (after["odds_against_low"] > 1).iloc[:-1].all()
    for name in ("odds_against", "balanced_accuracy"):
        assert (after[f"{name}_low"] < after[name]).all()
        assert (after[name] < after[f"{name}_high"]).all()
        assert paired_difference(one, other, name, thresholds, 50)["difference"].notna().all()
    note = evaluate(one, np.full(14, 1.1), replicates=50)["note"].iloc[0]
    assert "ppv undefined: no image at or above the threshold; false_per_hit undefined" in note


def test_the_macro_interval_is_narrower_than_a_findings():
    table = evaluate(random_predictions(2), replicates=200)
    width = table["auroc_high"] - table["auroc_low"]
    assert width["macro"] < width.iloc[:-1].min()


def undefined_predictions():
    """Hernia: no positive; Edema: no negative; Mass: one positive; Nodule: one patient holds all its positives."""
    predictions = random_predictions(4, n=120, patients=40)
    labels = predictions.labels.copy()
    labels[:, FINDINGS.index("Hernia")] = 0
    labels[:, FINDINGS.index("Edema")] = 1
    labels[:, FINDINGS.index("Mass")] = np.arange(120) == 5
    labels[:, FINDINGS.index("Nodule")] = predictions.patient == predictions.patient[0]
    return make(predictions.scores, labels, predictions.patient)


def test_undefined_is_shown_with_its_reason_and_enters_no_mean():
    predictions = undefined_predictions()
    thresholds = np.full(14, 0.5)
    thresholds[FINDINGS.index("Fibrosis")] = 1.0000001
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = evaluate(predictions, thresholds, replicates=100)
    hernia, edema, mass, fibrosis = (table.loc[name] for name in ("Hernia", "Edema", "Mass", "Fibrosis"))
    assert hernia["note"] == "no positive among 120 images"
    assert hernia[["auroc", "auroc_low", "auroc_high", "ap", "ap_lift", "f1", "sensitivity", "ppv"]].isna().all()
    assert hernia[["brier", "ece", "specificity", "npv"]].notna().all()
    assert edema["note"] == "no negative among 120 images"
    assert edema[["auroc", "specificity", "npv"]].isna().all()
    assert edema["ap"] == 1
    for note in (mass["note"], table.loc["Nodule", "note"]):
        assert note.startswith("a single patient has it: no interval of what rests on the positives")
    assert mass[["auroc", "ap", "f1"]].notna().all()
    assert mass[["auroc_low", "ap_high", "f1_low"]].isna().all()
    assert fibrosis["note"] == "ppv undefined: no image at or above the threshold"
    assert np.isnan(fibrosis["ppv"])
    assert fibrosis["f1"] == fibrosis["sensitivity"] == 0
    macro = table.loc["macro"]
    defined = [name for name in FINDINGS if name not in ("Hernia", "Edema")]
    assert macro["auroc"] == pytest.approx(table.loc[defined, "auroc"].mean())
    assert macro["auroc_low"] < macro["auroc"] < macro["auroc_high"]
    over = {12: [], 13: [], 14: []}
    for name in metrics.RANKING_METRICS + metrics.THRESHOLD_METRICS:
        over[table.loc[list(FINDINGS), name].notna().sum()].append(name)
    assert ({"auroc", "ppv"} <= set(over[12])) & ({"ap", "f1", "npv"} <= set(over[13])) & ({"ece"} <= set(over[14]))
    means = [f"{count} of 14 findings ({', '.join(names)})" for count, names in over.items()]
    assert macro["note"] == "macro over " + ", ".join(means)


def test_nothing_defined_gives_a_table_all_the_same():
    table = evaluate(make(np.full((3, 14), 0.5), np.zeros((3, 14))), np.full(14, 0.9), replicates=10)
    assert table["auroc"].isna().all()
    assert table.loc["macro", "note"].startswith("macro over 0 of 14 findings (auroc, ap")
    assert table["brier"].notna().all()


def test_replicates_without_a_positive_are_undefined_counted_and_keep_the_macro_mean():
    labels = np.zeros((100, 14))
    labels[:3, 0] = 1  # three patients: 5 % of all draws hold none of them
    labels[50:, 1] = 1
    predictions = make(np.random.default_rng(0).random((100, 14)), labels)
    [drawn] = bootstrap(predictions, replicates=500)
    undefined = np.isnan(drawn.replicates["auroc"][:, 0])
    assert 10 < undefined.sum() < 45
    assert np.isnan(drawn.replicates["auroc"][:, 2:]).all()
    table = evaluate(predictions, replicates=500)
    assert table.loc[FINDINGS[0], "note"] == f"undefined in {undefined.sum()} replicates, which the intervals leave out"
    macro = replicates_with_macro(drawn.replicates["auroc"], drawn.point["auroc"])[undefined, -1]
    expected = (drawn.point["auroc"][0] + drawn.replicates["auroc"][undefined, 1]) / 2
    np.testing.assert_allclose(macro, expected)


def test_draws_are_even_over_patients_with_a_rare_finding_too():
    labels = np.zeros((50, 14))
    labels[0] = 1  # a single carrier of everything; redrawing until it is there would count it 1.56 times
    predictions = make(np.zeros((50, 14)), labels)
    _, times = resampling.shared_draws([predictions], 4000, seed=0)
    assert times.mean(axis=0) == pytest.approx(np.ones(50), abs=0.08)
    assert times.var(axis=0).mean() == pytest.approx(0.98, abs=0.03)
    assert (times.sum(axis=1) == 50).all()


# --- no interval of zero width ---------------------------------------------------------------------------------------


def certain(positives=16, n=200):
    """All positives of every finding above all negatives, and at 0.5 none of them found."""
    labels = np.repeat((np.arange(n) < positives)[:, None], 14, axis=1)
    return make(np.where(labels, 0.4, 0.1), labels)


@pytest.mark.parametrize(("threshold", "sensitivity"), [(0.5, 0.0), (0.2, 1.0)])
def test_what_the_bootstrap_cannot_leave_has_at_least_the_exact_interval(threshold, sensitivity):
    table = evaluate(certain(), np.full(14, threshold), replicates=200).iloc[0]
    exact = 1 - 0.025 ** (1 / 16)  # of 0 of 16 (Clopper & Pearson 1934): 0.206
    assert table["sensitivity"] == sensitivity
    width = table["sensitivity_high"] - table["sensitivity_low"]
    assert exact <= width < 0.3
    assert sensitivity in (table["sensitivity_low"], table["sensitivity_high"]), "one-sided"
    for name in ("auroc", "ap", "f1", "specificity"):
        assert table[f"{name}_high"] - table[f"{name}_low"] > 0.01, name
    assert 1 - table["auroc_low"] >= exact


def test_copies_of_an_image_do_not_narrow_the_exact_interval():
    one, many = certain(), certain(16 * 5, 1000)
    many = make(many.scores, many.labels, np.arange(1000) // 5)
    narrow, wide = (evaluate(each, np.full(14, 0.5), replicates=100).iloc[0] for each in (many, one))
    assert narrow["sensitivity_high"] == pytest.approx(wide["sensitivity_high"])
    assert narrow["f1_high"] == pytest.approx(wide["f1_high"])


def test_macro_means_and_differences_vary_as_what_they_are_made_of():
    table = evaluate(certain(), np.full(14, 0.5), replicates=400).loc["macro"]
    assert 0 == table["sensitivity_low"] < 0.05 < table["sensitivity_high"] < 0.25
    assert 0.7 < table["auroc_low"] < 0.9 < table["auroc_high"] == 1  # fourteen times the same scores


@pytest.mark.parametrize("truth", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("patients", [10, 33])
def test_the_interval_of_a_sensitivity_covers_with_clustered_patients(truth, patients):
    """The whole table: benchmarks/coverage.py."""
    assert coverage_of("sensitivity", truth, patients, "1 to 5 images", 210, 100) >= 0.92


# --- intervals against the truth -------------------------------------------------------------------------------------


def simulate(rng, auroc, patients=250, images=4, prevalence=0.2, shared=0.5):
    """14 data sets in one, with a known AUROC; `shared` of the variance and most labels belong to the patient."""
    patient = np.repeat(np.arange(patients), rng.integers(1, 2 * images, patients))
    n = len(patient)
    of_patient = (rng.random((patients, 14)) < 0.8)[patient]
    draw = np.where(of_patient, rng.random((patients, 14))[patient], rng.random((n, 14)))
    labels = draw < prevalence
    noise = np.sqrt(shared) * rng.normal(size=(patients, 14))[patient]
    noise += np.sqrt(1 - shared) * rng.normal(size=(n, 14))
    return make(ndtr(noise + np.sqrt(2) * ndtri(auroc) * labels - 1), labels, patient)


def coverage(metric, truth, ignore_patients=False, data_sets=350, replicates=400, **how):
    rng = np.random.default_rng(7)
    covered = []
    for _ in range(data_sets // 14):
        predictions = simulate(rng, **how)
        if ignore_patients:
            predictions = make(predictions.scores, predictions.labels)
        table = evaluate(predictions, replicates=replicates).iloc[:-1]
        covered.append((table[f"{metric}_low"] <= truth) & (truth <= table[f"{metric}_high"]))
    return np.mean(covered)


def test_the_interval_covers_independent_images():
    assert 0.92 <= coverage("auroc", 0.8, auroc=0.8, patients=300, images=1, shared=0) <= 0.98


def test_the_interval_covers_clustered_patients_and_one_that_ignores_them_does_not():
    assert 0.92 <= coverage("auroc", 0.8, auroc=0.8) <= 0.98
    assert coverage("auroc", 0.8, auroc=0.8, ignore_patients=True) < 0.85


def test_the_interval_covers_with_few_positive_patients():
    # 25 patients with the finding; with plain percentiles about 91 %
    assert 0.92 <= coverage("auroc", 0.8, auroc=0.8, patients=200, prevalence=0.05) <= 0.98


def test_the_interval_of_the_calibration_error_allows_for_its_bias():
    # Labels drawn at score + 0.05, so that the calibration error is 0.05; the figure itself comes out near 0.06, and
    # plain percentiles of the replicates, which are higher still, cover 65 %.
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(20):
        scores = rng.beta(1, 3, (1000, 14))
        table = evaluate(make(scores, rng.random((1000, 14)) < scores + 0.05), replicates=200).iloc[:-1]
        covered.append((table["ece_low"] <= 0.05) & (table["ece_high"] >= 0.05))
    assert np.mean(covered) > 0.82


def test_the_macro_interval_covers():
    rng = np.random.default_rng(8)
    covered = []
    for _ in range(100):
        low, high = evaluate(simulate(rng, 0.8, patients=60, images=3), replicates=200).loc[
            "macro", ["auroc_low", "auroc_high"]
        ]
        covered.append(low <= 0.8 <= high)
    assert 0.91 <= np.mean(covered) <= 0.99


# --- invalid input, and single functions ------------------------------------------------------------------------------


@pytest.mark.parametrize("thresholds", [0.5, [0.5] * 13, [np.nan] * 14, ["high"] * 14, [[0.5] * 14] * 2])
def test_thresholds_that_are_not_fourteen_numbers_are_refused(thresholds):
    with pytest.raises(InputError, match="expected 14 numbers, one per finding"):
        evaluate(random_predictions(0), thresholds)


def test_without_an_image_nothing_is_defined():
    predictions = random_predictions(0)
    table = evaluate(predictions.take(np.zeros(len(predictions), dtype=bool)))
    assert (table["n"] == 0).all()
    assert table[["auroc", "brier", "auroc_low"]].isna().all(axis=None)


def test_interval_widens_as_patients_become_few():
    replicates = np.random.default_rng(0).normal(size=(20_000, 4))
    low, high = interval(replicates, np.zeros(4), np.array([1, 5, 20, 10_000]))
    assert np.isnan([low[0], high[0]]).all()
    # the normal quantile of the expanded percentile is t(m - 1) x sqrt(m / (m - 1))
    np.testing.assert_allclose(high[1:], [2.776 * np.sqrt(5 / 4), 2.093 * np.sqrt(20 / 19), 1.960], atol=0.12)
    np.testing.assert_allclose(low[1:], -high[1:], atol=0.2)


def test_interval_holds_the_point_and_leaves_out_undefined_replicates():
    replicates = np.array([[1.0, np.nan], [2.0, 5.0], [np.nan, 5.0]])
    low, high = interval(replicates, np.array([3.0, 4.0]), np.array([100, 100]))
    assert low.tolist() == [pytest.approx(1.0, abs=0.05), 4.0]
    assert high.tolist() == [3.0, 5.0]


def test_with_macro_keeps_the_findings_that_are_defined_in_the_data():
    values = np.arange(28.0).reshape(2, 14)
    values[:, 3] = np.nan
    assert with_macro(values[0])[-1] == np.delete(values[0], 3).mean()
    filled = values.copy()
    filled[1, 4] = values[0, 4]
    values[1, 4] = np.nan  # undefined in this replicate only
    macro = replicates_with_macro(values, values[0])[:, -1]
    assert macro.tolist() == [np.delete(one, 3).mean() for one in filled]
