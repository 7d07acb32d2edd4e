"""Memory is kept while it is wanted and given back afterwards."""

import platform
import subprocess
import sys

import pytest
import torch

from cxrlib.training.memory import kept_memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to keep")


# Measured in a process of its own: in a long-lived one, earlier tests may have left free pages that are still resident.
MEASURED = """
import torch
from cxrlib.training.memory import kept_memory

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
