"""Reliability by bins, out-of-fold calibration, the noise in a calibration error; another prevalence."""

import numpy as np
import pytest
from scipy.special import expit

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.calibration import Calibrator, ece_floor, out_of_fold, reliability
from cxrlib.evaluation.metrics import point_estimates
from cxrlib.evaluation.predictions import Predictions


def make(scores, labels, patient=None):
    n = len(scores)
    return Predictions(scores, labels, [f"{i:05d}.png" for i in range(n)], np.arange(n) if patient is None else patient)


def calibrated_predictions(seed, n=2000, patients=None, mean=-2.0):
    """Scores that are the very chance of each label."""
    rng = np.random.default_rng(seed)
    chance = expit(rng.normal(mean, 1.5, (n, 14)))
    return make(chance, rng.random((n, 14)) < chance, None if patients is None else rng.integers(0, patients, n))


# --- reliability -----------------------------------------------------------------------------------------------------


def test_bins_hold_equally_many_images_and_say_what_is_in_them():
    predictions = calibrated_predictions(0, 500, patients=100)
    table = reliability(predictions, "Edema", bins=10)
    k = FINDINGS.index("Edema")
    assert table["images"].tolist() == [50] * 10
    assert table["score"].is_monotonic_increasing
    assert table["positives"].sum() == predictions.labels[:, k].sum()
    first = np.argsort(predictions.scores[:, k], kind="stable")[:50]
    assert table["score"][0] == pytest.approx(predictions.scores[first, k].mean())
    assert table["share"][0] == predictions.labels[first, k].mean()
    assert table["patients"][0] == len(np.unique(predictions.patient[first]))
    assert ((table["low"] <= table["share"]) & (table["share"] <= table["high"])).all()
    by_hand = make(np.full((4, 14), 0.25), np.eye(4, 14))  # Wilson's interval of 1 in 4
    assert reliability(by_hand, "Atelectasis").loc[0, ["low", "high"]].tolist() == pytest.approx(
        [0.0456, 0.6994], abs=1e-4
    )
    assert reliability(make(np.ones((600, 14)), np.ones((600, 14))), "Mass")["positives"].tolist() == [600]
    with pytest.raises(InputError, match="did you mean 'Edema'"):
        reliability(predictions, "Edma")


def test_the_interval_of_a_bin_covers_though_images_of_a_patient_say_the_same():
    rng, covered, ignoring = np.random.default_rng(0), [], []
    for _ in range(100):
        patient = np.repeat(np.arange(150), 4)
        chance = rng.choice([0.1, 0.3], 150)[patient]
        labels = np.where(rng.random(600) < 0.8, rng.random(150)[patient], rng.random(600)) < chance
        scores, truth = np.tile(chance[:, None], (1, 14)), np.tile(labels[:, None], (1, 14))
        for patients, into in ((patient, covered), (None, ignoring)):
            table = reliability(make(scores, truth, patients), "Mass")
            expected = table["score"].round(3)
            into += ((table["low"] <= expected) & (expected <= table["high"])).tolist()
    assert np.mean(covered) > 0.92
    assert np.mean(ignoring) < 0.88


def test_out_of_fold_no_patient_helps_to_calibrate_himself():
    val = calibrated_predictions(1, 300, patients=60)
    found = out_of_fold(val, "platt")
    assert found.calibration == "platt"
    fold = np.random.default_rng(0).permutation(60)[val.patient] % 5
    for number in range(5):
        fitted = Calibrator.fit(val.take(fold != number), "platt")
        np.testing.assert_array_equal(found.scores[fold == number], fitted.calibrate(val.scores[fold == number]))


def test_isotonic_looks_best_on_what_it_was_fitted_to_and_is_not():
    val = calibrated_predictions(1, 200)
    own = {m: point_estimates(Calibrator.fit(val, m).apply(val))["brier"].mean() for m in ("isotonic", "platt")}
    left_out = {m: point_estimates(out_of_fold(val, m))["brier"].mean() for m in ("isotonic", "platt")}
    assert own["isotonic"] < own["platt"]
    assert left_out["isotonic"] > left_out["platt"]


def test_calibrated_scores_stand_at_the_floor_and_it_falls_with_images():
    small, large = calibrated_predictions(0, 150), calibrated_predictions(0, 5000)
    floors = ece_floor(small), ece_floor(large)
    assert floors[0].mean() > 4 * floors[1].mean()
    for predictions, floor in zip((small, large), floors, strict=True):
        assert point_estimates(predictions)["ece_mass"].mean() == pytest.approx(floor.mean(), rel=0.15)
