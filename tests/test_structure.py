"""The architecture as CONTRIBUTING.md draws it: rooms, sizes of modules and functions, and who imports from whom.

import-linter (pyproject.toml, run by `make check`) holds the order of the rooms; here stands what it cannot say.
"""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cxrlib"
ROOMS = ("core", "data", "phantom", "models", "evaluation", "training", "explain", "plots", "widgets", "course", "cli")
MODULE_LINES, FUNCTION_LINES, PARAMETERS = 300, 50, 7
PACKAGE_LINES = 10_600  # no more than there are; the package is a helper and should get smaller


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def functions(path: Path):
    """(function, whether it is public) for each function and method of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, not node.name.startswith("_")


def length(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(getattr(first, "value", None), ast.Constant)
    documented = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - documented


def imports_in_functions(path: Path) -> list[int]:
    """Lines at which a function of the module imports from cxrlib."""
    lines = []
    for function, _ in functions(path):
        for node in ast.walk(function):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            lines += [node.lineno for name in names if name.split(".")[0] == "cxrlib"]
    return lines


def test_the_package_is_its_rooms():
    inside = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert {name for name in inside if (PACKAGE / name).is_dir()} == set(ROOMS)
    assert len(inside - set(ROOMS)) <= 3
    assert all((PACKAGE / room / "__init__.py").is_file() for room in ROOMS)


def test_contributing_names_every_module():
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert tuple(rows) == ROOMS, "in the order in which the data flows"
    for room in ROOMS:
        inside = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__", "__main__"}
        assert not {name for name in inside if not re.search(rf"\b{name}\b", rows[room])}, room


def test_init_files_hold_a_docstring_only():
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(body[0], ast.Expr), path
        # the package itself has its version, and what torch must find in the environment before it is imported
        assert not body[1:] or path.parent == PACKAGE, path


def test_the_wheel_carries_every_folder():
    packages = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in PACKAGE.rglob("__init__.py")}
    assert packages == folders | {"cxrlib.notebooks", "cxrlib.results"}


def test_tests_stand_in_the_same_rooms():
    named = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert named - {"browser", "notebooks"} <= set(ROOMS)


def test_modules_are_short():
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules()}
    assert not {name: lines for name, lines in long.items() if lines > MODULE_LINES}
    assert sum(long.values()) <= PACKAGE_LINES


def test_functions_are_short():
    long = [f"{path.relative_to(ROOT)}:{function.lineno} {function.name} ({length(function)} lines)"
            for path in modules() for function, _ in functions(path) if length(function) > FUNCTION_LINES]  # fmt: skip
    assert not long


def test_public_functions_have_few_parameters():
    wide = []
    for path in modules():
        for function, public in functions(path):
            given = function.args
            names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            if public and len([name for name in names if name not in ("self", "cls")]) > PARAMETERS:
                wide.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name} ({len(names)} parameters)")
    assert not wide


def test_no_function_imports_from_the_package():
    elsewhere = [path for path in modules() if path.parent != PACKAGE / "cli" / "commands"]
    assert not {str(path.relative_to(ROOT)): lines for path in elsewhere if (lines := imports_in_functions(path))}


def test_the_rooms_import_in_one_direction():
    linter = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_a_prediction_starts_without_what_only_training_and_figures_need():
    """Each takes up to as long to import as torch; torchvision comes with the network."""
    late = ("torchvision", "timm", "accelerate", "scipy.stats", "seaborn", "sklearn", "torch._dynamo")
    code = f"import sys, cxrlib.explain.prediction; print([m for m in {late} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


@pytest.mark.parametrize("module", ["cxrlib", "cxrlib.evaluation.metrics", "cxrlib.plots.style", "cxrlib.cli.main"])
def test_what_needs_no_torch_loads_none(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
