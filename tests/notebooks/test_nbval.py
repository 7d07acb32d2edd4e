"""The committed notebooks run again on their defaults: what is compared to the letter is what was committed.

All six run in a home of their own (CXR_HOME), so that they neither need nor disturb data/phantom, runs/ and figures/ of
the checkout. Notebooks 04 and 05 start from the scores that they were executed with (`stored/`), since training gives
others on another machine: so their tables can be compared, too. The other trainings cost what a run by hand costs.
"""

import copy
import os
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import nbformat
import pytest

from cxrlib.core.paths import NOTEBOOKS
from cxrlib.course.notebooks import COURSE, notebook_parameters
from tests.notebooks import compared


def nbval(home, *notebooks):
    """{(notebook, cell): what went wrong, or ""} of the notebooks, run by nbval in this order."""
    report = home / "nbval.xml"
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-kernel-name=python3", f"--junitxml={report}"]
    quiet = {"TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    # threads that sleep while they wait: on a machine that does other work, minutes instead of half an hour
    environment |= quiet | {"CXR_HOME": str(home), "OMP_WAIT_POLICY": "passive"}
    command += ["-q", "-p", "no:cacheprovider", "-o", "addopts=", *map(str, notebooks)]
    done = subprocess.run(command, env=environment, cwd=NOTEBOOKS, capture_output=True, text=True)
    assert report.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = [each.get("message") or each.text or each.tag for each in case if each.tag in ("failure", "error")]
        text = [each.text or "" for each in case if each.tag in ("failure", "error")]
        found[case.get("classname").split(".")[-2], case.get("name")] = "\n".join([*wrong, *text])
    return found


# ---- all six ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run_again(tmp_path_factory):
    """What nbval finds in all six; before notebook 04 the stored scores take the place of the new ones."""
    home = tmp_path_factory.mktemp("home")
    paths = [NOTEBOOKS / f"{name}.ipynb" for name in COURSE]
    found = nbval(home, *paths[:3])
    run = home / notebook_parameters(COURSE[3])["run_dir"]
    shutil.copytree(compared.STORED, run, dirs_exist_ok=True)
    found |= nbval(home, *paths[3:])
    trained = [path.parent for path in (run / "comparison").rglob("model_*.pth")]
    assert not trained, (
        "notebook 04 does not know the stored members as its own: python -m tests.notebooks.compared --write"
    )
    return found


@pytest.mark.parametrize("name", COURSE)
def test_a_notebook_gives_what_was_committed(name, run_again):
    cells = {cell: wrong for (notebook, cell), wrong in run_again.items() if notebook == name}
    nb = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert len(cells) == sum(cell.cell_type == "code" for cell in nb.cells)
    wrong = {cell: re.sub(r"\x1b\[\d+m", "", text)[:2000] for cell, text in cells.items() if text}
    assert not wrong, "\n".join(f"{cell}: {text}" for cell, text in wrong.items())


# ---- how much is compared --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def outputs():
    return [output for name in COURSE for output in compared.outputs(NOTEBOOKS / f"{name}.ipynb")]


def test_at_least_half_of_the_cells_with_output_are_compared_to_the_letter(outputs):
    assert sum(output.compared for output in outputs) >= len(outputs) / 2


def test_the_list_of_those_that_are_not_is_true_and_says_why(outputs):
    assert not [output for output in outputs if not output.compared and not output.reason], (
        'nothing in these cells says why they are not compared; say it in the cell\'s metadata: "not_compared": "..."'
    )
    assert compared.LIST.read_text() == compared.table(outputs), "run python -m tests.notebooks.compared --write"


def test_the_scores_of_notebook_05_are_stored():
    arch = notebook_parameters("05_thresholds")["arch"]
    assert {path.name for path in (compared.STORED / arch).iterdir()} == {"predictions_val.npz", "predictions_test.npz"}


# ---- nbval bites -----------------------------------------------------------------------------------------------------
@pytest.fixture
def opening():
    """The first notebook up to the first figures that it prints."""
    nb = nbformat.read(NOTEBOOKS / f"{COURSE[0]}.ipynb", as_version=4)
    printed = [k for k, cell in enumerate(nb.cells) if cell.cell_type == "code"
               and any(re.search(r"\d", output.get("text", "")) for output in cell.outputs)]  # fmt: skip
    nb.cells = nb.cells[: printed[0] + 1]
    return nb


def test_a_change_planted_in_a_compared_output_fails(opening, tmp_path):
    doctored = copy.deepcopy(opening)
    [output] = doctored.cells[-1].outputs
    output.text = re.sub(r"\d", lambda digit: str((int(digit.group()) + 1) % 10), output.text, count=1)
    for name, nb in {"as_it_is": opening, "doctored": doctored}.items():
        nbformat.write(nb, tmp_path / f"{name}.ipynb")
    found = nbval(tmp_path, tmp_path / "as_it_is.ipynb", tmp_path / "doctored.ipynb")
    wrong = [where for where, text in found.items() if text]
    last = f"Cell {sum(cell.cell_type == 'code' for cell in opening.cells) - 1}"
    assert wrong == [("doctored", last)]
    assert "mismatch" in found[wrong[0]]
