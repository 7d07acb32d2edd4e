"""The linear probe: features of a frozen network, computed once, and a head that is folded back into the model."""

import errno
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cxrlib.core.errors import InputError
from cxrlib.data.sources import find_images
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.architectures import ARCHITECTURES, build_model, model_from_checkpoint
from cxrlib.models.checkpoints import load_checkpoint
from cxrlib.training import probe
from cxrlib.training.config import TrainConfig
from cxrlib.training.inference import predict
from cxrlib.training.inputs import make_dataset
from cxrlib.training.loop import fit
from cxrlib.training.probe import features, fit_probe

SIDE = 32
QUICK = {"arch": "mobilenet_v2", "weights": "none", "mode": "probe", "image_size": SIDE, "split": "patient",
         "device": "cpu"}  # fmt: skip


@pytest.fixture
def forwards(monkeypatch):
    """How many images have gone through a network since the last `clear()`."""
    seen = []
    forward = probe.ChestXrayModel.forward
    monkeypatch.setattr(probe.ChestXrayModel, "forward", lambda self, x: (seen.append(len(x)), forward(self, x))[1])
    return seen


def state(path):
    return load_checkpoint(path)["state_dict"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_features_are_what_the_head_of_every_architecture_reads(arch, entries, cache):
    torch.manual_seed(0)
    model = build_model(arch, "none", SIDE).train()
    few = make_dataset(entries.head(3), cache, SIDE)
    x = features(model, few)
    assert x.shape == (3, model.head.in_features)
    assert model.training, "left as it was"
    with torch.inference_mode():
        logits = model.eval()(few.__getitems__([0, 1, 2])[0])
        torch.testing.assert_close(model.head(x), logits, atol=1e-5, rtol=1e-4)


def test_the_checkpoint_is_an_ordinary_model_with_the_scores_of_the_probe(entries, cache, tmp_path):
    config = TrainConfig(**QUICK)
    history = fit(config, entries, cache, tmp_path / "run", progress=False)
    out = tmp_path / "run"
    assert sorted(path.name for path in out.iterdir()) == [
        "history.csv", "model_best.pth", "model_last.pth", "predictions_val.npz",
    ]  # fmt: skip
    val = entries[entries["part"] == "val"]
    stored = Predictions.load(out / "predictions_val.npz")
    best = load_checkpoint(out / "model_best.pth")
    again = predict(model_from_checkpoint(best), make_dataset(val, cache, SIDE))
    np.testing.assert_allclose(again.scores, stored.scores, atol=2e-5)
    assert again.image.tolist() == stored.image.tolist() == val["image"].tolist()
    assert evaluate(stored, replicates=0).loc["macro", "auroc"] == pytest.approx(history["val_auroc"].max())
    assert best["epoch"] == history.loc[history["best"], "epoch"].max()
    assert best["config"]["mode"] == "probe"
    assert best["parts"]["val"] == sorted(val["image"])
    pd.testing.assert_frame_equal(pd.read_csv(out / "history.csv"), history)
    assert {"epoch", "lr", "train_loss", "val_loss", "val_auroc", "images_per_s", "seconds", "best"} <= set(history)
    assert history["train_loss"].is_monotonic_decreasing, "a weaker penalty fits closer"


def test_only_the_head_is_trained(entries, cache, tmp_path):
    fit_probe(TrainConfig(**QUICK, seed=3), entries, cache, tmp_path, progress=False)
    torch.manual_seed(3)
    start = build_model("mobilenet_v2", "none", SIDE)
    after = state(tmp_path / "model_best.pth")
    for name, value in start.state_dict().items():
        assert torch.equal(after[name], value) != name.startswith("backbone.classifier.1"), name


def test_a_full_disk_leaves_no_broken_features(entries, cache, tmp_path, monkeypatch):
    def full(path, **_):
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    config = TrainConfig(**QUICK)
    with monkeypatch.context() as patched:
        patched.setattr(np.lib.format, "open_memmap", full)
        with pytest.raises(InputError, match="No space left"):
            fit_probe(config, entries, cache, tmp_path / "full", progress=False)
    assert not list(cache.folder.glob("*features*.npy*"))
    fit_probe(config, entries, cache, tmp_path / "again", progress=False)


def test_a_second_probe_needs_no_forward_pass(entries, cache, tmp_path, forwards):
    config = TrainConfig(**QUICK)
    fit_probe(config, entries, cache, tmp_path / "first", progress=False)
    assert sum(forwards) == (entries["part"] != "test").sum()
    forwards.clear()
    fit_probe(config, entries, cache, tmp_path / "again", progress=False)
    assert not forwards
    one, two = (state(tmp_path / name / "model_best.pth") for name in ("first", "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    test = make_dataset(entries[entries["part"] != "val"], cache, SIDE)
    features(model_from_checkpoint(load_checkpoint(tmp_path / "first" / "model_best.pth")), test)
    assert sum(forwards) == (entries["part"] == "test").sum(), "only the images never seen before"
    forwards.clear()
    fit_probe(TrainConfig(**QUICK, seed=1), entries, cache, tmp_path / "other", progress=False)
    assert sum(forwards) == (entries["part"] != "test").sum(), "other weights have other features"


def test_features_kept_are_the_features(entries, cache, tiny_nih):
    model = build_model("mobilenet_v2", "none", SIDE)
    images = find_images(tiny_nih.root)
    features(model, make_dataset(entries.tail(20), cache, SIDE))  # in another order, and not all
    mixed = features(model, make_dataset(entries.iloc[::2], cache, SIDE))
    straight = features(model, make_dataset(entries.iloc[::2], images, SIDE))
    torch.testing.assert_close(mixed, straight, atol=1e-5, rtol=1e-4)


def test_it_learns_what_a_random_network_lets_through(entries, cache, tmp_path):
    """The tiny findings are bright squares: their places survive even random features."""
    history = fit_probe(TrainConfig(**QUICK | {"arch": "resnet18"}), entries, cache, tmp_path, progress=False)
    assert history["train_loss"].min() < 0.8 * history["train_loss"].max()
    assert history["val_auroc"].max() > 0.5


def test_constant_features_are_left_out_and_large_ones_are_scaled(entries, cache, tmp_path, monkeypatch):
    def altered(*args):
        x = features(*args)
        x[:, 1], x[:, 2] = 7.0, 1e4 * x[:, 2]
        return x

    plain = fit_probe(TrainConfig(**QUICK), entries, cache, tmp_path / "plain", progress=False)
    monkeypatch.setattr(probe, "features", altered)
    history = fit_probe(TrainConfig(**QUICK), entries, cache, tmp_path / "altered", progress=False)
    assert np.isfinite(history["train_loss"]).all()
    before, after = (state(tmp_path / name / "model_last.pth")["backbone.classifier.1.weight"]
                     for name in ("plain", "altered"))  # fmt: skip
    assert (after[:, 1] == 0).all()
    torch.testing.assert_close(1e4 * after[:, 2], before[:, 2], atol=0.05 * float(before[:, 2].abs().max()), rtol=0.05)
    assert history["train_loss"].iloc[0] == pytest.approx(plain["train_loss"].iloc[0], rel=0.01)


@pytest.mark.parametrize("loss", ["bce_pos_weight", "focal", "asymmetric"])
def test_the_loss_is_the_one_asked_for(loss, entries, cache, tmp_path):
    plain = fit_probe(TrainConfig(**QUICK), entries, cache, tmp_path / "plain", progress=False)
    other = fit_probe(TrainConfig(**QUICK, loss=loss), entries, cache, tmp_path / loss, progress=False)
    assert np.isfinite(other["train_loss"]).all()
    assert other["train_loss"].iloc[0] != pytest.approx(plain["train_loss"].iloc[0], rel=0.05)


def test_test_time_averaging_reaches_the_predictions(entries, cache, tmp_path):
    fit_probe(TrainConfig(**QUICK, tta=True), entries, cache, tmp_path, progress=False)
    model = model_from_checkpoint(load_checkpoint(tmp_path / "model_best.pth"))
    assert model.tta
    val = make_dataset(entries[entries["part"] == "val"], cache, SIDE)
    stored = Predictions.load(tmp_path / "predictions_val.npz")
    np.testing.assert_allclose(predict(model, val).scores, stored.scores, atol=1e-6)
