"""The file of a trained model: a dict of plain data and weights, written whole, read so that nothing in it can run."""

from pathlib import Path

import torch

from cxrlib.errors import InputError
from cxrlib.findings import FINDINGS
from cxrlib.paths import written_whole

CHECKPOINT_FORMAT = 1


def write_checkpoint(path: str | Path, content: dict) -> Path:
    """Write the dict of a checkpoint atomically: what lies under `path` is always whole."""
    path = Path(path)
    with written_whole(path) as beside, beside.open("wb") as file:  # by file: a name would end up in the bytes
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides that the disk is full
                raise error.__context__ from None
            raise
    return path


def load_checkpoint(path: str | Path) -> dict:
    """The dict of a checkpoint of ours, on the CPU, read with weights_only=True so that nothing in it can run.

    Raises InputError for a missing file, one that is not a checkpoint of ours, or other findings than FINDINGS.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist; expected a checkpoint (model_best.pth), which scripts/train.py writes"
        )
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises pickle, zip, runtime and key errors for what is not a checkpoint
        reason = str(error).strip().split("\n")[0][:150]
        raise InputError(
            f"{path} cannot be read as a checkpoint ({reason}); expected one by scripts/train.py"
        ) from None
    needed = {"format", "arch", "findings", "image_size", "state_dict", "parts", "config"}
    missing = sorted(needed - set(checkpoint)) if isinstance(checkpoint, dict) else sorted(needed)
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; expected a checkpoint by scripts/train.py")
    if checkpoint["format"] != CHECKPOINT_FORMAT or checkpoint["findings"] != list(FINDINGS):
        raise InputError(
            f"{path} has format {checkpoint['format']} and findings {checkpoint['findings']}; expected format "
            f"{CHECKPOINT_FORMAT} and the fourteen of this version"
        )
    kinds = {"arch": str, "image_size": int, "state_dict": dict, "parts": dict, "config": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(checkpoint[name], kind)]
    if wrong or not {"train", "val"} <= set(checkpoint["parts"]):
        raise InputError(
            f"{path} holds unusable {', '.join(wrong) or 'parts'}; expected a checkpoint by scripts/train.py"
        )
    return checkpoint
