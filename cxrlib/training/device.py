"""The device of a run, and the Accelerator that manages its processes."""

import os
from typing import TYPE_CHECKING

import torch

from cxrlib.core.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator


def pick_device(device: str = "auto") -> str:
    """The given device; "auto" is cuda, else mps, else cpu. Raises InputError if it is unavailable."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, found in available.items() if found)
    if not available.get(device):
        raise InputError(f"device {device!r} was asked for and is not there; use device=auto or device=cpu")
    return device


def make_accelerator(device: str) -> "Accelerator":
    """The Accelerator for a device of `pick_device`; precision is chosen by `costs.choose`, not by accelerate."""
    from accelerate import Accelerator  # here, since a prediction needs none and should start at once
    from accelerate.state import AcceleratorState

    if int(os.environ.get("WORLD_SIZE", 1)) == 1:  # a notebook may train on another device than before
        AcceleratorState._reset_state(reset_partial_state=True)
    torch.backends.cudnn.deterministic = True  # its fastest algorithms are not
    return Accelerator(cpu=pick_device(device) == "cpu", mixed_precision="no")
