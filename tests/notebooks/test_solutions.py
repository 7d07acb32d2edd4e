"""The exercises: each folded solution passes the check above it, and an untouched exercise says "not yet"."""

import functools
import re

import nbformat
import pytest

from cxrlib.core.paths import NOTEBOOKS
from cxrlib.course.exercises import NOT_YET
from cxrlib.course.notebooks import notebook_parameters
from cxrlib.course.runs import RunFolder

OPEN_ALONE = ("01_eda", "02_preprocess")  # the others need a trained model


@pytest.mark.parametrize("name", OPEN_ALONE)
def test_each_solution_passes_its_check(name, tiny_nih, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("IPython.display.display", lambda *shown, **options: None)
    monkeypatch.setattr(RunFolder, "save_figure", lambda *given, **options: None)
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    [parameters] = [place for place, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    given = notebook_parameters(name) | {"img_root": str(tiny_nih.root), "run_dir": str(tmp_path / "run")}
    given |= {"image_size": 40, "split": "patient"} if name == "02_preprocess" else {}
    for cell in code[:parameters]:
        exec(cell.source, given)
    if "build_cache" in given:
        given["build_cache"] = functools.partial(given["build_cache"], cache_dir=tmp_path / "cache")
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for source in (cell.source for cell in code[parameters + 1 :]):
        capsys.readouterr()
        exec(source, given)
        exercise = re.match(r"exercise_(\d+) = None.*\n", source)
        if exercise:
            assert capsys.readouterr().out == f"{NOT_YET}\n"
            [solution] = re.findall(rf"^\*\*{exercise[1]}\.\*\* .+?```python\n(.+?)```", text, re.DOTALL | re.MULTILINE)
            exec(solution, given)
            capsys.readouterr()  # what the solution prints
            exec(source[exercise.end() :], given)
            assert capsys.readouterr().out.startswith("right"), f"exercise {exercise[1]}"
