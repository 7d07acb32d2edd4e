"""Promises for new patients: kept as often as they say, by simulation; p-values as those of MAPIE."""

import numpy as np
import pytest
from scipy.special import ndtr

from cxrlib.core.errors import InputError
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import p_of_risk, parse_objective, tune_thresholds

NO_INTERVAL = Bootstrap(0)


def hospital(rng, patients, images):
    """Fourteen findings that behave alike: positive patients with 1 to `images` images, and as many negative ones."""
    patient = np.repeat(np.arange(2 * patients), rng.integers(1, images + 1, 2 * patients))
    labels = np.repeat((patient < patients)[:, None], 14, axis=1)
    noise = rng.normal(size=(2 * patients, 14))[patient] + rng.normal(size=labels.shape)
    scores = ndtr(noise / np.sqrt(2) + labels - 0.5)
    return Predictions(scores, labels.astype(int), np.arange(len(patient)).astype(str), patient)


def sensitivity(predictions, values):
    """Mean over patients of the share of their positive images at or above each threshold."""
    patient = predictions.patient[predictions.labels[:, 0] == 1]
    found = (predictions.scores >= np.float32(values))[predictions.labels[:, 0] == 1]
    sums = np.stack([np.bincount(patient, column) for column in found.T], axis=1)
    return (sums / np.bincount(patient)[:, None]).mean(axis=0)


@pytest.mark.parametrize("images", [1, 4])
def test_the_promise_is_missed_as_rarely_as_it_says_and_the_plain_objective_far_more(images):
    rng = np.random.default_rng(0)
    new = hospital(rng, 20_000, images)  # new patients, enough to know the truth
    missed = {}
    for objective in ("sensitivity>=0.9@0.95", "sensitivity>=0.9"):
        short = []
        for _ in range(36):  # times fourteen findings: 504 validation sets
            tuned = tune_thresholds(hospital(rng, 100, images), None, objective, resampling=NO_INTERVAL)
            assert tuned.tuned.all()
            short.append(sensitivity(new, tuned.values) < 0.9)
        missed[objective] = np.mean(short)
    assert missed["sensitivity>=0.9@0.95"] <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 504)
    assert missed["sensitivity>=0.9"] > 0.3


def test_too_few_patients_are_said_to_be_too_few():
    val = hospital(np.random.default_rng(0), 28, 3)
    tuned = tune_thresholds(val, None, "sensitivity>=0.9@0.95", resampling=NO_INTERVAL)
    assert not tuned.tuned.any()
    assert tuned.notes[0] == (
        "not tuned: 28 patients with the finding, and the promise needs at least 29; 0.5 is kept, with no promise"
    )
    again = tune_thresholds(val, (0.9, 0.95, 0.05), "sensitivity>=0.5@0.9", resampling=NO_INTERVAL)
    assert again.notes[0].startswith("not tuned: already the lowest threshold, 0.9, misses too many")


def test_more_confidence_lowers_the_threshold_and_never_below_the_plain_choice_of_fewer_misses():
    val = hospital(np.random.default_rng(1), 200, 1)
    plain, safe, safer = (tune_thresholds(val, None, objective, resampling=NO_INTERVAL).values for objective in
                          ("sensitivity>=0.8", "sensitivity>=0.8@0.9", "sensitivity>=0.8@0.99"))  # fmt: skip
    assert (safer <= safe).all()
    assert (safe < plain).all()


def test_p_values_are_mapies():
    """Exact where every loss is 0 or 1; with other losses the bound of Hoeffding and Bentkus."""
    mapie = pytest.importorskip("mapie.risk_control.methods", reason="MAPIE, the peer, is not installed")
    rng = np.random.default_rng(0)
    whole = rng.random((9, 60)) < np.linspace(0, 0.3, 9)[:, None]
    shares = whole * rng.choice([1.0, 0.5, 1 / 3], whole.shape)
    for losses in (whole.astype(float), shares):
        bound = mapie.compute_hoeffding_bentkus_p_value(losses.mean(axis=1), 60, 0.1, binary=losses is not shares)
        np.testing.assert_allclose(p_of_risk(losses, 0.1), np.minimum(bound[:, 0], 1), atol=1e-9)


@pytest.mark.parametrize("text", ["sensitivity>=0.9@", "sensitivity>=1.5@0.9", "sensitivity>=0.9@1.5", "f1@0.9"])
def test_no_promise_that_cannot_be_read(text):
    with pytest.raises(InputError, match=r"sensitivity>=0\.9@0\.95"):
        parse_objective(text)
