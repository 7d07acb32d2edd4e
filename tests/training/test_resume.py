"""A start checkpoint is known by its content, and nothing that an earlier run left can pass for a new run's."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from cxrlib.cli.main import main
from cxrlib.core.errors import InputError
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint
from cxrlib.training import comparison, probe
from cxrlib.training.config import TrainConfig
from cxrlib.training.loop import _Training, fit

QUICK = TrainConfig(arch="mobilenet_v2", weights="none", image_size=32, epochs=1, batch_size=8, split="patient",
                    train_subset=24, device="cpu", precision="fp32", layout="channels_last")  # fmt: skip
FILES = {"model_best.pth", "model_last.pth", "history.csv", "predictions_val.npz"}


class Killed(BaseException):
    """Nothing in the package may catch it."""


def killed_in_the_first_epoch(monkeypatch):
    def update(self, x, labels):
        raise Killed

    monkeypatch.setattr(_Training, "_update", update)


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def start(entries, cache, tmp_path):
    """Make a.pth by training with a seed, in the place of whatever was there."""

    def make(seed):
        fit(QUICK.replace(seed=seed), entries, cache, tmp_path / f"seed{seed}", progress=False)
        return shutil.copy(tmp_path / f"seed{seed}" / "model_best.pth", tmp_path / "a.pth")

    return make


# ---- the start checkpoint --------------------------------------------------------------------------------------------
def test_a_retrained_start_checkpoint_makes_another_run(start, entries, cache, tmp_path, monkeypatch):
    config = QUICK.replace(weights=start(0), resume=True)
    before = fit(config, entries, cache, tmp_path / "run", progress=False)
    pd.testing.assert_frame_equal(fit(config, entries, cache, tmp_path / "run", progress=False), before)
    start(1)
    with pytest.raises(InputError, match=r"of a run with other weights 'checkpoint \w{16}', now 'checkpoint \w{16}'"):
        fit(config, entries, cache, tmp_path / "run", progress=False)
    with monkeypatch.context() as patch:
        good = _Training._update
        patch.setattr(_Training, "_update", lambda self, *batch: killed() if self.step == 4 else good(self, *batch))
        with pytest.raises(Killed):
            fit(config.replace(resume=False, epochs=2), entries, cache, tmp_path / "run", progress=False)
    start(0)
    with pytest.raises(InputError, match=r"state.pth is of a run with other weights"):
        fit(config.replace(epochs=2), entries, cache, tmp_path / "run", progress=False)


def test_thresholds_or_another_path_do_not_make_another_start(start, entries, cache, tmp_path, monkeypatch):
    path = start(0)
    before = fit(QUICK.replace(weights=path), entries, cache, tmp_path / "run", progress=False)
    write_checkpoint(path, load_checkpoint(path) | {"thresholds": {"a": 0.5}})
    moved = shutil.move(path, tmp_path / "b.pth")
    monkeypatch.setattr(_Training, "_update", None)
    again = fit(QUICK.replace(weights=moved, resume=True), entries, cache, tmp_path / "run", progress=False)
    pd.testing.assert_frame_equal(again, before)


def test_a_member_from_a_retrained_start_is_trained_again(start, entries, cache, tmp_path, capsys):
    def scores():
        each = {"a": QUICK.replace(weights=str(tmp_path / "a.pth"))}
        test = entries[entries["part"] == "test"]
        return comparison.compare(each, [0], entries, cache, test, tmp_path / "out")["a"][0].scores

    start(0)
    first = scores()
    np.testing.assert_array_equal(scores(), first)
    assert names(tmp_path / "out" / "a") == {"seed0"}
    start(1)
    assert not np.array_equal(scores(), first)
    aside = tmp_path / "out" / "a" / "seed0" / "previous-1"
    np.testing.assert_array_equal(Predictions.load(aside / "predictions_test.npz").scores, first)
    assert f"{aside.parent} held an earlier run; moved to previous-1" in capsys.readouterr().out


# ---- an earlier run in the folder ------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["full", "probe"])
def test_a_new_run_moves_an_earlier_one_aside(mode, entries, cache, tmp_path, capsys):
    config, out = QUICK.replace(mode=mode), tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    fit(config, entries, cache, out, progress=False)
    assert names(out) == FILES | {"notes.txt"}, "nothing of the user's is moved"
    assert capsys.readouterr().out == ""
    (out / "tables").mkdir()
    (out / "tables" / "metrics.txt").write_text("of the first")
    first = {name: (out / name).read_bytes() for name in FILES}
    for number in (1, 2):
        fit(config.replace(seed=number), entries, cache, out, progress=False)
        assert names(out) == FILES | {"notes.txt"} | {f"previous-{n}" for n in range(1, number + 1)}
        said = capsys.readouterr().out
        assert said.startswith(f"{out} held an earlier run; moved to previous-{number}: model_best.pth, ")
        assert said.count("\n") == 1
    assert {name: (out / "previous-1" / name).read_bytes() for name in FILES} == first
    assert (out / "previous-1" / "tables" / "metrics.txt").read_text() == "of the first"
    assert names(out / "previous-2") == FILES


def test_resuming_the_same_run_moves_nothing(entries, cache, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        good = _Training._update
        patch.setattr(_Training, "_update", lambda self, *batch: killed() if self.step == 5 else good(self, *batch))
        with pytest.raises(Killed):
            fit(QUICK.replace(epochs=2), entries, cache, out, progress=False)
    for _ in range(2):
        fit(QUICK.replace(epochs=2, resume=True), entries, cache, out, progress=False)
        assert names(out) == FILES
    assert capsys.readouterr().out == ""


def killed():
    raise Killed


def test_what_the_course_made_from_an_earlier_model_is_moved_too(entries, cache, tmp_path, capsys):
    run = tmp_path / "run"
    made = ["thresholds.json", "calibration.json", "metrics.csv", "report.html", "figures/05_reliability.png",
            "figures/06_trap.pdf", "figures/03_auroc.png"]  # fmt: skip
    kept = ["run.json", "splits.csv", "comparison.csv", "figures/01_counts.png", "figures/03_losses.png"]
    (run / "figures").mkdir(parents=True)
    for name in (*made, *kept):
        (run / name).write_text("{}")
    fit(QUICK, entries, cache, run / "mobilenet_v2", progress=False)
    assert all((run / "mobilenet_v2" / "previous-1" / name).is_file() for name in made)
    assert not any((run / name).exists() for name in made)
    assert all((run / name).is_file() for name in kept)
    assert "thresholds.json" in capsys.readouterr().out


def test_killed_in_its_first_epoch_a_run_leaves_no_model_to_evaluate(tiny_nih, tmp_path, monkeypatch, capsys):
    common = ["--img_root", tiny_nih.root, "--cache_dir", tmp_path / "cache", "--device", "cpu"]
    train = ["train", *common, "--arch", "mobilenet_v2", "--weights", "none", "--image_size", "32", "--epochs", "1",
             "--split", "patient", "--precision", "fp32", "--layout", "channels_last",
             "--run_dir", tmp_path / "run"]  # fmt: skip
    assert main([*map(str, train)]) == 0
    killed_in_the_first_epoch(monkeypatch)
    with pytest.raises(Killed):
        main([*map(str, train), "--lr", "1e-4"])
    capsys.readouterr()
    best = tmp_path / "run" / "model_best.pth"
    assert main(["eval", *map(str, common), "--weights", str(best), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"cxr eval: {best} does not exist; expected a checkpoint by scripts/train.py (model_best.pth)\n"
    )
    assert names(tmp_path / "run" / "previous-1") == FILES


@pytest.mark.parametrize("mode", ["full", "probe"])
def test_what_kills_a_run_before_it_has_a_model_leaves_none_in_its_place(mode, entries, cache, tmp_path, monkeypatch):
    config, out = QUICK.replace(mode=mode), tmp_path / "run"
    fit(config, entries, cache, out, progress=False)
    monkeypatch.setattr(probe.ChestXrayModel, "forward", lambda *_: killed())
    with pytest.raises(Killed):
        fit(config.replace(seed=1), entries, cache, out, progress=False)
    assert names(out) == {"previous-1"}


def test_a_member_folder_without_its_record_is_not_believed(entries, cache, tmp_path):
    test = entries[entries["part"] == "test"]
    given = {"entries": entries, "images": cache, "test": test, "out": tmp_path / "out"}
    [first] = comparison.compare({"a": QUICK}, [0], **given)["a"]
    folder = tmp_path / "out" / "a" / "seed0"
    record = json.loads((folder / "member.json").read_text())
    (folder / "member.json").unlink()
    [again] = comparison.compare({"a": QUICK}, [0], **given)["a"]
    np.testing.assert_array_equal(first.scores, again.scores)
    assert json.loads((folder / "member.json").read_text()) == record
    assert "predictions_test.npz" in names(folder / "previous-1")
