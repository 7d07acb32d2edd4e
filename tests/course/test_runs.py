"""A run folder: where things lie, who makes what is missing, whole files, no radiograph of a patient in figures/."""

import json
import os
import re
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrlib.core import paths
from cxrlib.core.errors import InputError
from cxrlib.course import opening
from cxrlib.course.opening import open_data
from cxrlib.course.runs import RunFolder
from cxrlib.data.metadata import read_entries


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "one")


@pytest.fixture
def entries(tiny_nih) -> pd.DataFrame:
    entries = read_entries(tiny_nih.csv_path)
    return entries.assign(part=np.resize(["train", "val", "test"], len(entries)))


def shown(run):
    return {path.name for path in run.path.iterdir() if not path.name.startswith(".")}  # .run.json.lock stays


# ---- where things lie ------------------------------------------------------------------------------------------------
def test_one_run_one_folder(run):
    names = {
        run.splits: "splits.csv",
        run.thresholds: "thresholds.json",
        run.metrics: "metrics.csv",
        run.figures: "figures",
        run.notebooks: "notebooks",
        run.arch("resnet18"): "resnet18",
        run.checkpoint("resnet18"): "resnet18/model_best.pth",
        run.predictions("resnet18", "val"): "resnet18/predictions_val.npz",
    }
    assert {str(path.relative_to(run.path)) for path in names} == set(names.values())
    assert all(str(path.relative_to(run.path)) == name for path, name in names.items())
    assert not run.path.exists(), "to ask for a path makes nothing"


def test_cxr_home_moves_what_is_written_but_not_the_notebooks(tmp_path):
    code = "from cxrlib.core import paths as p; "
    code += "print(p.ROOT, p.CACHE, p.located('runs/quick'), p.NOTEBOOKS, sep='|')"
    found = subprocess.run([sys.executable, "-c", code], env=os.environ | {"CXR_HOME": str(tmp_path)}, text=True,
                           capture_output=True, check=True).stdout.strip().split("|")  # fmt: skip
    home = str(tmp_path)
    assert found[:3] == [home, f"{home}/data/cache", f"{home}/runs/quick"]
    assert found[3] == str(paths.NOTEBOOKS)


# ---- what is missing -------------------------------------------------------------------------------------------------
def test_need_gives_what_is_there_and_else_names_the_notebook(run):
    path = run.predictions("resnet18", "val")
    with pytest.raises(InputError, match=r"^resnet18/predictions_val.npz is not in .*; run notebook 03_train_eff"):
        run.need(path, "03_train_efficientnet")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert run.need(path, "03_train_efficientnet") == path


def test_stage_names_the_notebook_that_has_not_run(run):
    run.record("01_eda", seconds=1)
    with pytest.raises(InputError, match="no record of 02_preprocess yet; run notebook 02_preprocess first"):
        run.stage("02_preprocess")


# ---- run.json --------------------------------------------------------------------------------------------------------
def test_record_and_read_round_trip(run):
    assert run.read() == {}
    run.record("02_preprocess", split="patient", seed=3, share=0.25, names=["a"], nothing=None, yes=True)
    run.record("02_preprocess", seed=4)
    run.record("03", auroc=np.float32(0.5), images=np.int64(7), best=np.bool_(True), where=run.path)
    expected = {"split": "patient", "seed": 4, "share": 0.25, "names": ["a"], "nothing": None, "yes": True}
    assert run.stage("02_preprocess") == expected
    assert run.stage("03") == {"auroc": 0.5, "images": 7, "best": True, "where": str(run.path)}
    assert RunFolder(run.path).read() == run.read()
    versions = run.read()["versions"]
    assert re.match(r"\d+\.\d+", versions["torch"])
    assert {"cxrlib", "python", "numpy", "pandas", "timm"} <= set(versions)


def test_records_of_several_processes_are_all_kept(run):
    code = "import sys; from cxrlib.course.runs import RunFolder; run = RunFolder(sys.argv[1])\n"
    code += "for number in range(40): run.record(sys.argv[2], **{f'n{number}': number})"
    writers = [subprocess.Popen([sys.executable, "-c", code, run.path, name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert run.read()["stages"] == {name: {f"n{number}": number for number in range(40)} for name in "abc"}


def test_a_record_that_fails_leaves_the_old_one_whole(run, monkeypatch):
    run.record("01_eda", seconds=1)
    before = (run.path / "run.json").read_text()

    def broken(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken)
        with pytest.raises(OSError, match="disk full"):
            run.record("01_eda", seconds=2)
    assert (run.path / "run.json").read_text() == before
    with pytest.raises(ValueError, match="ircular"):
        run.record("01_eda", loop=(loop := []), again=loop.append(loop))
    assert (run.path / "run.json").read_text() == before


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_a_broken_run_json_is_said_in_one_sentence(run, text):
    run.path.mkdir(parents=True)
    (run.path / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"run.json cannot be read; move it aside"):
        run.read()


def test_a_run_dir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another folder"):
        RunFolder(tmp_path / "file" / "run").start(data={})


def test_start_moves_a_run_on_other_data_aside(run, capsys):
    run.start(data={"img_root": "a"}, parameters={"seed": 0})
    run.record("01_eda", seconds=1)
    (run.path / "resnet18").mkdir()
    run.start(data={"img_root": "b"})
    [aside] = [path for path in run.path.parent.iterdir() if path != run.path]
    assert re.fullmatch(r"one-\d{8}-\d{6}", aside.name)
    assert f"held a run on other data; moved to {aside}" in capsys.readouterr().out
    assert json.loads((aside / "run.json").read_text())["data"] == {"img_root": "a"}
    assert (aside / "resnet18").is_dir()
    assert shown(run) == {"run.json"}
    assert run.read()["data"] == {"img_root": "b"}
    assert run.read()["stages"] == {}


def test_start_moves_what_was_run_by_hand_aside(run, capsys):
    run.record("02_preprocess", split="patient")
    run.start(data={"img_root": "a"})
    assert "held results of notebooks run by hand; moved to" in capsys.readouterr().out
    assert run.read()["stages"] == {}


def test_start_on_the_same_data_keeps_the_folder_and_the_stages_asked_for(run):
    run.start(data={"img_root": "a"})
    run.record("01_eda", seconds=1)
    run.record("02_preprocess", seconds=2)
    run.arch("resnet18").mkdir()
    run.start({"01_eda"}, data={"img_root": "a"}, profile="quick")
    assert [path.name for path in run.path.parent.iterdir()] == ["one"]
    assert shown(run) == {"run.json", "resnet18"}
    assert run.read()["profile"] == "quick"
    assert run.read()["stages"] == {"01_eda": {"seconds": 1}}


# ---- splits ----------------------------------------------------------------------------------------------------------
def test_what_was_left_out_stays_out(run, entries):
    run.save_splits(entries)
    bad = entries["image"].iloc[3]
    run.record("02_preprocess", left_out={bad: "cut off"})
    kept = run.load_splits(entries)
    assert kept["image"].tolist() == [name for name in entries["image"] if name != bad]
    assert len(kept) == len(entries) - 1


def test_splits_round_trip_in_any_order(run, entries):
    run.save_splits(entries)
    assert list(pd.read_csv(run.splits).columns) == ["image", "patient", "part"]
    shuffled = entries.drop(columns="part").sample(frac=1, random_state=1)
    found = run.load_splits(shuffled)
    assert (found["part"] == entries["part"].reindex(shuffled.index)).all()
    assert not list(run.path.glob("*.partial"))


def test_splits_of_other_images_are_refused(run, entries):
    with pytest.raises(InputError, match=r"splits.csv is not in .*; run notebook 02_preprocess first"):
        run.load_splits(entries)
    run.save_splits(entries)
    changed = entries.assign(image=entries["image"].replace(entries["image"][3], "00000001_000.png"))
    for other in (entries.iloc[:-1], pd.concat([entries, changed.iloc[3:4]]), changed):
        with pytest.raises(InputError, match="made from other images than these; run notebook 02_preprocess again"):
            run.load_splits(other.drop(columns="part"))


@pytest.mark.parametrize("text", ["", "image,patient\nx,1\n", 'a,b\n"1\n'])
def test_a_broken_splits_file_is_refused(run, entries, text):
    run.path.mkdir(parents=True)
    run.splits.write_text(text)
    with pytest.raises(InputError, match=r"splits.csv cannot be read; run notebook 02_preprocess again"):
        run.load_splits(entries)


# ---- data ------------------------------------------------------------------------------------------------------------
def test_open_data_finds_csv_images_and_boxes(tiny_nih):
    data = open_data("", tiny_nih.root)
    assert data.csv_path == tiny_nih.csv_path
    assert set(data.images) == set(data.entries["image"])
    assert data.summary == "63 radiographs of 32 patients"
    assert data.folders == (tiny_nih.root, tiny_nih.root)
    assert set(data.boxes["image"]) <= set(data.entries["image"])
    assert len(data.boxes) > 5
    gone = data.boxes["image"][0]
    data.images[gone].unlink()
    less = open_data(tiny_nih.csv_path, tiny_nih.root)
    assert len(less.entries) == 62
    assert gone not in set(less.boxes["image"])
    assert gone in less.summary
    tiny_nih.boxes_path.unlink()
    assert less.boxes is None


def test_the_fingerprint_is_that_of_the_table_and_of_the_images(tiny_nih, tmp_path):
    first = open_data("", tiny_nih.root)
    shutil.copy(tiny_nih.csv_path, tmp_path / "elsewhere.csv")
    assert open_data(tmp_path / "elsewhere.csv", tiny_nih.root).fingerprint == first.fingerprint
    table = pd.read_csv(tiny_nih.csv_path, dtype=str)
    for column, value in (("Finding Labels", "Hernia"), ("Patient Age", "044")):
        changed = table.copy()
        changed.loc[0, column] = value
        changed.to_csv(tmp_path / "changed.csv", index=False)
        assert open_data(tmp_path / "changed.csv", tiny_nih.root).fingerprint != first.fingerprint
    image = next(iter(first.images.values()))
    content = image.read_bytes()
    image.write_bytes(content + b" ")
    assert open_data("", tiny_nih.root).fingerprint != first.fingerprint
    image.unlink()
    assert open_data("", tiny_nih.root).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("name", "what"),
    [("BBox_List_2017.csv", "boxes"), ("test_list.txt", "official lists"), ("true_labels.csv", "expert labels")],
)
def test_what_lies_beside_the_images_is_known_by_its_content(name, what, tiny_nih):
    first = open_data("", tiny_nih.root)
    assert set(first.beside) == {"boxes", "official lists", "expert labels", "phantoms"}
    before, file = first.beside, tiny_nih.root / name
    for change in (lambda: file.write_text("other"), lambda: file.unlink()):
        change()
        after = open_data("", tiny_nih.root).beside
        assert [each for each in after if after[each] != before[each]] == [what]
        before = after
    assert open_data("", tiny_nih.root).fingerprint == first.fingerprint


def test_phantoms_are_drawn_where_they_are_missing_and_nothing_else_is(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(opening, "PHANTOM", tmp_path / "phantom")
    monkeypatch.setattr(opening, "make_phantoms", drawn.append)
    with pytest.raises(InputError, match="is not a folder"):
        open_data("", tmp_path / "phantom")
    assert drawn == [tmp_path / "phantom"]
    with pytest.raises(InputError, match="is not a folder"):
        open_data("", tmp_path / "other")
    assert len(drawn) == 1


# ---- figures ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def figure():
    figure, _ = plt.subplots(figsize=(1, 1))
    yield figure
    plt.close(figure)


def test_figures_are_for_print_and_stay_in_the_run_folder(run, figure):
    run.save_figure(figure, "01_counts")
    assert {path.name for path in run.figures.iterdir()} == {"01_counts.png", "01_counts.pdf"}
    assert Image.open(run.figures / "01_counts.png").size == (300, 300)
    pdf = (run.figures / "01_counts.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf
