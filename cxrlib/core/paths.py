"""What a path means (what nobody names lies in the project), where results may go, atomic file writes, and locks."""

import errno
import glob
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

from filelock import FileLock, Timeout

from cxrlib.core.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None
# installed from a wheel, the package holds its notebooks, and writes where Kaggle or Colab keeps it, else to the home
SERVICES = (Path("/kaggle/working"), Path("/content"))
_HOME = _CHECKOUT or next((folder for folder in SERVICES if folder.is_dir()), Path.home() / ".cache" / "cxrlib")
ROOT = Path(os.environ.get("CXR_HOME") or _HOME).expanduser().resolve()  # CXR_HOME moves figures, runs and data

NOTEBOOKS = (_CHECKOUT or _PACKAGE) / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
RESULTS = (_CHECKOUT / "data" / "results" if _CHECKOUT else _PACKAGE / "results") / "nih-mini"  # of real radiographs
RUNS = ROOT / "runs"
CACHE = Path("/kaggle/temp/cache") if ROOT in SERVICES[:1] else ROOT / "data" / "cache"  # Kaggle's output is limited
PHANTOM = ROOT / "data" / "phantom"

# full disk, exceeded quota or file size limit, no write permission, not a folder or a folder, a name too long
_NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR,
             errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG}  # fmt: skip
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}  # on network mounts without locks


def expanded(path: str | os.PathLike) -> str:
    """The text of a path with `~` replaced by the home folder. Raises InputError for what can be no path."""
    text = os.path.expanduser(os.fspath(path))
    if text.startswith("~"):
        raise InputError(f"{text[:80]!r} cannot be a path; there is no such user: a name with ~ first is written ./~")
    with suppress(UnicodeEncodeError):
        if "\0" not in text and all(len(name) <= 255 for name in os.fsencode(text).split(b"/")):
            return text
    raise InputError(f"{text[:80]!r} cannot be a path; a name has at most 255 bytes that the file system can hold")


def located(path: str | Path) -> Path:
    """The absolute path of what a notebook names: in Jupyter relative to the project's root, as defaults are always."""
    path = Path(expanded(path))
    is_default = path.as_posix() in ("data/phantom", "runs/quick")
    return (ROOT if is_default or Path.cwd() == NOTEBOOKS else Path.cwd()) / path


def check_folder(folder: str | Path, *inside: str) -> None:
    """Raise InputError where results could not be written, nor what will be made `inside`; makes nothing."""
    path = Path(folder).absolute()
    check_not_committed(path, *inside)
    there = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        if there.is_dir():
            closed = isinstance(error, PermissionError) or error.errno == errno.EROFS
            found = "read-only" if closed else "no place for files"  # such as /proc
        else:
            found = "a file" if there.exists() else "a link that leads nowhere"
        raise InputError(f"{folder} cannot be written ({there} is {found}); choose another folder") from None


def check_not_committed(path: Path, *inside: str) -> None:
    """Raise InputError for a folder in which results would mix with the notebooks or figures that git keeps."""
    for place, kept in product(("", *inside), (NOTEBOOKS, NOTEBOOKS.parent / "figures")):
        if (path / place).resolve().is_relative_to(kept):
            raise InputError(f"{path} cannot be used: {kept} is committed; choose another folder, such as one in runs/")


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is synced and renamed at the end; InputError where none can be."""
    path = Path(path).absolute()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            with suppress(OSError):
                if left.stat().st_mtime < time.time() - 3600:  # of a killed process; no file is written for so long
                    left.unlink()
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise InputError(f"{path} cannot be written ({error.strerror}); what was there before is unchanged: "
                         "make room, or choose another folder") from None  # fmt: skip
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_rows(path: Path, offset: int, rows: Iterable[tuple[int, bytes]]) -> None:
    """Write rows of equal length, each (row number, bytes), into a file whose row 0 starts at `offset`; sync it."""
    with path.open("r+b") as file:  # on a full disk this raises, whereas a memory map would kill the process
        for number, content in rows:
            file.seek(offset + number * len(content))
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def one_process(path: str | Path, doing: str = "", wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, made with its folder: one process works; others wait and, given `doing`, say for what.

    Where a file system has no locks, the work goes on, which is said. InputError where it is held, without `wait`.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            instead = "wait until it has finished, or choose another folder"
            raise InputError(f"another process is {doing}; {instead}") from None
        if doing:
            print(f"another process is {doing}; waiting for it")
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise
        if doing:
            print(f"{Path(path).parent} is on a file system without locks: start no second process that is {doing}")
    try:
        yield
    finally:
        lock.release()


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
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names need not be UTF-8
    return Path(path)


def write_json(path: str | Path, content: dict) -> Path:
    """Write JSON atomically, one value per line, and return its path. Raises ValueError for NaN, which JSON lacks."""
    return write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """The dict in a JSON file; empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_csv(path: str | Path, table, index: bool = True) -> Path:
    """Write a DataFrame atomically as a CSV and return its path."""
    return write_text(path, table.to_csv(index=index))
