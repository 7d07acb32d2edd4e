"""Where the project keeps things. All paths come from here, and none depends on the working directory."""

import errno
import glob
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cxrlib.core.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None
# Installed from a wheel, the package brings its notebooks, and keeps what it makes in the user's home.
_HOME = _CHECKOUT or Path.home() / ".cache" / "cxrlib"
ROOT = Path(os.environ.get("CXR_HOME") or _HOME).expanduser().resolve()  # CXR_HOME: figures, runs and data elsewhere

NOTEBOOKS = (_CHECKOUT or _PACKAGE) / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
FIGURES = ROOT / "figures"
RUNS = ROOT / "runs"
CACHE = ROOT / "data" / "cache"
PHANTOM = ROOT / "data" / "phantom"

# of a disk that is full, a quota, a limit, a folder that may not be written, or is none
NO_PLACE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
}


def from_root(path: str | Path) -> Path:
    """A path as the notebooks write it: absolute, or relative to the project's root."""
    return ROOT / Path(path).expanduser()


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its name at the end: the old file or the whole new one, no part.

    What was written is on the disk before it takes the name. What a killed process left beside is removed. Raises
    InputError where the place is full, read-only or no folder.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_remains(path)
        yield beside
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync(path.parent)
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        raise InputError(f"{path} cannot be written ({error.strerror}); what was there before is unchanged: "
                         "make room, or choose another folder") from None  # fmt: skip
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def write_rows(path: Path, offset: int, rows: Iterable[tuple[int, bytes]]) -> None:
    """Write rows of a file, each (its number, its bytes, as many for all); the first begins at `offset`. Then sync it.

    By file: on a full disk this is an error, where writing to a memory map would end the process without a word.
    """
    with path.open("r+b") as file:
        for number, content in rows:
            file.seek(offset + number * len(content))
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def one_process(path: str | Path, doing: str) -> Iterator[None]:
    """Hold the lock file `path`, so that one process works and the others wait; those print what they wait for."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is {doing}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _remove_remains(path: Path) -> None:
    """Remove what a process that is gone left beside `path`: an hour old, which nothing that is being written gets."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - 3600:
                left.unlink()


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; where folders cannot be synced, the system does it later."""
    with suppress(OSError):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file whole (`written_whole`) and return its path."""
    with written_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, content: dict) -> Path:
    """Write JSON whole, one value per line, and return its path. Raises ValueError for NaN, which JSON lacks."""
    return write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_csv(path: str | Path, table, index: bool = True) -> Path:
    """Write a DataFrame as a CSV, whole, and return its path."""
    return write_text(path, table.to_csv(index=index))
