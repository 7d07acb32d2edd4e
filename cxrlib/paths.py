"""Where the project keeps things. All paths come from here, and none depends on the working directory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[1]
# Installed without its checkout, the package keeps its cache in the user's home.
_HOME = _CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else Path.home() / ".cache" / "cxrlib"
ROOT = Path(os.environ.get("CXR_HOME") or _HOME).expanduser().resolve()  # CXR_HOME: figures, runs and data elsewhere

NOTEBOOKS = _CHECKOUT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
FIGURES = ROOT / "figures"
RUNS = ROOT / "runs"
CACHE = ROOT / "data" / "cache"
PHANTOM = ROOT / "data" / "phantom"


def from_root(path: str | Path) -> Path:
    """A path as the notebooks write it: absolute, or relative to the project's root."""
    return ROOT / Path(path).expanduser()


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its name at the end: the old file or the whole new one, no part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
