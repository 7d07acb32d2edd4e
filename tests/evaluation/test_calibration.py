"""Calibrators against scikit-learn and against simulated truth; what is kept as it is; the file and the checkpoint."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.calibration import METHODS, Calibrator, choose_method, mean_calibrated, operating_points
from cxrlib.evaluation.metrics import evaluate, point_estimates
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds, tune_thresholds


def make(scores, labels, patient=None):
    n = len(scores)
    return Predictions(scores, labels, [f"{i:05d}.png" for i in range(n)], np.arange(n) if patient is None else patient)


def calibrated_predictions(seed, n=2000, patients=None, mean=-2.0):
    """Scores that are the very chance of each label."""
    rng = np.random.default_rng(seed)
    chance = expit(rng.normal(mean, 1.5, (n, 14)))
    return make(chance, rng.random((n, 14)) < chance, None if patients is None else rng.integers(0, patients, n))


def distorted(predictions, slope=1.0, shift=0.0):
    """The same ranking with other scores; shift log(w) is what training with pos_weight w aims at."""
    return replace(predictions, scores=expit(slope * logit(predictions.scores.astype(np.float64)) + shift))


# --- the maps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slope", "shift"), [(0.5, 0.0), (1.0, np.log(20)), (2.0, -1.0)])
def test_platt_undoes_what_was_done_to_calibrated_scores(slope, shift):
    truth, new = calibrated_predictions(0, 8000), calibrated_predictions(1, 3000)
    calibrator = Calibrator.fit(distorted(truth, slope, shift), "platt")
    again = calibrator.apply(distorted(new, slope, shift))
    np.testing.assert_allclose([one["slope"] for one in calibrator.maps], 1 / slope, rtol=0.12)
    np.testing.assert_allclose(again.scores, new.scores, atol=0.06)
    assert (point_estimates(again)["ece_mass"] < 0.03).all()


def test_platt_is_scikit_learns_logistic_regression_on_platts_targets():
    val = distorted(calibrated_predictions(0, 300), 0.7, 1)
    calibrator = Calibrator.fit(val, "platt")
    for k in (0, 13):
        positive = val.labels[:, k] == 1
        high, low = (positive.sum() + 1) / (positive.sum() + 2), 1 / ((~positive).sum() + 2)
        target = np.where(positive, high, low)
        x = np.tile(logit(val.scores[:, k].astype(np.float64)), 2)[:, None]
        theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        theirs.fit(x, np.repeat([1, 0], 300), np.concatenate([target, 1 - target]))
        assert calibrator.maps[k]["slope"] == pytest.approx(theirs.coef_[0, 0], abs=1e-4)
        assert calibrator.maps[k]["intercept"] == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_temperature_sharpens_but_cannot_move():
    truth = calibrated_predictions(0, 8000)
    undone = Calibrator.fit(distorted(truth, 3.0), "temperature")
    np.testing.assert_allclose([one["slope"] for one in undone.maps], 1 / 3, rtol=0.1)
    shifted = distorted(truth, 1, np.log(20))
    by_temperature, by_platt = (
        point_estimates(Calibrator.fit(shifted, method).apply(shifted))["ece_mass"]
        for method in ("temperature", "platt")
    )
    assert (by_temperature > 0.15).all()
    assert (by_platt < 0.02).all()


def test_separable_and_saturated_scores_give_finite_maps():
    labels = np.tile(np.arange(40)[:, None] >= 20, (1, 14))
    scores = labels.astype(float)
    for method in ("platt", "temperature"):
        calibrator = Calibrator.fit(make(scores, labels), method)
        assert np.isfinite([list(one.values()) for one in calibrator.maps]).all()
        found = calibrator.calibrate(scores)
        assert ((found[labels == 1] > 0.9) & (found[labels == 1] <= 1)).all()
        assert (found[labels == 0] < 0.1).all()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([*METHODS]), st.sampled_from([3, 20, 1000]))
def test_no_image_overtakes_another(seed, method, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels + 1, (60, 14)) / levels
    val = make(scores, rng.random((60, 14)) < 0.3 + 0.4 * scores)
    calibrated = Calibrator.fit(val, method).apply(val).scores
    assert ((calibrated >= 0) & (calibrated <= 1)).all()
    order = np.argsort(val.scores, axis=0, kind="stable")
    assert (np.diff(np.take_along_axis(calibrated, order, axis=0), axis=0) >= 0).all()


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_the_exact_threshold_calls_the_same_images_before_and_after(method):
    val, test = (distorted(calibrated_predictions(seed, 400), 1, 2) for seed in (0, 1))
    calibrator = Calibrator.fit(val, method)
    raw, calibrated = (tune_thresholds(part, None, resampling=Bootstrap(0)) for part in (val, calibrator.apply(val)))
    np.testing.assert_array_equal(raw.apply(test), calibrated.apply(calibrator.apply(test)))
    np.testing.assert_allclose(
        point_estimates(test)["auroc"], point_estimates(calibrator.apply(test))["auroc"], atol=1e-9
    )


def test_isotonic_ties_scores_and_so_costs_auroc_where_positives_are_few():
    val, test = (calibrated_predictions(seed, 300, mean=-3) for seed in (0, 1))
    calibrator = Calibrator.fit(val, "isotonic")
    assert len(np.unique(calibrator.calibrate(test.scores)[:, 0])) < 30
    assert (
        np.nanmean(point_estimates(calibrator.apply(test))["auroc"])
        < np.nanmean(point_estimates(test)["auroc"]) - 0.005
    )


# --- what is not fitted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["platt", "temperature", "isotonic"])
def test_too_few_and_backwards_keep_their_scores_and_say_so(method):
    val = calibrated_predictions(3, 300)
    labels = val.labels.copy()
    labels[:, 0] = np.arange(300) < 4
    labels[:, 1] = np.arange(300) >= 3
    labels[:, 2] = 0
    labels[:, 3] = val.scores[:, 3] < np.median(val.scores[:, 3])  # the lower the score, the surer the finding
    calibrator = Calibrator.fit(make(val.scores, labels), method)
    assert calibrator.notes[0] == "not calibrated: 4 positive of 300 images, fewer than 5; the scores are kept"
    assert calibrator.notes[1] == "not calibrated: 3 negative of 300 images, fewer than 5; the scores are kept"
    assert calibrator.notes[2].startswith("not calibrated: 0 positive")
    kept = [0, 1, 2, 3]
    assert calibrator.notes[3].startswith("not calibrated: higher scores do not go with more positives")
    assert [bool(one) for one in calibrator.maps] == [k not in kept for k in range(14)]
    calibrated = calibrator.calibrate(val.scores)
    np.testing.assert_array_equal(calibrated[:, kept], val.scores[:, kept])
    assert (calibrated[:, 4:] != val.scores[:, 4:]).any(axis=0).all()


def test_none_changes_nothing_and_is_no_failure():
    val = calibrated_predictions(0, 100)
    calibrator = Calibrator.fit(val, "none")
    assert calibrator.notes == ("",) * 14
    np.testing.assert_array_equal(calibrator.apply(val).scores, val.scores)
    assert calibrator.apply(val).calibration == "none"


def test_the_choice_is_made_on_patients_that_the_map_has_not_seen():
    good = calibrated_predictions(5, 400, patients=60)
    assert choose_method(distorted(good, 1, np.log(20))) == "platt"
    assert choose_method(distorted(good, 3)) in ("temperature", "platt")
    few = calibrated_predictions(6, 60, patients=12)
    assert choose_method(few) == "none"  # calibrated already, and too few to learn a map from


# --- one operating point ---------------------------------------------------------------------------------------------


def test_calibrated_scores_know_it_and_are_not_calibrated_twice(tmp_path):
    val = calibrated_predictions(0, 300)
    calibrator = Calibrator.fit(val, "platt")
    calibrated = calibrator.apply(val)
    assert calibrated.calibration == "platt"
    assert calibrated.take([0, 5]).calibration == "platt"
    assert Predictions.load(calibrated.save(tmp_path / "p.npz")).calibration == "platt"
    for again in (calibrator.apply, Calibrator.fit):
        with pytest.raises(InputError, match=r"calibrated already \(platt\); expected those of the model"):
            again(calibrated)


def test_thresholds_are_refused_on_scores_they_were_not_tuned_on():
    val = calibrated_predictions(0, 300)
    calibrated = Calibrator.fit(val, "platt").apply(val)
    on_raw, on_calibrated = (tune_thresholds(one, resampling=Bootstrap(0)) for one in (val, calibrated))
    assert (on_raw.calibration, on_calibrated.calibration) == ("none", "platt")
    evaluate(calibrated, on_calibrated, replicates=0)
    evaluate(calibrated, Thresholds([0.5] * 14), replicates=0)  # by hand: of any scores
    with pytest.raises(InputError, match="on scores of calibration none, these scores have calibration platt"):
        evaluate(calibrated, on_raw, replicates=0)
    with pytest.raises(InputError, match="on scores of calibration none, these scores have calibration platt"):
        on_raw.apply(calibrated)
    with pytest.raises(InputError, match="on scores of calibration platt, these scores have calibration none"):
        point_estimates(val, on_calibrated)


def test_a_checkpoint_holds_both_and_hands_them_out_together(tmp_path):
    val = calibrated_predictions(0, 300)
    calibrator = Calibrator.fit(val, "isotonic")
    thresholds = tune_thresholds(calibrator.apply(val), resampling=Bootstrap(0))
    path = tmp_path / "model.pth"
    torch.save({"calibration": calibrator.to_dict(), "thresholds": thresholds.to_dict()}, path)
    checkpoint = torch.load(path, weights_only=True)
    [again], cuts = operating_points([checkpoint["calibration"]], checkpoint["thresholds"])
    np.testing.assert_array_equal(again.calibrate(val.scores), calibrator.calibrate(val.scores))
    assert cuts.to_dict() == thresholds.to_dict()
    [plain], nothing = operating_points([None], None)
    assert nothing is None
    assert plain.method == "none"
    with pytest.raises(InputError, match="of calibration isotonic, these scores have calibration none"):
        operating_points([None], checkpoint["thresholds"])
    assert operating_points([None], Thresholds([0.2] * 14).to_dict())[1].values.tolist() == [0.2] * 14


def test_several_models_have_one_operating_point_on_the_mean_of_their_calibrated_scores():
    one, other = calibrated_predictions(0, 300), calibrated_predictions(1, 300)
    other = replace(other, labels=one.labels, patient=one.patient, image=one.image)
    calibrators = Calibrator.fit(one, "platt"), Calibrator()
    mean = mean_calibrated(calibrators, [one, other])
    np.testing.assert_allclose(mean.scores, (calibrators[0].calibrate(one.scores) + other.scores) / 2, atol=1e-6)
    thresholds = tune_thresholds(mean, resampling=Bootstrap(0))
    assert thresholds.calibration == mean.calibration == "mean of platt, none"
    saved = [calibrators[0].to_dict(), None]
    again, cuts = operating_points(saved, thresholds.to_dict())
    assert [calibrator.method for calibrator in again] == ["platt", "none"]
    np.testing.assert_array_equal(cuts.values, thresholds.values)
    with pytest.raises(
        InputError, match="calibration mean of platt, none, these scores have calibration mean of none, none"
    ):
        operating_points([None, None], thresholds.to_dict())
    single = mean_calibrated(calibrators[:1], [one])
    np.testing.assert_array_equal(single.scores, calibrators[0].apply(one).scores)
    assert single.calibration == "platt"


@pytest.mark.parametrize("method", METHODS)
def test_a_file_gives_back_what_went_in(tmp_path, method):
    val = calibrated_predictions(0, 200)
    calibrator = Calibrator.fit(val, method)
    again = Calibrator.load(calibrator.save(tmp_path / "new" / "calibration.json"))
    assert again.to_dict() == calibrator.to_dict()
    np.testing.assert_array_equal(again.calibrate(val.scores), calibrator.calibrate(val.scores))


def edited(method="platt", one=None, **changes):
    saved = Calibrator("none").to_dict() | {"method": method}
    if one is not None:
        saved["findings"]["Mass"] = one
    return json.dumps(saved | changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ("[1]", "expected what Calibrator.save writes"),
        (edited(format="cxrlib calibration 9"), "expected what Calibrator.save writes"),
        (edited(findings={"Mass": {}}), "'Atelectasis' is missing or invalid"),
        (edited(findings=3), "write it again with Calibrator.save"),
        (edited("plat"), "the calibration 'plat' is unknown; expected one of none, platt"),
        (edited(one={}), "'note' is missing"),
        (edited(one=[1]), "is missing or invalid"),
        (edited(one={"slope": 1, "note": ""}), "platt map of Mass has slope; expected"),
        (
            edited("temperature", {"slope": 1, "intercept": 0, "note": ""}),
            "temperature map of Mass has",
        ),
        (edited(one={"slope": -1, "intercept": 0, "note": ""}), "a slope above 0"),
        (edited(one={"slope": "steep", "intercept": 0, "note": ""}), "expected finite numbers"),
        (edited(one={"slope": 1, "intercept": 1e400, "note": ""}), "expected finite numbers"),
        (edited("isotonic", {"scores": [0.1, 0.1], "values": [0, 1], "note": ""}), "scores that rise"),
        (edited("isotonic", {"scores": [0.1, 0.2], "values": [0.5, 0.4], "note": ""}), "values that do not fall"),
        (edited("isotonic", {"scores": [0.1, 2], "values": [0, 1], "note": ""}), r"both in \[0, 1\]"),
        (edited("isotonic", {"scores": [0.1], "values": [0.1], "note": ""}), "scores that rise"),
        (edited("isotonic", {"scores": [0.1, 0.2], "values": [0.1], "note": ""}), "scores that rise"),
        (edited("isotonic", {"scores": 1, "values": 1, "note": ""}), "expected finite numbers"),
        (json.dumps({k: v for k, v in Calibrator().to_dict().items() if k != "method"}), "'method' is missing"),
    ],
)
def test_broken_and_foreign_files_are_refused(tmp_path, content, message):
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        Calibrator.load(path)
    assert str(path) in str(caught.value)


def test_other_bad_input_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"calibration.json is not a file; expected what Calibrator.save, or cxr eval, writes"
    ):
        Calibrator.load(tmp_path / "calibration.json")
    with pytest.raises(InputError, match="expected one of none, platt, temperature, isotonic"):
        Calibrator.fit(calibrated_predictions(0, 50), "isotone")
    assert len(FINDINGS) == len(Calibrator().maps)
