"""Profiles and parameters are checked before anything runs, name by name and type by type."""

import nbformat
import pytest

from cxrlib.cli.main import main
from cxrlib.core.errors import InputError
from cxrlib.core.paths import PROFILES
from cxrlib.course import config, notebooks
from cxrlib.course.config import CourseConfig
from cxrlib.course.notebooks import COURSE, check_parameters, each_run, notebook_parameters, read_profile
from cxrlib.course.runner import plan_runs, run_course
from cxrlib.data.splits import FRACTIONS, KINDS
from cxrlib.evaluation.calibration import METHODS
from cxrlib.models.architectures import ARCHITECTURES
from cxrlib.training.config import ARCHS, SPLITS
from cxrlib.training.loop import TrainConfig

OURS = sorted(path.stem for path in PROFILES.glob("*.yaml"))


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Write a notebook of code cells, (source, tags), and make it the course's."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)

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
            'a: int = 3  # comment\nb: str = "x"\nc: float = -1e-3\nd: list = []\ne: bool = True',
            ["x", "parameters"],
        ),
        ("after: int = 1", []),
    )
    assert notebook_parameters(name) == {"a": 3, "b": "x", "c": -1e-3, "d": [], "e": True}


# ---- profiles --------------------------------------------------------------------------------------------------------
def test_there_are_three_profiles():
    assert OURS == ["cpu_10k", "gpu_full", "quick"]


@pytest.mark.parametrize("profile", OURS)
def test_our_profiles_can_be_run(profile):
    values = read_profile(profile)
    [plan] = plan_runs(profile)
    assert set(plan.given) == set(COURSE)
    reached = {name for parameters in plan.given.values() for name in parameters}
    assert reached == set(values) | {"run_dir"}, "a value of the profile reaches no notebook"
    assert "img_root" not in values, "the data are given with DATA="


def test_a_profile_may_be_a_file_of_its_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("epochs: 2\nlr: 0.5\narchs: [resnet18]\n")
    assert read_profile(tmp_path / "mine.yaml") == {"epochs": 2, "lr": 0.5, "archs": ["resnet18"]}
    (tmp_path / "empty.yaml").write_text("# all defaults\n")
    assert read_profile(tmp_path / "empty.yaml") == {}


def test_an_unknown_profile_is_told_the_known_ones():
    with pytest.raises(InputError, match=r"no profile 'quik'; expected cpu_10k, gpu_full, quick or a YAML file"):
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
    read = check_parameters({"epochs": "3", "lr": "1e-4", "archs": "resnet18, vgg16", "split": "patient", "seed": 5})
    assert read == {"epochs": 3, "lr": 1e-4, "archs": ["resnet18", "vgg16"], "split": "patient", "seed": 5}
    assert type(check_parameters({"lr": 1})["lr"]) is float


def test_each_notebook_gets_what_it_has():
    [plan] = plan_runs("quick", [("epochs", "3"), ("split", "patient"), ("seed", "5")])
    assert {notebook for notebook, given in plan.given.items() if given.get("split") == "patient"} == {"02_preprocess"}
    assert "epochs" not in plan.given["02_preprocess"]
    assert plan.given["03_train_efficientnet"]["epochs"] == plan.every["epochs"] == 3


BAD = [
    ({"epocs": 3}, "unknown parameter 'epocs'.*did you mean 'epochs'"),
    ({3: 1}, "unknown parameter 3"),
    ({"epochs": "many"}, "epochs 'many' cannot be used; expected a whole number"),
    ({"epochs": 2.5}, "epochs 2.5 cannot be used; expected a whole number"),
    ({"epochs": True}, "epochs True cannot be used; expected a whole number"),
    ({"seed": None}, "seed None cannot be used"),
    ({"arch": 3}, "arch 3 is unknown; expected one of"),
    ({"archs": [1]}, "archs"),
    ({"lr": "1e-4x"}, "lr '1e-4x' cannot be used; expected a number above 0"),
    ({"epochs": 0}, "epochs 0"),
    ({"lr": float("nan")}, "lr nan"),
    ({"arch": "resnet81"}, "did you mean 'resnet18'"),
    ({"image_size": 8}, "image_size 8"),
    ({"split": "patients"}, "did you mean 'patient'"),
    ({"loss": "bec"}, "did you mean 'bce'"),
    ({"device": "gpu"}, "device 'gpu' is unknown"),
    ({"precision": "fp16"}, "did you mean"),
    ({"archs": "resnet18,resnet81"}, r"in the comparison .*did you mean 'resnet18'"),
    (
        {"compare_image_size": 60, "archs": "resnet18,vit_b_16"},
        "in the comparison .*image_size 60 does not fit vit_b_16",
    ),
    ({"compare_budget": "epochs=0"}, "in the comparison .*budget 'epochs=0' cannot be read"),
    ({"compare_seeds": 0}, "compare_seeds 0 cannot be used; expected a whole number at least 1"),
    ({"compare_lr": -1.0}, "compare_lr -1"),
    ({"compare_train_subset": -1}, "compare_train_subset -1"),
    ({"objective": "accuracy"}, "objective 'accuracy' is unknown"),
    ({"threshold_min": 0.9}, "the grid is"),
    ({"threshold_step": 0.0}, "the grid is"),
    ({"samples": 0}, "samples 0 cannot be used"),
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
        plan_runs("quick", [*values.items(), ("run_dir", str(tmp_path / "run"))], tmp_path)
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
        ({"run_dir": True}, "run_dir True cannot be used; expected text"),
        ({"csv_path": "gone.csv"}, r"gone.csv"),
    ],
)
def test_what_this_machine_lacks_is_said_before_anything_is_written(values, message, tiny_nih, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    toy = {"run_dir": "run", "image_size": 32, "compare_image_size": 32, "weights": "none"}
    with pytest.raises(InputError, match=message):
        run_course(plan_runs("quick", list((toy | values).items()), tiny_nih.root))
    assert sorted(tmp_path.rglob("*")) == before


def test_defaults_are_what_a_training_run_takes():
    names = {name for notebook in COURSE for name in notebook_parameters(notebook)}
    trained = set(TrainConfig.model_fields)
    assert {"arch", "weights", "image_size", "epochs", "batch_size", "lr", "loss", "seed", "device"} <= names & trained


# ---- several runs ----------------------------------------------------------------------------------------------------
def test_repeated_parameters_make_a_run_of_each_combination():
    assert each_run([]) == {"": {}}
    assert each_run([("lr", "3e-4")]) == {"": {"lr": 3e-4}}
    assert each_run([("arch", "resnet18"), ("seed", "1"), ("arch", "vgg16")]) == {
        "-arch=resnet18": {"arch": "resnet18", "seed": 1},
        "-arch=vgg16": {"arch": "vgg16", "seed": 1},
    }
    four = each_run([("seed", "1"), ("lr", "1e-3"), ("seed", "2"), ("lr", "0.0003")])
    assert list(four) == ["-seed=1-lr=0.001", "-seed=1-lr=0.0003", "-seed=2-lr=0.001", "-seed=2-lr=0.0003"]
    assert four["-seed=2-lr=0.001"] == {"seed": 2, "lr": 1e-3}


def test_a_name_of_a_run_is_a_name_of_a_folder():
    names = each_run([("weights", "../a b/x.pth"), ("weights", "none"), ("archs", "resnet18,vgg16"), ("archs", "")])
    assert "-weights=.._a_b_x.pth-archs=resnet18,vgg16" in names
    assert "-weights=none-archs=none" in names


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("lr", "1e-3"), ("lr", "0.001")], "lr is repeated with values"),
        ([("run_dir", "a"), ("run_dir", "b")], "run_dir is repeated"),
        ([("arch", "resnet18"), ("epocs", "2")], "did you mean 'epochs'"),
        ([("weights", "a/b.pth"), ("weights", "a b.pth")], "weights is repeated with values"),
    ],
)
def test_repetition_that_makes_no_sense_is_refused(pairs, message):
    with pytest.raises(InputError, match=message):
        each_run(pairs)


@pytest.mark.parametrize("profile", OURS)
def test_a_dry_run_of_our_profiles_passes(profile, capsys):
    assert main(["run", "--dry-run", "--profile", profile]) == 0
    assert "every name and type fits" in capsys.readouterr().out


def test_a_wrong_type_in_any_run_stops_all_before_the_first(tmp_path):
    with pytest.raises(InputError, match="arch 'resnet81' is unknown"):
        plan_runs("quick", [("arch", "resnet18"), ("arch", "resnet81")])


def test_every_parameter_of_the_notebooks_is_declared_and_its_default_fits():
    for notebook in COURSE:
        parameters = notebook_parameters(notebook)
        assert set(parameters) <= set(CourseConfig.model_fields), notebook
        read = CourseConfig(**parameters)
        assert {name: getattr(read, name) for name in parameters} == parameters
        assert all(type(getattr(read, name)) is type(value) for name, value in parameters.items())


def test_the_declared_choices_are_those_of_the_modules():
    assert set(ARCHS) == set(ARCHITECTURES)
    assert SPLITS == KINDS
    assert set(config.CALIBRATE) == {"auto", *METHODS}


def test_the_share_of_validation_is_taken_from_train():
    assert TrainConfig().fractions == FRACTIONS
    assert TrainConfig(val_share=0.2).fractions == (0.6, 0.2, 0.2)
    with pytest.raises(InputError, match=r"val_share 0\.8"):
        TrainConfig(val_share=0.8)
