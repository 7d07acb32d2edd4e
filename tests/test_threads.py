"""How threads wait for each other: set before torch loads OpenMP, and left alone where the user has set it."""

import os
import subprocess
import sys

import pytest

_SAY = "import os, cxrlib, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


def run(code: str, **given: str) -> subprocess.CompletedProcess:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    return subprocess.run([sys.executable, "-c", code], env=plain | given, capture_output=True, text=True, check=True)


def test_the_package_says_how_threads_wait_and_loads_no_torch():
    assert run(_SAY).stdout.split() == ["1000", "False"]


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_user_has_set_is_left_alone(given):
    assert run(_SAY, **given).stdout.split() == [given.get("GOMP_SPINCOUNT", "None"), "False"]


@pytest.mark.skipif(sys.platform != "linux", reason="GOMP is the runtime of torch on Linux")
def test_the_runtime_of_torch_reads_it():
    said = run("import cxrlib, torch", OMP_DISPLAY_ENV="verbose").stderr
    assert "GOMP_SPINCOUNT = '1000'" in said
