"""The capstone's model: a seed draws its flaw, if any; each is there, and the tools of the course tell which it is."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxrlib.course import capstone
from cxrlib.course.exercises import seal
from cxrlib.course.opening import open_data
from cxrlib.data.cache import build_cache
from cxrlib.data.findings import FINDINGS
from cxrlib.data.splits import split
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.thresholds import Thresholds, tune_thresholds
from cxrlib.models.architectures import model_from_checkpoint
from cxrlib.models.checkpoints import load_checkpoint
from cxrlib.training.config import TrainConfig
from cxrlib.training.inference import predict
from cxrlib.training.inputs import make_dataset

CONFIG = TrainConfig(arch="efficientnet_lite0", mode="probe", image_size=64, split="patient", device="cpu")
REPRODUCED = ("leak", "shortcut", "tuned on test", "pos_weight", "none")  # with which the record's AUROC is found again


def macro(predictions) -> float:
    return evaluate(predictions, replicates=0).loc["macro", "auroc"]


def exchanged(predictions) -> dict[frozenset, float]:
    """Macro AUROC after the scores of two findings are exchanged, for every pair."""
    scores, labels = predictions.scores, predictions.labels
    auroc = np.array([[roc_auc_score(label, score) for label in labels.T] for score in scores.T])
    gain = auroc + auroc.T - np.diag(auroc)[:, None] - np.diag(auroc)
    names = combinations(range(len(FINDINGS)), 2)
    return {frozenset((FINDINGS[j], FINDINGS[k])): (np.trace(auroc) + gain[j, k]) / len(FINDINGS) for j, k in names}


def fall(model, batch) -> dict[str, float]:
    """By how much a finding's mean logit falls where the marker is painted over, beyond painting where none is."""
    size, logits = batch.shape[-1], []
    low, wide = size * 25 // 32, size * 9 // 32
    for columns in (slice(0, wide), slice(-wide, None)):
        painted = batch.clone()
        painted[:, :, low:, columns] = 90
        with torch.inference_mode():
            logits.append(model(painted).mean(dim=0))
    return dict(zip(FINDINGS, (logits[1] - logits[0]).tolist(), strict=True))


def audit(folder, entries, films) -> dict:
    """What an auditor computes, one entry or more for each suspicion."""
    checkpoint = load_checkpoint(folder / "model_best.pth")
    model = model_from_checkpoint(checkpoint)
    parts = [make_dataset(entries[entries["part"] == part], films, model.image_size) for part in ("val", "test")]
    val, test = (predict(model, part) for part in parts)
    batches = [torch.from_numpy(films.images[films.rows(part.image)])[:, None] for part in (val, test)]
    with torch.inference_mode():
        negative = replace(val, scores=model(255 - batches[0]).sigmoid().numpy())
    claim = checkpoint["val_auroc"]
    return {
        "reproduced": abs(macro(val) - claim) < 1e-3,
        "negatives reproduce": abs(macro(negative) - claim) < 1e-3,
        "exchange": min((abs(value - claim), sorted(pair)) for pair, value in exchanged(val).items()),
        "leaked": np.isin(test.image, checkpoint["parts"]["train"]).sum(),
        "as on test": np.isclose(
            Thresholds.from_dict(checkpoint["thresholds"]).values, tune_thresholds(test, None).values, atol=1e-3
        ).sum(),
        "mean score": val.scores.mean() / val.labels.mean(),
        "fall": fall(model, batches[1]),
        "config": checkpoint["config"],
    }


@pytest.fixture(scope="module")
def seeds():
    """{flaw: the first seed that draws it}."""
    drawn = {}
    for seed in range(40):
        drawn.setdefault(capstone.draw(seed)[0], seed)
    return drawn


@pytest.fixture(scope="module")
def audits(seeds, _tiny_original, tmp_path_factory):
    """{flaw: (what an audit finds in the model that has it, the seal)}, of models trained on the tiny data set."""
    folder, data = tmp_path_factory.mktemp("capstone"), open_data("", _tiny_original)
    images = build_cache(data.images, CONFIG.image_size, cache_dir=folder / "cache", progress=False)
    entries = split(data.entries, "patient", fractions=(0.5, 0.25, 0.25))
    found = {}
    for flaw, seed in seeds.items():
        films, sealed = capstone.deliver(entries, images, folder / flaw, seed, CONFIG)
        found[flaw] = audit(folder / flaw, entries, films), sealed
    return found


def test_every_flaw_is_drawn_by_some_seed_and_always_the_same(seeds):
    assert set(seeds) == set(capstone.FLAWS)
    assert all(capstone.draw(seed) == capstone.draw(seed) for seed in seeds.values())
    assert {flaw: len(capstone.draw(seed)[1]) for flaw, seed in seeds.items() if flaw in ("swapped", "shortcut")} == {
        "swapped": 2,
        "shortcut": 1,
    }


@pytest.mark.parametrize("flaw", capstone.FLAWS)
def test_each_flaw_is_found_by_its_audit_and_by_no_other(flaw, audits, seeds):
    found, sealed = audits[flaw]
    _, findings = capstone.draw(seeds[flaw])
    assert sealed == seal({flaw, *findings})
    assert found["reproduced"] == (flaw in REPRODUCED)
    assert found["negatives reproduce"] == (flaw == "preprocessing")
    assert (found["leaked"] > 0) == (flaw == "leak")
    assert (found["as on test"] == len(FINDINGS)) == (flaw == "tuned on test")
    if flaw == "swapped":
        assert found["exchange"][0] < 1e-3
        assert found["exchange"][1] == sorted(findings)
    if flaw in REPRODUCED:  # the others' scores are of other findings, or of negatives
        assert (found["mean score"] > 1.2) == (flaw == "pos_weight")
        marked = max(found["fall"], key=found["fall"].get)
        assert (found["fall"][marked] > 5) == (flaw == "shortcut")
        assert flaw != "shortcut" or [marked] == findings


def test_the_record_does_not_mention_the_flaw(audits):
    records = [found["config"] for found, _ in audits.values()]
    assert all(record == records[0] for record in records)
    assert records[0]["loss"] == "bce"
