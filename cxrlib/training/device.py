"""Which device a run is on, and accelerate's view of it: the processes, the tracker."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import is_tensorboard_available

from cxrlib.core.errors import InputError
from cxrlib.training.config import TrainConfig


def pick_device(device: str = "auto") -> str:
    """The device asked for; "auto" is cuda, else mps, else cpu. Raises InputError for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not there.get(device):
        raise InputError(f"device {device!r} was asked for and is not there; use device=auto or device=cpu")
    return device


def make_accelerator(config: TrainConfig, out: Path) -> Accelerator:
    """accelerate's view of the device, the processes and the tracker."""
    device = pick_device(config.device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:  # a notebook may train on another device than before
        AcceleratorState._reset_state(reset_partial_state=True)
    # the fastest of cudnn's algorithms add in another order each time
    torch.backends.cudnn.deterministic = True
    how = {"cpu": device == "cpu", "mixed_precision": "no"}  # precision is ours, whatever accelerate was configured to
    if config.tracker == "none":
        return Accelerator(**how)
    if not is_tensorboard_available():  # accelerate would only warn
        raise InputError("tracker tensorboard is not installed; pip install -e '.[tracker]', or use tracker=none")
    accelerator = Accelerator(**how, log_with=config.tracker, project_dir=out)
    accelerator.init_trackers("tracker", config.model_dump())
    return accelerator
