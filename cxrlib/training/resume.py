"""The saved state of a training run under way: state.pth in its folder, written whole or not at all."""

from pathlib import Path

import pandas as pd
import torch

from cxrlib.core.errors import InputError, some
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint
from cxrlib.training.config import TrainConfig


def save_state(out: Path, identity: dict, **content) -> None:
    """Write state.pth; identity: what must agree for another run to go on from it."""
    out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(out / "state.pth", {"identity": identity, **content})


def load_state(out: Path, identity: dict) -> dict | None:
    """What `save_state` wrote, on the CPU; None where there is nothing to go on from.

    Raises InputError where the file cannot be read, or is of a run with another identity.
    """
    path = out / "state.pth"
    if not path.is_file():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        theirs = state["identity"]
    except Exception as error:  # torch raises pickle, zip, runtime and key errors for what it cannot read
        reason = str(error).strip().split("\n")[0][:150]
        raise InputError(f"{path} cannot be read ({reason}); remove it to begin anew") from None
    _refuse_another(path, theirs, identity)
    return state


def finished(out: Path, identity: dict) -> pd.DataFrame | None:
    """The history of a run with this identity that came to its end; None where there is none."""
    path = out / "model_last.pth"
    if not path.is_file() or "identity" not in (last := load_checkpoint(path)):
        return None
    _refuse_another(path, last["identity"], identity)
    return pd.read_csv(out / "history.csv")


def with_defaults(theirs: dict) -> dict:
    """What was asked of an older run, with the defaults of the parameters that it did not know yet."""
    return {name: field.default for name, field in TrainConfig.model_fields.items()} | theirs


def _refuse_another(path: Path, theirs: dict, ours: dict) -> None:
    theirs = with_defaults(theirs)
    differ = [name for name in ours if theirs.get(name) != ours[name]]
    if differ:
        shown = [
            f"{name} {theirs.get(name)!r}, now {ours[name]!r}" if name != "images" else "images or labels"
            for name in differ
        ]
        raise InputError(f"{path} is of a run with other {some(shown)}; expected the same: "
                         "choose another folder, or train without resume")  # fmt: skip
