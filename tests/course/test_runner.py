"""A run: what each notebook gets, what is not run again, what fails and is said in one sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import papermill
import pytest
from filelock import FileLock

import cxrlib
from cxrlib.cli.main import main
from cxrlib.core.errors import InputError
from cxrlib.course import notebooks, runner as course, runs
from cxrlib.course.notebooks import COURSE, notebook_parameters
from cxrlib.course.runner import plan_runs, run_course
from cxrlib.course.runs import RunFolder

LEAVES = {"02_preprocess": "splits.csv", "03_train_efficientnet": "resnet18/model_best.pth"}


@pytest.fixture
def pretend(monkeypatch):
    """A course that papermill pretends to run; returns [(notebook, parameters, TQDM_DISABLE)] of what it ran.

    Each notebook leaves a file of its own. `fails`: {notebook: exception} that it meets.
    """
    calls, fails = [], {}
    monkeypatch.setattr(course, "_outcome", lambda run: "the outcome")

    def execute(source, target, **options):
        calls.append((source.stem, options["parameters"], os.environ.get("TQDM_DISABLE")))
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), target)
        if source.stem in fails:
            raise fails[source.stem]
        leaves = Path(options["parameters"]["run_dir"]) / LEAVES.get(source.stem, f"{source.stem}.csv")
        leaves.parent.mkdir(exist_ok=True)
        leaves.write_text(f"{len(calls)}")

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    execute.calls, execute.fails = calls, fails
    return execute


@pytest.fixture
def run(pretend, tiny_nih, tmp_path):
    """Run the pretended course on the tiny data with some parameters; returns the names of the notebooks that ran."""

    def run(*pairs, force=False, data=tiny_nih.root):
        pretend.calls.clear()
        given = [("weights", "none"), ("run_dir", str(tmp_path / "runs" / "one")), *pairs]
        run_course(plan_runs("quick", given, data), force)
        return [name for name, _, _ in pretend.calls]

    return run


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs" / "one")


# ---- what a run is given and leaves ----------------------------------------------------------------------------------
def test_a_run_records_everything_and_gives_each_notebook_its_own(pretend, tiny_nih, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("epochs: 2\nseed: 7\nweights: none\n")
    run_course(plan_runs("mine.yaml", [("seed", "8"), ("run_dir", "runs/here")], tiny_nih.root))
    assert [name for name, _, _ in pretend.calls] == list(COURSE)
    of = {name: given for name, given, _ in pretend.calls}
    assert of["03_train_efficientnet"]["epochs"] == 2
    assert all(given["run_dir"] == str(tmp_path / "runs" / "here") for given in of.values())
    assert of["01_eda"] == {"seed": 8, "run_dir": str(tmp_path / "runs" / "here"), "img_root": str(tiny_nih.root)}
    assert all(disabled == "1" for _, _, disabled in pretend.calls)
    assert "TQDM_DISABLE" not in os.environ
    assert os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] == "0"
    recorded = RunFolder("runs/here").read()
    every = {name for notebook in COURSE for name in notebook_parameters(notebook)}
    assert set(recorded["parameters"]) == every
    assert recorded["parameters"]["seed"] == 8
    assert recorded["data"]["images"] == 63
    assert recorded["data"]["phantoms"] is False
    assert len(recorded["data"]["fingerprint"]) == 16
    assert set(recorded["stages"]) == set(COURSE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "data    63 radiographs of 32 patients"
    assert lines[2].startswith("[1/6] 01_eda ")
    assert lines[2].endswith(" s")
    assert lines[-1] == "the outcome"
    assert "here" in (tmp_path / "runs" / "index.html").read_text()


def test_without_a_run_dir_the_profile_names_it(pretend, tiny_nih, tmp_path, monkeypatch):
    monkeypatch.setattr(course, "RUNS", tmp_path / "runs")
    (tmp_path / "mine.yaml").write_text("weights: none\n")
    run_course(plan_runs(tmp_path / "mine.yaml", data=tiny_nih.root))
    assert set(RunFolder(tmp_path / "runs" / "mine").read()["stages"]) == set(COURSE)


# ---- what is not run again -------------------------------------------------------------------------------------------
def test_what_has_finished_is_not_run_again_unless_asked(run, folder, capsys):
    assert run() == list(COURSE)
    before = folder.read()
    assert run() == []
    assert folder.read() == before
    assert "[3/6] 03_train_efficientnet has finished before" in capsys.readouterr().out
    assert run(force=True) == list(COURSE)


def test_another_parameter_runs_the_notebooks_that_take_it_and_those_that_read_them(run, folder, capsys):
    run()
    assert run(("samples", 16)) == ["06_gradcam"]
    assert set(folder.read()["stages"]) == set(COURSE), "the others keep their records"
    assert run(("samples", 16), ("objective", "youden")) == ["05_thresholds", "06_gradcam"]
    assert "05_thresholds runs again: objective 'f1' -> 'youden'" in capsys.readouterr().out
    assert run(("samples", 16), ("objective", "youden"), ("compare_seeds", 1)) == ["04_compare_architectures"]
    assert run(("lr", 3e-4)) == ["03_train_efficientnet", "04_compare_architectures", "05_thresholds", "06_gradcam"]
    assert "06_gradcam runs again: samples 16 -> 8" in capsys.readouterr().out
    assert "02_preprocess" in run(("lr", 3e-4), ("split", "patient"))


def test_other_data_other_code_and_a_lost_file_run_again(run, folder, tiny_nih, tmp_path, monkeypatch, capsys):
    run()
    (folder.path / "splits.csv").unlink()
    assert run() == list(COURSE[1:])
    assert "02_preprocess runs again: splits.csv is gone" in capsys.readouterr().out

    whole = notebooks.content_digest
    uses = {name: notebooks.modules("\n".join(code for code, _ in notebooks.code_cells(name))) for name in COURSE}
    module = min(uses["06_gradcam"] - set().union(*(uses[name] for name in COURSE[:5])))  # that only the last one uses
    changed = [notebooks._file(module)]
    with monkeypatch.context() as patch:
        patch.setattr(notebooks, "content_digest", lambda files: "other" if files == changed else whole(files))
        assert run() == ["06_gradcam"]
        assert f"06_gradcam runs again: cxrlib changed ({module})" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(runs, "versions", lambda: {})
        patch.setattr(notebooks, "versions", lambda: {"torch": "9"})
        assert run() == list(COURSE)
    run()
    table = tiny_nih.csv_path.read_text().splitlines()
    tiny_nih.csv_path.write_text("\n".join(table[:-1]) + "\n")
    assert run() == list(COURSE)
    assert len([path for path in folder.path.parent.iterdir() if path.name.startswith("one-")]) == 1, "moved aside"


def test_a_table_beside_the_images_runs_what_reads_it_again(run, folder, tiny_nih, capsys):
    boxes = tiny_nih.boxes_path.read_text()
    tiny_nih.boxes_path.unlink()
    run()
    tiny_nih.boxes_path.write_text(boxes)
    assert run() == ["01_eda", "02_preprocess", "06_gradcam"], "02 only prints what the doctor finds"
    assert "06_gradcam runs again: other boxes" in capsys.readouterr().out
    (tiny_nih.root / "true_labels.csv").write_text("Image ID,Mass\n")
    assert run() == ["01_eda", "02_preprocess", "05_thresholds", "06_gradcam"]
    assert "05_thresholds runs again: other expert labels" in capsys.readouterr().out
    lists = tiny_nih.root / "test_list.txt"
    lists.write_text("\n".join(lists.read_text().splitlines()[1:]))
    assert run() == list(COURSE[1:]), "02 splits by these lists"
    assert "02_preprocess runs again: other official lists" in capsys.readouterr().out
    assert [path.name for path in folder.path.parent.iterdir() if path.is_dir()] == ["one"], "nothing was moved aside"
    assert set(folder.read()["beside"]) == {"boxes", "official lists", "expert labels", "phantoms"}


def test_thresholds_saved_by_hand_run_what_reads_them_again(run, pretend, folder, monkeypatch, capsys):
    def execute(source, target, **options):
        pretend(source, target, **options)
        if source.stem == "05_thresholds":  # as the real one does
            folder.checkpoint("resnet18").write_text("with thresholds")

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    run()
    assert run() == []
    (folder.path / "05_thresholds.csv").write_text("by hand")  # the explorer saves both
    folder.checkpoint("resnet18").write_text("with thresholds by hand")
    assert run() == ["06_gradcam"]
    assert "06_gradcam runs again: 05_thresholds.csv, resnet18/model_best.pth changed since" in capsys.readouterr().out
    assert run() == []
    assert (folder.path / "05_thresholds.csv").read_text() == "by hand"


def test_replaced_images_are_other_data(run, tiny_nih):
    run()
    image = next(tiny_nih.root.rglob("*.png"))
    image.write_bytes(image.read_bytes() + b" ")
    assert run() == list(COURSE)


def test_a_start_checkpoint_is_known_by_its_content(pretend, folder, tiny_nih, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(course, "build_model", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Path(f"{name}.pth").write_bytes(b"one")
    start = [("weights", "a.pth"), ("archs", "resnet18:b.pth,vgg16:none"), ("run_dir", "runs/one")]

    def run():
        pretend.calls.clear()
        run_course(plan_runs("quick", start, tiny_nih.root))
        return [name for name, _, _ in pretend.calls]

    assert run() == list(COURSE)
    given = folder.read()["parameters"]
    assert given["weights"] == str(tmp_path / "a.pth"), "the notebooks run in another folder"
    assert given["archs"] == [f"resnet18:{tmp_path / 'b.pth'}", "vgg16:none"]
    assert run() == []
    Path("a.pth").write_bytes(b"two")
    assert run() == ["03_train_efficientnet", "05_thresholds", "06_gradcam"]
    assert f"03_train_efficientnet runs again: other {tmp_path / 'a.pth'}" in capsys.readouterr().out
    Path("b.pth").write_bytes(b"two")
    assert run() == ["04_compare_architectures"]


def test_a_table_of_the_notebooks_is_code(run, monkeypatch, tmp_path):
    tables = tmp_path / "notebooks" / "tables"
    shutil.copytree(notebooks.NOTEBOOKS, tables.parent, ignore=shutil.ignore_patterns(".*"))
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tables.parent)
    run()
    with (tables / "ablation_folds.csv").open("a") as file:
        file.write("\n")
    assert run() == ["04_compare_architectures"]


def test_prose_and_outputs_of_a_notebook_may_change(run, tmp_path, monkeypatch):
    run()
    copies = tmp_path / "notebooks"
    shutil.copytree(notebooks.NOTEBOOKS / "tables", copies / "tables")
    for name in COURSE:
        nb = nbformat.read(notebooks.NOTEBOOKS / f"{name}.ipynb", as_version=4)
        nb.cells[0].source += "\nA typo mended."
        for cell in nb.cells:
            if name == "06_gradcam" and cell.cell_type == "code":
                cell.outputs = []
        nbformat.write(nb, copies / f"{name}.ipynb")
    for module in (course, notebooks):
        monkeypatch.setattr(module, "NOTEBOOKS", copies)
    assert run() == []
    nb.cells.append(nbformat.v4.new_code_cell("1 + 1"))
    nbformat.write(nb, copies / "06_gradcam.ipynb")
    assert run() == ["06_gradcam"]


def test_the_tables_of_what_runs_again_are_gone_while_it_runs(run, pretend, folder):
    run()
    folder.figures.mkdir()
    for name in ("05_f1.png", "03_auroc.png"):
        (folder.figures / name).write_text("")
    (folder.path / "my notes.txt").write_text("mine")
    pretend.fails["05_thresholds"] = papermill.PapermillExecutionError(1, 4, "", "ValueError", "no", [])
    with pytest.raises(RuntimeError):
        run(("objective", "youden"))
    left = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()}
    assert not {"05_thresholds.csv", "06_gradcam.csv", "figures/05_f1.png"} & left
    assert {"splits.csv", "resnet18/model_best.pth", "figures/03_auroc.png", "my notes.txt"} <= left


def test_a_stopped_run_goes_on_at_the_notebook_where_it_stopped(run, pretend):
    pretend.fails["04_compare_architectures"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run()
    pretend.fails.clear()
    assert run() == ["04_compare_architectures", "05_thresholds", "06_gradcam"]


def test_a_record_that_cannot_be_read_is_no_record(run, folder):
    run()
    for name, text in {"01_eda": "{", "04_compare_architectures": '{"data": 1}', "06_gradcam": "[]"}.items():
        (folder.notebooks / f"{name}.json").write_text(text)
    assert run() == ["01_eda", "04_compare_architectures", "06_gradcam"]


def test_a_notebook_names_in_quotes_what_it_reads():
    assert notebooks.reads_from("01_eda") == []
    for name in COURSE[2:]:
        assert notebooks.reads_from(name), name
    assert notebooks.reads_from("05_thresholds") == ["03_train_efficientnet"]
    assert notebooks.reads_from("06_gradcam") == ["03_train_efficientnet", "05_thresholds"]


def test_the_modules_of_a_notebook_are_those_it_imports_and_those_they_import():
    assert notebooks.modules("from cxrlib.data.findings import FINDINGS") == {"data.findings", "core.errors"}
    assert {"models.architectures", "training.losses"} <= notebooks.modules("import cxrlib.training.loop")
    assert "plots.style" in notebooks.modules("from cxrlib.plots import style")
    assert "course.report.page" in notebooks.modules("from cxrlib.course.report import page")
    assert not {name for name in notebooks.modules("from cxrlib.plots import style") if name.startswith("course")}


def test_a_changed_line_in_a_room_runs_exactly_the_notebooks_that_use_it_again(run, folder, tmp_path, monkeypatch):
    run()
    package = tmp_path / "cxrlib"
    shutil.copytree(Path(cxrlib.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(notebooks, "_PACKAGE", package)
    assert run() == [], "a copy is no change"
    uses = {name: notebooks.modules("\n".join(code for code, _ in notebooks.code_cells(name))) for name in COURSE}
    expected = [name for name in COURSE if "evaluation.metrics" in uses[name]]
    assert 0 < len(expected) < len(COURSE)
    with (package / "evaluation" / "metrics.py").open("a") as file:
        file.write("CHANGED = True\n")
    again = set(run())
    assert set(expected) <= again
    assert all(set(notebooks.reads_from(name)) & again for name in again - set(expected)), "the others read from these"


# ---- several runs ----------------------------------------------------------------------------------------------------
def test_several_runs_with_one_command(run, pretend, folder):
    run(("arch", "resnet18"), ("arch", "vgg16"), ("lr", "3e-4"))
    made = {path.name for path in folder.path.parent.iterdir() if path.is_dir()}
    assert made == {"one-arch=resnet18", "one-arch=vgg16"}
    for name in made:
        given = RunFolder(folder.path.with_name(name)).read()["parameters"]
        assert name.endswith(given["arch"])
        assert given["lr"] == 3e-4
    index = (folder.path.parent / "index.html").read_text()
    assert all(name in index for name in made)


def test_the_others_run_when_one_fails(run, pretend, folder, monkeypatch, capsys):
    whole = course._execute

    def execute(name, given, folder):
        if given.get("arch") == "resnet18":
            raise RuntimeError("out of luck")
        whole(name, given, folder)

    monkeypatch.setattr(course, "_execute", execute)
    with pytest.raises(RuntimeError, match=r"^1 of 2 runs failed: one-arch=resnet18$"):
        run(("arch", "resnet18"), ("arch", "vgg16"))
    assert "failed: out of luck" in capsys.readouterr().out
    assert set(RunFolder(folder.path.with_name("one-arch=vgg16")).read()["stages"]) == set(COURSE)
    assert "failed in 03_train_efficientnet" in (folder.path.parent / "index.html").read_text()


# ---- what fails ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("ename", "code"), [("InputError", 2), ("ZeroDivisionError", 1)])
def test_a_failed_notebook_is_one_line_and_an_exit_code(ename, code, pretend, tiny_nih, tmp_path, capsys):
    pretend.fails["05_thresholds"] = papermill.PapermillExecutionError(1, 4, "", ename, "two\nlines", [])
    (tmp_path / "mine.yaml").write_text(f"weights: none\nrun_dir: {tmp_path / 'here'}\n")
    assert main(["run", "--profile", str(tmp_path / "mine.yaml"), "--data", str(tiny_nih.root)]) == code
    assert [name for name, _, _ in pretend.calls][-1] == "05_thresholds"
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    start = "cxr run: " + ("" if code == 2 else "ZeroDivisionError: ")
    assert error.startswith(f"{start}two lines (notebook 05_thresholds, cell 4; its executed copy: ")
    assert str(tmp_path / "here" / "notebooks" / "05_thresholds.ipynb") in error
    assert "05_thresholds, cell 4" in RunFolder(tmp_path / "here").stage("05_thresholds")["error"]


def test_a_kernel_that_dies_is_said_with_the_cell(run, pretend, folder):
    pretend.fails["02_preprocess"] = nbclient.exceptions.DeadKernelError("Kernel died")
    with pytest.raises(RuntimeError, match=r"^the kernel died.*\(notebook 02_preprocess, cell 1; its executed copy"):
        run()


def test_two_processes_on_one_run_folder(run, pretend, folder):
    code = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=True); input()"
    lock = folder.path.with_name(".one.lock")
    lock.parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=-1, stdout=-1, text=True) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match=r"another process is at work in .*one; wait until it has finished, or"):
            run()
        assert pretend.calls == []
        other.kill()  # a killed process holds nothing
        other.wait()
        assert run() == list(COURSE)
    with FileLock(lock, timeout=0):
        pass


def test_dry_run_says_what_each_notebook_gets_and_touches_nothing(pretend, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = ["run", "--dry-run", "--profile", "gpu_full", "-p", "run_dir", "r", "-p", "seed", "1", "-p", "seed", "2"]
    assert main([*given, "--data", "nowhere"]) == 0
    said = capsys.readouterr().out
    assert f"run {tmp_path / 'r'}-seed=1, profile gpu_full" in said
    assert "seed=2" in said
    assert "device='cuda'" in said
    assert main([*given[:6], "r/", *given[7:], "--data", "nowhere"]) == 0
    assert capsys.readouterr().out == said, "with the slash of a completed folder"
    assert pretend.calls == []
    assert not list(tmp_path.iterdir())
    assert main([*given, "-p", "epocs", "3"]) == 2
    assert "did you mean 'epochs'" in capsys.readouterr().err


def test_a_kernel_of_the_same_name_elsewhere_is_not_taken(tmp_path):
    spec = tmp_path / ".local" / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "of the user", "language": "python"}))
    environment = os.environ | course._QUIET | {"HOME": str(tmp_path), "JUPYTER_DATA_DIR": str(spec.parents[2])}
    command = [sys.executable, "-m", "jupyter", "kernelspec", "list", "--json"]
    found = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)
    assert found["kernelspecs"]["python3"]["resource_dir"].startswith(sys.prefix)


# ---- what a run says in the end --------------------------------------------------------------------------------------
def test_the_outcome_says_over_what_and_whether_it_leaks(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics.write_text(
        "finding,n,auroc,auroc_low,auroc_high\nMass,4,0.6,0.5,0.7\nHernia,4,,,\nmacro,4,0.61,0.5123,0.7\n"
    )
    rows = ["image,patient,part", "a,1,train", "b,2,val", "c,3,test", "d,3,test", "e,4,test", "f,5,test"]
    run.splits.write_text("\n".join(rows) + "\n")
    text = course._outcome(run)
    assert "macro AUROC on test 0.610 (95 % interval 0.512 to 0.700; over 1 of 14 findings; 4 images, " in text
    assert "all of unseen patients)" in text
    for folder in (run.metrics, run.notebooks, run.figures):
        assert str(folder) in text
    run.splits.write_text("\n".join(rows).replace("d,3,test", "d,2,test") + "\n")
    assert "25% of them of patients seen in training or tuning" in course._outcome(run)


def test_records_are_whole_json(run, folder):
    run()
    for name in COURSE:
        record = json.loads((folder.notebooks / f"{name}.json").read_text())
        assert record["files"] == [LEAVES.get(name, f"{name}.csv")]
