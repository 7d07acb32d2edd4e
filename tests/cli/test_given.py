"""What people bring: paths, tables with less, packed files, names in any encoding, values of another kind."""

import errno
import fcntl
import gzip
import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from cxrlib.cli.main import main
from cxrlib.cli.options import CompareOptions, ReportOptions
from cxrlib.core import paths
from cxrlib.core.errors import InputError
from cxrlib.course import opening
from cxrlib.course.notebooks import COURSE, code_cells
from cxrlib.course.runner import plan_runs, run_course
from cxrlib.data.doctor.check import check_dataset
from cxrlib.data.metadata import read_entries
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.models.checkpoints import load_checkpoint

TOY = ["--arch", "mobilenet_v2", "--weights", "none", "--image_size", "32", "--epochs", "1", "--device", "cpu"]
TOY += ["--precision", "fp32", "--layout", "contiguous", "--train_subset", "12", "--val_subset", "9"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder of one's own, beside the working directory."""
    folder, work = tmp_path / "home", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(work)
    return folder


def data(tiny_nih, tiny_model) -> list[str]:
    return ["--img_root", str(tiny_nih.root), "--cache_dir", str(tiny_model.parent / "cache")]


# ---- paths -----------------------------------------------------------------------------------------------------------
def test_a_tilde_that_the_shell_left_is_the_home_folder_in_every_flag(home, tiny_nih, tiny_model):
    shutil.move(tiny_nih.root, home / "nih")
    shutil.copy(tiny_model, home / "model.pth")
    Thresholds([0.5] * 14).save(home / "t.json")
    (home / "names.txt").write_text(next(iter((home / "nih" / "images_001" / "images").iterdir())).name)
    given = ["--img_root=~/nih", "--csv_path=~/nih/Data_Entry_2017.csv", "--cache_dir=~/cache"]
    assert main(["train", *given, *TOY, "--run_dir=~/run"]) == 0
    weights = ["--weights", "~/model.pth", "--out=~/out"]
    assert main(["eval", *given, *weights, "--replicates", "0", "--thresholds=~/t.json"]) == 0
    assert main(["gradcam", *given, *weights, "--samples", "1", "--thresholds=~/t.json"]) == 0
    assert main(["predict", "~/nih/images_00*/images/00090003_*.png", *weights, "--no_page", "--force"]) == 0
    assert main(["doctor", "~/nih", "--json", "~/doctor.json"]) in (0, 1)
    assert main(["gather", "~/nih", "~/names.txt", "~/part"]) == 0
    assert main(["phantom", "~/drawn", "--n_patients", "2", "--size", "64"]) == 0
    made = {"run/model_best.pth", "run/history.csv", "out/tables/metrics.txt", "out/gradcam/scores.csv"}
    made |= {"out/predictions.csv", "doctor.json", "part/Data_Entry_2017.csv", "drawn/phantom.json", "cache"}
    assert not {name for name in made if not (home / name).exists()}
    assert not list(Path.cwd().iterdir()), "nothing under a folder named ~"


def test_a_run_takes_paths_from_where_it_is_called_and_a_profile_its_tilde(home, tiny_nih):
    (home / "mine.yaml").write_text("run_dir: ~/run\nweights: ~/start.pth\nimg_root: data\n")
    given = plan_runs("~/mine.yaml", [("archs", "resnet18:a:b.pth,vgg16:none,vgg16:~/c.pt")])[0].every
    work = Path.cwd()
    assert given["run_dir"] == str(home / "run")
    assert given["weights"] == str(home / "start.pth")
    assert given["img_root"] == str(work / "data")
    assert given["archs"] == [f"resnet18:{work / 'a:b.pth'}", "vgg16:none", f"vgg16:{home / 'c.pt'}"]
    assert plan_runs("quick", [], "~/nih")[0].every["img_root"] == str(home / "nih")


def test_what_nobody_names_lies_in_the_project_for_every_command():
    assert ReportOptions().run_dir == str(paths.RUNS / "quick") == plan_runs()[0].every["run_dir"]
    assert CompareOptions().run_dir == str(paths.RUNS / "compare")
    assert CompareOptions().cache_dir == str(paths.CACHE)


def test_the_doctor_takes_a_flag_too(home, tiny_nih, tiny_model, capsys):
    assert main(["doctor", "--img_root", str(tiny_nih.root)]) == main(["doctor", str(tiny_nih.root)])
    assert capsys.readouterr().out.count("verdict") == 2
    assert main(["doctor"]) == 2


def test_where_a_result_goes_is_made_sure_of_before_the_work(home, tiny_nih, tiny_model, monkeypatch, capsys):
    work = Path.cwd()
    (work / "file").touch()
    monkeypatch.setattr("cxrlib.cli.commands.data.check_dataset", None)  # would fail if the work began
    monkeypatch.setattr("cxrlib.cli.commands.data.open_data", None)
    monkeypatch.setattr("cxrlib.course.runner.open_data", None)
    for given in (
        ["doctor", str(tiny_nih.root), "--json", str(work)],
        ["doctor", str(tiny_nih.root), "--json", "file/x.json"],
        ["train", *data(tiny_nih, tiny_model), *TOY, "--run_dir", "file"],
        ["compare", *data(tiny_nih, tiny_model), "--run_dir", "file/x", "--archs", "resnet18"],
        ["eval", *data(tiny_nih, tiny_model), "--weights", str(tiny_model), "--out", "file"],
        ["gradcam", *data(tiny_nih, tiny_model), "--weights", str(tiny_model), "--out", "file"],
        ["gather", str(tiny_nih.root), "names.txt", "file"],
        ["phantom", "file/x"],
        ["run", "-p", "run_dir", "file/run"],
        ["predict", "gone.png", "--weights", str(tiny_model), "--out", "file/x"],
    ):
        assert main(given) == 2, given
        assert capsys.readouterr().err.count("\n") == 1, given
    assert [path.name for path in work.iterdir()] == ["file"]


def test_no_run_writes_over_the_committed_figures_and_notebooks(tiny_nih, tiny_model, monkeypatch, capsys):
    project = paths.NOTEBOOKS.parent
    monkeypatch.chdir(project)
    before = {path: path.stat().st_mtime_ns for path in (project / "figures").iterdir()}
    with pytest.raises(InputError, match="is committed"):
        run_course(plan_runs("quick", [("run_dir", ".")], tiny_nih.root))
    assert main(["compare", *data(tiny_nih, tiny_model), "--run_dir", ".", "--archs", "resnet18"]) == 2
    assert main(["gradcam", *data(tiny_nih, tiny_model), "--weights", str(tiny_model), "--out", "figures"]) == 2
    assert {path: path.stat().st_mtime_ns for path in (project / "figures").iterdir()} == before
    assert capsys.readouterr().err.count("is committed") == 2


# ---- tables ----------------------------------------------------------------------------------------------------------
def test_a_table_of_three_columns_does_all_but_the_groupings(home, tiny_nih, tiny_model, capsys):
    table = pd.read_csv(tiny_nih.csv_path, dtype=str)[["Image Index", "Finding Labels", "Patient ID"]]
    table.to_csv(tiny_nih.csv_path, index=False)
    given = ["eval", *data(tiny_nih, tiny_model), "--weights", str(tiny_model), "--replicates", "0", "--audit"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert all(f"no audit by {name}: the column is not in the table" in said for name in ("sex", "age", "view"))
    assert pd.read_csv("results/tables/audit.csv").empty


def test_values_and_columns_spelled_otherwise_are_the_same_table(tiny_nih):
    expected = read_entries(tiny_nih.csv_path)
    table = pd.read_csv(tiny_nih.csv_path, dtype=str)
    views = {"PA": "Postero-Anterior", "AP": "ap"}
    table["View Position"] = [views[view] if number % 3 else view.lower() + " erect"
                              for number, view in enumerate(table["View Position"])]  # fmt: skip
    table["Patient Gender"] = table["Patient Gender"].map({"M": "Male", "F": "female"})
    table["Patient Age"] += ".0"
    table = table.rename(columns=lambda name: name.lower().replace(" ", "_"))
    table.to_csv(tiny_nih.csv_path, index=False)
    pd.testing.assert_frame_equal(read_entries(tiny_nih.csv_path), expected)
    assert check_dataset(tiny_nih.root, progress=False).names["column missing"] == []


def test_a_view_that_is_neither_stays_as_it_is(tiny_nih):
    tiny_nih.csv_path.write_text(tiny_nih.csv_path.read_text().replace(",PA,", ",LL,").replace(",M,", ",1,"))
    entries = read_entries(tiny_nih.csv_path)
    assert set(entries["view"]) == {"LL", "AP"}
    assert set(entries["sex"]) == {"1", "F"}


def test_without_patients_the_doctor_does_not_find_one_on_both_sides(tiny_nih):
    pd.read_csv(tiny_nih.csv_path, dtype=str).drop(columns="Patient ID").to_csv(tiny_nih.csv_path, index=False)
    names = check_dataset(tiny_nih.root, progress=False).names
    assert names["column missing"] == ["Patient ID"]
    assert names["patient on both sides"] == []


# ---- readers ---------------------------------------------------------------------------------------------------------
def packed(path: Path, how: str) -> None:
    if how == "gz":
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    else:
        with zipfile.ZipFile(path.with_name(path.name + ".zip"), "w") as archive:
            archive.write(path, path.name)
            archive.writestr(f"__MACOSX/._{path.name}", b"\0")
    path.unlink()


@pytest.mark.parametrize("how", ["gz", "zip"])
def test_every_reader_reads_what_is_packed(how, tiny_nih, tmp_path):
    plain, found = opening.open_data("", tiny_nih.root), check_dataset(tiny_nih.root, progress=False)
    for name in ("Data_Entry_2017.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt"):
        packed(tiny_nih.root / name, how)
    again = opening.open_data("", tiny_nih.root)
    pd.testing.assert_frame_equal(again.entries, plain.entries)
    pd.testing.assert_frame_equal(again.boxes, plain.boxes)
    assert set(again.beside) == set(plain.beside)
    assert check_dataset(tiny_nih.root, progress=False).names == found.names
    (tmp_path / "names.txt").write_text("\n".join(again.images))
    assert main(["gather", str(tiny_nih.root), str(tmp_path / "names.txt"), str(tmp_path / "all")]) == 0
    assert {path.name for path in (tmp_path / "all").glob("*.*")} == {
        "Data_Entry_2017.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt",
    }  # fmt: skip


def test_with_both_releases_every_command_takes_the_one_that_is_named(home, tiny_nih, tiny_model, capsys):
    other = tiny_nih.root / "Data_Entry_2017_v2020.csv"
    shutil.copy(tiny_nih.csv_path, other)
    (home / "names.txt").write_text(next(tiny_nih.root.rglob("*.png")).name)
    weights = ["--weights", str(tiny_model)]
    for given in (
        ["preprocess", *data(tiny_nih, tiny_model), "--image_size", "32"],
        ["eval", *data(tiny_nih, tiny_model), *weights, "--replicates", "0"],
        ["gradcam", *data(tiny_nih, tiny_model), *weights, "--samples", "1"],
        ["gather", str(tiny_nih.root), str(home / "names.txt"), "part"],
    ):
        assert main(given) == 2
        assert "choose one with csv_path" in capsys.readouterr().err
        assert main([*given, "--csv_path", str(other)]) == 0, given
    assert main(["doctor", str(tiny_nih.root), "--csv_path", str(other)]) in (0, 1)
    assert Path("part/Data_Entry_2017_v2020.csv").is_file()


# ---- no more than is needed ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("split", ["official", "patient"])
@pytest.mark.parametrize("count", [1, 5])
def test_gradcam_needs_test_images_only(split, count, home, tiny_nih, tiny_model, capsys):
    checkpoint = load_checkpoint(tiny_model)
    paths.write_text("m.pth", "")
    from cxrlib.models.checkpoints import write_checkpoint

    write_checkpoint("m.pth", checkpoint | {"config": checkpoint["config"] | {"split": split}})
    boxes, test = pd.read_csv(tiny_nih.boxes_path), set((tiny_nih.root / "test_list.txt").read_text().split())
    kept = sorted(set(boxes["Image Index"]) & test)[:count]
    for path in tiny_nih.root.rglob("*.png"):
        if path.name not in kept:
            path.unlink()
    where = ["--img_root", str(tiny_nih.root), "--cache_dir", "cache", "--weights", "m.pth"]
    assert main(["gradcam", *where, "--samples", "2", "--boxes", "--replicates", "0"]) == 0
    assert len(list(Path("results/gradcam").glob("0*.png"))) == min(count, 2)
    assert ("count as test images" in capsys.readouterr().out) == (split == "patient")
    assert main(["eval", *where, "--replicates", "0"]) == 2, "a metric needs validation"


# ---- names and encodings ---------------------------------------------------------------------------------------------
def test_names_that_are_no_text_are_read_shown_and_written(home, tiny_nih, tiny_model, capsys):
    image = next(tiny_nih.root.rglob("*.png"))
    folder = os.fsencode(image.parent)
    for name in (b"\xff\xfe.png", "ä 日本.png".encode(), b"new\nline.png", b"bell\x07.png"):
        shutil.copy(image, os.path.join(folder, name))
    before = opening.open_data("", tiny_nih.root).entries
    where = ["--img_root", str(tiny_nih.root), "--cache_dir", "cache"]
    assert main(["train", *where, *TOY, "--run_dir", "r\udcff"]) == 0
    said = capsys.readouterr().out
    assert "4 images without a CSV row left out" in said
    assert all(line.isprintable() for line in said.splitlines())
    assert len(before) == 63
    model = "r\udcff/model_best.pth"
    assert main(["eval", *where, "--weights", model, "--replicates", "0", "--out", "o\udcff"]) == 0
    assert main(["gradcam", *where, "--weights", model, "--samples", "1", "--out", "o\udcff"]) == 0
    films = [os.fsdecode(os.path.join(folder, b"\xff\xfe.png")), os.fsdecode(os.path.join(folder, b"new\nline.png"))]
    assert main(["predict", *films, "--weights", model, "--out", "o\udcff", "--force"]) == 0
    assert main(["doctor", str(tiny_nih.root), "--json", "d.json"]) in (0, 1)
    assert len(json.loads(Path("d.json").read_text())["checks"][-1]["names"]) == 4


def test_the_images_of_a_cache_are_their_own_beside_a_name_of_two_lines(tiny_nih, tmp_path):
    from cxrlib.data.cache import build_cache, read_image
    from cxrlib.data.sources import find_images

    image = sorted(tiny_nih.root.rglob("*.png"))[0]
    shutil.copy(image, image.with_name("0000\n.png"))
    images = find_images(tiny_nih.root)
    cache = build_cache(images, 32, cache_dir=tmp_path / "cache", progress=False)
    names = [name for name in images if "\n" not in name]
    assert all((cache[name] == read_image(images[name], 32)).all() for name in names)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_letters_shows_them_escaped(encoding, tiny_nih, tmp_path, monkeypatch):
    folder = tmp_path / "日本\udcff"
    tiny_nih.root.rename(folder)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["doctor", str(folder)]) in (0, 1)
    assert main(["doctor", str(folder / "é日")]) == 2
    for stream, word in ((out, "verdict"), (err, "is not a folder")):
        stream.flush()
        shown = stream.buffer.getvalue().decode(encoding)
        assert "\\u65e5\\u672c\\udcff" in shown
        assert word in shown


# ---- file systems without locks --------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_training_goes_on_where_nothing_can_be_locked(number, home, tiny_nih, tiny_model, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    where = ["--img_root", str(tiny_nih.root), "--cache_dir", "cache"]
    assert main(["train", *where, *TOY, "--run_dir", "r"]) == 0
    assert "start no second process that is training into r" in capsys.readouterr().out
    assert main(["phantom", "drawn", "--n_patients", "2", "--size", "64"]) == 0
    assert Path("r/model_best.pth").is_file()


# ---- values of another kind ------------------------------------------------------------------------------------------
def test_every_notebook_checks_its_own_parameters_before_its_work():
    for name in COURSE:
        code = [source for source, _ in code_cells(name)]
        first = next(source for source in code if "RunFolder(run_dir)" in source)
        before = first.partition("opening.check_parameters(globals())\n")[0]
        assert before in ("", "pd.options.display.max_colwidth = 120  # whole sentences in tables\n"), name


def test_a_notebook_takes_text_for_a_list_and_refuses_the_rest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"archs": "resnet18,vgg16:my.pth", "seed": "3", "lr": "1e-3", "csv_path": "", "run_dir": "r", "other": [1]}
    opening.check_parameters(given)
    assert given == {
        "archs": ["resnet18", f"vgg16:{tmp_path / 'my.pth'}"],
        "seed": 3, "lr": 1e-3, "csv_path": "", "run_dir": str(tmp_path / "r"), "other": [1],
    }  # fmt: skip
    bad = [("seed", "x"), ("archs", 3), ("run_dir", ["a"]), ("lr", True), ("epochs", 1.5), ("samples", [3])]
    bad += [("img_root", "~nobody-here/x"), ("csv_path", None), ("objective", 2), ("threshold_min", "low")]
    for name, value in bad:
        with pytest.raises(InputError, match=rf"{name}|cannot be a path"):
            opening.check_parameters({name: value})
