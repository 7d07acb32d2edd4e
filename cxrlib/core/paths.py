"""The paths of the project, none of which depends on the working directory, and atomic file writes."""

import errno
import glob
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cxrlib.core.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None
# Installed from a wheel, the package contains its notebooks and writes its output to the user's home.
_HOME = _CHECKOUT or Path.home() / ".cache" / "cxrlib"
ROOT = Path(os.environ.get("CXR_HOME") or _HOME).expanduser().resolve()  # CXR_HOME moves figures, runs and data

NOTEBOOKS = (_CHECKOUT or _PACKAGE) / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
RESULTS = (_CHECKOUT / "data" / "results" if _CHECKOUT else _PACKAGE / "results") / "nih-mini"  # of real radiographs
FIGURES = ROOT / "figures"
RUNS = ROOT / "runs"
CACHE = ROOT / "data" / "cache"
PHANTOM = ROOT / "data" / "phantom"

# full disk, exceeded quota or file size limit, no write permission, or not a folder
NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR,
            errno.EEXIST}  # fmt: skip


def from_root(path: str | Path) -> Path:
    """Resolve a path that is absolute or relative to the project root."""
    return ROOT / Path(path).expanduser()


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path in the same folder, which is renamed to `path` at the end.

    The content is synced to disk before the rename. Temporary files of killed processes are removed.

    Raises:
        InputError: The disk is full, or the folder is read-only or not a folder.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_remains(path)
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        raise InputError(f"{path} cannot be written ({error.strerror}); what was there before is unchanged: "
                         "make room, or choose another folder") from None  # fmt: skip
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_rows(path: Path, offset: int, rows: Iterable[tuple[int, bytes]]) -> None:
    """Write rows of equal length, each (row number, bytes), into a file whose row 0 starts at `offset`; sync it.

    On a full disk this raises an error, whereas writing to a memory map would kill the process.
    """
    with path.open("r+b") as file:
        for number, content in rows:
            file.seek(offset + number * len(content))
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def one_process(path: str | Path, doing: str) -> Iterator[None]:
    """Hold the lock file `path`, so that one process works while others wait and print the reason."""
    lock = FileLock(path)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is {doing}; waiting for it")
        held = lock.acquire()
    with held:
        yield


def _remove_remains(path: Path) -> None:
    """Remove temporary files of `path` that are over an hour old, which no file still being written is."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - 3600:
                left.unlink()


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk; where folders cannot be synced, do nothing."""
    with suppress(OSError):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file atomically (`written_whole`) and return its path."""
    with written_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, content: dict) -> Path:
    """Write JSON atomically, one value per line, and return its path. Raises ValueError for NaN, which JSON lacks."""
    return write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_csv(path: str | Path, table, index: bool = True) -> Path:
    """Write a DataFrame atomically as a CSV and return its path."""
    return write_text(path, table.to_csv(index=index))
