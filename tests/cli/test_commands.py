"""The command lines: what they write, what they say about bad input, and that evaluation meets no known patient."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import cxrlib.evaluation.protocol
import cxrlib.explain.case_maps
from cxrlib.cli.main import main
from cxrlib.data.cache import ImageCache, read_image
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import read_boxes
from cxrlib.data.sources import find_images
from cxrlib.evaluation.calibration import Calibrator
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.explain.prediction import Predictor
from cxrlib.models.architectures import model_from_checkpoint
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
COMMANDS = ("run", "train", "eval", "ensemble", "gradcam", "export", "predict", "preprocess", "download", "phantom")
QUICK = ["--arch", "mobilenet_v2", "--weights", "none", "--image_size", "32", "--epochs", "1", "--device", "cpu"]


def data(root, csv_path=None):
    cache = ["--cache_dir", str(Path(root).parent / "cache")]
    return ["--img_root", str(root), *(["--csv_path", str(csv_path)] if csv_path else []), *cache]


@pytest.fixture(scope="session")
def trained_on(_tiny_original, tmp_path_factory):
    """For each split a checkpoint, trained on a CSV that lacks patients, and visits of patients that it has."""
    folder = tmp_path_factory.mktemp("trained")
    table = pd.read_csv(_tiny_original / "Data_Entry_2017.csv", dtype=str)
    known = table[(table["Patient ID"].astype(int) % 7 > 0) & (table["Follow-up #"].astype(int) != 1)]
    known.to_csv(folder / "some.csv", index=False)
    for split in ("patient", "official"):
        where = ["--split", split, "--run_dir", str(folder / split)]
        assert main(["train", *data(_tiny_original, folder / "some.csv"), *QUICK, *where]) == 0
    return folder


@pytest.fixture
def trained(trained_on, tiny_nih, tmp_path, monkeypatch) -> Path:
    """An empty working directory but for model_best.pth and model_last.pth of a split by patient."""
    work = tmp_path / "work"
    work.mkdir()
    for name in ("model_best.pth", "model_last.pth"):
        shutil.copy(trained_on / "patient" / name, work / name)
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def refused(capfd, tmp_path):
    """Run a command that must be refused: exit code 2, one line on stderr, nothing written. Returns the line."""

    def call(*arguments) -> str:
        before = listing(tmp_path)
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = stop.code
        line = capfd.readouterr().err
        assert code == 2
        assert line.count("\n") == 1, line
        assert line.endswith("\n")
        assert "Traceback" not in line
        assert listing(tmp_path) == before
        return line

    return call


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- train -----------------------------------------------------------------------------------------------------------
def test_train_writes_two_checkpoints_and_the_history(tiny_nih, empty, capsys):
    assert main(["train", *data(tiny_nih.root), *QUICK, "--epochs", "2", "--train_subset", "20", "--seed", "3"]) == 0
    assert {path.name for path in empty.iterdir() if not path.name.startswith(".")} == {
        "model_best.pth", "model_last.pth", "history.csv", "predictions_val.npz",
    }  # fmt: skip
    history = pd.read_csv("history.csv")
    assert list(history["epoch"]) == [1, 2]
    checkpoint = load_checkpoint("model_best.pth")
    assert checkpoint["arch"] == "mobilenet_v2"
    assert checkpoint["image_size"] == 32
    wanted = {"split": "official", "seed": 3, "train_subset": 20, "epochs": 2, "lr": 3e-4, "augment": 1.0}
    assert wanted.items() <= checkpoint["config"].items()
    out = capsys.readouterr().out
    assert "63 radiographs of 32 patients" in out
    kept = history.loc[history["best"]].iloc[-1]
    assert f"kept epoch {kept['epoch']}: validation macro AUROC {kept['val_auroc']:.4f}" in out
    official = set((tiny_nih.root / "test_list.txt").read_text().split())
    assert not official & {name for names in checkpoint["parts"].values() for name in names}


def test_train_decodes_no_image_of_the_test_part(tiny_nih, empty):
    assert main(["train", *data(tiny_nih.root), *QUICK, "--run_dir", "deep/run"]) == 0
    parts = load_checkpoint("deep/run/model_best.pth")["parts"]
    [cache] = {path.parent for path in (tiny_nih.root.parent / "cache").glob("*/cache.json")}
    assert len(ImageCache(cache)) == len(parts["train"]) + len(parts["val"])
    assert not list(empty.glob("*.pth"))


def test_flags_reach_the_training(tiny_nih, empty):
    more = ["--no_augment", "--loss", "focal", "--ema_decay", "0", "--batch_size", "16", "--split", "patient"]
    assert main(["train", *data(tiny_nih.root), *QUICK, *more]) == 0
    config = load_checkpoint("model_last.pth")["config"]
    wanted = {"augment": 0.0, "loss": "focal", "ema_decay": 0.0, "batch_size": 16, "split": "patient"}
    assert wanted.items() <= config.items()


# ---- eval ------------------------------------------------------------------------------------------------------------
def test_eval_writes_tables_and_when_asked_gives_the_checkpoint_its_thresholds(tiny_nih, trained, capsys):
    assert main(["eval", *data(tiny_nih.root), "--replicates", "30", "--update_checkpoint"]) == 0
    tables = trained / "results" / "tables"
    assert {path.name for path in tables.iterdir()} == {
        "metrics.txt", "metrics.csv", "thresholds.json", "calibration.json", "predictions_test.npz",
    }  # fmt: skip
    text = (tables / "metrics.txt").read_text()
    assert text in capsys.readouterr().out
    lines = text.split("\n")
    table = pd.read_csv(tables / "metrics.csv", index_col="finding")
    thresholds = Thresholds.load(tables / "thresholds.json")
    figure = r"(\d\.\d{4} \[(?:\d\.\d{3}, \d\.\d{3}|no interval)\] ?|undefined +)"
    for finding, threshold, line in zip(FINDINGS, thresholds.values, lines, strict=False):
        found = re.fullmatch(rf"{finding} +AUC {figure}  F1 {figure}  threshold (\S+) +positives (\d+) of (\d+)", line)
        assert found, line
        row = table.loc[finding]
        assert found[3] == "never" if threshold > 1 else float(found[3]) == pytest.approx(row["threshold"], rel=0.06)
        assert (int(found[4]), int(found[5])) == (row["positives"], row["n"])
        assert found[1].startswith("undefined" if np.isnan(row["auroc"]) else f"{row['auroc']:.4f} ")
    assert [line.split()[:3] for line in lines[14:17]] == [
        ["macro", "AUC", "AUC"], ["macro", "F1", "F1"], ["macro", "AP", "AP"],
    ]  # fmt: skip
    assert f"{table.loc['macro', 'auroc']:.4f}" in lines[14]
    test = Predictions.load(tables / "predictions_test.npz")
    calibrator = Calibrator.load(tables / "calibration.json")
    again = evaluate(calibrator.apply(test), thresholds, replicates=30)
    numbers = ["positives", "n", "auroc", "ap", "f1", "threshold", "auroc_low", "f1_high"]
    pd.testing.assert_frame_equal(table[numbers], again[numbers], check_dtype=False, check_names=False)
    carried = load_checkpoint("model_best.pth")
    assert carried["thresholds"] == thresholds.to_dict()
    assert carried["calibration"] == calibrator.to_dict()
    assert load_checkpoint("model_last.pth")["thresholds"] is None
    before = {name: value for name, value in load_checkpoint("model_last.pth").items() if name == "config"}
    assert carried["config"] == before["config"]


def test_eval_leaves_the_checkpoint_alone(tiny_nih, trained, capfd, monkeypatch, refused):
    kept = trained / "kept"
    kept.mkdir()
    weights = shutil.move("model_best.pth", kept / "model_best.pth")
    before, made = weights.read_bytes(), tempfile.TemporaryFile

    def refused_for_root_too(dir=None, **how):
        if dir == kept:
            raise PermissionError
        return made(dir=dir, **how)

    monkeypatch.setattr(tempfile, "TemporaryFile", refused_for_root_too)
    given = ["eval", *data(tiny_nih.root), "--replicates", "0", "--weights", str(weights)]
    assert main(given) == 0
    assert "kept/model_best.pth is unchanged" in capfd.readouterr().out
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {"model_best.pth": before}
    assert "kept is read-only" in refused(*given, "--update_checkpoint")


@pytest.mark.parametrize("split", ["patient", "official"])
def test_eval_scores_no_patient_of_train_or_val(split, trained_on, trained, tiny_nih, capsys):
    shutil.copy(trained_on / split / "model_best.pth", "model_best.pth")
    parts = load_checkpoint("model_best.pth")["parts"]
    patient_of = pd.read_csv(tiny_nih.csv_path, index_col="Image Index")["Patient ID"]
    known = set(patient_of[parts["train"] + parts["val"]])
    assert main(["eval", *data(tiny_nih.root), "--replicates", "0"]) == 0  # of more images than the training saw
    test = Predictions.load("results/tables/predictions_test.npz")
    assert not known & set(test.patient)
    unknown = {name for name, patient in patient_of.items() if patient not in known}
    official = set((tiny_nih.root / "test_list.txt").read_text().split())
    assert set(test.image) == (unknown & official if split == "official" else unknown)
    assert unknown - official, "no unseen patient of the official training part: nothing is shown"
    left_out = f"left out: {len(unknown - official)} images of "
    assert (left_out in capsys.readouterr().out) == (split == "official")
    seen = set(pd.read_csv(trained_on / "some.csv")["Image Index"])
    assert set(patient_of.index[patient_of.isin(known)]) - seen, "no unseen visit of a known patient: nothing is shown"
    assert set(test.image) - seen, "no unseen patient: nothing is shown"


def test_eval_and_gradcam_follow_the_checkpoint_not_the_lists(trained, tiny_nih):
    (tiny_nih.root / "test_list.txt").write_text("\n".join(load_checkpoint("model_best.pth")["parts"]["train"]))
    (tiny_nih.root / "train_val_list.txt").write_text("")
    assert main(["eval", *data(tiny_nih.root), "--replicates", "0"]) == 0
    test = Predictions.load("results/tables/predictions_test.npz")
    assert not set(test.image) & set(load_checkpoint("model_best.pth")["parts"]["train"])


def test_eval_tunes_on_validation_only(trained, tiny_nih, monkeypatch):
    seen, tune = [], cxrlib.evaluation.protocol.tune_thresholds
    monkeypatch.setattr(
        cxrlib.evaluation.protocol, "tune_thresholds", lambda val, *how: seen.append(val) or tune(val, *how)
    )
    assert main(["eval", *data(tiny_nih.root), "--replicates", "0"]) == 0
    patient_of = pd.read_csv(tiny_nih.csv_path, index_col="Image Index")["Patient ID"]
    parts = load_checkpoint("model_best.pth")["parts"]
    assert set(seen[0].patient) == set(patient_of[parts["val"]])
    assert not set(seen[0].patient) & set(patient_of[parts["train"]])


def test_gradcam_compares_calibrated_scores_with_calibrated_thresholds(trained, tiny_nih, monkeypatch):
    maps = (dict.fromkeys(("slope", "intercept"), 0.5),) * 14
    calibrator = Calibrator("platt", maps)
    thresholds = Thresholds([0.5] * 14, calibration="platt")
    fields = {"thresholds": thresholds.to_dict(), "calibration": calibrator.to_dict()}
    write_checkpoint("model_best.pth", load_checkpoint("model_best.pth") | fields)
    drawn = []
    make, module = cxrlib.explain.case_maps.score_table, "cxrlib.explain.case_maps.score_table"
    monkeypatch.setattr(module, lambda *given: drawn.append((given[0], given[2])) or make(*given))
    assert main(["gradcam", *data(tiny_nih.root), "--samples", "3"]) == 0
    [(predictions, cuts)] = drawn
    assert predictions.calibration == cuts.calibration == "platt"
    assert main(["eval", *data(tiny_nih.root), "--replicates", "0"]) == 0
    raw = Predictions.load("results/tables/predictions_test.npz")
    raw = raw.take([raw.image.tolist().index(name) for name in predictions.image])
    np.testing.assert_allclose(predictions.scores, calibrator.calibrate(raw.scores), atol=1e-5)


def test_gradcam_takes_the_thresholds_that_eval_wrote(trained, tiny_nih, monkeypatch, capfd, refused):
    drawn = []
    make, module = cxrlib.explain.case_maps.score_table, "cxrlib.explain.case_maps.score_table"
    monkeypatch.setattr(module, lambda *given: drawn.append((given[0], given[2])) or make(*given))
    gradcam = ["gradcam", *data(tiny_nih.root), "--samples", "3"]
    assert main(gradcam) == 0
    assert "model_best.pth holds no thresholds" in capfd.readouterr().out
    assert drawn.pop()[1] is None
    assert main(["eval", *data(tiny_nih.root), "--replicates", "0", "--calibrate", "platt"]) == 0
    tables = Path("results/tables")
    assert main([*gradcam, "--thresholds", str(tables / "thresholds.json")]) == 0
    predictions, thresholds = drawn.pop()
    assert thresholds.to_dict() == Thresholds.load(tables / "thresholds.json").to_dict()
    raw = Predictions.load(tables / "predictions_test.npz")
    raw = raw.take([raw.image.tolist().index(name) for name in predictions.image])
    calibrated = Calibrator.load(tables / "calibration.json").calibrate(raw.scores)
    np.testing.assert_allclose(predictions.scores, calibrated, atol=1e-5)
    (tables / "calibration.json").unlink()
    line = refused(*gradcam, "--thresholds", str(tables / "thresholds.json"))
    assert "are on scores of calibration platt" in line
    assert "none.json is not a file; expected" in refused(*gradcam, "--thresholds", "none.json")


def test_eval_as_asked_calibrates_tunes_and_audits(trained, tiny_nih, refused):
    rows = [
        f"{name},1,{'YES' if k % 2 else 'NO'}" for k, name in enumerate(pd.read_csv(tiny_nih.csv_path)["Image Index"])
    ]
    (tiny_nih.root / "true_labels.csv").write_text("\n".join(["Image ID,Patient ID,Mass", *rows]) + "\n")
    how = ["--calibrate", "platt", "--grid", "exact", "--objective", "youden", "--audit", "--replicates", "0"]
    assert main(["eval", *data(tiny_nih.root), *how]) == 0
    thresholds = Thresholds.load("results/tables/thresholds.json")
    assert (thresholds.grid, thresholds.objective, thresholds.calibration) == (None, "youden", "platt")
    audit = pd.read_csv("results/tables/audit.csv")
    assert set(audit["by"]) == {"sex", "age", "view"}
    assert set(audit["metric"]) == {"auroc", "miss_rate"}
    assert pd.read_csv("results/tables/experts.csv")["finding"].tolist() == ["Mass"]
    for flag, value in (("--calibrate", "plat"), ("--grid", "fine"), ("--objective", "f")):
        assert repr(value) in refused("eval", *data(tiny_nih.root), flag, value)


def test_eval_takes_thresholds_saved_by_hand(trained, tiny_nih):
    how = ["--replicates", "0", "--calibrate", "none"]
    assert main(["eval", *data(tiny_nih.root), *how]) == 0
    tuned = Thresholds.load("results/tables/thresholds.json")
    by_hand = dataclasses.replace(tuned, values=tuned.values * 0 + 0.123, grid=None, objective="by hand, from f1")
    by_hand.save("mine.json")
    assert main(["eval", *data(tiny_nih.root), *how[:2], "--calibrate", "platt", "--thresholds", "mine.json",
                 "--update_checkpoint"]) == 0  # fmt: skip
    table = pd.read_csv("results/tables/metrics.csv", index_col=0)
    assert (table.loc[list(FINDINGS), "threshold"] == 0.123).all()
    assert Thresholds.load("results/tables/thresholds.json").to_dict() == by_hand.to_dict()
    carried = load_checkpoint("model_best.pth")
    assert carried["thresholds"] == by_hand.to_dict()
    assert carried["calibration"]["method"] == "none", "that of the thresholds, not the flag's"


# ---- several models --------------------------------------------------------------------------------------------------
@pytest.fixture
def members(trained) -> list[str]:
    """model_best.pth, and two with other heads, one of them for another image size: models of one split."""
    content = load_checkpoint("model_best.pth")
    for seed, size in ((1, 32), (2, 48)):
        state, noise = dict(content["state_dict"]), torch.Generator().manual_seed(seed)
        head = state["backbone.classifier.1.weight"]
        state["backbone.classifier.1.weight"] = head + 0.2 * torch.randn(head.shape, generator=noise)
        write_checkpoint(f"m{seed}.pth", content | {"state_dict": state, "image_size": size})
    return ["model_best.pth", "m1.pth", "m2.pth"]


def same_images(*each):
    assert all((one.image == each[0].image).all() for one in each)


def test_eval_of_several_models_measures_the_mean_of_their_calibrated_scores(members, tiny_nih, capsys):
    how = ["--calibrate", "platt", "--replicates", "50"]
    tables, single = Path("results/tables"), Path("single/tables")
    assert main(["eval", *data(tiny_nih.root), *how, "--weights", *members]) == 0
    text = (tables / "metrics.txt").read_text()
    assert text in capsys.readouterr().out
    calibrated = []
    for number, name in enumerate(members, 1):
        assert main(["eval", *data(tiny_nih.root), *how, "--weights", name, "--out", "single"]) == 0
        own, here = (Calibrator.load(at) for at in (single / "calibration.json", tables / f"calibration_{number}.json"))
        assert own.to_dict() == here.to_dict(), "each is calibrated by itself, on validation"
        raw = Predictions.load(single / "predictions_test.npz")
        same_images(raw, member := Predictions.load(tables / f"predictions_test_{number}.npz"))
        np.testing.assert_allclose(member.scores, raw.scores, atol=1e-6)
        calibrated.append(own.calibrate(raw.scores))
    mean, thresholds = Predictions.load(tables / "predictions_test.npz"), Thresholds.load(tables / "thresholds.json")
    np.testing.assert_allclose(mean.scores, np.mean(calibrated, axis=0), atol=1e-6)
    assert mean.calibration == thresholds.calibration == "mean of platt, platt, platt"
    expected = evaluate(mean, thresholds, replicates=50)
    table = pd.read_csv(tables / "metrics.csv", index_col="finding")
    np.testing.assert_allclose(
        table.loc["macro", ["auroc", "f1"]].astype(float), expected.loc["macro", ["auroc", "f1"]]
    )
    against = pd.read_csv(tables / "members.csv", index_col="model")
    assert list(against.index) == ["1", "2", "3", "members", "ensemble", "ensemble - members"]
    np.testing.assert_allclose(
        against.loc["ensemble"], expected.loc["macro", ["auroc", "auroc_low", "auroc_high"]].astype(float)
    )
    assert against.loc["members", "auroc"] == pytest.approx(against["auroc"][:3].mean())
    assert "# m2.pth: mobilenet_v2, 48 pixels" in text
    assert "ensemble - members" in text


def test_an_ensemble_file_carries_its_operating_point(members, tiny_nih, capsys, monkeypatch):
    assert main(["ensemble", *members, "--out", "e.pth"]) == 0
    parts = load_checkpoint("model_best.pth")["parts"]
    seen = f"{len(parts['train']):,} train and {len(parts['val']):,} val images"
    assert f"wrote e.pth: 3 models, which have seen {seen}" in capsys.readouterr().out
    assert main(["eval", *data(tiny_nih.root), "--weights", "e.pth", "--replicates", "0", "--update_checkpoint"]) == 0
    tables = Path("results/tables")
    thresholds = Thresholds.load(tables / "thresholds.json")
    mean = Predictions.load(tables / "predictions_test.npz")
    drawn = []
    make, module = cxrlib.explain.case_maps.score_table, "cxrlib.explain.case_maps.score_table"
    monkeypatch.setattr(module, lambda *given: drawn.append((given[0], given[2])) or make(*given))
    same = [["e.pth"], [*members, "--thresholds", str(tables / "thresholds.json")]]
    for weights in same:
        assert main(["gradcam", *data(tiny_nih.root), "--samples", "3", "--weights", *weights]) == 0
        predictions, cuts = drawn.pop()
        assert cuts.to_dict() == thresholds.to_dict()
        rows = [mean.image.tolist().index(name) for name in predictions.image]
        np.testing.assert_allclose(predictions.scores, mean.scores[rows], atol=1e-5)
    images = {path.name: str(path) for path in tiny_nih.root.rglob("*.png")}
    found = next(Predictor(["e.pth"], "cpu", force=True).predict([images[mean.image[0]]]))
    np.testing.assert_allclose(found.probability, mean.scores[0], atol=1e-5)
    np.testing.assert_allclose(found.thresholds[thresholds.tuned], thresholds.values[thresholds.tuned])


def test_gradcam_of_several_models_shows_the_mean_of_their_maps(members, tiny_nih, monkeypatch):
    shown, module = {}, "cxrlib.cli.commands.models.write_overlays"
    monkeypatch.setattr(module, lambda folder, maps, *_: shown.update({name: list(maps)}) or [])
    for name in ("model_best.pth", "m1.pth", "both"):
        weights = ["model_best.pth", "m1.pth"] if name == "both" else [name]
        table = ["--samples", "2", "--weights", *weights]
        monkeypatch.setattr("cxrlib.explain.case_maps.highest_labelled", lambda _: [(0, k) for k in range(14)])
        assert main(["gradcam", *data(tiny_nih.root), *table]) == 0
    for one, other, mean in zip(*shown.values(), strict=True):
        np.testing.assert_allclose(mean, (one + other) / 2, atol=1e-6)
    assert not np.array_equal(shown["both"], shown["m1.pth"])
    assert (
        main(["gradcam", *data(tiny_nih.root), "--weights", *members, "--boxes", "--samples", "1", "--replicates", "0"])
        == 0
    )
    table = pd.read_csv("results/gradcam/localization.csv")
    assert set(table["maps"]) == {"model", "chance", "random", "average", "untrained"}


def test_several_models_elsewhere_keep_the_operating_point(members, tiny_nih, elsewhere, refused):
    main(["ensemble", *members, "--out", "e.pth"])
    assert main(["eval", *data(tiny_nih.root), "--weights", "e.pth", "--replicates", "0", "--update_checkpoint"]) == 0
    where = ["eval", "--external", str(elsewhere), "--cache_dir", str(elsewhere.parent / "cache"), "--replicates", "0"]
    assert main([*where, "--weights", "e.pth", "--here", "results/tables/predictions_test.npz", "--out", "other"]) == 0
    table = pd.read_csv("other/external.csv", index_col="finding")
    found = Predictions.load("other/predictions_external.npz")
    thresholds = Thresholds.load("results/tables/thresholds.json")
    expected = evaluate(found, dataclasses.replace(thresholds, calibration=None), replicates=0)
    assert table.loc["Mass", "specificity"] == pytest.approx(expected.loc["Mass", "specificity"])
    assert table.loc["Mass", "auroc_here"] > 0
    own = "results/tables/predictions_test_1.npz"
    assert "holds scores of calibration none, not of e.pth (1), " in refused(
        *where, "--weights", "e.pth", "--here", own
    )


def test_models_that_do_not_belong_together_are_refused(members, tiny_nih, trained_on, refused):
    shutil.copy(trained_on / "official" / "model_best.pth", "other.pth")
    assert "expected models of one split" in refused("ensemble", *members, "other.pth", "--out", "e.pth")
    assert "expected models of one split" in refused("eval", *data(tiny_nih.root), "--weights", *members, "other.pth")
    content = load_checkpoint("m1.pth")
    moved = {"train": content["parts"]["train"] + content["parts"]["val"], "val": content["parts"]["train"][:1]}
    write_checkpoint("m1.pth", content | {"parts": moved})
    assert "that m1.pth holds out" in refused("gradcam", *data(tiny_nih.root), "--weights", *members)
    assert "is a single model; expected two or more" in refused("ensemble", "m2.pth")
    main(["ensemble", "model_best.pth", "m2.pth", "--out", "e.pth"])
    assert "e.pth is an ensemble of 2 models; expected a single model" in refused("export", "--weights", "e.pth")
    both = ["--weights", "model_best.pth", "m2.pth", "--update_checkpoint"]
    assert "make one of them first (cxr ensemble)" in refused("eval", *data(tiny_nih.root), *both)


def test_what_an_earlier_evaluation_left_goes(members, tiny_nih):
    how = ["--replicates", "0", "--calibrate", "platt"]
    assert main(["eval", *data(tiny_nih.root), *how, "--weights", *members[:2], "--audit"]) == 0
    tables = Path("results/tables")
    former = {"members.csv", "audit.csv", "calibration_2.json", "predictions_test_2.npz"}
    assert former <= {path.name for path in tables.iterdir()}
    assert main(["eval", *data(tiny_nih.root), *how, "--weights", members[1]]) == 0
    assert sorted(path.name for path in tables.iterdir()) == [
        "calibration.json", "metrics.csv", "metrics.txt", "predictions_test.npz", "thresholds.json"]  # fmt: skip


def test_thresholds_of_models_in_another_order_are_refused(members, tiny_nih, refused):
    """Each model's calibration is known by its number alone."""
    how = ["--replicates", "0", "--calibrate", "platt", "--weights", *members[:2]]
    assert main(["eval", *data(tiny_nih.root), *how]) == 0
    maps = ["gradcam", *data(tiny_nih.root), "--samples", "1", "--thresholds", "results/tables/thresholds.json"]
    assert main([*maps, "--weights", *members[:2]]) == 0
    assert "of these models in another order" in refused(*maps, "--weights", *members[1::-1])


def test_a_model_that_is_read_is_not_written_over(members, refused):
    assert "m1.pth is a model that is read" in refused("export", "--weights", "m1.pth", "--out", "./m1.pth")
    assert "m1.pth is a model that is read" in refused("ensemble", *members, "--out", Path("m1.pth").absolute())
    assert "is given twice" in refused("ensemble", "m1.pth", Path("m1.pth").absolute(), "--out", "twice.pth")


def test_maps_are_not_drawn_before_the_boxes_are_missed(trained, tiny_nih, refused):
    tiny_nih.boxes_path.unlink()
    assert "holds no BBox_List_2017.csv" in refused("gradcam", *data(tiny_nih.root), "--boxes")


def test_an_ensemble_elsewhere_says_how_its_scores_are_calibrated(members, tiny_nih, elsewhere):
    how = ["--replicates", "0", "--weights", *members[:2]]
    assert main(["eval", *data(tiny_nih.root), *how, "--calibrate", "platt"]) == 0
    where = ["--external", str(elsewhere), "--cache_dir", str(elsewhere.parent / "cache"), "--out", "other"]
    assert main(["eval", *where, *how, "--thresholds", "results/tables/thresholds.json"]) == 0
    assert Predictions.load("other/predictions_external.npz").calibration == "mean of platt, platt"


@pytest.mark.parametrize("flag", ["--subset 9", "--calibrate none", "--objective youden", "--grid exact"])
def test_what_has_no_effect_elsewhere_is_refused(flag, trained, elsewhere, refused):
    line = refused("eval", "--external", elsewhere, *flag.split())
    assert f"{flag.split()[0][2:]} belong to a model's own hospital" in line


def test_thresholds_are_given_or_tuned(trained, tiny_nih, refused):
    Thresholds(np.full(14, 0.5)).save("t.json")
    line = refused("eval", *data(tiny_nih.root), "--thresholds", "t.json", "--grid", "exact")
    assert "grid would tune thresholds, and thresholds are given" in line


def test_predictions_of_the_training_are_not_those_of_the_test_part(trained, tiny_nih, elsewhere, refused):
    assert main(["eval", *data(tiny_nih.root), "--replicates", "0"]) == 0
    test = Predictions.load("results/tables/predictions_test.npz")
    names = [load_checkpoint("model_best.pth")["parts"]["val"][0], *test.image[1:]]
    dataclasses.replace(test, image=np.array(names)).save("other.npz")
    where = ["eval", "--external", elsewhere, "--thresholds", "results/tables/thresholds.json"]
    assert "holds scores of 1 images of the training" in refused(*where, "--here", "other.npz")
    assert "expected external" in refused("eval", "--here", "other.npz", *data(elsewhere))


@pytest.fixture
def elsewhere(tiny_nih, tmp_path):
    """Another hospital: 40 radiographs in folders, named by path; Effusion and Mass, each known of half of them."""
    entries = pd.read_csv(tiny_nih.csv_path, dtype=str)
    table, folder = [], tmp_path / "elsewhere"
    for number, (name, labels) in enumerate(zip(entries["Image Index"][:40], entries["Finding Labels"], strict=False)):
        place = folder / "films" / f"patient{number // 2}" / "frontal.png" if number % 2 else folder / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(tiny_nih.root.glob(f"images_*/images/{name}")), place)
        known = [int("Effusion" in labels) if number < 30 else "", int("Mass" in labels) if number > 9 else ""]
        table.append([place.relative_to(folder).as_posix(), number // 2, *known])
    pd.DataFrame(table, columns=["image", "patient", "Pleural Effusion", "Mass"]).to_csv(folder / "labels.csv")
    return folder


def test_eval_elsewhere_keeps_the_operating_point(tiny_nih, trained, elsewhere, capsys):
    assert main(["eval", *data(tiny_nih.root), "--replicates", "10"]) == 0
    tables, before = trained / "results" / "tables", (trained / "model_best.pth").read_bytes()
    here, frozen = tables / "predictions_test.npz", tables / "thresholds.json"
    where = ["--external", str(elsewhere), "--cache_dir", str(elsewhere.parent / "cache"), "--out", "other"]
    assert main(["eval", *where, "--thresholds", str(frozen), "--here", str(here), "--replicates", "30"]) == 0
    table = pd.read_csv("other/external.csv", index_col="finding")
    assert table.loc[["Effusion", "Mass", "Hernia"], "n"].tolist() == [30, 30, 0]
    predictions = Predictions.load("other/predictions_external.npz")
    assert len(predictions) == 40
    assert len(np.unique(predictions.patient)) == 20
    calibrator = Calibrator.load(tables / "calibration.json")
    expected = evaluate(calibrator.apply(predictions), Thresholds.load(frozen), replicates=0)
    columns = ["sensitivity", "specificity", "ece_mass"]
    assert table.loc["Mass", columns].tolist() == pytest.approx(expected.loc["Mass", columns].tolist())
    assert table.loc["Mass", ["auroc_here", "difference"]].notna().all()
    text = Path("other/external.txt").read_text()
    assert text in capsys.readouterr().out
    assert "40 radiographs of 20 patients; known labels: Effusion 30, Mass 30" in text
    assert (trained / "model_best.pth").read_bytes() == before
    shutil.copy(here, trained / "predictions_test.npz")  # found beside the checkpoint
    assert main(["eval", *where, "--thresholds", str(frozen), "--replicates", "0"]) == 0
    assert pd.read_csv("other/external.csv", index_col="finding").loc["Mass", "auroc_here"] > 0
    for flag in ("--audit", "--update_checkpoint"):
        assert main(["eval", *where, flag]) == 2
        assert "belong to a model's own hospital" in capsys.readouterr().err
    (trained / "predictions_test.npz").unlink()
    assert main(["eval", *where, "--thresholds", str(frozen), "--replicates", "0"]) == 0
    assert "auroc_here" not in pd.read_csv("other/external.csv")
    assert "--here names another file" in Path("other/external.txt").read_text()


def test_a_table_with_empty_cells_trains_and_is_evaluated(elsewhere, empty, capsys):
    assert main(["train", *data(elsewhere), *QUICK, "--split", "patient"]) == 0
    assert "40 radiographs of 20 patients; known labels: Effusion 30, Mass 30" in capsys.readouterr().out
    assert load_checkpoint("model_best.pth")["config"]["split"] == "patient"
    assert main(["eval", *data(elsewhere), "--replicates", "0"]) == 0
    table = pd.read_csv("results/tables/metrics.csv", index_col="finding")
    test = Predictions.load("results/tables/predictions_test.npz")
    known = test.known[:, [FINDINGS.index("Effusion"), FINDINGS.index("Mass")]].sum(axis=0)
    assert table.loc[["Effusion", "Mass"], "n"].tolist() == known.tolist()
    assert 0 < known.min() < len(test)
    assert table.loc["Hernia", "n"] == 0


def test_eval_elsewhere_scores_are_those_of_the_files(tiny_nih, trained, elsewhere):
    """Each score belongs to its own image, also where two files have the same name."""
    checkpoint = load_checkpoint("model_best.pth")
    Thresholds(np.full(14, 0.5)).save("t.json")
    where = ["--external", str(elsewhere), "--cache_dir", str(elsewhere.parent / "cache"), "--thresholds", "t.json"]
    assert main(["eval", *where, "--replicates", "0"]) == 0
    found = Predictions.load("results/predictions_external.npz")
    model = model_from_checkpoint(checkpoint)
    with torch.inference_mode():
        for row in (1, 2, 3, 39):
            pixels = read_image(elsewhere / pd.read_csv(elsewhere / "labels.csv")["image"][row], 32)
            score = model(torch.from_numpy(pixels.copy())[None, None]).sigmoid()[0]
            np.testing.assert_allclose(found.scores[row], score, atol=1e-5)


def test_eval_elsewhere_refuses_what_is_not_elsewhere(trained, elsewhere, refused):
    (trained / "t.json").write_text(json.dumps(Thresholds(np.full(14, 0.5)).to_dict()))
    where = ["eval", "--external", elsewhere, "--thresholds", "t.json"]
    assert "has no thresholds to keep" in refused("eval", "--external", elsewhere)
    assert "is not a folder" in refused("eval", "--external", elsewhere / "none", "--thresholds", "t.json")
    assert "expected predictions (.npz)" in refused(*where, "--here", "none.npz")
    name = load_checkpoint("model_best.pth")["parts"]["train"][0]
    shutil.copy(elsewhere / "0.png", elsewhere / name)
    (elsewhere / "labels.csv").write_text(f"image,Mass\n{name},1\n0.png,0\n")
    assert f"1 images, such as {name}, are named like images of the training" in refused(*where)
    shutil.move(elsewhere / name, elsewhere / "films")
    (elsewhere / "labels.csv").write_text(f"image,Mass\nfilms/{name},1\n0.png,0\n")
    assert f"1 images, such as {name}, are named like images of the training" in refused(*where)


def test_eval_of_a_subset_takes_whole_patients(trained, tiny_nih):
    main(["eval", *data(tiny_nih.root), "--replicates", "0", "--out", "all"])
    main(["eval", *data(tiny_nih.root), "--replicates", "0", "--out", "few", "--subset", "9"])
    every, few = (Predictions.load(f"{out}/tables/predictions_test.npz") for out in ("all", "few"))
    assert 0 < len(few) <= 9 < len(every)
    assert len(few) == np.isin(every.patient, few.patient).sum()


# ---- gradcam ---------------------------------------------------------------------------------------------------------
def test_gradcam_writes_as_many_overlays_as_samples(tiny_nih, trained):
    assert main(["gradcam", *data(tiny_nih.root), "--samples", "8"]) == 0
    pictures = sorted(Path("results/gradcam").glob("0*.png"))
    assert len(pictures) == 8
    scores = pd.read_csv("results/gradcam/scores.csv", index_col="image")
    table = pd.read_csv(tiny_nih.csv_path, index_col="Image Index")
    checkpoint = load_checkpoint("model_best.pth")
    assert not set(scores.index) & {*checkpoint["parts"]["train"], *checkpoint["parts"]["val"]}
    for path in pictures:
        stem, finding = re.fullmatch(r"(\d{8}_\d{3})_(.+)", path.stem).groups()
        labelled = table.loc[f"{stem}.png", "Finding Labels"].split("|")
        assert finding in labelled
        assert finding == scores.loc[f"{stem}.png", labelled].idxmax()


def test_gradcam_fills_up_with_images_without_a_finding_and_says_when_there_are_too_few(tiny_nih, trained, capsys):
    assert main(["gradcam", *data(tiny_nih.root), "--samples", "500"]) == 0
    table = pd.read_csv(tiny_nih.csv_path, index_col="Image Index")["Finding Labels"]
    scores = pd.read_csv("results/gradcam/scores.csv", index_col="image")
    without = (table[scores.index] == "No Finding").to_numpy()
    assert 0 < without.sum() < len(without)
    assert (np.sort(without) == without).all(), "images with a finding come first"
    assert len(list(Path("results/gradcam").glob("0*.png"))) == len(scores)
    assert f"the test part holds {len(scores)} images, fewer than the 500 samples" in capsys.readouterr().out


def test_gradcam_scores_the_boxes_of_the_test_part(tiny_nih, trained, capsys):
    asked = ["--samples", "2", "--method", "layercam", "--boxes", "--replicates", "20"]
    assert main(["gradcam", *data(tiny_nih.root), *asked]) == 0
    table = Path("results/gradcam/localization.csv")
    assert set(pd.read_csv(table)["maps"]) == {"model", "chance", "random", "average", "untrained"}
    assert "pointing game, layercam" in capsys.readouterr().out


def test_gradcam_scores_the_boxes_that_it_can_see(tiny_nih, trained, capsys):
    boxed = read_boxes(tiny_nih.boxes_path)["image"].unique()
    paths = find_images(tiny_nih.root)
    test = [name for name in boxed if name in set(Path(tiny_nih.root, "test_list.txt").read_text().split())] or list(
        boxed
    )
    paths[test[0]].write_bytes(paths[test[0]].read_bytes()[:60])
    asked = ["--samples", "2", "--boxes", "--replicates", "0", "--on_bad_image", "skip"]
    assert main(["gradcam", *data(tiny_nih.root), *asked]) == 0
    assert "pointing game" in capsys.readouterr().out


def test_gradcam_refuses_an_unknown_method(tiny_nih, refused, trained):
    assert "did you mean 'layercam'" in refused("gradcam", *data(tiny_nih.root), "--method", "layer_cam")


# ---- the others ------------------------------------------------------------------------------------------------------
def test_preprocess_fills_the_cache(tiny_nih, empty, capsys):
    assert main(["preprocess", *data(tiny_nih.root), "--image_size", "48"]) == 0
    [folder] = {path.parent for path in (tiny_nih.root.parent / "cache").glob("*/cache.json")}
    assert len(ImageCache(folder)) == 63
    assert f"63 radiographs at 48 pixels in {folder}" in capsys.readouterr().out


def test_phantom_draws_a_data_set(empty, capsys):
    assert main(["phantom", "made", "--n_patients", "3", "--size", "64"]) == 0
    assert (empty / "made" / "phantom.json").is_file()
    assert json.loads((empty / "made" / "phantom.json").read_text())["n_patients"] == 3
    assert "made" in capsys.readouterr().out


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert " ".join(["usage: cxr", *command]) in out
    if not command:
        assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("command", ["train", "eval", "gradcam"])
def test_flags_of_the_first_version(command, capsys):
    flags = {
        "train": "csv_path img_root epochs batch_size lr train_subset val_subset",
        "eval": "csv_path img_root weights subset",
        "gradcam": "csv_path img_root weights samples",
    }
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert all(f"--{flag} " in out for flag in flags[command].split())


def test_the_three_scripts_one_after_the_other(tiny_nih, empty):
    def run(name, *arguments):
        return subprocess.run(
            [sys.executable, SCRIPTS / name, *map(str, arguments)], cwd=empty, capture_output=True, text=True
        )

    ours = data(tiny_nih.root, tiny_nih.csv_path)
    for name, arguments in (
        ("train.py", [*ours, *QUICK, "--batch_size", 32, "--lr", "1e-4", "--train_subset", 30, "--val_subset", 9]),
        ("eval.py", [*ours, "--weights", "model_best.pth", "--subset", 20]),
        ("gradcam.py", [*ours, "--weights", "model_best.pth", "--samples", 8]),
    ):
        done = run(name, *arguments)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr, done.stderr
    assert (empty / "model_last.pth").is_file()
    assert (empty / "results" / "tables" / "metrics.txt").is_file()
    assert len(list((empty / "results" / "gradcam").glob("0*.png"))) == 8
    bad = run("gradcam.py", *ours, "--sample", "8")
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert "did you mean '--samples'?" in bad.stderr
    shown = run("train.py", "--help")
    assert shown.returncode == 0
    assert "--train_subset" in shown.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("arguments", "codes"), [(["train", "--help"], {0, 141}), (["run", "--dry-run"], {141})])
def test_output_that_nobody_reads_ends_the_command_quietly(arguments, codes, unbuffered):
    code = "import sys, time; from cxrlib.cli.main import main; time.sleep(1); sys.exit(main(sys.argv[1:]))"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as cxr:
        cxr.stdout.close()  # as `head` does once it has enough
        assert cxr.stderr.read() == b""
        assert cxr.wait() in codes, "128 and the number of SIGPIPE, which is what a shell shows for POSIX tools"


def test_another_broken_pipe_is_not_quiet(monkeypatch):
    def fails(_):
        """Lose a worker."""
        raise BrokenPipeError("a worker is gone")

    monkeypatch.setattr("cxrlib.cli.commands.course.run", fails)
    with pytest.raises(BrokenPipeError, match="a worker is gone"):
        main(["run"])


# ---- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["train", "eval", "gradcam", "preprocess"])
def test_missing_files_are_named(command, tiny_nih, trained, refused):
    more = QUICK[4:6] if command == "preprocess" else QUICK if command == "train" else []
    assert "no.csv" in refused(command, *data(tiny_nih.root, "no.csv"), *more)
    assert "nowhere is not a folder" in refused(command, *data("nowhere"), *more)
    assert "nowhere is not a folder" in refused(command, *data("nowhere", tiny_nih.csv_path), *more)
    assert "img_root is not given" in refused(command, *more)


def test_a_csv_without_the_columns_is_refused(tiny_nih, trained, refused):
    pd.read_csv(tiny_nih.csv_path).drop(columns="Finding Labels").to_csv(tiny_nih.csv_path, index=False)
    for command, more in (("train", QUICK), ("eval", []), ("gradcam", [])):
        assert "lacks the column Finding Labels (it has Image Index, " in refused(command, *data(tiny_nih.root), *more)


def test_a_root_without_images_says_what_was_looked_for_and_what_was_there(tiny_nih, empty, refused):
    for folder in tiny_nih.root.glob("images_*"):
        shutil.rmtree(folder)
    (tiny_nih.root / "scans").mkdir()
    line = refused("train", *data(tiny_nih.root), *QUICK)
    for part in ("images_*/images,", "sample/images,", "BBox_List_2017.csv", "scans/"):
        assert part in line


def test_a_label_outside_the_list_names_its_rows(tiny_nih, trained, refused):
    table = pd.read_csv(tiny_nih.csv_path)
    table.loc[[4, 9], "Finding Labels"] = ["Mass|Fracture", "Broken"]
    table.to_csv(tiny_nih.csv_path, index=False)
    for command, more in (("train", QUICK), ("eval", []), ("gradcam", [])):
        line = refused(command, *data(tiny_nih.root), *more)
        assert "Fracture" in line
        assert re.search(r"\brows?\b.*\b(4|5|6)\b", line), line


def test_a_checkpoint_of_another_architecture_is_refused(tiny_nih, trained, refused):
    other = ["--arch", "resnet18", "--weights", "model_best.pth"]
    line = refused("train", *data(tiny_nih.root), *QUICK, *other, "--run_dir", "new")
    assert "model_best.pth is a checkpoint of mobilenet_v2; expected one of resnet18" in line
    torch.save(load_checkpoint("model_best.pth") | {"arch": "resnet18"}, "wrong.pth")
    for command in ("eval", "gradcam"):
        line = refused(command, *data(tiny_nih.root), "--weights", "wrong.pth")
        assert "do not fit resnet18" in line


def test_foreign_files_are_refused(tiny_nih, trained, refused):
    torch.save({"weight": torch.zeros(3)}, "foreign.pth")
    Path("text.pth").write_text("not a checkpoint\n")
    for command in ("eval", "gradcam"):
        assert "foreign.pth lacks arch, config" in refused(command, *data(tiny_nih.root), "--weights", "foreign.pth")
        assert "text.pth cannot be read" in refused(command, *data(tiny_nih.root), "--weights", "text.pth")
        assert "gone.pth does not exist" in refused(command, *data(tiny_nih.root), "--weights", "gone.pth")
    assert "foreign.pth lacks" in refused("train", *data(tiny_nih.root), *QUICK, "--weights", "foreign.pth")


def test_what_no_architecture_of_a_comparison_can_do_is_said_before_any_is_trained(tiny_nih, empty, refused):
    line = refused("compare", *data(tiny_nih.root), "--weights", "none", "--image_size", "32", "--drop_strength", "2")
    assert "drop_strength 2 changes nothing: densenet121 has no dropout; expected 1" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--epocs", "3"], "cxr train: unrecognized arguments: --epocs 3; did you mean '--epochs'?"),
        (["train", "--epoch", "3"], "did you mean '--epochs'?"),  # no abbreviation is taken silently
        (["eval", "--weigths=x"], "did you mean '--weights'?"),
        (["eval", "--run_dir", "x"], "unrecognized arguments: --run_dir x (see"),  # two dashes are no likeness
        (["gradcam", "stray"], "unrecognized arguments: stray (see"),
        (["trian"], "invalid choice: 'trian' (choose from "),
        ([], "required: COMMAND"),
        (["train", "--lr", "fast"], "lr 'fast' cannot be used; expected a number above 0"),
        (["run", "-p", "epochs"], "expected 2 arguments"),
        (["run", "-p", "epocs", "3"], "unknown parameter 'epocs'"),
        (["run", "--profile", "quik"], "no profile 'quik'; expected cpu_10k, gpu_full, quick or a YAML file"),
        (["phantom", "made", "--size", "8"], "size 8 cannot be used"),
        (["download", "everything"], "everything"),
    ],
)
def test_unknown_names_suggest_the_nearest(arguments, message, empty, refused):
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", "resnet81"], "did you mean 'resnet18'?"),
        (["--image_size", "8"], "image_size 8 cannot be used"),
        (["--epochs", "0"], "epochs 0"),
        (["--lr", "nan"], "lr nan"),
        (["--split", "patients"], "did you mean 'patient'?"),
        (["--loss", "bec"], "did you mean 'bce'?"),
        (["--device", "cud"], "did you mean 'cuda'?"),
        (["--device", "mps"], "device 'mps' was asked for and is not there"),
        (["--weights", "imagnet"], "unknown weights 'imagnet'"),
        (["--weights", "gone.pth"], "gone.pth does not exist"),
        (["--run_dir", "/dev/null/run"], "/dev/null is a file"),
        (["--train_subset", "-1"], "train_subset -1"),
    ],
)
def test_values_that_no_training_can_use(flags, message, tiny_nih, empty, refused):
    assert message in refused("train", *data(tiny_nih.root), *QUICK, *flags)


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("gradcam", ["--samples", "0"], "samples 0 cannot be used; expected a whole number at least 1"),
        ("gradcam", ["--samples", "-3"], "samples -3"),
        ("gradcam", ["--batch_size", "0"], "batch_size 0"),
        ("eval", ["--batch_size", "0"], "batch_size 0"),
        ("eval", ["--num_workers", "-1"], "num_workers -1"),
        ("eval", ["--replicates", "-1"], "replicates -1"),
        ("eval", ["--subset", "-1"], "subset -1"),
        ("eval", ["--device", "tpu"], "device 'tpu'"),
        ("eval", ["--out", "model_best.pth"], "is a file"),
    ],
)
def test_values_that_no_evaluation_can_use(command, flags, message, tiny_nih, trained, refused):
    assert message in refused(command, *data(tiny_nih.root), *flags)


def test_eval_on_another_hospital_is_refused(tiny_nih, trained, refused):
    for path in tiny_nih.root.glob("images_*/images/*.png"):
        path.rename(path.with_name(f"h{path.name}"))
    table = pd.read_csv(tiny_nih.csv_path, dtype=str)
    table.assign(**{"Image Index": "h" + table["Image Index"], "Patient ID": "h" + table["Patient ID"]}).to_csv(
        tiny_nih.csv_path, index=False
    )
    assert "holds no image of the validation part of model_best.pth" in refused("eval", *data(tiny_nih.root))


def test_eval_on_other_data_is_refused(tiny_nih, trained, refused):
    parts = load_checkpoint("model_best.pth")["parts"]
    table = pd.read_csv(tiny_nih.csv_path, dtype=str)
    table[table["Image Index"].isin(parts["train"])].to_csv(tiny_nih.csv_path, index=False)
    for command, part in (("eval", "validation"), ("gradcam", "test")):
        line = refused(command, *data(tiny_nih.root))
        assert f"holds no image of the {part} part of model_best.pth (split patient)" in line


def test_images_that_cannot_be_decoded_are_left_out_and_recorded(tiny_nih, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spoiled = list(find_images(tiny_nih.root).values())[3:41:37]
    for path in spoiled:
        path.write_bytes(path.read_bytes()[:300])
    given = ["train", *data(tiny_nih.root), *QUICK, "--split", "patient", "--run_dir", "run"]
    assert main(given) == 2
    assert "on_bad_image=skip" in capsys.readouterr().err
    assert main([*given, "--on_bad_image", "skip"]) == 0
    weights = ["--weights", "run/model_best.pth", "--out", "out", "--on_bad_image", "skip"]
    assert main(["eval", *data(tiny_nih.root), *weights, "--replicates", "10"]) == 0
    assert main(["gradcam", *data(tiny_nih.root), *weights, "--samples", "20"]) == 0
    recorded = [json.loads(Path(f"{folder}/run.json").read_text())["stages"] for folder in ("run", "out")]
    named = {name for stages in recorded for stage in stages.values() for name in stage["left_out"]}
    assert named == {path.name for path in spoiled}
    test = Predictions.load("out/tables/predictions_test.npz")
    assert not set(test.image) & named
