"""The checker that tests and the pre-commit hook share: each planted fault is found; the hook stops a commit."""

import json
import os
import shutil
import subprocess

import nbformat
import pytest

from cxrlib.core.paths import NOTEBOOKS
from cxrlib.course.notebooks import COURSE
from tests.notebooks import check

REPOSITORY = NOTEBOOKS.parent


def printed(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def displayed(**data):
    return nbformat.v4.new_output("display_data", data={kind.replace("_", "/"): text for kind, text in data.items()})


@pytest.fixture
def clean():
    """A notebook without a fault: two cells that were executed, one after the other."""
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    nb.cells = [nbformat.v4.new_markdown_cell("# One")]
    for count in (1, 2):
        outputs = [printed(f"{count} of 112,120 images, see data/phantom and 3/4\n")]
        nb.cells.append(nbformat.v4.new_code_cell(f"print({count})", execution_count=count, outputs=outputs))
    return nb


def faults(nb):
    return check.faults(nbformat.writes(nb))


def test_a_clean_notebook_has_no_fault(clean):
    assert faults(clean) == []
    clean.cells.append(nbformat.v4.new_code_cell(""))
    assert faults(clean) == [], "an empty cell is never executed"
    clean.cells[1].outputs = [displayed(text_plain="x\n" * 100, text_html="<tr>\n" * 300)]
    assert faults(clean) == [], "the lines of a table's HTML are not seen"


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (lambda nb: nb.metadata.kernelspec.update(name="venv"), "its kernel is 'venv', not 'python3'"),
        (lambda nb: nb.metadata.pop("kernelspec"), "its kernel is None"),
        (lambda nb: nb.metadata.update(widgets={}), "it holds the state of widgets"),
        (lambda nb: nb.cells[1].update(execution_count=3), "not executed from top to bottom"),
        (lambda nb: nb.cells[2].update(execution_count=None), "not executed from top to bottom"),
        (lambda nb: nb.cells[1].update(outputs=[printed("x", "stderr")]), "In [1] writes to stderr"),
        (lambda nb: nb.cells[1].update(outputs=[nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]),
         "In [1] ends in an error (E)"),
        (lambda nb: nb.cells[2].update(outputs=[printed("x\n" * 101)]), "In [2] prints 101 lines"),
        (lambda nb: nb.cells[2].update(outputs=[displayed(text_plain="x\n" * 101)]), "In [2] prints 101 lines"),
        (lambda nb: nb.cells[1].update(outputs=[printed("wrote /Users/me/x")]), "In [1] shows a path of one machine"),
        (lambda nb: nb.cells[1].update(outputs=[displayed(text_html="at C:\\\\Users")]), "shows a path of one machine"),
        (lambda nb: nb.cells[1].update(source="open('/tmp/x')"), "a cell names a path of one machine (/tmp/x"),
        (lambda nb: nb.cells[1].update(outputs=[printed("a.py:3: FutureWarning: no")]), "shows a warning (Future"),
        (lambda nb: nb.cells[1].update(outputs=[displayed(image_png="A" * 1_500_000)]), "1,500,000 are the limit"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(plant, said, clean):
    plant(clean)
    assert any(said in fault for fault in faults(clean)), faults(clean)
    assert len(faults(clean)) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": 3}'])
def test_what_is_no_notebook_is_said(text):
    [fault] = check.faults(text)
    assert fault.startswith("it is no notebook")


# ---- the hook --------------------------------------------------------------------------------------------------------
@pytest.fixture
def git(tmp_path):
    """`git` in a small repository with our hook; returns the finished process."""
    for name in (".githooks/pre-commit", "tests/notebooks/check.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    names = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | names

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)

    git("init", "-q")
    git("config", "core.hooksPath", ".githooks")
    (tmp_path / "notebooks").mkdir()
    return git


def test_the_hook_looks_at_what_is_committed(git, clean, tmp_path):
    path = tmp_path / "notebooks" / "01_a.ipynb"
    path.write_text(nbformat.writes(clean))
    git("add", ".")
    path.write_text("{")  # not staged
    assert git("commit", "-m", "one").returncode == 0
    clean.cells[1].execution_count = 7
    path.write_text(nbformat.writes(clean))
    git("add", ".")
    stopped = git("commit", "-m", "two")
    assert stopped.returncode == 1
    assert "notebooks/01_a.ipynb: it was not executed from top to bottom" in stopped.stdout + stopped.stderr
    git("rm", "-q", "--cached", "notebooks/01_a.ipynb")
    assert git("commit", "-m", "three").returncode == 0


def test_the_hook_lets_no_radiograph_in(git, tmp_path):
    (tmp_path / "00000013_005.png").write_bytes(b"")
    (tmp_path / "00090013_005.png").write_bytes(b"")
    git("add", ".")
    stopped = git("commit", "-m", "one")
    assert stopped.returncode == 1
    assert (stopped.stdout + stopped.stderr).count("is named like a radiograph of a patient") == 1


def test_the_command_names_file_and_fault(clean, tmp_path, capsys):
    clean.metadata.widgets = {}
    (tmp_path / "a.ipynb").write_text(json.dumps(clean))
    assert check.main([str(tmp_path / "a.ipynb")]) == 1
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'a.ipynb'}: it holds the state of widgets")
    assert check.main([]) == 0


def test_the_start_page_names_every_notebook():
    text = (NOTEBOOKS / "START.md").read_text(encoding="utf-8")
    assert [name for name in COURSE if f"({name}.ipynb)" not in text] == []
