"""Kaggle in small: the wheel, notebooks alone in a folder, radiographs that cannot be written, no checkout, no git.

The stand-in is a root of its own (`tests.namespace`) with /kaggle/input, read-only, and /kaggle/working.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import nbformat
import pytest

from cxrlib.core.paths import NOTEBOOKS
from cxrlib.course.hosted import attached
from tests.namespace import may_mount, mounted

ROOT = Path(__file__).resolve().parents[1]
CELL = (ROOT / "tests" / "notebooks" / "hosted_cell.txt").read_text().strip()
CARRIED = ("cxrlib", "notebooks", "pyproject.toml", "README.md", "LICENSE", "data/results")  # the source of a wheel
DOCS = ROOT / "docs" / "hosted.md"
INPUT = "datasets/organizations/nih-chest-xrays/sample"
STAND_IN = """
mount -t tmpfs tmpfs /mnt
for each in /*; do
    if [ -L "$each" ]; then cp -d "$each" /mnt
    elif [ -d "$each" ] && [ "$each" != /mnt ]; then mkdir "/mnt$each"; mount --rbind "$each" "/mnt$each"; fi
done
mkdir -p /mnt/kaggle/input /mnt/kaggle/working /mnt/kaggle/home /mnt/kaggle/site
mount --bind {folder}/input /mnt/kaggle/input
mount -o remount,ro,bind /mnt/kaggle/input
mount --bind {folder}/working /mnt/kaggle/working
for hidden in {hidden}; do mount --bind /dev/null "/mnt$hidden"; done
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package's wheel, built from a copy, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in CARRIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", ".", "--no-deps", "--no-build-isolation", "-w", str(out)]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("cxrlib-*.whl"))


def test_the_wheel_carries_what_the_package_reads(wheel):
    carried = set(zipfile.ZipFile(wheel).namelist())
    read = {path for room in ("cxrlib", "notebooks") for path in (ROOT / room).rglob("*.*") if path.is_file()}
    left = ("__pycache__", ".ipynb_checkpoints", "lab")  # the settings of `make lab` need the Makefile
    names = {path.relative_to(ROOT).as_posix() for path in read if not set(left) & set(path.parts)}
    assert {name if name.startswith("cxrlib/") else f"cxrlib/{name}" for name in names} <= carried


@pytest.mark.parametrize(
    "place",
    [
        "kaggle/input/data",
        "kaggle/input/datasets/nih-chest-xrays/data",
        f"kaggle/input/{INPUT}",
        "content/nih",
        "content/drive/MyDrive/nih",
    ],
)
def test_attached_radiographs_are_found_wherever_they_are_mounted(place, tiny_nih, tmp_path):
    shutil.copytree(tiny_nih.root, tmp_path / place)
    (tmp_path / "kaggle" / "input" / "weights").mkdir(parents=True)
    assert attached(tmp_path) == [tmp_path / place]


@pytest.mark.skipif(not may_mount(), reason="nothing can be mounted here, so there is no /kaggle")
def test_notebooks_alone_install_the_wheel_find_the_radiographs_and_run(wheel, tmp_path, tiny_nih):
    shutil.copytree(tiny_nih.root, tmp_path / "input" / INPUT)
    shutil.copy(wheel, tmp_path / "input")
    working = tmp_path / "working"
    working.mkdir()
    nb = nbformat.read(NOTEBOOKS / "01_eda.ipynb", as_version=4)
    if "hosted" not in nb.cells[1].metadata.get("tags", []):
        nb.cells.insert(1, nbformat.v4.new_code_cell(CELL))
    nbformat.write(nb, working / "01_eda.ipynb")
    packages = Path(sysconfig.get_path("purelib"))
    hidden = [*packages.glob("__editable__*cxrlib*.pth"), *filter(None, [shutil.which("git")])]
    mounts = STAND_IN.format(folder=tmp_path, hidden=" ".join(map(str, hidden)))
    run, papermill = re.findall("^!(.+)$", DOCS.read_text(), re.MULTILINE)[:2]  # the lines for Kaggle
    script = f"""
cd /kaggle/working
export HOME=/kaggle/home PYTHONPATH=/kaggle/site PIP_TARGET=/kaggle/site PIP_NO_DEPS=1 PIP_NO_INDEX=1 OMP_NUM_THREADS=1
export PATH=/kaggle/site/bin:{Path(sys.executable).parent}:$PATH JUPYTER_PREFER_ENV_PATH=1
! git --version 2>/dev/null
! python -c 'import cxrlib' 2>/dev/null
{papermill}
{run} --dry-run
"""
    done = subprocess.run(
        mounted(mounts, ["chroot", "/mnt", "sh", "-ec", script]), env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "run /kaggle/working/runs/quick, profile quick" in done.stdout
    cell = nbformat.read(working / "01.ipynb", as_version=4).cells[1]
    said = "".join(output.text for output in cell.outputs)
    assert f'img_root = "/kaggle/input/{INPUT}"' in said
    assert "results: /kaggle/working/runs" in said
    assert list((working / "runs" / "sample" / "figures").glob("01_*.png"))


def test_the_container_gets_the_stored_scores_that_notebooks_read():
    """What git keeps against a rule of .gitignore, .dockerignore must keep, too: later lines win in both."""
    kept = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("!data/")]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert kept
    for line in kept:
        assert line in lines
        assert lines.index(line) > lines.index("**/*.npz")
