"""The lists of dependencies agree, every bound has a version, and the table of faults names tests that exist."""

import ast
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_conda_asks_for_the_python_and_the_packages_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    [python] = [line for line in environment if isinstance(line, str) and line.startswith("python")]
    assert python.removeprefix("python") == PROJECT["project"]["requires-python"]
    [pip] = [line["pip"] for line in environment if isinstance(line, dict)]
    assert pip == ["-e .[dev,dicom,onnx]"], "the one list of packages is pyproject.toml"
    assert "dev" in PROJECT["project"]["optional-dependencies"]
    makefile = (ROOT / "Makefile").read_text()
    least = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert f"sys.version_info < ({least.replace('.', ', ')})" in makefile


def test_every_dependency_has_a_lower_bound_that_this_environment_fulfils():
    from tests.oldest import lower_bounds

    for name, version in lower_bounds().items():
        installed = Version(importlib.metadata.version(name))
        assert installed in SpecifierSet(f">={version}", prereleases=True), (
            f"{name} {installed} is older than {version}"
        )


def test_what_is_imported_is_asked_for():
    """Every package that cxrlib imports stands in pyproject.toml; what comes with another may go with it."""
    from tests.oldest import lower_bounds

    asked = {name.lower().replace("-", "_") for name in lower_bounds()} | {"ipython"}  # which is what ipykernel runs
    of_module = importlib.metadata.packages_distributions()
    for path in (ROOT / "cxrlib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {name.split(".")[0] for name in names} - {"cxrlib"}:
                packages = {name.lower().replace("-", "_") for name in of_module.get(module, [])}
                assert not packages or packages & asked, f"{path.name} imports {module}"


def test_a_deprecation_warning_of_ours_is_an_error():
    assert "error::DeprecationWarning:cxrlib" in PROJECT["tool"]["pytest"]["ini_options"]["filterwarnings"]


def faults() -> list[tuple[str, str]]:
    """(fault, test) of every row of the table in tests/README.md."""
    lines = (ROOT / "tests" / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [(row[0], name) for row in rows[1:] for name in re.findall(r"`((?:\w+/)?test_\w+\.py::\w+)`", row[-1])]


def test_the_table_of_faults_is_full():
    lines = (ROOT / "tests" / "README.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert len(rows) >= 40
    assert all("test_" in row.rsplit("|", 2)[-2] for row in rows), "each names its test"


@pytest.mark.parametrize(("fault", "test"), faults())
def test_each_test_of_the_table_exists(fault, test):
    file, name = test.split("::")
    path = ROOT / "tests" / file
    functions = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    assert name in functions, fault
