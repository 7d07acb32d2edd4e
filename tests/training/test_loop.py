"""One training run: the same weights for the same seed, files that are whole, nothing learned from the test part."""

import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.utils import set_seed
from timm.layers import DropPath
from torchvision.ops import StochasticDepth

from cxrlib.core.errors import InputError
from cxrlib.data.cache import build_cache
from cxrlib.data.dataset import shifted
from cxrlib.data.findings import FINDINGS
from cxrlib.data.sources import find_images
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.architectures import build_model, load_checkpoint, model_from_checkpoint, save_checkpoint
from cxrlib.training.inference import predict
from cxrlib.training.inputs import make_dataset
from cxrlib.training.loop import (
    TrainConfig,
    _Training,
    fit,
    learning_rate,
    parameter_groups,
    start_at_prevalence,
    strengthen_dropout,
)

SIDE = 32
QUICK = {
    "arch": "mobilenet_v2",
    "weights": "none",
    "image_size": SIDE,
    "epochs": 2,
    "batch_size": 8,
    "lr": 1e-3,
    "split": "patient",
    "device": "cpu",
    "precision": "fp32",
    "layout": "channels_last",
}


@pytest.fixture
def train(entries, cache, tmp_path):
    """Train quickly into a folder of tmp_path; keywords override the configuration."""

    def run(name="run", entries=entries, images=cache, **changes):
        return fit(TrainConfig(**QUICK | changes), entries, images, tmp_path / name, progress=False)

    return run


def weights(path):
    return load_checkpoint(path)["state_dict"]


def same(one, two):
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


def test_the_same_seed_gives_the_same_weights_to_the_bit(train, entries, cache, tiny_nih, tmp_path):
    torch.manual_seed(1)
    first = train("first")
    torch.manual_seed(2)  # what ran before must not matter
    again = train("again")
    columns = ["epoch", "lr", "train_loss", "val_loss", "val_auroc", "best"]
    pd.testing.assert_frame_equal(first[columns], again[columns])
    for name in ("model_best.pth", "model_last.pth"):
        assert same(weights(tmp_path / "first" / name), weights(tmp_path / "again" / name))
    one, two = (Predictions.load(tmp_path / run / "predictions_val.npz") for run in ("first", "again"))
    np.testing.assert_array_equal(one.scores, two.scores)
    train("straight", images=find_images(tiny_nih.root))
    assert same(weights(tmp_path / "first" / "model_last.pth"), weights(tmp_path / "straight" / "model_last.pth")), (
        "training from the PNGs is the same"
    )
    train("other", seed=1)
    assert not same(weights(tmp_path / "first" / "model_last.pth"), weights(tmp_path / "other" / "model_last.pth"))


def test_what_a_run_leaves_behind(train, entries, cache, tmp_path):
    history = train(epochs=3)
    out = tmp_path / "run"
    names = ["history.csv", "model_best.pth", "model_last.pth", "predictions_val.npz"]
    assert sorted(path.name for path in out.iterdir()) == names
    columns = ["epoch", "lr", "train_loss", "val_loss", "val_auroc", "images_per_s", "seconds", "best"]
    assert list(history.columns) == columns
    assert history["epoch"].tolist() == [1, 2, 3]
    pd.testing.assert_frame_equal(pd.read_csv(out / "history.csv"), history)

    best, last = load_checkpoint(out / "model_best.pth"), load_checkpoint(out / "model_last.pth")
    assert last["epoch"] == 3
    assert best["epoch"] == history.loc[history["best"], "epoch"].max()
    assert best["val_auroc"] == history["val_auroc"].max()
    for checkpoint in (best, last):
        assert checkpoint["config"] == vars(TrainConfig(**QUICK | {"epochs": 3}))
        for part in ("train", "val"):
            assert checkpoint["parts"][part] == sorted(entries.loc[entries["part"] == part, "image"])
        assert "test" not in checkpoint["parts"]

    stored = Predictions.load(out / "predictions_val.npz")
    val = entries[entries["part"] == "val"]
    assert stored.image.tolist() == val["image"].tolist()
    assert stored.patient.tolist() == val["patient"].tolist()
    np.testing.assert_array_equal(stored.labels, val[list(FINDINGS)])
    again = predict(model_from_checkpoint(best), make_dataset(val, cache, SIDE), batch_size=2 * 8)
    np.testing.assert_allclose(again.scores, stored.scores, atol=1e-6)
    assert evaluate(stored, replicates=0).loc["macro", "auroc"] == pytest.approx(history["val_auroc"].max())


def test_the_best_epoch_has_the_highest_validation_auroc(train, tmp_path, monkeypatch):
    aurocs = iter([0.6, 0.8, 0.7, 0.8])
    original = evaluate

    def scripted(*args, **options):
        table = original(*args, **options)
        table.loc["macro", "auroc"] = next(aurocs)
        return table

    monkeypatch.setattr("cxrlib.training.loop.evaluate", scripted)
    history = train(epochs=4)
    assert history["best"].tolist() == [True, True, False, False], "a tie goes to the earlier"
    assert load_checkpoint(tmp_path / "run" / "model_best.pth")["epoch"] == 2
    assert load_checkpoint(tmp_path / "run" / "model_last.pth")["epoch"] == 4


def test_the_test_part_is_never_read(train, entries, tiny_nih, tmp_path):
    images = find_images(tiny_nih.root)
    for name in entries.loc[entries["part"] == "test", "image"]:
        images[name].write_bytes(b"not an image")
    blind = entries.copy()
    blind.loc[blind["part"] == "test", list(FINDINGS)] = 0
    train("blind", entries=blind, images=images, epochs=1)
    without = entries[entries["part"] != "test"]
    train("without", entries=without, images=images, epochs=1)
    assert same(weights(tmp_path / "blind" / "model_last.pth"), weights(tmp_path / "without" / "model_last.pth"))


def test_validation_is_not_trained_on(train, entries, tmp_path):
    changed = entries.copy()
    val = changed["part"] == "val"
    changed.loc[val, list(FINDINGS)] = 1 - changed.loc[val, list(FINDINGS)]
    train("one")
    train("two", entries=changed)
    assert same(weights(tmp_path / "one" / "model_last.pth"), weights(tmp_path / "two" / "model_last.pth"))


def test_subsets_limit_what_is_trained_and_validated_on(train, entries, tmp_path, monkeypatch):
    seen = []
    original = make_dataset

    def watched(chosen, *rest):
        seen.append(set(chosen["image"]))
        return original(chosen, *rest)

    monkeypatch.setattr("cxrlib.training.inputs.make_dataset", watched)
    train(train_subset=12, val_subset=8, epochs=1)
    assert [len(names) <= size for names, size in zip(seen, (12, 8) * 2, strict=True)] == [True] * 4
    parts = load_checkpoint(tmp_path / "run" / "model_best.pth")["parts"]
    assert set(parts["train"]) == set(entries.loc[entries["part"] == "train", "image"]), (
        "the whole part is remembered: what was left out is not for evaluation either"
    )


def test_every_way_of_training_runs_and_makes_a_difference(train, tmp_path):
    train("plain", epochs=1)
    plain = weights(tmp_path / "plain" / "model_best.pth")
    for changes in (
        {"precision": "bf16"},
        {"loss": "bce_pos_weight", "pos_weight_cap": 5.0},
        {"loss": "focal"},
        {"loss": "asymmetric"},
        {"augment": 0.0},
        {"augment": 2.0},
        {"mixup": 0.2},
        {"drop_strength": 2.0},
        {"depth_lr": 0.1},
        {"head_epochs": 1},
        {"layout": "contiguous"},
        {"ema_decay": 0.0},
        {"warmup": 0.5},
        {"weight_decay": 0.5},
    ):
        history = train(epochs=1, **changes)
        state = weights(tmp_path / "run" / "model_best.pth")
        assert np.isfinite(history[["train_loss", "val_loss", "val_auroc"]].to_numpy()).all(), changes
        assert all(value.isfinite().all() for value in state.values()), changes
        assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}, changes
        assert not same(state, plain), changes
    train("workers", epochs=1, num_workers=1)
    assert same(weights(tmp_path / "workers" / "model_best.pth"), plain), "processes that read ahead change nothing"
    assert len(train("another", epochs=1, arch="resnet18")) == 1


@pytest.mark.parametrize("changes", [{"mixup": 0.2, "loss": "bce_pos_weight"}, {"mode": "probe"}])
def test_unknown_labels_train_as_if_they_were_not_there(train, entries, cache, tmp_path, changes):
    """A finding of which nothing is known leaves the others' weights, and its own output, as the start had them."""
    gaps = entries.astype(dict.fromkeys(FINDINGS, float))
    gaps.loc[gaps.index[::3], list(FINDINGS)] = np.nan
    gaps["Hernia"] = np.nan
    history = train(entries=gaps, epochs=1, **changes)
    assert np.isfinite(history[["train_loss", "val_loss", "val_auroc"]].to_numpy()).all()
    found = load_checkpoint(tmp_path / "run" / "model_best.pth")
    assert all(value.isfinite().all() for value in found["state_dict"].values())
    assert abs(float(model_from_checkpoint(found).head.bias[list(FINDINGS).index("Hernia")].detach())) < 1e-6
    known = Predictions.load(tmp_path / "run" / "predictions_val.npz").known
    assert not known.all()
    assert not known[:, list(FINDINGS).index("Hernia")].any()


def toy(tmp_path):
    """Radiographs whose brightness on the left is one finding, on the right another."""
    from PIL import Image

    rng = np.random.default_rng(0)
    images, labels = {}, np.zeros((96, 14), np.uint8)
    for row in range(96):
        left, right = rng.random(2) < 0.5
        labels[row, 0], labels[row, 1] = left, right
        pixels = rng.normal(100, 10, (SIDE, SIDE))
        pixels[:, : SIDE // 2] += 80 * left
        pixels[:, SIDE // 2 :] += 80 * right
        path = tmp_path / f"{row}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        images[path.name] = path
    entries = pd.DataFrame({"image": list(images), "patient": range(96)})
    entries["part"] = ["val" if row % 3 == 0 else "train" for row in range(96)]
    return entries.join(pd.DataFrame(labels, columns=list(FINDINGS))), images


def test_it_learns_and_left_is_not_right(tmp_path):
    entries, images = toy(tmp_path)
    config = TrainConfig(**QUICK | {"arch": "resnet18", "epochs": 5, "batch_size": 16, "ema_decay": 0.5})
    history = fit(config, entries, images, tmp_path / "run", progress=False)
    assert history["train_loss"].iloc[-1] < 0.6 * history["train_loss"].iloc[0]
    assert history["val_loss"].iloc[-1] < history["val_loss"].iloc[0]
    assert history["val_auroc"].max() > 0.95, "a mirrored augmentation would confuse left and right"


def test_the_same_training_goes_on_from_a_checkpoint(train, tmp_path):
    train(epochs=1)
    start = tmp_path / "run" / "model_last.pth"
    bias = weights(start)["backbone.classifier.1.bias"]
    train("on", epochs=1, weights=str(start), lr=1e-9, ema_decay=0.0, weight_decay=0.0)
    torch.testing.assert_close(weights(tmp_path / "on" / "model_last.pth")["backbone.classifier.1.bias"], bias)
    assert load_checkpoint(tmp_path / "on" / "model_last.pth")["config"]["weights"] == str(start)
    with pytest.raises(InputError, match="is a checkpoint of mobilenet_v2; expected one of resnet18"):
        train("other", arch="resnet18", weights=str(start))
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_may_be_named_by_a_path(train, tmp_path):
    path = save_checkpoint(
        tmp_path / "m.pth", build_model("mobilenet_v2", "none", SIDE), parts={"train": [], "val": []}, epoch=1,
        config={"split": "patient", "seed": 0, "val_subset": 0},
    )  # fmt: skip
    train(epochs=1, weights=path)
    assert load_checkpoint(tmp_path / "run" / "model_best.pth")["config"]["weights"] == str(path)


def test_numbers_of_numpy_end_in_a_checkpoint_that_reads(train, tmp_path):
    train(epochs=np.int64(1), lr=np.float64(1e-3), train_subset=np.int32(20))
    config = load_checkpoint(tmp_path / "run" / "model_best.pth")["config"]
    assert (config["epochs"], config["lr"], config["train_subset"]) == (1, 1e-3, 20)
    assert TrainConfig(**QUICK | {"lr": 1}).lr == 1.0


def test_the_head_starts_at_the_prevalence():
    model = build_model("mobilenet_v2", "none", SIDE)
    labels = torch.zeros(100, 14)
    labels[:25, 0] = 1
    labels[:, 1] = 1
    labels[:50, 2] = 1
    labels[80:, 2] = labels[:, 3] = float("nan")  # 50 of 80 known; none known
    start_at_prevalence(model.head, labels)
    expected = [0.25, 0.999, 0.625, 0.5, *[0.001] * 10]
    assert model.head.bias.sigmoid().tolist() == pytest.approx(expected, rel=1e-4)


def shares_dropped(model):
    """What each part of a model drops, in order: torch's and torchvision's `p`, timm's drop_prob and drop_rate."""
    kinds = (torch.nn.Dropout, StochasticDepth)
    modules = list(model.modules())
    shares = [module.p for module in modules if isinstance(module, kinds)]
    shares += [module.drop_prob for module in modules if isinstance(module, DropPath)]
    return np.array([*shares, getattr(model.backbone, "drop_rate", 0.0)])


@pytest.mark.parametrize("arch", ["efficientnet_b0", "efficientnet_lite0", "mobilenet_v2"])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.5])
def test_dropout_is_applied_as_often_as_its_strength_says(arch, strength):
    model = build_model(arch, "none", SIDE)
    before = shares_dropped(model)
    assert before.max() >= 0.2
    strengthen_dropout(model, strength)
    np.testing.assert_allclose(1 - shares_dropped(model), (1 - before) ** strength)
    if strength:
        strengthen_dropout(model, 1 / strength)
        np.testing.assert_allclose(shares_dropped(model), before, atol=1e-12)


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "vit_b_16"])
def test_an_architecture_without_dropout_has_none_to_strengthen(arch):
    model = build_model(arch, "none", SIDE)
    for fulfilled in (0.0, 1.0):
        strengthen_dropout(model, fulfilled)
    with pytest.raises(InputError, match=f"drop_strength 2 changes nothing: {arch} has no dropout; expected 1"):
        strengthen_dropout(model, 2.0)


def test_the_schedule_warms_up_and_falls_to_a_hundredth():
    config = TrainConfig(**QUICK | {"lr": 2.0, "warmup": 0.1})
    rates = [learning_rate(step, 1000, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[99] == max(rates) == pytest.approx(2.0)
    assert np.all(np.diff(rates[:100]) > 0)
    assert np.all(np.diff(rates[100:]) < 0)
    assert rates[549] == pytest.approx(1.01, abs=0.01)
    assert rates[-1] == pytest.approx(0.02, rel=0.01)
    for steps in (1, 2, 3):
        for warmup in (0.0, 0.5, 0.99):
            short = TrainConfig(**QUICK | {"warmup": warmup})
            assert all(0 < learning_rate(step, steps, short) <= short.lr for step in range(steps))


def test_the_saved_weights_are_the_averaged_ones(train, tmp_path, monkeypatch):
    seen = []
    original = torch.optim.AdamW.step

    def watched(self, *args, **options):
        result = original(self, *args, **options)
        seen.append(self.param_groups[-1]["params"][-1].detach().clone())  # the head's bias
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train(epochs=2, ema_decay=0.5)
    mean = seen[0].clone()
    for count, current in enumerate(seen[1:], 1):
        mean += (1 - min(0.5, (1 + count) / (10 + count))) * (current - mean)
    saved = weights(tmp_path / "run" / "model_last.pth")["backbone.classifier.1.bias"]
    torch.testing.assert_close(saved, mean, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(saved, seen[-1], atol=1e-6)


def test_biases_and_norms_do_not_decay(train, monkeypatch):
    groups = []
    original = torch.optim.AdamW.__init__

    def watched(self, params, **options):
        groups.extend(params)
        original(self, groups, **options)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", watched)
    train(epochs=1, weight_decay=0.3)
    decays = {parameter.ndim > 1: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decays == {True: 0.3, False: 0.0}
    assert sum(len(group["params"]) for group in groups) == len(
        list(build_model("mobilenet_v2", "none", SIDE).parameters())
    )


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_part_is_refused(train, entries, tmp_path, part):
    with pytest.raises(InputError, match=f"the part '{part}' holds no image"):
        train(entries=entries[entries["part"] != part])
    assert not (tmp_path / "run").exists()


def test_a_validation_that_cannot_choose_is_refused_before_an_epoch_is_spent(train, entries, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_, **__: pytest.fail("a step was taken"))
    empty = entries.copy()
    empty.loc[empty["part"] == "val", list(FINDINGS)] = 0
    with pytest.raises(InputError, match=r"no finding has positives and negatives .* enlarge val_subset"):
        train(entries=empty)
    assert not (tmp_path / "run").exists()


def test_a_diverged_training_is_a_sentence(train, tmp_path):
    with pytest.raises(InputError, match="diverged"):
        train(lr=1e30, warmup=0.0)
    assert not (tmp_path / "run").exists()


def test_the_last_good_checkpoint_outlives_a_loss_that_is_no_number(train, tmp_path, monkeypatch):
    good = _Training._update

    def update(self, x, labels):
        return torch.tensor(math.nan) if self.step == 6 else good(self, x, labels)

    monkeypatch.setattr(_Training, "_update", update)
    with pytest.raises(InputError, match=r"became nan at batch 3 of epoch 2.*lower lr.*of epoch 1 is kept"):
        train(train_subset=32)  # four batches an epoch
    assert load_checkpoint(tmp_path / "run" / "model_last.pth")["epoch"] == 1


_TIMES = ["images_per_s", "seconds"]


class Killed(BaseException):
    """Nothing in the package may catch it."""


def interrupted(monkeypatch, after):
    """Make the training stop for good after so many more steps."""
    good, count = _Training._update, iter(range(1000))

    def update(self, x, labels):
        if next(count) == after:
            raise Killed
        return good(self, x, labels)

    monkeypatch.setattr(_Training, "_update", update)


@pytest.mark.parametrize("save_minutes", [0.0, 60.0])
def test_an_interrupted_run_goes_on_to_the_same_weights_to_the_bit(train, tmp_path, monkeypatch, save_minutes):
    recipe = {"epochs": 3, "head_epochs": 1, "mixup": 0.2, "drop_strength": 2.0, "train_subset": 32}
    recipe["save_minutes"] = save_minutes
    straight = train("straight", **recipe)
    stops = iter((2, 5, 1, 4, 3, 5, 6, 50))
    for stop in stops:
        with monkeypatch.context() as patch:
            interrupted(patch, stop)
            try:
                resumed = train("stopped", resume=True, **recipe)
                break
            except Killed:
                continue
    columns = ["epoch", "lr", "train_loss", "val_loss", "val_auroc", "best"]
    pd.testing.assert_frame_equal(resumed[columns], straight[columns])
    for name in ("model_best.pth", "model_last.pth"):
        assert same(weights(tmp_path / "straight" / name), weights(tmp_path / "stopped" / name))
    names = {path.name for path in (tmp_path / "stopped").iterdir()}
    assert names == {path.name for path in (tmp_path / "straight").iterdir()}, "no state is left behind"


def test_a_finished_run_is_not_trained_again_and_another_is_refused(train, tmp_path, monkeypatch):
    before = train(epochs=1, train_subset=32)
    monkeypatch.setattr(_Training, "_update", None)
    after = train(epochs=1, train_subset=32, resume=True)
    pd.testing.assert_frame_equal(after, before)
    with pytest.raises(InputError, match=r"of a run with other lr 0.001, now 0.01; expected the same.*without resume"):
        train(epochs=1, train_subset=32, lr=0.01, resume=True)


def test_an_older_runs_end_does_not_pass_for_that_of_a_newer_one(train, monkeypatch):
    train(epochs=1, train_subset=32)
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        with pytest.raises(Killed):
            train(epochs=1, train_subset=32, lr=0.01, save_minutes=0.0)
    again = train(epochs=1, train_subset=32, lr=0.01, resume=True)
    pd.testing.assert_frame_equal(
        again.drop(columns=_TIMES), train(epochs=1, train_subset=32, lr=0.01).drop(columns=_TIMES)
    )


def test_seconds_before_an_interruption_count(train, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        good = _Training._save_state
        patch.setattr(
            _Training, "_save_state", lambda self, place: (setattr(self, "began", self.began - 1000), good(self, place))
        )
        with pytest.raises(Killed):
            train(epochs=1, train_subset=32, save_minutes=0.0)
    assert train(epochs=1, train_subset=32, resume=True)["seconds"].iloc[0] > 1000


def test_other_labels_make_another_run(train, entries):
    train(epochs=1, train_subset=32)
    with pytest.raises(InputError, match="of a run with other images or labels; expected the same"):
        train(epochs=1, train_subset=32, resume=True, entries=entries.assign(Mass=1 - entries["Mass"]))


def test_a_parameter_that_an_older_run_did_not_know_had_its_default(train, tmp_path, monkeypatch):
    before = train(epochs=1, train_subset=32)
    path = tmp_path / "run" / "model_last.pth"
    older = torch.load(path, weights_only=True)
    del older["identity"]["drop_strength"]
    torch.save(older, path)
    monkeypatch.setattr(_Training, "_update", None)
    pd.testing.assert_frame_equal(train(epochs=1, train_subset=32, resume=True), before)


def test_a_start_from_a_checkpoint_that_saw_the_test_part_is_refused(train, entries, tmp_path):
    train("first", epochs=1, train_subset=32)
    start = str(tmp_path / "first" / "model_best.pth")
    train("same", epochs=1, train_subset=32, weights=start)
    swapped = entries.assign(part=entries["part"].map({"train": "test", "test": "train", "val": "val"}))
    with pytest.raises(InputError, match=r"model_best.pth learned from \d+ images.*held out here"):
        train("other", epochs=1, weights=start, entries=swapped)


def test_a_state_of_another_run_or_in_pieces_is_refused(train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, 5)
        with pytest.raises(Killed):
            train(train_subset=32)
    with pytest.raises(InputError, match="other batch_size 8, now 4"):
        train(train_subset=32, batch_size=4, resume=True)
    state = tmp_path / "run" / "state.pth"
    state.write_bytes(state.read_bytes()[:999])
    with pytest.raises(InputError, match=r"state.pth cannot be read .* remove it to begin anew"):
        train(train_subset=32, resume=True)
    train(train_subset=32)  # without resume it begins anew
    assert not state.exists()


SCRIPT = """
import sys
from pathlib import Path
from cxrlib.data.cache import ImageCache
from cxrlib.data.metadata import read_entries
from cxrlib.data.splits import split
from cxrlib.training.loop import TrainConfig, fit
csv, cache, out = sys.argv[1:]
config = TrainConfig(arch="mobilenet_v2", weights="none", image_size=32, epochs=6, batch_size=8, lr=1e-3,
                        split="patient", device="cpu", precision="fp32", layout="channels_last", resume=True,
                        save_minutes=0.002)
print("ready", flush=True)
fit(config, split(read_entries(csv), "patient", fractions=(0.5, 0.25, 0.25)), ImageCache(cache), Path(out),
    progress=False)
"""


def test_killed_at_random_moments_it_ends_at_the_same_weights(tiny_nih, cache, tmp_path):
    def start(name):
        arguments = [sys.executable, "-c", SCRIPT, tiny_nih.csv_path, cache.folder, tmp_path / name]
        process = subprocess.Popen([*map(str, arguments)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        return process

    began = time.monotonic()
    assert start("straight").wait() == 0
    seconds, moments = time.monotonic() - began, np.random.default_rng(0).uniform(0.1, 0.6, 2)
    for moment in moments:
        process = start("killed")
        time.sleep(moment * seconds)
        process.kill()
        process.wait()
    assert start("killed").wait() == 0
    assert same(weights(tmp_path / "straight" / "model_last.pth"), weights(tmp_path / "killed" / "model_last.pth"))


def test_it_stops_early_when_nothing_gets_better(train, monkeypatch):
    aurocs = iter([0.6, 0.7, 0.65, 0.66, 0.9])
    original = evaluate

    def scripted(*args, **options):
        table = original(*args, **options)
        table.loc["macro", "auroc"] = next(aurocs)
        return table

    monkeypatch.setattr("cxrlib.training.loop.evaluate", scripted)
    assert train(epochs=5, patience=2, train_subset=32)["epoch"].tolist() == [1, 2, 3, 4]


def test_while_the_head_learns_the_rest_keeps_still(train, tmp_path):
    torch.manual_seed(0)
    train(epochs=1, head_epochs=1, ema_decay=0.0)
    after = weights(tmp_path / "run" / "model_last.pth")
    set_seed(0)
    before = build_model("mobilenet_v2", "none", SIDE).state_dict()
    learned = [name for name in before if not torch.equal(before[name], after[name])]
    assert {name for name in learned if "running" not in name and "num_batches" not in name} == {
        "backbone.classifier.1.weight",
        "backbone.classifier.1.bias",
    }


def test_the_learning_rate_falls_towards_the_first_layer():
    model = build_model("densenet121", "none", SIDE)
    groups = parameter_groups(model, TrainConfig(**QUICK | {"arch": "densenet121", "depth_lr": 0.1}))
    scale = {id(parameter): group["scale"] for group in groups for parameter in group["params"]}
    in_order = [scale[id(parameter)] for parameter in model.parameters()]
    assert in_order == sorted(in_order)
    assert in_order[0] == pytest.approx(0.1)
    assert scale[id(model.head.weight)] == scale[id(model.head.bias)] == 1
    assert len(scale) == len(list(model.parameters()))
    assert len({id(parameter) for group in groups for parameter in group["params"]}) == len(scale)


def test_test_time_averaging_is_in_the_checkpoint_and_in_the_predictions(train, entries, cache, tmp_path):
    train(epochs=1, tta=True)
    assert model_from_checkpoint(load_checkpoint(tmp_path / "run" / "model_best.pth")).tta
    val = make_dataset(entries[entries["part"] == "val"], cache, SIDE)
    model = build_model("resnet18", "none", SIDE).eval()
    single = predict(model, val).scores
    model.tta = True
    with torch.no_grad():
        views = shifted(val.__getitems__(range(len(val)))[0])
        expected = torch.stack([model(view).sigmoid() for view in views]).mean(dim=0)
    np.testing.assert_allclose(predict(model, val).scores, expected, atol=1e-5)
    assert not np.allclose(single, expected, atol=1e-5)


def test_a_last_batch_of_one_image_does_not_break_the_epoch(train, entries):
    part = entries[entries["part"] == "train"].head(17)
    val = entries[entries["part"] == "val"]
    assert len(train(entries=pd.concat([part, val]), batch_size=8, epochs=1)) == 1


def test_a_cache_of_another_size_or_without_the_images_is_refused(train, entries, tiny_nih, tmp_path):
    images = find_images(tiny_nih.root)
    other = build_cache(images, 48, cache_dir=tmp_path / "cache", progress=False)
    with pytest.raises(InputError, match="the cache holds 48 pixels a side; expected 32"):
        train(images=other)
    few = build_cache(dict(list(images.items())[:5]), SIDE, cache_dir=tmp_path / "cache", progress=False)
    with pytest.raises(InputError, match="does not hold"):
        train(images=few)
    with pytest.raises(InputError, match="no radiograph was found for"):
        train(images=dict(list(images.items())[:5]))


def test_an_unknown_name_suggests_the_nearest():
    for name, nearest in (
        ("epoch", "epochs"),
        ("learning_rate", None),
        ("batchsize", "batch_size"),
        ("imgsize", "image_size"),
    ):
        with pytest.raises(InputError, match=f"unknown parameter '{name}'; expected one of arch, weights") as error:
            TrainConfig(**{name: 1})
        assert nearest is None or str(error.value).endswith(f"did you mean {nearest!r}?")
    assert TrainConfig(epochs=3) == TrainConfig(epochs=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arch", "resnet_18"),
        ("arch", 18),
        ("weights", None),
        ("image_size", 31),
        ("image_size", 224.5),
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", True),
        ("batch_size", 1),
        ("lr", 0.0),
        ("lr", -1e-4),
        ("lr", math.nan),
        ("lr", math.inf),
        ("loss", "bse"),
        ("loss", ["bce"]),
        ("pos_weight_cap", 0.5),
        ("pos_weight_cap", math.nan),
        ("weight_decay", -0.1),
        ("warmup", 1.0),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("augment", "false"),
        ("augment", 4.0),
        ("augment", -0.5),
        ("mode", "linear"),
        ("depth_lr", 0.0),
        ("head_epochs", -1),
        ("patience", -1),
        ("mixup", 1.5),
        ("drop_strength", -1.0),
        ("layout", "nhwc"),
        ("save_minutes", -1.0),
        ("split", "patients"),
        ("train_subset", -1),
        ("val_subset", -1),
        ("seed", -1),
        ("seed", None),
        ("seed", 2**32),
        ("num_workers", -1),
        ("device", "gpu"),
        ("precision", "fp16"),
    ],
)
def test_values_that_cannot_be_used_are_refused(name, value):
    with pytest.raises(
        InputError, match=name if name not in ("arch", "image_size") else "resnet|arch|image_size"
    ) as error:
        TrainConfig(**{name: value})
    assert "expected" in str(error.value)


def test_text_from_a_command_line_or_a_profile_is_converted():
    text = TrainConfig(image_size="64", epochs="3", lr="1e-4", tta="true", weights=Path("a.pth"), seed=np.int64(3))
    assert text == TrainConfig(image_size=64, epochs=3, lr=1e-4, tta=True, weights="a.pth", seed=3)
    assert [type(value) for value in (text.epochs, text.lr, text.tta, text.seed)] == [int, float, bool, int]
    with pytest.raises(InputError, match="lr 'fast' cannot be used; expected a number above 0"):
        text.replace(lr="fast")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so that asking for one is no error")
def test_a_device_that_is_not_there_is_refused(train):
    with pytest.raises(InputError, match="device 'cuda' was asked for and is not there"):
        train(device="cuda")
