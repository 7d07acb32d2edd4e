"""Several trained models of one split that predict the mean of their calibrated scores, as one file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.data.splits import united
from cxrlib.models.checkpoints import CHECKPOINT_FORMAT, load_any, write_checkpoint


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Checkpoints by the name of their file; a single model is an ensemble of one.

    thresholds: tuned for the mean of the calibrated scores, as in a checkpoint, or None.
    """

    members: dict[str, dict]
    thresholds: dict | None = None

    @property
    def name(self) -> str:
        """The files, for messages."""
        return ", ".join(self.members)

    @property
    def calibrations(self) -> list[dict | None]:
        """What each member holds as its calibration."""
        return [checkpoint.get("calibration") for checkpoint in self.members.values()]

    @property
    def config(self) -> dict:
        """The configuration of the first member, which names the split."""
        return next(iter(self.members.values()))["config"]

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """The images that any member has seen: {"train": names, "val": names}. Raises InputError for several splits."""
        kinds = {checkpoint["config"]["split"] for checkpoint in self.members.values()}
        if len(kinds) > 1:
            raise InputError(f"{self.name} are of the splits {', '.join(sorted(kinds))}; expected models of one split")
        return united({name: checkpoint["parts"] for name, checkpoint in self.members.items()}, *kinds)

    def save(self, path: str | Path) -> Path:
        """Write one file: a checkpoint, or that of the ensemble."""
        members = list(self.members.values())
        content = {"format": CHECKPOINT_FORMAT, "findings": list(FINDINGS), "members": members, "parts": self.parts}
        return write_checkpoint(path, (content if len(members) > 1 else members[0]) | {"thresholds": self.thresholds})

    def at(self, calibrations: Sequence[dict], thresholds: dict) -> "Ensemble":
        """The same with another operating point: a calibration for each member, and thresholds on their mean."""
        pairs = zip(self.members.items(), calibrations, strict=True)
        members = {name: one | {"calibration": saved, "thresholds": None} for (name, one), saved in pairs}
        return Ensemble(members, thresholds)


def load_ensemble(weights: Sequence[str | Path]) -> Ensemble:
    """The models of one or several files, each a checkpoint or an ensemble. Raises InputError for one given twice."""
    members, thresholds = {}, None
    for path in map(str, weights):
        content = load_any(path)
        each, thresholds = content.get("members", [content]), content.get("thresholds")
        names = [f"{path} ({number})" for number in range(1, len(each) + 1)] if "members" in content else [path]
        if names[0] in members:
            raise InputError(f"{path} is given twice; expected each model once")
        members |= dict(zip(names, each, strict=True))
    if not members:
        raise InputError("no checkpoint is given; expected one or more (model_best.pth)")
    return Ensemble(members, thresholds if len(weights) == 1 else None)
