"""The six notebooks: how each opens and closes, what each says when opened too early, and the whole course, once."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import pairwise, takewhile
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from cxrlib.core.errors import InputError
from cxrlib.core.paths import NOTEBOOKS
from cxrlib.course.notebooks import COURSE, notebook_parameters, read_profile
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.models.checkpoints import load_checkpoint
from tests.notebooks import check

TOY = {
    "split": "patient",
    "arch": "mobilenet_v2",
    "weights": "none",
    "image_size": 32,
    "epochs": 1,
    "archs": "resnet18,mobilenet_v2",
    "compare_image_size": 32,
    "compare_budget": "epochs=1",
    "compare_seeds": 1,
    "compare_train_subset": 24,  # fewer than there are, so that no cell may ask for more
    "replicates": 50,
    "samples": 4,
    "device": "cpu",
}


def opened(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code(nb):
    """The code cells of the lesson: all but the first one, which is for Kaggle and Colab."""
    return [cell for cell in nb.cells if cell.cell_type == "code" and "hosted" not in cell.metadata.get("tags", [])]


def markdown(nb):
    return "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")


def imported(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(nb):
    """The code cells at the top that do nothing but import."""
    lists = (ast.parse(cell.source).body for cell in code(nb))
    nothing_else = (all(isinstance(line, ast.Import | ast.ImportFrom) for line in body) for body in lists)
    return [cell for cell, _ in takewhile(lambda pair: pair[1], zip(code(nb), nothing_else, strict=False))]


@pytest.fixture(params=COURSE)
def notebook(request):
    return request.param, opened(request.param)


# ---- the form --------------------------------------------------------------------------------------------------------
def test_the_course_is_what_lies_in_the_folder():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == [*COURSE, "capstone"]


def test_is_a_valid_notebook_for_any_machine(notebook):
    _, nb = notebook
    nbformat.validate(nb)
    assert nb.nbformat == 4
    assert nb.nbformat_minor >= 5
    ids = [cell.id for cell in nb.cells]
    assert len(set(ids)) == len(ids)


def test_opens_with_the_question_and_what_you_will_learn(notebook):
    name, nb = notebook
    first = nb.cells[0]
    number = int(name[:2])
    assert first.cell_type == "markdown"
    assert re.match(rf"# {number}\. \S.+\n", first.source)
    assert re.search(r"\*\*The question:\*\* .+\?", first.source)
    assert re.search(r"\*\*You will be able to\*\*\n(- .+\n){2,}", first.source)
    assert "**Before:**" in first.source
    assert "**Time:**" in first.source


def test_the_first_cell_is_the_one_for_kaggle_and_colab_and_says_nothing_here(notebook):
    """The same in all six; tests/test_hosted.py has it install the package and find the radiographs."""
    _, nb = notebook
    assert [cell for cell in nb.cells if "hosted" in cell.metadata.get("tags", [])] == [nb.cells[1]]
    assert nb.cells[1].source == Path(check.__file__).with_name("hosted_cell.txt").read_text().strip()
    assert nb.cells[1].outputs == []


def test_imports_stand_at_the_top(notebook):
    """Libraries in the first cell, the course's own package in one or two more."""
    _, nb = notebook
    first, *own = imports(nb)
    assert 1 <= len(own) <= 2 or "cxrlib" in first.source
    assert not any(imported(cell.source) for cell in code(nb)[1 + len(own) :])
    assert not any(
        alias.name == "*" for cell in (first, *own) for line in imported(cell.source) for alias in line.names
    )
    if own:
        assert "cxrlib" not in first.source
        assert all("cxrlib" in line for cell in own for line in cell.source.split("\n") if line.startswith("from"))


def test_every_import_is_used(notebook):
    _, nb = notebook
    lines = [line for cell in imports(nb) for line in imported(cell.source)]
    names = {(alias.asname or alias.name).split(".")[0] for line in lines for alias in line.names}
    used = {node.id for cell in code(nb) for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)}
    assert names <= used, f"imported for nothing: {names - used}"


def test_one_cell_of_parameters_annotated_literal_and_explained(notebook):
    _, nb = notebook
    tagged = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0] is code(nb)[len(imports(nb))], "right after the imports"
    lines = tagged[0].source.split("\n")
    body = ast.parse(tagged[0].source).body
    assert len(lines) == len(body), "one a line"
    for line, node in zip(lines, body, strict=True):
        assert isinstance(node, ast.AnnAssign), line
        value = ast.literal_eval(node.value)
        assert type(value).__name__ == node.annotation.id, line
        assert re.search(r"  # \S", line), line


def test_every_parameter_is_used(notebook):
    name, nb = notebook
    after = code(nb)[len(imports(nb)) + 1 :]
    used = {node.id for cell in after for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)}
    assert set(notebook_parameters(name)) <= used


def test_no_parameter_is_assigned_again(notebook):
    name, nb = notebook
    names = {
        node.id
        for cell in code(nb)[len(imports(nb)) + 1 :]
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    if name == "04_compare_architectures":
        names -= {"arch"}
    assert not names & set(notebook_parameters(name))


def test_sections_are_numbered(notebook):
    name, nb = notebook
    headings = re.findall(r"^## (.+)$", markdown(nb), re.MULTILINE)
    assert headings[-3:] == ["What we saw", "Exercises", "References"]
    number = int(name[:2])
    assert [heading.split(" ")[0] for heading in headings[:-3]] == [
        f"{number}.{section}" for section in range(1, len(headings) - 2)
    ]


def test_closes_with_what_we_saw_exercises_and_references(notebook):
    _, nb = notebook
    assert nb.cells[-1].cell_type == "markdown"
    _, closing = markdown(nb).split("\n## What we saw\n")
    saw, exercises, references = re.split(r"^## (?:Exercises|References)$", closing, flags=re.MULTILINE)
    assert "In this notebook" in saw
    numbers = re.findall(r"^\*\*(\d+)\.\*\* ", exercises, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    assert len(numbers) >= 2
    solutions = re.findall(r"<details><summary>Solution</summary>\n\n(.+?)\n\n</details>", exercises, re.DOTALL)
    assert len(solutions) == len(numbers)
    assert exercises.count("```") % 2 == 0
    for solution in solutions:
        for snippet in re.findall(r"```python\n(.+?)```", solution, re.DOTALL):
            ast.parse(snippet)
    assert len(re.findall(r"^- \S", references, re.MULTILINE)) >= 2


def lines(cell):
    return cell.source.count("\n") + 1


def test_code_cells_are_short(notebook):
    """After the parameters: half of at most four lines, nine in ten of at most ten; none over fifteen but one loop."""
    _, nb = notebook
    counts = sorted(lines(cell) for cell in code(nb)[len(imports(nb)) + 1 :])
    assert counts[len(counts) // 2] <= 4
    assert counts[int(0.9 * len(counts))] <= 10
    longest = {True: 25, False: 15}
    assert not [cell.id for cell in code(nb) if lines(cell) > longest["training-loop" in cell.metadata.get("tags", [])]]


def test_prose_and_code_keep_step(notebook):
    _, nb = notebook
    kinds = "".join(cell.cell_type[0] for cell in nb.cells)
    assert kinds.count("m") >= kinds.count("c")
    assert "ccc" not in kinds, "three code cells in a row without a word"


def test_no_hook_of_a_library_is_shown(notebook):
    _, nb = notebook
    own = {"__init__", "__len__", "__getitem__"}
    named = {
        node.attr for cell in code(nb) for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Attribute)
    }
    assert not {name for name in named if name.startswith("__")} - own


def test_is_fit_to_be_committed(notebook):
    name, _ = notebook
    assert not check.faults((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")), "make notebooks executes them"


def test_headings_make_a_table_of_contents(notebook):
    _, nb = notebook
    prose = re.sub(r"^```.*?^```", "", markdown(nb), flags=re.MULTILINE | re.DOTALL)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels)), "no level is left out"


# ---- one vocabulary --------------------------------------------------------------------------------------------------
def test_a_parameter_has_the_same_default_everywhere():
    seen = {}
    for name in COURSE:
        for parameter, value in notebook_parameters(name).items():
            assert seen.setdefault(parameter, value) == value, f"{parameter} in {name}"


def test_the_profile_quick_is_the_defaults():
    defaults = {parameter: value for name in COURSE for parameter, value in notebook_parameters(name).items()}
    quick = read_profile("quick")
    assert {name: defaults[name] for name in quick} == quick


# ---- opened alone ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("03_train_efficientnet", "02_preprocess"),
        ("04_compare_architectures", "02_preprocess"),
        ("05_thresholds", "03_train_efficientnet"),
        ("06_gradcam", "03_train_efficientnet"),
    ],
)
def test_opened_too_early_it_names_the_notebook_to_run_first(name, first, tiny_nih, tmp_path):
    nb = opened(name)
    lists = imports(nb)
    opening = code(nb)[len(lists) + 1]  # after the parameters
    given = notebook_parameters(name) | {"run_dir": str(tmp_path / "run")}
    given |= {"img_root": str(tiny_nih.root)} if "img_root" in given else {}
    for cell in lists:
        exec(cell.source, given)  # in this process: a kernel takes ten seconds to say the same
    with pytest.raises(InputError) as refused:
        exec(opening.source, given)
    assert re.search(rf"run notebook {first} first$", str(refused.value))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def _checkout(folder: Path) -> Path:
    """The files that git tracks here, as they are now, committed in a repository of their own."""
    root = NOTEBOOKS.parent
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "core.hooksPath=/dev/null"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "as it is"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


# ---- the whole way ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def course(_tiny_original, tmp_path_factory):
    """The six at toy size through the command line, killed in the third and run again, as a person would.

    In a checkout of its own, `clone`, which git knows. `said` holds what the second start printed.
    """
    folder = tmp_path_factory.mktemp("course")
    clone = _checkout(folder / "clone")
    overrides = [word for name, value in TOY.items() for word in ("-p", name, str(value))]
    given = ["run", "--data", str(_tiny_original), "-p", "run_dir", str(folder / "run"), *overrides]
    command = [
        sys.executable,
        "-c",
        "import sys; from cxrlib.cli.main import main; sys.exit(main(sys.argv[1:]))",
        *given,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "CXR_HOME"}
    environment["PYTHONPATH"] = str(clone)
    with subprocess.Popen(command, cwd=clone, env=environment, stdout=subprocess.PIPE, text=True) as killed:
        for line in killed.stdout:
            if line.startswith("[2/6]"):
                break
        time.sleep(2)  # into the third
        killed.kill()
    again = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    (folder / "said").write_text(again.stdout)
    return folder


@pytest.fixture
def run(course):
    return course / "run"


def test_a_killed_run_goes_on_at_the_notebook_where_it_stopped(course):
    said = (course / "said").read_text().splitlines()
    assert "[2/6] 02_preprocess has finished before" in said
    assert [line for line in said if re.fullmatch(r"\[3/6\] 03_train_efficientnet \d+ s", line)]


def test_the_executed_copies_have_every_cell_run_and_no_error(run):
    for name in COURSE:
        nb = nbformat.read(run / "notebooks" / f"{name}.ipynb", as_version=4)
        assert all(cell.execution_count for cell in code(nb) if cell.source)
        outputs = [output for cell in code(nb) for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        said = "".join(output.text for output in outputs if output.get("name") == "stderr")
        assert not said, f"{name} warns: {said[:300]}"
        injected = [cell for cell in nb.cells if "injected-parameters" in cell.metadata.get("tags", [])]
        assert len(injected) == 1
        assert f'run_dir = "{run}"' in injected[0].source


def test_run_json_holds_parameters_data_versions_and_seconds(run):
    recorded = json.loads((run / "run.json").read_text())
    assert recorded["parameters"]["image_size"] == 32
    assert recorded["parameters"]["archs"] == ["resnet18", "mobilenet_v2"]
    assert recorded["parameters"]["batch_size"] == 32, "a default is a parameter, too"
    assert recorded["data"]["images"] == 63
    assert set(recorded["stages"]) == set(COURSE)
    assert all(stage["seconds"] > 0 for stage in recorded["stages"].values())
    assert recorded["stages"]["02_preprocess"]["split"] == "patient"
    assert recorded["stages"]["04_compare_architectures"]["leader"] in ("resnet18", "mobilenet_v2")
    assert recorded["profile"] == "quick"
    assert "torch" in recorded["versions"]


def test_metrics_come_with_intervals_on_unseen_patients(run):
    table = pd.read_csv(run / "metrics.csv", index_col="finding")
    assert list(table.index) == [*FINDINGS, "macro"]
    assert {"positives", "auroc", "auroc_low", "auroc_high", "f1", "f1_low", "f1_high", "threshold"} <= set(table)
    macro = table.loc["macro"]
    assert 0 <= macro["auroc_low"] <= macro["auroc"] <= macro["auroc_high"] <= 1
    splits = pd.read_csv(run / "splits.csv")
    assert set(splits["part"]) == {"train", "val", "test"}
    assert len(splits[["patient", "part"]].drop_duplicates()) == splits["patient"].nunique()
    test = Predictions.load(run / "mobilenet_v2" / "predictions_test.npz")
    assert set(test.image) == set(splits.loc[splits["part"] == "test", "image"])
    assert macro["n"] == len(test)
    val = Predictions.load(run / "mobilenet_v2" / "predictions_val.npz")
    assert set(val.image) == set(splits.loc[splits["part"] == "val", "image"])
    assert (table.loc[list(FINDINGS), "positives"] == test.labels.sum(axis=0)).all()


def test_thresholds_are_in_the_run_and_in_the_checkpoint(run):
    thresholds = Thresholds.load(run / "thresholds.json")
    carried = load_checkpoint(run / "mobilenet_v2" / "model_best.pth")
    assert carried["thresholds"] == thresholds.to_dict()
    assert (thresholds.grid, thresholds.objective) == ((0.05, 0.4, 0.05), "f1")
    table = pd.read_csv(run / "metrics.csv", index_col="finding")
    np.testing.assert_allclose(table.loc[list(FINDINGS), "threshold"], thresholds.values)
    assert carried["config"]["image_size"] == 32


def test_the_comparison_has_a_row_an_architecture(run):
    table = pd.read_csv(run / "comparison.csv", index_col="arch")
    assert list(table.index) == ["resnet18", "mobilenet_v2"]
    assert (table["auroc_low"] <= table["auroc"]).all()
    assert (table["auroc"] <= table["auroc_high"]).all()
    assert (table["minutes"] > 0).all()
    for arch in table.index:
        assert load_checkpoint(run / "comparison" / arch / "seed0" / "model_best.pth")["config"]["epochs"] == 1


def test_figures_stay_in_the_run_folder_for_print(run):
    names = {path.stem for path in (run / "figures").glob("*.png")}
    assert {name[:2] for name in names} == {"01", "02", "03", "04", "05", "06"}
    assert {"01_examples", "01_boxes", "02_augmentation", "06_by_hand"} <= names
    assert {path.stem for path in (run / "figures").glob("*.pdf")} == names


def test_a_run_leaves_the_checkout_clean(course):
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    changed = subprocess.run(status, cwd=course / "clone", capture_output=True, text=True, check=True).stdout
    assert not changed, "a run writes into its folder, and into folders that git ignores"


def test_nothing_is_written_next_to_the_run(course):
    assert {path.name for path in course.iterdir()} - {"said", "index.html", ".run.lock", ".index.lock"} == {
        "run",
        "clone",
    }
