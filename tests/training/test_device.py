"""Memory is kept while it is wanted and given back afterwards."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from cxrlib.training.device import free_memory, kept_memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to keep")


# Measured in a process of its own: in a long-lived one, earlier tests may have left free pages that are still resident.
MEASURED = """
import torch
from cxrlib.training.device import free_memory, kept_memory

MIB = 2**20

def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / MIB

def use_and_free(mib=400):
    torch.ones(mib * MIB // 4)

use_and_free()
before = resident()
"""


def measure(steps: str) -> None:
    """Run steps after MEASURED in a fresh interpreter; a failed assertion there is printed here."""
    process = subprocess.run([sys.executable, "-c", MEASURED + steps], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@glibc
def test_freed_memory_stays_in_the_process_and_is_returned_at_the_end():
    measure("""
with kept_memory():
    with kept_memory():
        use_and_free()
        assert resident() > before + 350, "kept"
    assert resident() > before + 350, "an inner context returns nothing"
    held = resident()
    use_and_free(300)  # a little less, which surely fits
    assert resident() < held + 50, "the same pages are used again"
assert resident() < before + 50, "returned"
use_and_free()
assert resident() < before + 50, "afterwards as before"
""")


@glibc
def test_memory_is_returned_after_an_error_too():
    measure("""
try:
    with kept_memory():
        use_and_free()
        assert resident() > before + 350
        raise ValueError("stopped")
except ValueError:
    pass
assert resident() < before + 50
""")


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with kept_memory():
        assert torch.ones(3).sum() == 3


def test_free_memory_is_what_the_narrowest_control_group_leaves(tmp_path, monkeypatch):
    def group(name: str, limit: str, used: int) -> None:
        folder = tmp_path / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(str(used))
        (folder / "memory.stat").write_text("anon 5\ninactive_file 100\n")

    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/box/inner")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    assert free_memory(tmp_path / "nowhere") == 9000
    group("box/inner", "max", 700)
    assert free_memory(tmp_path) == 9000
    group("box", "4000", 1000)  # a limit that a parent sets
    assert free_memory(tmp_path) == 4000 - 1000 + 100
    group("box/inner", "2000", 700)
    assert free_memory(tmp_path) == 2000 - 700 + 100
    group("box/inner", "600", 900)
    assert free_memory(tmp_path) == 0
