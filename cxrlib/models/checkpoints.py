"""Checkpoint files of plain data and weights, written atomically and read without executing code.

Checkpoints are untrusted input, so every field is validated.
"""

import hashlib
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, NonNegativeInt, PositiveFloat, ValidationError, conlist

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import written_whole
from cxrlib.data.findings import FINDINGS
from cxrlib.data.splits import KINDS

CHECKPOINT_FORMAT = 1
_LARGEST_SIDE = 4096  # pixels; limits what a vision transformer allocates
_EXPECTED = "expected a checkpoint by scripts/train.py"
_NEEDED = {"format", "arch", "findings", "image_size", "state_dict", "parts", "config", "epoch"}


class _Checked(BaseModel):
    """Data from a file: exact types, finite numbers; fields that are not declared may hold any plain data."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, arbitrary_types_allowed=True)
    __pydantic_extra__: dict[str, JsonValue]


class _Parts(_Checked):
    train: list[str]
    val: list[str]


class _Config(_Checked):
    """The parameters that an evaluation reads, to select the same validation images."""

    split: Literal[KINDS]
    seed: int = Field(ge=0, lt=2**32)
    val_subset: NonNegativeInt


class _Content(_Checked):
    arch: str
    image_size: int = Field(ge=1, le=_LARGEST_SIDE)
    mean: conlist(float, min_length=3, max_length=3) = None
    std: conlist(PositiveFloat, min_length=3, max_length=3) = None
    state_dict: dict[str, torch.Tensor]
    parts: _Parts
    config: _Config
    epoch: NonNegativeInt
    val_auroc: float = Field(None, ge=0, le=1)
    thresholds: dict[str, JsonValue] | None = None
    calibration: dict[str, JsonValue] | None = None
    familiarity: dict[str, torch.Tensor] | None = None


def write_checkpoint(path: str | Path, content: dict) -> Path:
    """Write a checkpoint atomically and return its path."""
    path = Path(path)
    with written_whole(path) as temporary, temporary.open("wb") as file:  # torch would store a file name
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides the error of a full disk
                raise error.__context__ from None
            raise
    return path


def load_checkpoint(path: str | Path) -> dict:
    """Read and validate a cxrlib checkpoint of one model, on the CPU, without executing code.

    Raises InputError if the file is missing or not a cxrlib checkpoint, or a field has the wrong type or range.
    """
    checkpoint = load_any(path)
    if "members" in checkpoint:
        raise InputError(f"{path} is an ensemble of {len(checkpoint['members'])} models; expected a single model")
    return checkpoint


def load_any(path: str | Path) -> dict:
    """As `load_checkpoint`, but it may also be an ensemble, which has a list of checkpoints in the field members."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; {_EXPECTED} (model_best.pth)")
    content = read(path, f"{path} cannot be read as a checkpoint", _EXPECTED)
    if not isinstance(content, dict) or "members" not in content:
        _check(path, content)
        return content
    members, tuned = content["members"], content.get("thresholds")
    if not isinstance(members, list) or len(members) < 2 or not isinstance(tuned, dict | None):
        raise InputError(f"{path} has unusable members or thresholds; expected an ensemble by cxr ensemble")
    for member in members:
        _check(path, member)
    return content


def read(path: Path, failure: str, advice: str) -> object:
    """What torch reads from a file, on the CPU, without executing code; InputError "failure (reason); advice"."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises pickle, zip, runtime, key and other errors
        reason = str(error).strip().split("\n")[0][:150]
        raise InputError(f"{failure} ({reason}); {advice}") from None


def digest(weights: dict[str, torch.Tensor]) -> str:
    """16 hex digits of weights and their names; what else a checkpoint holds, such as thresholds, does not matter."""
    summed = hashlib.blake2b(digest_size=8)
    for name, weight in weights.items():
        summed.update(name.encode())
        summed.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return summed.hexdigest()


def _check(path: Path, checkpoint: dict) -> None:
    """Raise InputError if a field differs in kind from what training writes."""
    missing = sorted(_NEEDED.difference(checkpoint if isinstance(checkpoint, dict) else ()))
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; {_EXPECTED}")
    if checkpoint["format"] != CHECKPOINT_FORMAT or checkpoint["findings"] != list(FINDINGS):
        raise InputError(
            f"{path} has format {str(checkpoint['format'])[:50]} and findings {str(checkpoint['findings'])[:400]}; "
            f"expected format {CHECKPOINT_FORMAT} and the fourteen of this version"
        )
    try:
        _Content.model_validate(checkpoint)
    except ValidationError as error:
        places = [each["loc"] for each in error.errors(include_url=False, include_context=False, include_input=False)]
        wrong = dict.fromkeys(" ".join(map(str, loc[: 2 if loc[0] == "config" else 1])) for loc in places)
        raise InputError(f"{path} has unusable {some(wrong)}; {_EXPECTED}") from None
    stored = checkpoint["state_dict"] | (checkpoint.get("familiarity") or {})
    weights = [name for name, value in stored.items() if not _numbers(value)]
    if weights:
        raise InputError(f"{path} has weights that are not finite ({some(weights, 3)}); {_EXPECTED}")


def _numbers(weight: torch.Tensor) -> bool:
    """Whether a tensor is dense, backed by enough storage for its shape, and finite."""
    if weight.layout != torch.strided or weight.device.type != "cpu" or weight.is_quantized or weight.is_complex():
        return False
    if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():  # a small file that would expand
        return False
    return bool(weight.isfinite().all())
