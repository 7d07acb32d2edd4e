"""The device of a run, and the Accelerator that manages its processes and tracker."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import is_tensorboard_available

from cxrlib.core.errors import InputError
from cxrlib.training.config import TrainConfig


def pick_device(device: str = "auto") -> str:
    """The given device; "auto" is cuda, else mps, else cpu. Raises InputError if it is unavailable."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, found in available.items() if found)
    if not available.get(device):
        raise InputError(f"device {device!r} was asked for and is not there; use device=auto or device=cpu")
    return device


def make_accelerator(config: TrainConfig, out: Path) -> Accelerator:
    """The Accelerator for the configured device and tracker."""
    device = pick_device(config.device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:  # a notebook may train on another device than before
        AcceleratorState._reset_state(reset_partial_state=True)
    # cudnn's fastest algorithms are not deterministic
    torch.backends.cudnn.deterministic = True
    how = {"cpu": device == "cpu", "mixed_precision": "no"}  # precision is set by cxrlib
    if config.tracker == "none":
        return Accelerator(**how)
    if not is_tensorboard_available():  # accelerate would only warn
        raise InputError("tracker tensorboard is not installed; pip install -e '.[tracker]', or use tracker=none")
    return Accelerator(**how, log_with=config.tracker, project_dir=out)
