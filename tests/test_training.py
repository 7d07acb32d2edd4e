"""One training run: the same weights for the same seed, files that are whole, nothing learned from the test part."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from cxrlib.cache import build_cache
from cxrlib.errors import InputError
from cxrlib.findings import FINDINGS
from cxrlib.metadata import read_entries
from cxrlib.metrics import evaluate
from cxrlib.models import build_model, load_checkpoint, model_from_checkpoint, save_checkpoint
from cxrlib.predictions import Predictions, predict
from cxrlib.sources import find_images
from cxrlib.splits import split
from cxrlib.training import TrainConfig, fit, learning_rate, make_dataset, start_at_prevalence

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
}


@pytest.fixture
def entries(tiny_nih):
    return split(read_entries(tiny_nih.csv_path), "patient", fractions=(0.5, 0.25, 0.25))


@pytest.fixture
def cache(tiny_nih, tmp_path):
    return build_cache(find_images(tiny_nih.root), SIDE, cache_dir=tmp_path / "cache", progress=False)


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

    monkeypatch.setattr("cxrlib.training.evaluate", scripted)
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

    monkeypatch.setattr("cxrlib.training.make_dataset", watched)
    train(train_subset=12, val_subset=8, epochs=1)
    assert [len(names) <= size for names, size in zip(seen, (12, 8), strict=True)] == [True, True]
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
        {"augment": False},
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
    start_at_prevalence(model, labels)
    assert model.head.bias.sigmoid().tolist() == pytest.approx([0.25, 0.999, *[0.001] * 12], rel=1e-4)


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
        seen.append(self.param_groups[1]["params"][-1].detach().clone())  # the head's bias
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
            TrainConfig.of(**{name: 1})
        assert nearest is None or str(error.value).endswith(f"did you mean {nearest!r}?")
    assert TrainConfig.of(epochs=3) == TrainConfig(epochs=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arch", "resnet_18"),
        ("arch", 18),
        ("weights", None),
        ("image_size", 31),
        ("image_size", "224"),
        ("image_size", 224.5),
        ("epochs", 0),
        ("epochs", "8"),
        ("epochs", 2.5),
        ("epochs", True),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", -1e-4),
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", "1e-4"),
        ("loss", "bse"),
        ("loss", ["bce"]),
        ("pos_weight_cap", 0.5),
        ("pos_weight_cap", math.nan),
        ("weight_decay", -0.1),
        ("warmup", 1.0),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("augment", "false"),
        ("augment", 1),
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
        TrainConfig.of(**{name: value})
    assert "expected" in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so that asking for one is no error")
def test_a_device_that_is_not_there_is_refused(train):
    with pytest.raises(InputError, match="device 'cuda' was asked for and is not there"):
        train(device="cuda")
