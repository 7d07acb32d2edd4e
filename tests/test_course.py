"""Profiles and parameters are checked before anything runs; what fails on the way is said in one sentence."""

import os

import nbformat
import papermill
import pytest

from cxrlib import course, runs
from cxrlib.cli import main
from cxrlib.course import COURSE, check_parameters, notebook_parameters, read_profile, run_course
from cxrlib.errors import InputError
from cxrlib.paths import PROFILES
from cxrlib.training import TrainConfig

OURS = sorted(path.stem for path in PROFILES.glob("*.yaml"))


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Write a notebook of code cells, (source, tags), and make it the course's."""
    monkeypatch.setattr(course, "NOTEBOOKS", tmp_path)

    def write(*cells, name="one"):
        nb = nbformat.v4.new_notebook()
        nb.cells = [nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source, tags in cells]
        nbformat.write(nb, tmp_path / f"{name}.ipynb")
        return name

    return write


# ---- parameters of a notebook ----------------------------------------------------------------------------------------
def test_notebook_parameters_are_the_literals_of_the_tagged_cell(notebook):
    name = notebook(
        ("before = 1", []),
        (
            'a: int = 3  # comment\nb: str = "x"\nc: float = -1e-3\nd: list = []\ne: bool = True\nf = 2',
            ["x", "parameters"],
        ),
        ("after: int = 1", []),
    )
    assert notebook_parameters(name) == {"a": 3, "b": "x", "c": -1e-3, "d": [], "e": True, "f": 2}


def test_a_notebook_without_parameters_is_named(notebook):
    with pytest.raises(InputError, match="notebook one has no cell tagged parameters"):
        notebook_parameters(notebook(("a: int = 1", ["other"])))


# ---- profiles --------------------------------------------------------------------------------------------------------
def test_there_are_three_profiles():
    assert OURS == ["cpu_10k", "gpu_full", "quick"]


@pytest.mark.parametrize("profile", OURS)
def test_our_profiles_can_be_run(profile):
    values = read_profile(profile)
    each = check_parameters(values)
    assert set(each) == set(COURSE)
    reached = {name for parameters in each.values() for name in parameters}
    assert reached == set(values), "a value of the profile reaches no notebook"
    assert "img_root" not in values, "the data are given with DATA="


def test_a_profile_may_be_a_file_of_its_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("epochs: 2\nlr: 0.5\narchs: [resnet18]\n")
    assert read_profile(tmp_path / "mine.yaml") == {"epochs": 2, "lr": 0.5, "archs": ["resnet18"]}
    (tmp_path / "empty.yaml").write_text("# all defaults\n")
    assert read_profile(tmp_path / "empty.yaml") == {}


def test_an_unknown_profile_suggests_the_nearest():
    with pytest.raises(InputError, match=r"no profile 'quik'; expected cpu_10k, gpu_full, quick.*did you mean 'quick'"):
        read_profile("quik")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1,\nb", "is not a YAML file"),
        (b"a: !!python/object/apply:os.system ['touch pwned']", "is not a YAML file"),
        (b"a: !!python/name:os.system", "is not a YAML file"),
        (b"- epochs\n- 3", "holds no parameters"),
        (b"epochs", "holds no parameters"),
        (b"0", "holds no parameters"),
        (b"[]", "holds no parameters"),
        (b"\xff\xfe\x00e", "is not a YAML file"),
    ],
)
def test_a_profile_that_is_none_is_refused(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        read_profile("bad.yaml")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"], "nothing in it was run"


# ---- checked before anything runs ------------------------------------------------------------------------------------
def test_text_of_the_command_line_becomes_what_the_default_is():
    each = check_parameters({"epochs": "3", "lr": "1e-4", "archs": "resnet18, vgg16", "split": "patient", "seed": 5})
    assert each["03_train_efficientnet"] == {"epochs": 3, "lr": 1e-4, "seed": 5}
    assert each["02_preprocess"] == {"split": "patient", "seed": 5}
    assert each["04_compare_architectures"] == {"archs": ["resnet18", "vgg16"], "seed": 5}
    assert check_parameters({"lr": 1})["03_train_efficientnet"] == {"lr": 1.0}
    assert type(check_parameters({"lr": 1})["03_train_efficientnet"]["lr"]) is float


BAD = [
    ({"epocs": 3}, "unknown parameter 'epocs'.*did you mean 'epochs'"),
    ({3: 1}, "unknown parameter 3"),
    ({"epochs": "many"}, "epochs is 'many'; expected int, such as"),
    ({"epochs": 2.5}, "epochs is 2.5; expected int"),
    ({"epochs": True}, "epochs is True; expected int"),
    ({"seed": None}, "seed is None"),
    ({"arch": 3}, "arch is 3; expected str"),
    ({"archs": [1]}, r"archs is \[1\]; expected list"),
    ({"lr": "1e-4x"}, "lr is '1e-4x'; expected float"),
    ({"epochs": 0}, "epochs 0"),
    ({"lr": float("nan")}, "lr nan"),
    ({"arch": "resnet81"}, "did you mean 'resnet18'"),
    ({"image_size": 8}, "image_size 8"),
    ({"split": "patients"}, "did you mean 'patient'"),
    ({"loss": "bec"}, "did you mean 'bce'"),
    ({"device": "gpu"}, "device 'gpu' is unknown"),
    ({"precision": "fp16"}, "did you mean"),
    ({"archs": "resnet18,resnet81"}, r"in the comparison .*did you mean 'resnet18'"),
    ({"compare_image_size": 60}, "in the comparison .*image_size 60 does not fit vit_b_16"),
    ({"compare_epochs": 0}, "in the comparison .*epochs 0"),
    ({"compare_lr": -1.0}, "in the comparison .*lr -1"),
    ({"compare_train_subset": -1}, "in the comparison .*train_subset -1"),
    ({"objective": "accuracy"}, "objective 'accuracy' is unknown"),
    ({"threshold_min": 0.9}, "the grid is"),
    ({"threshold_step": 0.0}, "the grid is"),
    ({"samples": 0}, "samples 0 is too small"),
    ({"test_subset": -1}, "test_subset -1"),
    ({"replicates": -1}, "replicates -1"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=lambda value: str(value)[:40])
def test_what_a_run_would_refuse_is_refused_at_once(values, message, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=message) as refused:
        check_parameters(values)
    assert "\n" not in str(refused.value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run_course("quick", values | {"run_dir": str(tmp_path / "run")}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_size_that_the_comparison_needs_depends_on_who_takes_part():
    check_parameters({"compare_image_size": 60, "archs": ["resnet18", "mobilenet_v2"]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": "gone.pth"}, r"gone.pth does not exist"),
        ({"weights": "imagnet"}, "unknown weights 'imagnet'"),
        ({"archs": ["resnet18"], "compare_weights": "gone.pth"}, r"gone.pth does not exist"),
        ({"device": "mps"}, "device 'mps' was asked for and is not there"),
        ({"run_dir": True}, "run_dir is True; expected str"),
        ({"csv_path": "gone.csv"}, r"gone.csv"),
    ],
)
def test_what_this_machine_lacks_is_said_before_anything_is_written(values, message, tiny_nih, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    toy = {"run_dir": "run", "image_size": 32, "compare_image_size": 32, "weights": "none"}
    with pytest.raises(InputError, match=message):
        run_course("quick", toy | values, tiny_nih.root)
    assert sorted(tmp_path.rglob("*")) == before


def test_defaults_are_what_a_training_run_takes():
    names = {name for notebook in COURSE for name in notebook_parameters(notebook)}
    trained = set(TrainConfig.__dataclass_fields__)
    assert {"arch", "weights", "image_size", "epochs", "batch_size", "lr", "loss", "seed", "device"} <= names & trained


# ---- running ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def two(notebook, monkeypatch, tmp_path):
    """A course of two notebooks that papermill pretends to run; returns what it was called with."""
    calls = []
    monkeypatch.setattr(course, "_outcome", lambda run: "the outcome")

    def execute(source, target, **options):
        calls.append((source.stem, options["parameters"], os.environ.get("TQDM_DISABLE")))
        if error := options["parameters"].get("objective"):
            raise papermill.PapermillExecutionError(1, 4, "", error, "two\nlines", [])

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    return calls


def test_a_run_records_everything_and_gives_each_notebook_its_own(two, tiny_nih, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(course, "NOTEBOOKS", PROFILES.parent)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("epochs: 2\nseed: 7\nweights: none\n")
    run = run_course("mine.yaml", {"seed": "8", "run_dir": "here"}, tiny_nih.root)
    assert [name for name, _, _ in two] == list(COURSE)
    of = {name: parameters for name, parameters, _ in two}
    assert of["03_train_efficientnet"]["epochs"] == 2
    assert all(parameters["run_dir"] == str(tmp_path / "here") for parameters in of.values())
    assert of["01_eda"] == {"seed": 8, "run_dir": str(tmp_path / "here"), "img_root": str(tiny_nih.root)}
    assert all(disabled == "1" for _, _, disabled in two)
    assert "TQDM_DISABLE" not in os.environ
    assert os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] == "0"
    recorded = run.read()
    every = {name for notebook in COURSE for name in notebook_parameters(notebook)}
    assert set(recorded["parameters"]) == every
    assert recorded["parameters"]["seed"] == 8
    assert recorded["data"]["images"] == 63
    assert len(recorded["data"]["fingerprint"]) == 16
    assert set(recorded["stages"]) == set(COURSE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "data    63 radiographs of 32 patients"
    assert lines[2].startswith("[1/6] 01_eda ")
    assert lines[2].endswith(" s")
    assert lines[-1] == "the outcome"


def test_without_a_run_dir_the_profile_names_it(two, tiny_nih, tmp_path, monkeypatch):
    monkeypatch.setattr(course, "NOTEBOOKS", PROFILES.parent)
    monkeypatch.setattr(course, "RUNS", tmp_path / "runs")
    (tmp_path / "mine.yaml").write_text("weights: none\n")
    assert run_course(tmp_path / "mine.yaml", data=tiny_nih.root).path == tmp_path / "runs" / "mine"


@pytest.mark.parametrize(("ename", "code"), [("InputError", 2), ("ZeroDivisionError", 1)])
def test_a_failed_notebook_is_one_line_and_an_exit_code(ename, code, two, tiny_nih, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(course, "NOTEBOOKS", PROFILES.parent)
    monkeypatch.setattr(course, "_check_thresholds", lambda values: None)
    (tmp_path / "mine.yaml").write_text(f"weights: none\nobjective: {ename}\nrun_dir: {tmp_path / 'here'}\n")
    assert main(["run", "--profile", str(tmp_path / "mine.yaml"), "--data", str(tiny_nih.root)]) == code
    assert [name for name, _, _ in two][-1] == "05_thresholds"
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("cxr run: " + ("" if code == 2 else "ZeroDivisionError: ") + "two lines (notebook 05_thr")
    assert str(tmp_path / "here" / "notebooks" / "05_thresholds.ipynb") in error


def test_the_outcome_says_over_what_and_whether_it_leaks(tmp_path):
    run = runs.RunFolder(tmp_path)
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
