"""The capstone: its form, and hints whose Python runs."""

import ast
import re

import nbformat
import pytest

from cxrlib.core.paths import NOTEBOOKS
from cxrlib.course.capstone import FLAWS
from cxrlib.course.exercises import NOT_YET
from tests.notebooks import check

PATH = NOTEBOOKS / "capstone.ipynb"


@pytest.fixture(scope="module")
def nb():
    return nbformat.read(PATH, as_version=4)


@pytest.fixture(scope="module")
def prose(nb):
    return "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")


def test_is_fit_to_be_committed():
    assert not check.faults(PATH.read_text(encoding="utf-8")), "make notebooks executes it"


def test_opens_as_the_others_do(nb):
    first = nb.cells[0].source
    assert re.search(r"\*\*The question:\*\* .+\?", first)
    for part in ("**You will be able to**", "**Before:**", "**Time:**"):
        assert part in first


def test_names_every_flaw_and_has_a_hint_for_each(prose):
    for flaw in FLAWS:
        assert f'| `"{flaw}"` |' in prose
        assert f": {flaw}</summary>" in prose
    assert len(re.findall(r"<details><summary>Hint", prose)) == len(FLAWS)
    assert prose.count("<details>") == prose.count("</details>")
    for snippet in re.findall(r"```python\n(.+?)```", prose, re.DOTALL):
        ast.parse(snippet)


def test_the_points_of_the_rubric_add_up(prose):
    points = [int(number) for number in re.findall(r"^\| \w+ \| .+ \| (\d+) \|$", prose, re.MULTILINE)]
    assert len(points) == 6
    assert f"Of {sum(points)} points" in prose


def test_is_committed_without_an_answer(nb):
    checks = [cell for cell in nb.cells if cell.cell_type == "code" and "check(" in cell.source]
    assert [cell.outputs[0].text for cell in checks] == [f"{NOT_YET}\n"]
