"""Audits: groups, gaps and their signs, what is too small; against experts; and the evaluation that writes them."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, ndtr

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import read_expert_labels, reference_entries
from cxrlib.evaluation.agreement import EXPERT_TASKS, agreement
from cxrlib.evaluation.audits import against_experts, audit, groups
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.differences import group_difference, holm
from cxrlib.evaluation.metrics import evaluate, point_estimates
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.protocol import evaluate_at_tuned
from cxrlib.evaluation.thresholds import GRID, Thresholds, parse_how, tune_thresholds

HALF = Thresholds([0.5] * 14)


def made(seed=0, n=600, patients=300, blind_to=None):
    """Predictions and their entries: half women, a third in each age band, half AP; `blind_to`, scores are noise."""
    rng = np.random.default_rng(seed)
    patient = np.sort(rng.integers(0, patients, n))
    entries = pd.DataFrame({
        "image": [f"{i:05d}.png" for i in range(n)],
        "sex": np.where(patient % 2, "F", "M"),
        "age": np.array([20.0, 50.0, 70.0])[patient % 3],
        "view": np.where(np.arange(n) % 2, "AP", "PA"),
    })  # fmt: skip
    labels = rng.random((n, 14)) < 0.3
    signal = 2.5 * labels
    if blind_to:
        signal = np.where((entries["sex"] == blind_to).to_numpy()[:, None], 0.0, signal)
    return Predictions(ndtr(rng.normal(size=(n, 14)) + signal - 1.25), labels, entries["image"], patient), entries


def test_groups_have_names_and_unknown_is_none():
    entries = pd.DataFrame({"sex": ["F", "M", "?"], "age": [39.9, 40, np.nan], "view": ["AP", "PA", "LL"]})
    assert groups(entries, "sex").tolist()[:2] == ["women", "men"]
    assert groups(entries, "age").tolist()[:2] == ["under 40", "40 to 59"]
    assert groups(entries, "view").tolist()[:2] == ["AP", "PA"]
    for by in ("sex", "age", "view"):
        assert pd.isna(groups(entries, by)[2])
    assert groups(pd.DataFrame({"age": [0, 59, 60, 95]}), "age").tolist() == [
        "under 40", "40 to 59", "60 and over", "60 and over",
    ]  # fmt: skip


def test_a_model_blind_in_women_is_found_and_nothing_else():
    predictions, entries = made(blind_to="F")
    table = audit(predictions, entries, HALF, replicates=200)
    macro = table[table["finding"] == "macro"].set_index(["group", "metric"])
    named = ["women", "under 40", "40 to 59", "60 and over", "AP"]
    assert macro.index.tolist() == [(group, metric) for group in named for metric in ("auroc", "miss_rate")]
    assert macro["high"].iloc[0] < -0.3  # women are served worse: a lower AUROC, more misses
    assert macro["low"].iloc[1] > 0.5
    assert (macro["gap"].iloc[2:].abs() < 0.06).all()
    assert (macro["p"].iloc[2:] > 0.01).all()


def test_a_gap_is_the_figure_within_minus_that_of_all_others():
    predictions, entries = made()
    table = audit(predictions, entries[["image", "age"]], HALF, replicates=50, seed=3)
    within = (entries["age"] == 50).to_numpy()
    one = table[(table["group"] == "40 to 59") & (table["finding"] != "macro")]
    expected = group_difference(predictions.take(within), predictions.take(~within), resampling=Bootstrap(50, 3)).iloc[
        :14
    ]
    auroc = one[one["metric"] == "auroc"]
    np.testing.assert_allclose(auroc["gap"], expected["difference"])
    np.testing.assert_allclose(auroc["low"], expected["low"])
    misses = one[one["metric"] == "miss_rate"]
    np.testing.assert_allclose(misses["value"], 1 - point_estimates(predictions.take(within), HALF)["sensitivity"])
    np.testing.assert_allclose(misses["gap"], misses["value"] - misses["others"])
    assert ((misses["low"] <= misses["gap"]) & (misses["gap"] <= misses["high"])).all()
    having = [len(np.unique(predictions.patient[within & (predictions.labels[:, k] == 1)])) for k in range(14)]
    assert auroc["patients"].tolist() == having
    every = table[table["finding"] != "macro"]
    np.testing.assert_allclose(every["p_holm"], holm(every["p"]))  # over all groups and both metrics


def test_what_is_too_small_is_undefined_with_its_reason():
    predictions, entries = made(n=300, patients=150)
    labels = predictions.labels.copy()
    labels[(entries["sex"] == "F").to_numpy(), 2] = 0
    few = np.flatnonzero(entries["sex"] == "F")[[0, 40, 80]]
    labels[few, 2] = 1
    predictions = Predictions(predictions.scores, labels, predictions.image, predictions.patient)
    table = audit(predictions, entries[["image", "sex"]], HALF, replicates=20)
    row = table[(table["finding"] == FINDINGS[2]) & (table["metric"] == "auroc")].iloc[0]
    assert row[["value", "others", "gap", "low", "high", "p", "p_holm"]].isna().all()
    assert row["note"] == "3 patients with it in the group, fewer than 5"
    assert row["patients"] == 3
    assert table[table["finding"] == "macro"]["note"].tolist() == ["macro over 13 of 14 findings"] * 2
    for alone in "F?":  # one group, or none: nothing to compare it with
        nothing = audit(predictions, entries[["image"]].assign(sex=alone), HALF, replicates=20)
        assert nothing.empty
        assert list(nothing) == list(table)


def test_images_that_do_not_say_are_in_no_group():
    predictions, entries = made()
    unknown = entries.assign(view=entries["view"].where(entries.index < 400, "?"))
    table = audit(predictions, unknown[["image", "view"]], HALF, replicates=10)
    known = audit(predictions.take(np.arange(400)), entries[["image", "view"]], HALF, replicates=10)
    pd.testing.assert_frame_equal(table, known)


# --- against experts -------------------------------------------------------------------------------------------------


def test_scores_that_know_better_than_their_labels_are_found_out():
    rng = np.random.default_rng(0)
    truth = rng.random((800, 14)) < 0.3
    mined = truth ^ (rng.random((800, 14)) < 0.15)  # what the labels get wrong, the scores do not
    names = [f"{i:05d}.png" for i in range(800)]
    predictions = Predictions(expit(rng.normal(size=(800, 14)) + 3 * truth), mined, names, np.arange(800))
    experts = pd.DataFrame(truth[100:].astype(np.uint8), columns=list(FINDINGS)).assign(image=names[100:], Other=1)
    table = against_experts(predictions, experts, replicates=100)
    assert table.index.tolist() == list(FINDINGS)
    assert (table["images"] == 700).all()
    assert (table["low"] > 0.05).all()
    k = FINDINGS.index("Edema")
    both = predictions.take(np.arange(100, 800))
    assert table.loc["Edema", "auroc_mined"] == pytest.approx(point_estimates(both)["auroc"][k])
    as_truth = Predictions(both.scores, truth[100:], both.image, both.patient)
    assert table.loc["Edema", "auroc_expert"] == pytest.approx(point_estimates(as_truth)["auroc"][k])


def test_the_four_findings_stand_for_several_of_ours_and_few_are_undefined():
    predictions, _ = made(n=200)
    k = [FINDINGS.index(name) for name in EXPERT_TASKS["Nodule or mass"]]
    union = predictions.labels[:, k].max(axis=1)
    experts = pd.DataFrame({"image": predictions.image, "Nodule or mass": union, "Pneumothorax": np.arange(200) < 3})
    table = against_experts(predictions, experts, replicates=20)
    assert table.index.tolist() == ["Nodule or mass", "Pneumothorax"]
    assert table.loc["Nodule or mass", "difference"] == 0
    assert table.loc["Nodule or mass", "mined"] == union.sum()
    assert table.loc["Pneumothorax", "note"] == "3 images with or without it by one of the two, fewer than 10"
    assert table.loc["Pneumothorax", ["auroc_mined", "difference", "p"]].isna().all()
    nothing = against_experts(predictions, experts.assign(image="x" + experts["image"]), replicates=20)
    assert (nothing["images"] == 0).all()


@pytest.mark.real
def test_two_panels_of_radiologists_agree_far_better_than_the_labels_with_either(real):
    panels = [read_expert_labels(real / "nih-lists" / f"{name}_expert_labels_test_labels.csv")
              for name in ("all_findings", "four_findings")]  # fmt: skip
    between = agreement(panels[0], panels[1], EXPERT_TASKS, replicates=100)
    mined = agreement(reference_entries(), panels[1], EXPERT_TASKS, replicates=100)
    assert (between["images"] == 810).all()
    assert between["kappa"].round(2).tolist() == [0.74, 0.70, 0.60]
    assert (between["kappa_low"] > mined["kappa_high"]).all()


# --- one evaluation --------------------------------------------------------------------------------------------------


def test_what_is_tuned_is_tuned_on_calibrated_scores_of_validation():
    val, test = (made(seed, n=400)[0] for seed in (1, 2))
    done = evaluate_at_tuned([val], [test], "platt", None, "youden", replicates=20)
    thresholds = tune_thresholds(done.calibrators[0].apply(val), None, "youden")
    assert done.thresholds.to_dict() == thresholds.to_dict()
    assert done.thresholds.calibration == done.test.calibration == "platt"
    pd.testing.assert_frame_equal(done.table, evaluate(done.calibrators[0].apply(test), thresholds, 20))
    assert evaluate_at_tuned([val], [test], "none", replicates=0).test.calibration == "none"


def test_what_a_command_line_asks_for_is_checked_before_any_work():
    assert parse_how("0.05:0.4:0.05", "f1") == {"grid": GRID, "objective": "f1"}
    assert parse_how("exact", "cost=3")["grid"] is None
    for asked, message in (
        (("0.4:0.05:0.05", "f1"), "the grid '0.4:0.05:0.05' cannot be used; expected exact"),
        (("0.1:0.4", "f1"), "the grid '0.1:0.4' cannot be used"),
        (("fine", "f1"), "the grid 'fine' cannot be used"),
        (("exact", "f"), "the objective 'f' is unknown"),
    ):
        with pytest.raises(InputError, match=message):
            parse_how(*asked)
