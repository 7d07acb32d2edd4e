"""What a run depends on, resuming one that was interrupted, and moving the results of an earlier one aside."""

from itertools import count
from pathlib import Path

import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.splits import digest as digest_of_entries
from cxrlib.models.checkpoints import digest, load_checkpoint, read
from cxrlib.models.names import SUFFIXES
from cxrlib.training.config import TrainConfig

_FREE = ("resume", "save_minutes", "num_workers", "val_share")  # the images, which val_share decides, are compared
_RESULTS = ("model_best.pth", "model_last.pth", "state.pth", "history.csv", "predictions_val.npz",
            "predictions_test.npz")  # fmt: skip
_MADE_FROM_THEM = ("tables", "gradcam")  # by cxr eval and cxr gradcam, where --out is the folder of the run
_IN_THE_COURSE = ("thresholds.json", "calibration.json", "metrics.csv", "audit.csv", "experts.csv", "localization.csv",
                  "report.html", "report.pdf", "figures/03_history.*", "figures/03_auroc.*", "figures/05_*",
                  "figures/06_*")  # fmt: skip


def identity(config: TrainConfig, *parts: pd.DataFrame) -> dict:
    """What the weights of a run depend on: its parameters, the images and labels of `parts`, and the start checkpoint.

    A start checkpoint is known by the digest of its weights, not by its path.
    """
    parameters = {name: value for name, value in config.model_dump().items() if name not in _FREE}
    if config.weights.endswith(SUFFIXES):
        parameters["weights"] = f"checkpoint {digest(load_checkpoint(config.weights)['state_dict'])}"
    return parameters | {"images": digest_of_entries(*parts)}


def load_state(out: Path, ours: dict) -> dict | None:
    """The content of state.pth, or None if there is none; InputError for another identity than `ours`."""
    path = out / "state.pth"
    if not path.is_file():
        return None
    state = read(path, f"{path} cannot be read", "remove it to begin anew")
    _refuse_another(path, state["identity"], ours)
    return state


def finished(out: Path, ours: dict) -> pd.DataFrame | None:
    """The history of a finished run with the identity `ours`, or None if there is none; InputError for another's."""
    path = out / "model_last.pth"
    if not path.is_file() or "identity" not in (last := load_checkpoint(path)):
        return None
    _refuse_another(path, last["identity"], ours)
    return pd.read_csv(out / "history.csv")


def with_defaults(theirs: dict) -> dict:
    """The parameters of an earlier run, with defaults for parameters added since."""
    return {name: field.default for name, field in TrainConfig.model_fields.items()} | theirs


def set_aside(out: Path) -> None:
    """Move what an earlier run left in the folder `out` to out/previous-N, so that it cannot pass for a new run's.

    In a run folder of the course, what its notebooks made from the earlier model is moved, too.
    """
    found = [path for path in map(out.joinpath, _RESULTS) if path.exists()]
    if found:
        found += [path for path in map(out.joinpath, _MADE_FROM_THEM) if path.is_dir()]
    if (out.parent / "run.json").is_file():
        found += [path for pattern in _IN_THE_COURSE for path in sorted(out.parent.glob(pattern))]
    if not found:
        return
    aside = next(path for number in count(1) if not (path := out / f"previous-{number}").exists())
    for path in found:
        moved = aside / path.relative_to(out if out in path.parents else out.parent)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    print(f"{out} held an earlier run; moved to {aside.name}: {some([path.name for path in found], 30)}")


def _refuse_another(path: Path, theirs: dict, ours: dict) -> None:
    theirs = with_defaults(theirs)
    differ = [name for name in ours if theirs.get(name) != ours[name]]
    if differ:
        shown = ["images or labels" if name == "images" else f"{name} {theirs.get(name)!r}, now {ours[name]!r}"
                 for name in differ]  # fmt: skip
        raise InputError(f"{path} is of a run with other {some(shown)}; expected the same: "
                         "choose another folder, or train without resume")  # fmt: skip
