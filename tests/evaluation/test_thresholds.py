"""Thresholds against brute force over every score, what is not tuned, and the file they are saved in."""

import dataclasses
import itertools
import json
import os
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.special import ndtr
from sklearn.metrics import f1_score

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation import bootstrap as resampling, thresholds
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.metrics import point_estimates
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import (
    NEVER,
    Thresholds,
    grid_values,
    number,
    optimism,
    parse_objective,
    tune_thresholds,
)


def make(scores, labels, patient=None):
    n = len(scores)
    return Predictions(scores, labels, [f"{i:05d}.png" for i in range(n)], np.arange(n) if patient is None else patient)


def random_predictions(seed, n=400, patients=150, prevalence=0.15, shift=1.2):
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 14)) < prevalence
    return make(ndtr(rng.normal(size=(n, 14)) + shift * labels - 1), labels, rng.integers(0, patients, n))


# --- the best threshold ----------------------------------------------------------------------------------------------


def worth(objective, labels, called):
    """What a threshold is worth, in exact fractions; pairs compare by their first, then by their second number."""
    labels, called = labels.astype(bool), called.astype(bool)
    tp, fp = int((labels & called).sum()), int((~labels & called).sum())
    positives, negatives = int(labels.sum()), int((~labels).sum())
    sensitivity, specificity = Fraction(tp, positives), Fraction(negatives - fp, negatives)
    if objective.startswith("f"):
        square = Fraction(objective[1:]) ** 2
        return ((1 + square) * tp) / (square * positives + tp + fp), 0
    if objective == "youden":
        return sensitivity + specificity - 1, 0
    if objective.startswith("cost"):
        return -(Fraction(objective.split("=")[1]) * (positives - tp) + fp), 0
    least = Fraction(objective.split(">=")[1])
    held, raised = (sensitivity, specificity) if objective.startswith("sens") else (specificity, sensitivity)
    return (raised, held) if held >= least else (held - 2, 0)


def brute_force(objective, scores, labels, candidates):
    """The lowest of the best candidates, each looked at by itself."""
    value = {t: worth(objective, labels, scores >= np.float32(t)) for t in candidates}
    return min(t for t in candidates if value[t] == max(value.values()))


OBJECTIVES = (
    "f1",
    "f2",
    "f0.5",
    "youden",
    "sensitivity>=0.9",
    "specificity>=0.8",
    "sensitivity>=1",
    "cost=3",
    "cost=0.5",
)


@st.composite
def columns(draw):
    n = draw(st.integers(2, 20))
    levels = draw(st.sampled_from([1, 3, 10, 1000]))
    scores = np.reshape(draw(st.lists(st.integers(0, levels), min_size=14 * n, max_size=14 * n)), (n, 14)) / levels
    labels = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((n, 14)) < draw(
        st.sampled_from([0.2, 0.5, 0.8])
    )
    return make(scores, labels)


def one_kind(positive):
    """In place of `too_few`, so that a single positive and a single negative image are enough."""
    return "" if 0 < positive.sum() < len(positive) else "0 of one kind"


@settings(max_examples=80)
@given(columns(), st.sampled_from(OBJECTIVES))
def test_exact_threshold_is_the_best_of_all(val, objective):
    with mock.patch.object(thresholds, "too_few", one_kind):
        found = tune_thresholds(val, None, objective, resampling=Bootstrap(0))
    for j in range(14):
        labels, scores = val.labels[:, j], val.scores[:, j]
        if labels.min() == labels.max():
            assert found.values[j] == 0.5
            assert found.notes[j].startswith("not tuned: 0 ")
            continue
        # every score, the middle between neighbours, and never; a best threshold that is no score equals one that is
        steps = np.unique(scores.astype(np.float64))
        candidates = [0.0, *steps, *(steps[1:] + steps[:-1]) / 2, NEVER]
        best = max(worth(objective, labels, scores >= np.float32(t)) for t in candidates)
        assert worth(objective, labels, scores >= np.float32(found.values[j])) == best
        assert found.values[j] == brute_force(objective, scores, labels, [*steps, NEVER])
        nobody = not (scores >= np.float32(found.values[j])).any()
        assert found.notes[j] == ("nobody is predicted positive: no score reaches the threshold" if nobody else "")


@settings(max_examples=40)
@given(columns(), st.sampled_from(OBJECTIVES), st.sampled_from([(0.05, 0.40, 0.05), (0, 1, 0.25), (0.3, 0.3, 1)]))
def test_grid_threshold_is_the_best_of_the_grid(val, objective, grid):
    with mock.patch.object(thresholds, "too_few", one_kind):
        found = tune_thresholds(val, grid, objective, resampling=Bootstrap(0))
    candidates = grid_values(grid).tolist()
    for j in np.flatnonzero(found.tuned):
        labels, scores = val.labels[:, j], val.scores[:, j]
        assert found.values[j] == brute_force(objective, scores, labels, candidates)
        feasible = worth(objective, labels, scores >= np.float32(found.values[j]))[0] >= 0 or "=" not in objective
        nobody = found.notes[j].startswith("nobody is predicted positive")
        assert nobody or (found.notes[j] == "") == (feasible or objective.startswith("cost"))


def test_no_score_gives_scikit_learn_a_better_f1():
    val = random_predictions(0)
    found = tune_thresholds(val, None, resampling=Bootstrap(0))
    for j in (0, 13):
        best = max(f1_score(val.labels[:, j], val.scores[:, j] >= t) for t in val.scores[:, j])
        assert f1_score(val.labels[:, j], found.apply(val)[:, j]) == best


def test_grid_holds_the_decimals():
    assert grid_values((0.05, 0.40, 0.05)).tolist() == [0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40]
    assert grid_values((0.1, 0.7, 0.1)).tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert grid_values((0.01, 0.99, 0.01)).tolist() == [k / 100 for k in range(1, 100)]
    assert grid_values((0.05, 0.42, 0.05)).tolist()[-1] == 0.40
    assert grid_values((0.5, 0.5, 0.1)).tolist() == [0.5]
    # the first version's grid is the default
    assert set(tune_thresholds(random_predictions(0), resampling=Bootstrap(0)).values) <= set(
        grid_values((0.05, 0.40, 0.05))
    )


@pytest.mark.parametrize(
    "grid", [(0.4, 0.05, 0.05), (0.05, 0.4, 0), (-0.1, 0.4, 0.1), (0, 1.1, 0.1), (0.1, 0.4), 0.1, "a-b"]
)
def test_a_grid_that_is_none_is_refused(grid):
    with pytest.raises(InputError, match=r"the grid is .*expected"):
        tune_thresholds(random_predictions(0), grid)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("f3x", "the objective 'f3x' is unknown"),
        ("youdn", "unknown; did you mean 'youden'"),
        ("accuracy", "expected f1"),
        ("sensitivity", "expected f1"),
        ("sensitivity>=90", "has the number 90.0; expected one above 0, and shares at most 1"),
        ("specificity>=0", "has the number 0.0"),
        ("cost=0", "has the number 0.0; expected one above 0"),
        ("f0", "has the number 0.0"),
        ("f1.2.3", "is unknown"),
        (None, "the objective None is unknown"),
    ],
)
def test_unknown_objectives_are_refused(objective, message):
    with pytest.raises(InputError, match=message):
        tune_thresholds(random_predictions(0), objective=objective)


def test_a_threshold_that_the_grid_cannot_reach_says_so():
    val = random_predictions(0)
    found = tune_thresholds(val, (0.9, 0.99, 0.03), "sensitivity>=0.9", resampling=Bootstrap(0))
    exact = tune_thresholds(val, None, "sensitivity>=0.9", resampling=Bootstrap(0)).values[0]
    reason = "no threshold of the grid reaches sensitivity>=0.9; the nearest is kept"
    assert found.notes[0] == f"{reason}; the best of all scores is {exact:.2g}"
    assert found.values[0] == 0.9
    assert tune_thresholds(val, (0.0, 0.1, 0.1), "specificity>=0.999", resampling=Bootstrap(0)).values[0] == 0.1
    low = make(val.scores / 2, val.labels)  # no image reaches the grid: nothing was tuned
    found = tune_thresholds(low, (0.9, 0.99, 0.03), "sensitivity>=0.9", resampling=Bootstrap(0))
    assert not found.tuned.any()
    assert f"; {reason}; the best of all scores" in found.notes[0]


def test_a_sensitivity_that_is_asked_for_is_reached():
    val = random_predictions(0)
    reached = point_estimates(val, tune_thresholds(val, None, "sensitivity>=0.9", resampling=Bootstrap(0)))[
        "sensitivity"
    ]
    assert ((reached >= 0.9) & (reached < 0.95)).all()
    reached = point_estimates(val, tune_thresholds(val, None, "specificity>=0.9", resampling=Bootstrap(0)))[
        "specificity"
    ]
    assert ((reached >= 0.9) & (reached < 0.93)).all()
    # 9 of 10 is 0.9, whatever floating point makes of it: a negative lies below the ninth
    labels = np.array([1] * 9 + [0, 1, 0])[:, None].repeat(14, axis=1)
    scores = np.linspace(1, 0, 12, dtype=np.float32)[:, None].repeat(14, axis=1)
    with mock.patch.object(thresholds, "too_few", one_kind):
        found = tune_thresholds(make(scores, labels), None, "sensitivity>=0.9", resampling=Bootstrap(0))
    assert found.values[0] == scores[8, 0]


def test_the_dearer_a_miss_the_lower_the_threshold():
    val = random_predictions(0)
    tuned = [
        tune_thresholds(val, None, f"cost={ratio}", resampling=Bootstrap(0)).values
        for ratio in (0.001, 0.5, 2, 10, 1000)
    ]
    assert (np.diff(tuned, axis=0) <= 0).all()
    cheap = tune_thresholds(make(val.scores[::-1], val.labels), None, "cost=0.001", resampling=Bootstrap(0))
    assert cheap.values[0] == NEVER  # scores that say nothing: better never called
    assert not cheap.apply(make(np.ones((1, 14)), np.zeros((1, 14))))[:, 0].any()
    assert Thresholds.from_dict(cheap.to_dict()).values[0] == NEVER


def test_ties_go_to_the_lowest_threshold():
    labels = np.repeat([1, 0], [10, 10])[:, None].repeat(14, axis=1)
    scores = np.repeat([0.9, 0.02], [10, 10])[:, None].repeat(14, axis=1)  # all of the grid separates them
    assert set(tune_thresholds(make(scores, labels), resampling=Bootstrap(0)).values) == {0.05}


# --- too few, intervals ----------------------------------------------------------------------------------------------


def test_a_finding_with_too_few_is_not_tuned_and_says_so():
    val = random_predictions(0)
    labels = val.labels.copy()
    labels[:, 0] = np.arange(400) < 4
    labels[:, 1] = np.arange(400) < 5
    labels[:, 2] = np.arange(400) >= 3
    labels[:, 3] = 0
    found = tune_thresholds(make(val.scores, labels, val.patient), resampling=Bootstrap(20))
    assert found.values[[0, 2, 3]].tolist() == [0.5] * 3
    assert found.notes[0] == "not tuned: 4 positive of 400 images, fewer than 5; 0.5 is kept"
    assert found.notes[2] == "not tuned: 3 negative of 400 images, fewer than 5; 0.5 is kept"
    assert found.tuned.tolist() == [False, True, False, False] + [True] * 10
    assert np.isnan(found.low[[0, 2, 3]]).all()
    assert (found.low <= found.values)[found.tuned].all()
    assert (found.values <= found.high)[found.tuned].all()


def test_a_grid_that_no_score_reaches_is_not_tuned_and_the_exact_optimum_is_the_advice():
    predictions = random_predictions(0, prevalence=0.1)
    val = make(predictions.scores * 0.04, predictions.labels, predictions.patient)
    for objective in ("f1", "youden", "cost=10", "specificity>=0.9"):
        found = tune_thresholds(val, objective=objective, resampling=Bootstrap(20))
        exact = tune_thresholds(val, None, objective, resampling=Bootstrap(0))
        assert not found.tuned.any()
        assert exact.tuned.all()
        assert found.notes[0] == (
            "not tuned: no image with the finding reaches the lowest threshold, 0.05: nobody is predicted positive; "
            f"the best of all scores is {exact.values[0]:.2g}"
        )
        assert np.isnan(found.low).all()
    found = tune_thresholds(val, (0.03, 0.4, 0.05), "cost=0.01", resampling=Bootstrap(0))
    assert found.notes[0].startswith("nobody is predicted positive: no score reaches the threshold; the best of all")


def test_the_interval_of_a_threshold_is_that_of_drawn_images_tuned_again():
    """Replicates are what tuning gives on the drawn images written out."""
    val = random_predictions(1, n=150, patients=40, prevalence=0.4)
    patients, patient = np.unique(val.patient, return_inverse=True)
    times = resampling.draw_patients(len(patients), 6, 0)
    rows = [np.repeat(np.arange(150), row[patient]) for row in times]
    for grid, objective in itertools.product([None, (0.05, 0.6, 0.05)], ["f1", "youden", "specificity>=0.8"]):
        how = grid, parse_objective(objective)[0]
        found, _ = thresholds._best(val.scores[:, 0], val.labels[:, 0] == 1, patient, times, *how)
        again = [
            tune_thresholds(make(val.scores[r], val.labels[r]), grid, objective, resampling=Bootstrap(0)).values[0]
            for r in rows
        ]
        assert found.tolist() == again


def test_intervals_shrink_with_images_and_repeat_with_the_seed():
    small, large = (
        tune_thresholds(random_predictions(0, n, n, 0.3), None, resampling=Bootstrap(100)) for n in (300, 6000)
    )
    assert np.median(large.high - large.low) < 0.7 * np.median(small.high - small.low)
    again = tune_thresholds(random_predictions(0, 300, 300, 0.3), None, resampling=Bootstrap(100))
    assert again.to_dict() == small.to_dict()
    other = tune_thresholds(random_predictions(0, 300, 300, 0.3), None, resampling=Bootstrap(100, 1))
    assert other.values.tolist() == small.values.tolist()
    assert other.low.tolist() != small.low.tolist()


def test_optimism_is_the_price_of_tuning_on_what_is_reported():
    val, test = random_predictions(1, n=300), random_predictions(2, n=300)
    table = optimism(val, test, grid=None, replicates=100)
    assert table.index.tolist() == [*FINDINGS, "macro"]
    own, frozen = (tune_thresholds(part, None, resampling=Bootstrap(0)) for part in (test, val))
    np.testing.assert_allclose(table["own"].iloc[:14], point_estimates(test, own)["f1"])
    np.testing.assert_allclose(table["frozen"].iloc[:14], point_estimates(test, frozen)["f1"])
    assert (table["optimism"] >= 0).all()  # nothing is better on test than what was tuned on it
    macro = table.loc["macro"]
    assert 0.005 < macro["optimism"] < 0.1
    assert macro["low"] < macro["optimism"] < macro["high"]
    assert macro["optimism"] == pytest.approx(table["optimism"].iloc[:14].mean())


def test_optimism_leaves_out_what_was_not_tuned():
    val, test = random_predictions(1), random_predictions(2)
    labels = val.labels.copy()
    labels[:, 5] = 0
    table = optimism(make(val.scores, labels, val.patient), test, replicates=20)
    assert table.iloc[5][["own", "frozen", "optimism", "low", "high"]].isna().all()
    assert table.iloc[5]["note"] == "not tuned on both: too few images"
    assert table.loc["macro", "note"] == "macro over 13 of 14 findings"
    assert table.loc["macro", "optimism"] == pytest.approx(table["optimism"].iloc[:14].mean())


# --- the thresholds themselves ---------------------------------------------------------------------------------------


def test_apply_calls_from_the_threshold_on():
    thresholds = Thresholds([0.35] * 13 + [1.0])
    scores = np.tile(np.float32([0.34999, 0.35, 0.36])[:, None], (1, 14))
    called = thresholds.apply(make(scores, np.zeros((3, 14))))
    assert called.dtype == np.uint8
    assert called[:, 0].tolist() == [0, 1, 1]
    assert called[:, 13].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": [0.5] * 13}, "values of thresholds: .*expected 14 numbers"),
        ({"values": ["x"] * 14}, "values of thresholds"),
        ({"values": [np.nan] * 14}, r"expected numbers in \[0, 1\]"),
        ({"values": [-0.1] * 14}, r"expected numbers in \[0, 1\]"),
        ({"values": [1.1] * 14}, r"expected numbers in \[0, 1\]"),
        ({"low": [0.1]}, "low of thresholds: .*expected 14 numbers"),
        ({"grid": (1, 0, 0.1)}, "the grid is"),
        ({"grid": (0, 1, 1e-7)}, "the grid is"),
        ({"grid": 3}, "the grid is"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Thresholds(**({"values": [0.5] * 14} | changes))


def test_thresholds_can_be_set_by_hand():
    tuned = tune_thresholds(random_predictions(0), resampling=Bootstrap(0))
    by_hand = dataclasses.replace(tuned, values=np.full(14, 0.2), objective="by hand")
    assert by_hand.values.tolist() == [0.2] * 14
    assert Thresholds([0.2] * 14).tuned.all()
    with pytest.raises(dataclasses.FrozenInstanceError):
        by_hand.values = tuned.values


def test_texts_are_what_a_reader_can_read():
    values = [0.35, 0.05, 0.0042, NEVER, 1.0, 0.0, 0.123, 0.3]
    assert [number(value) for value in values] == ["0.35", "0.05", "0.0042", "never", "1.00", "0.00", "0.12", "0.30"]


def test_files_from_before_there_was_a_calibration_fit_any_scores():
    saved = Thresholds([0.5] * 14, calibration="platt").to_dict()
    assert Thresholds.from_dict(saved).calibration == "platt"
    del saved["calibration"]
    assert Thresholds.from_dict(saved).calibration is None
    with pytest.raises(InputError, match="calibration of thresholds is 3"):
        Thresholds([0.5] * 14, calibration=3)


@pytest.mark.parametrize("grid", [None, (0.05, 0.40, 0.05)])
def test_a_file_gives_back_what_went_in(tmp_path, grid):
    val = random_predictions(0)
    labels = val.labels.copy()
    labels[:, 13] = 0
    tuned = tune_thresholds(make(val.scores, labels), grid, "f2", resampling=Bootstrap(20))
    path = tuned.save(tmp_path / "new" / "thresholds.json")
    again = Thresholds.load(str(path))
    for name in ("values", "low", "high"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tuned, name))
    for name in ("objective", "grid", "notes"):
        assert getattr(again, name) == getattr(tuned, name)
    assert os.listdir(path.parent) == ["thresholds.json"]
    saved = json.loads(path.read_text())
    assert list(saved["findings"]) == list(FINDINGS)
    assert saved["findings"]["Hernia"] == {
        "threshold": 0.5,
        "low": None,
        "high": None,
        "note": "not tuned: 0 positive of 400 images, fewer than 5; 0.5 is kept",
    }


def test_a_file_in_another_order_is_read_by_name(tmp_path):
    saved = Thresholds(np.arange(14) / 20).to_dict()
    saved["findings"] = dict(reversed(saved["findings"].items()))
    assert Thresholds.from_dict(saved).values.tolist() == (np.arange(14) / 20).tolist()


ROW = {"threshold": 0.5, "low": None, "high": None, "note": ""}


def edited(**changes):
    return Thresholds([0.5] * 14).to_dict() | changes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ('{"format": ', "Expecting value"),
        (b"\xff\xfe\x00", "decode"),
        ("[1, 2]", "expected what Thresholds.save writes"),
        (json.dumps({"Hernia": 0.5}), "expected what Thresholds.save writes"),
        (json.dumps(edited(format="cxrlib thresholds 9")), "expected what Thresholds.save writes"),
        (json.dumps(edited(findings={"Hernia": {}})), "'Atelectasis' is missing or invalid"),
        (json.dumps(edited(findings=None)), "write it again with Thresholds.save"),
        (json.dumps(edited(findings=3)), "write it again with Thresholds.save"),
        (json.dumps(edited(findings=dict.fromkeys(FINDINGS, 0.5))), "write it again with Thresholds.save"),
        (
            json.dumps(edited(findings={name: {"threshold": 0.5} for name in FINDINGS})),
            "'low' is missing",
        ),
        (json.dumps(edited(findings={name: ROW | {"threshold": 7} for name in FINDINGS})), "expected numbers in"),
        (json.dumps({k: v for k, v in edited().items() if k != "objective"}), "'objective' is missing"),
        (json.dumps(edited(grid=[1, 2])), "the grid is"),
    ],
)
def test_broken_and_foreign_files_are_refused(tmp_path, content, message):
    path = tmp_path / "thresholds.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        Thresholds.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"thresholds.json is not a file; expected what Thresholds.save, or cxr eval, writes"
    ):
        Thresholds.load(tmp_path / "thresholds.json")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = Thresholds([0.5] * 14).save(tmp_path / "t.json")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        Thresholds([0.1] * 14).save(path)
    assert Thresholds.load(path).values[0] == 0.5
    assert os.listdir(tmp_path) == ["t.json"]
