"""Memory is kept while it is wanted and given back afterwards; what a step remembers is counted to the byte."""

import gc
import platform
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

from cxrlib.training.memory import kept_memory, remembered_bytes

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


@pytest.mark.parametrize("count", [2, 4])
def test_bytes_between_forward_and_backward(count):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Sigmoid(), nn.Linear(10, 3))
    images = torch.rand(count, 1, 8, 8)
    # the input of each linear layer; the sigmoid's output is the second's. No weight.
    assert remembered_bytes(model, images) == 4 * count * (64 + 10)


def test_counting_leaves_nothing_behind():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 3))  # ReLU remembers its own output
    remembered_bytes(model, torch.rand(2, 1, 8, 8))
    gone = weakref.ref(model[1].weight)
    del model
    gc.collect()
    assert gone() is None


def test_half_as_much_in_bf16():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    images = torch.rand(8, 1, 32, 32)
    whole = remembered_bytes(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        half = remembered_bytes(model, images)
    assert 0.4 < half / whole < 0.65
