"""Checkpoint files of plain data and weights, written atomically and read without executing code.

There are two formats: .pth, which torch reads, and .safetensors, whose header has the plain data as JSON. Checkpoints
are untrusted input, so every field is validated.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import written_whole
from cxrlib.data.findings import FINDINGS
from cxrlib.data.splits import KINDS

CHECKPOINT_FORMAT = 1
SUFFIXES = (".pth", ".pt", ".safetensors")
_HEADER = "cxrlib"  # the entry of a safetensors header with everything but the weights
_LARGEST_SIDE = 4096  # pixels; limits what a vision transformer allocates
_EXPECTED = "expected a checkpoint by scripts/train.py"


def write_checkpoint(path: str | Path, content: dict) -> Path:
    """Write a checkpoint atomically, in the format of the suffix of `path`."""
    path = Path(path)
    with written_whole(path) as temporary, temporary.open("wb") as file:  # torch would store a file name
        if path.suffix == ".safetensors":
            file.write(_as_safetensors(content))
            return path
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides the error of a full disk
                raise error.__context__ from None
            raise
    return path


def load_checkpoint(path: str | Path) -> dict:
    """Read and validate a cxrlib checkpoint (.pth or .safetensors), on the CPU, without executing code.

    Raises:
        InputError: The file is missing or not a cxrlib checkpoint, or a field has the wrong type, is out of range or
            is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; {_EXPECTED} (model_best.pth)")
    try:
        if path.suffix == ".safetensors":
            checkpoint = _from_safetensors(path)
        else:
            checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises pickle, zip, runtime and key errors
        reason = str(error).strip().split("\n")[0][:150]
        raise InputError(f"{path} cannot be read as a checkpoint ({reason}); {_EXPECTED}") from None
    _check(path, checkpoint)
    return checkpoint


def _as_safetensors(content: dict) -> bytes:
    from safetensors.torch import save

    plain = json.dumps({name: value for name, value in content.items() if name != "state_dict"}, allow_nan=False)
    return save({name: value.contiguous() for name, value in content["state_dict"].items()}, {_HEADER: plain})


def _from_safetensors(path: Path) -> dict:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        content = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    return content | {"state_dict": weights} if isinstance(content, dict) else content


def _check(path: Path, checkpoint: dict) -> None:
    """Raise InputError if a field differs in kind from what training writes."""
    missing = sorted(_NEEDED - set(checkpoint)) if isinstance(checkpoint, dict) else sorted(_NEEDED)
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; {_EXPECTED}")
    if checkpoint["format"] != CHECKPOINT_FORMAT or checkpoint["findings"] != list(FINDINGS):
        raise InputError(
            f"{path} has format {str(checkpoint['format'])[:50]} and findings {str(checkpoint['findings'])[:400]}; "
            f"expected format {CHECKPOINT_FORMAT} and the fourteen of this version"
        )
    wrong = [name for name, fits in _FIELDS.items() if name in checkpoint and not fits(checkpoint[name])]
    wrong += [name for name, value in checkpoint.items() if name not in _FIELDS and not _plain(value)]
    if not wrong:
        wrong = [f"config {name}" for name, fits in _CONFIG.items() if not fits(checkpoint["config"].get(name))]
    if wrong:
        raise InputError(f"{path} has unusable {some(map(_printable, wrong))}; {_EXPECTED}")
    weights = [name for name, value in checkpoint["state_dict"].items() if not _numbers(value)]
    if weights:
        raise InputError(f"{path} has weights that are not finite ({some(map(_printable, weights), 3)}); {_EXPECTED}")


def _printable(name: object) -> str:
    """The name of a field for a message, escaped if it is not printable text."""
    return name if isinstance(name, str) and name.isprintable() else repr(name)[:50]


def _whole(least: int, most: float = math.inf) -> Callable:
    return lambda value: type(value) is int and least <= value <= most


def _three(value: object) -> bool:
    return isinstance(value, list | tuple) and [type(each) for each in value] == [float] * 3 and _plain(value)


def _named_weights(value: object) -> bool:
    return isinstance(value, dict) and all(
        type(name) is str and isinstance(each, torch.Tensor) for name, each in value.items()
    )


def _numbers(weight: torch.Tensor) -> bool:
    """Whether a tensor is dense, backed by enough storage for its shape, and finite."""
    if weight.layout != torch.strided or weight.device.type != "cpu" or weight.is_quantized or weight.is_complex():
        return False
    if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():  # a small file that would expand
        return False
    return bool(weight.isfinite().all())


def _parts(value: object) -> bool:
    names = [value.get(part) for part in ("train", "val")] if isinstance(value, dict) else [None]
    return all(isinstance(each, list) and all(type(name) is str for name in each) for each in names) and _plain(value)


def _plain(value: object, depth: int = 6) -> bool:
    """Whether a value is a str, bool, finite number, None, or lists and dicts (with str keys) of these."""
    if isinstance(value, dict):
        return depth > 0 and all(type(key) is str and _plain(each, depth - 1) for key, each in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_plain(each, depth - 1) for each in value)
    return value is None or type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value))


_NEEDED = {"format", "arch", "findings", "image_size", "state_dict", "parts", "config", "epoch"}
_FIELDS: dict[str, Callable] = {
    "arch": lambda value: type(value) is str,
    "image_size": _whole(1, _LARGEST_SIDE),
    "mean": _three,
    "std": lambda value: _three(value) and min(value) > 0,
    "state_dict": _named_weights,
    "parts": _parts,
    "config": lambda value: isinstance(value, dict) and _plain(value),
    "epoch": _whole(0),
    "val_auroc": lambda value: type(value) is float and 0 <= value <= 1,
    "thresholds": lambda value: value is None or (isinstance(value, dict) and _plain(value)),
    "calibration": lambda value: value is None or (isinstance(value, dict) and _plain(value)),
}
_CONFIG: dict[str, Callable] = {  # read by an evaluation, to select the same validation images
    "split": lambda value: value in KINDS,
    "seed": _whole(0, 2**32 - 1),
    "val_subset": _whole(0),
}
