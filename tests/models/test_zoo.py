import subprocess
import sys

import pytest


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("arch", ["resnet18", "efficientnet_lite0"])
def test_a_network_is_built_without_the_compiler(arch):
    """The compiler takes almost as long to import as torch."""
    code = f"""
import sys
from cxrlib.models.architectures import build_model
build_model({arch!r}, "none", 64)
print("torch._dynamo" in sys.modules, "torch._dynamo.utils" in sys.modules)
"""
    assert run(code).split() == ["False", "False"]


def test_the_compiler_is_found_when_it_is_called():
    code = """
from cxrlib.models import architectures
ops = architectures.package("torchvision").ops
import torch
box = torch.tensor([[0.0, 0, 0, 4, 4]])
print(ops.roi_align(torch.ones(1, 3, 8, 8), box, 2).mean().item())
print(ops.roi_align.__globals__["is_compile_supported"]("cpu"))
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item(), torch.compiler.disable.__module__)
"""
    assert run(code).split() == ["1.0", "True", "2.0", "torch.compiler"]


def test_another_name_of_the_compiler_is_the_real_one(tmp_path, monkeypatch):
    """As another version of torchvision may import it."""
    monkeypatch.chdir(tmp_path)
    code = """
import sys
from pathlib import Path
from cxrlib.models import architectures
Path("asks.py").write_text("from torch._dynamo.utils import counters")
sys.path.insert(0, "")
counters = architectures.package("asks").counters
import torch._dynamo.utils
print(counters is torch._dynamo.utils.counters, "is_compile_supported" in vars(sys.modules["torch._dynamo.utils"]))
"""
    assert run(code).split() == ["True", "True"]
