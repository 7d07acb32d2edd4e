"""Fixtures that all tests share: a tiny data set in the layout of the NIH download, and the real radiographs."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.browser import lab
from tests.tiny import make_tiny_nih

# Before torch is imported, for child processes, too: on tiny tensors threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# hypothesis fails a test that takes 200 ms, or draws its examples slowly, as any does while the machine does other work
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def _real_folder() -> Path | None:
    """The folder with nih-mini, nih-native and nih-lists; None where it is not there."""
    folder = Path(os.environ.get("CXR_REAL_DATA") or Path(__file__).resolve().parents[2] / "shared")
    return folder if (folder / "nih-mini").is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that the other process has tests until the end; the browser, which is timed, last.

    All tests of a file run in one process of `make test`, in their order.
    """
    items.sort(key=lambda item: (item.path.name != "test_nbval.py", item.path.parent.name == "browser"))


def pytest_report_header() -> str:
    folder = _real_folder()
    return f"real radiographs: {folder or 'not found (CXR_REAL_DATA is not set), tests that need them are skipped'}"


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder that holds nih-mini, nih-native and nih-lists; mark the test with `real`."""
    folder = _real_folder()
    if folder is None:
        pytest.skip("the real radiographs are not beside the checkout and CXR_REAL_DATA does not name their folder")
    return folder


@dataclass(frozen=True)
class TinyNih:
    """A tiny data set: root (img_root) and csv_path; the boxes and the official lists lie in root, too."""

    root: Path
    csv_path: Path
    boxes_path: Path


@pytest.fixture(scope="session")
def _tiny_original(tmp_path_factory) -> Path:
    return make_tiny_nih(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_nih(_tiny_original, tmp_path) -> TinyNih:
    """A copy of the tiny data set that a test may change: 63 images of 32 patients, every finding ten times or more."""
    root = tmp_path / "tiny-nih"
    shutil.copytree(_tiny_original, root)
    return TinyNih(root, root / "Data_Entry_2017.csv", root / "BBox_List_2017.csv")


@pytest.fixture
def entries(tiny_nih):
    """The entries of the tiny data set, split by patient: half to train, a quarter to validate, a quarter to test."""
    from cxrlib.data.metadata import read_entries
    from cxrlib.data.splits import split

    return split(read_entries(tiny_nih.csv_path), "patient", fractions=(0.5, 0.25, 0.25))


@pytest.fixture
def cache(tiny_nih, tmp_path):
    """The tiny data set decoded at 32 pixels a side."""
    from cxrlib.data.cache import build_cache
    from cxrlib.data.sources import find_images

    return build_cache(find_images(tiny_nih.root), 32, cache_dir=tmp_path / "cache", progress=False)


@pytest.fixture(scope="session")
def tiny_model(_tiny_original, tmp_path_factory) -> Path:
    """A checkpoint with thresholds, of an official split of the tiny data set; beside it, the cache of its images."""
    from cxrlib.cli.main import main

    folder = tmp_path_factory.mktemp("model")
    data = ["--img_root", str(_tiny_original), "--cache_dir", str(folder / "cache")]
    quick = ["--arch", "mobilenet_v2", "--weights", "none", "--image_size", "32", "--epochs", "1", "--device", "cpu"]
    quick += ["--precision", "fp32", "--layout", "contiguous"]
    assert main(["train", *data, *quick, "--run_dir", str(folder)]) == 0
    weights = folder / "model_best.pth"
    tuned = ["--replicates", "0", "--calibrate", "none", "--update_checkpoint", "--out", str(folder / "results")]
    assert main(["eval", *data, "--weights", str(weights), *tuned]) == 0
    return weights


@pytest.fixture(scope="session")
def chrome():
    """A real browser: a skip where there is none, a failure where CI=true allows no skip."""
    executable = lab.chromium()
    if executable is None:
        reason = "no Chromium is installed (apt-get install chromium, or name one in CXR_CHROMIUM)"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"{reason}, and CI=true allows no skip")
        pytest.skip(reason)
    with lab.browser(executable) as browser:
        yield browser
