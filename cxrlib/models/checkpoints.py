"""Checkpoint files of one or several models: untrusted input, of which every field is validated; no code is run."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, NonNegativeInt, ValidationError

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import written_whole
from cxrlib.data.findings import FINDINGS
from cxrlib.data.splits import KINDS, united

CHECKPOINT_FORMAT = 1
_EXPECTED = "expected a checkpoint by scripts/train.py"
_NEEDED = {"format", "arch", "findings", "image_size", "state_dict", "parts", "config", "epoch"}


class _Checked(BaseModel):
    """Data from a file: exact types, finite numbers; fields that are not declared may hold any plain data."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, arbitrary_types_allowed=True)
    __pydantic_extra__: dict[str, JsonValue]


class _Config(_Checked):
    """The parameters that an evaluation reads, to select the same validation images."""

    split: Literal[KINDS]
    seed: int = Field(ge=0, lt=2**32)
    val_subset: NonNegativeInt


class _Content(_Checked):
    arch: str
    image_size: int = Field(ge=1, le=4096)  # limits what a vision transformer allocates
    state_dict: dict[str, torch.Tensor]
    parts: dict[Literal["train", "val"], list[str]] = Field(min_length=2)  # both
    config: _Config
    epoch: NonNegativeInt
    val_auroc: float = Field(None, ge=0, le=1)
    thresholds: dict[str, JsonValue] | None = None
    calibration: dict[str, JsonValue] | None = None
    familiarity: dict[str, torch.Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Checkpoints of one split by the name of their file, and thresholds for the mean of their calibrated scores."""

    members: dict[str, dict]
    thresholds: dict | None = None

    @property
    def name(self) -> str:
        """The files, for messages."""
        return ", ".join(self.members)

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

    def save(self, path: str | Path, calibrations: list | None = None, thresholds: dict | None = None) -> Path:
        """Write one file, a checkpoint or an ensemble; if given, with a calibration each and thresholds on the mean."""
        members = list(self.members.values())
        if calibrations is not None:
            pairs = zip(members, calibrations, strict=True)
            members = [one | {"calibration": saved, "thresholds": None} for one, saved in pairs]
        content = {"format": CHECKPOINT_FORMAT, "findings": list(FINDINGS), "members": members, "parts": self.parts}
        content = content if len(members) > 1 else members[0]
        return write_checkpoint(path, content | {"thresholds": thresholds or self.thresholds})


def write_checkpoint(path: str | Path, content: dict) -> Path:
    """Write a checkpoint atomically and return its path."""
    with written_whole(path) as temporary, temporary.open("wb") as file:  # torch would store a file name
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides the error of a full disk
                raise error.__context__ from None
            raise
    return Path(path)


def load_checkpoint(path: str | Path) -> dict:
    """Read and validate a checkpoint of one model, on the CPU, without executing code; InputError if it is none."""
    checkpoint, *more = load_ensemble([path]).members.values()
    if more:
        raise InputError(f"{path} is an ensemble of {len(more) + 1} models; expected a single model")
    return checkpoint


def load_ensemble(weights: list[str | Path]) -> Ensemble:
    """The models of one or several files, each a checkpoint or an ensemble. Raises InputError for one given twice."""
    members, thresholds, files = {}, None, set()
    for path in map(str, map(Path, weights)):
        if not Path(path).is_file():
            raise InputError(f"{path} does not exist; {_EXPECTED} (model_best.pth)")
        content = read(path, f"{path} cannot be read as a checkpoint", _EXPECTED)
        each = {path: content}
        if isinstance(content, dict) and "members" in content:
            several, tuned = content["members"], content.get("thresholds")
            if not isinstance(several, list) or len(several) < 2 or not isinstance(tuned, dict | None):
                raise InputError(f"{path} has unusable members or thresholds; expected an ensemble by cxr ensemble")
            each = {f"{path} ({number})": one for number, one in enumerate(several, start=1)}
        for one in each.values():
            _check(path, one)
        if files == (files := files | {Path(path).resolve()}):
            raise InputError(f"{path} is given twice; expected each model once")
        members |= each
        thresholds = content.get("thresholds")
    if not members:
        raise InputError("no checkpoint is given; expected one or more (model_best.pth)")
    return Ensemble(members, thresholds if len(weights) == 1 else None)


def read(path: str | Path, failure: str, advice: str) -> object:
    """What torch reads from a file, on the CPU, without executing code; InputError "failure (reason); advice"."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises pickle, zip, runtime, key and other errors
        reason = str(error).strip().split("\n")[0][:150]
        raise InputError(f"{failure} ({reason}); {advice}") from None


def digest(weights: dict[str, torch.Tensor]) -> str:
    """16 hex digits of weights and their names."""
    summed = hashlib.blake2b(digest_size=8)
    for name, weight in weights.items():
        summed.update(name.encode())
        summed.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return summed.hexdigest()


def _check(path: str | Path, checkpoint: dict) -> None:
    """Raise InputError if a field differs in kind from what training writes."""
    if missing := sorted(_NEEDED.difference(checkpoint if isinstance(checkpoint, dict) else ())):
        raise InputError(f"{path} lacks {', '.join(missing)}; {_EXPECTED}")
    if checkpoint["format"] != CHECKPOINT_FORMAT or checkpoint["findings"] != list(FINDINGS):
        found = f"format {str(checkpoint['format'])[:50]} and findings {str(checkpoint['findings'])[:400]}"
        raise InputError(f"{path} has {found}; expected format {CHECKPOINT_FORMAT} and the fourteen of this version")
    try:
        _Content.model_validate(checkpoint)
    except ValidationError as error:
        places = [each["loc"] for each in error.errors(include_url=False, include_context=False, include_input=False)]
        wrong = dict.fromkeys(" ".join(map(str, loc[: 2 if loc[0] == "config" else 1])) for loc in places)
        raise InputError(f"{path} has unusable {some(wrong)}; {_EXPECTED}") from None
    stored = checkpoint["state_dict"] | (checkpoint.get("familiarity") or {})
    if weights := [name for name, value in stored.items() if not _numbers(value)]:
        raise InputError(f"{path} has weights that are not finite ({some(weights, 3)}); {_EXPECTED}")


def _numbers(weight: torch.Tensor) -> bool:
    """Whether a tensor is dense, backed by enough storage for its shape, and finite."""
    if weight.layout != torch.strided or weight.device.type != "cpu" or weight.is_quantized or weight.is_complex():
        return False
    enough = weight.numel() * weight.element_size() <= weight.untyped_storage().nbytes()  # else a small file expands
    return enough and bool(weight.isfinite().all())
