"""The device of a run, the memory that is free for it, and freed memory that is kept while it computes."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from cxrlib.core.errors import InputError

# parameters of glibc's mallopt (malloc.h)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_depth = 0


def pick_device(device: str = "auto") -> str:
    """The given device; "auto" is cuda, else mps, else cpu. Raises InputError if it is unavailable."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, found in available.items() if found)
    if not available.get(device):
        raise InputError(f"device {device!r} was asked for and is not there; use device=auto or device=cpu")
    return device


def free_memory(root: str | Path = "/") -> int:
    """Bytes that this process may still take of the machine, and of the control groups (version 2) that limit it."""
    free, table = [psutil.virtual_memory().available], Path(root, "proc/self/cgroup")
    for line in table.read_text(encoding="utf-8").splitlines() if table.is_file() else ():
        group = Path(root, "sys/fs/cgroup", line.rpartition(":")[2].lstrip("/"))
        for folder in (group, *group.parents):
            try:
                limit, used = (int((folder / file).read_text()) for file in ("memory.max", "memory.current"))
                stat = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
            except (OSError, ValueError):  # another folder, or "max": no limit
                continue
            free.append(limit - used + int(stat["inactive_file"]))  # which is given back on demand
    return max(0, min(free))


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory, on Linux with glibc: to zero-fill new pages takes long; the outermost context returns it."""
    global _depth
    libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    _depth += 1
    if libc and _depth == 1:
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        _depth -= 1
        if libc and _depth == 0:
            libc.mallopt(_MMAP_MAX, 65_536)
            libc.mallopt(_MMAP_THRESHOLD, 32 << 20)  # where glibc's own adaptation ends
            libc.mallopt(_TRIM_THRESHOLD, 64 << 20)
            libc.malloc_trim(0)
