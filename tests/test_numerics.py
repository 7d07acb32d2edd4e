"""Where the arithmetic has nothing to stand on: one image, one patient, one class, equal scores, an empty part."""

import warnings

import numpy as np
import pytest
import torch

from cxrlib.core.errors import InputError
from cxrlib.data.cache import build_cache
from cxrlib.data.dataset import CachedDataset
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import read_entries
from cxrlib.data.sources import find_images
from cxrlib.data.splits import leakage, split, subset
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.calibration import METHODS, Calibrator
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import tune_thresholds
from cxrlib.models.architectures import build_model
from cxrlib.training.inference import predict
from cxrlib.training.loop import TrainConfig, fit

TOY = {"arch": "mobilenet_v2", "weights": "none", "image_size": 32, "epochs": 1, "split": "patient", "device": "cpu",
       "precision": "fp32", "layout": "contiguous"}  # fmt: skip


def some_predictions(n=40, patients=10, **change) -> Predictions:
    rng = np.random.default_rng(0)
    values = {"scores": rng.random((n, 14)), "labels": rng.integers(0, 2, (n, 14)),
              "image": [f"{i}.png" for i in range(n)], "patient": np.arange(n) % patients}  # fmt: skip
    return Predictions(**values | change)


def all_of_it(predictions: Predictions):
    """Metrics, thresholds and calibration of the same images, with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thresholds = tune_thresholds(predictions, resampling=Bootstrap(20))
        table = evaluate(predictions, thresholds, replicates=20)
        calibrated = {method: Calibrator.fit(predictions, method).apply(predictions) for method in METHODS}
    for method, each in calibrated.items():
        assert np.isfinite(each.scores).all(), method
    return table, thresholds


def test_a_finding_that_no_image_has_is_undefined_and_in_no_mean():
    labels = some_predictions().labels
    labels[:, 3] = 0
    table, thresholds = all_of_it(some_predictions(labels=labels))
    name = FINDINGS[3]
    assert np.isnan(table.loc[name, "auroc"])
    assert table.loc[name, "note"]
    others = [other for other in FINDINGS if other != name]
    assert table.loc["macro", "auroc"] == pytest.approx(table.loc[others, "auroc"].mean())
    assert thresholds.notes[3].startswith("not tuned: 0 positive")


def test_findings_that_all_images_have_or_none_leave_nothing_to_average():
    for value in (0, 1):
        table, thresholds = all_of_it(some_predictions(labels=np.full((40, 14), value)))
        assert np.isnan(table.loc["macro", "auroc"])
        assert not thresholds.tuned.any()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_scores_tell_nothing(value):
    table, _ = all_of_it(some_predictions(scores=np.full((40, 14), value)))
    assert (table.loc[list(FINDINGS), "auroc"] == 0.5).all()
    assert (table.loc[list(FINDINGS), ["auroc_low", "auroc_high"]] == 0.5).all(axis=None)


def test_one_patient_gives_a_figure_and_no_interval():
    table, _ = all_of_it(some_predictions(patients=1))
    assert table.loc[list(FINDINGS), "auroc"].notna().all()
    assert table.loc[[*FINDINGS, "macro"], ["auroc_low", "auroc_high"]].isna().all(axis=None)


def test_one_image():
    table, _ = all_of_it(some_predictions(n=1))
    assert np.isnan(table.loc["macro", "auroc"])


def test_entries_of_one_patient_are_one_part(tiny_nih):
    entries = read_entries(tiny_nih.csv_path)
    one = entries[entries["patient"] == entries["patient"].mode()[0]]
    parts = split(one, "patient")
    assert parts["part"].nunique() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert leakage(parts)["images_leaked"].sum() == 0
        assert len(subset(parts, parts["part"].iloc[0], 1)) == 1


@pytest.fixture
def small(tiny_nih, tmp_path):
    entries = split(read_entries(tiny_nih.csv_path), "patient")
    return entries, build_cache(find_images(tiny_nih.root), 32, cache_dir=tmp_path / "cache", progress=False)


def test_a_batch_of_one_is_predicted_as_among_others(small):
    entries, cache = small
    torch.manual_seed(0)
    model = build_model("mobilenet_v2", "none", 32)
    dataset = CachedDataset(entries.head(9), cache)
    ones, all_at_once = predict(model, dataset, batch_size=1), predict(model, dataset, batch_size=9)
    np.testing.assert_allclose(ones.scores, all_at_once.scores, atol=1e-5)


def test_a_training_in_batches_of_one_trains_or_says_why_not(small, tmp_path):
    entries, cache = small
    with pytest.raises(InputError, match="batch_size"):
        fit(TrainConfig(**TOY, batch_size=1, train_subset=6), entries, cache, tmp_path / "run", progress=False)


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_part_is_a_sentence(small, tmp_path, part):
    entries, cache = small
    with pytest.raises(InputError, match=f"part '{part}' holds no image"):
        fit(TrainConfig(**TOY), entries[entries["part"] != part], cache, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "model_best.pth").exists()


def test_no_images_at_all_are_a_sentence_or_an_empty_table():
    nothing = {"scores": np.zeros((0, 14)), "labels": np.zeros((0, 14)), "image": [], "patient": []}
    try:
        table, _ = all_of_it(Predictions(**nothing))
    except InputError:
        return
    assert table["auroc"].isna().all()
