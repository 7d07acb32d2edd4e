"""The saved state of an unfinished training run: state.pth in its folder, written atomically."""

from pathlib import Path

import pandas as pd
import torch

from cxrlib.core.errors import InputError, some
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint
from cxrlib.training.config import TrainConfig


def save_state(out: Path, identity: dict, **content) -> None:
    """Write state.pth; only a run with an equal `identity` can resume from it."""
    out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(out / "state.pth", {"identity": identity, **content})


def load_state(out: Path, identity: dict) -> dict | None:
    """The content of state.pth, on the CPU, or None if there is none.

    Raises InputError if the file cannot be read or is from a run with another identity.
    """
    path = out / "state.pth"
    if not path.is_file():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        theirs = state["identity"]
    except Exception as error:  # torch raises pickle, zip, runtime and key errors
        reason = str(error).strip().split("\n")[0][:150]
        raise InputError(f"{path} cannot be read ({reason}); remove it to begin anew") from None
    _refuse_another(path, theirs, identity)
    return state


def finished(out: Path, identity: dict) -> pd.DataFrame | None:
    """The history of a finished run with this identity, or None if there is none."""
    path = out / "model_last.pth"
    if not path.is_file() or "identity" not in (last := load_checkpoint(path)):
        return None
    _refuse_another(path, last["identity"], identity)
    return pd.read_csv(out / "history.csv")


def with_defaults(theirs: dict) -> dict:
    """The parameters of an earlier run, with defaults for parameters added since."""
    return {name: field.default for name, field in TrainConfig.model_fields.items()} | theirs


def _refuse_another(path: Path, theirs: dict, ours: dict) -> None:
    theirs = with_defaults(theirs)
    differ = [name for name in ours if theirs.get(name) != ours[name]]
    if differ:
        shown = ["images or labels" if name == "images" else f"{name} {theirs.get(name)!r}, now {ours[name]!r}"
                 for name in differ]  # fmt: skip
        raise InputError(f"{path} is of a run with other {some(shown)}; expected the same: "
                         "choose another folder, or train without resume")  # fmt: skip
