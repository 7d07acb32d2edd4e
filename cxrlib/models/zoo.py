"""torchvision and timm, which build the networks: imported when a network is built, and without torch's compiler.

Both import torch._dynamo, which takes almost as long as torch itself, for two names that no network here needs:
torchvision a function that an operator of object detection calls, timm a decorator for methods of other networks.
During the import each is replaced by one that does the same and imports the compiler when it is called.
"""

import sys
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import torch

_ASKED = "torch._dynamo.utils"


def load(name: str) -> ModuleType:
    """The package "torchvision" or "timm"."""
    with _without_compiler():
        return import_module(name)


@contextmanager
def _without_compiler():
    if _ASKED in sys.modules or not hasattr(torch, "_disable_dynamo"):  # imported already, or another version of torch
        yield
        return
    late = sys.modules[_ASKED] = ModuleType(_ASKED)
    late.is_compile_supported = _is_compile_supported
    late.__getattr__ = _of_the_compiler
    disable, torch.compiler.disable = torch.compiler.disable, torch._disable_dynamo
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if sys.modules.get(_ASKED) is late:
            del sys.modules[_ASKED]


def _is_compile_supported(device: str) -> bool:
    from torch._dynamo import utils

    return utils.is_compile_supported(device)


def _of_the_compiler(name: str):
    """Any other name that a version of torchvision imports, from the real module, which takes its place."""
    if name.startswith("__"):  # inspect looks for them
        raise AttributeError(name)
    del sys.modules[_ASKED]
    return getattr(import_module(_ASKED), name)
