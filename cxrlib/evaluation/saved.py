"""What thresholds and calibrators share: one entry per finding, saved as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import write_json
from cxrlib.data.findings import FINDINGS


class SavedPerFinding:
    """Saves and loads what `to_dict` and `from_dict` of a subclass convert."""

    FORMAT: ClassVar[str]  # kind and version, stored in the file
    EXPECTED: ClassVar[str]  # for messages: the content, and how to create it

    def save(self, path: str | Path) -> Path:
        """Write JSON atomically and return the path."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises InputError for a missing, broken or foreign file."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path} is not a file; expected {cls.EXPECTED}")
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:  # InputError and JSONDecodeError are ValueErrors
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def entries(cls, saved: dict, fields: Sequence[str], keys: Sequence[str]) -> list[dict]:
        """The 14 entries of `saved`; InputError for another format, or where a field, finding or key is missing."""
        if not isinstance(saved, dict) or saved.get("format") != cls.FORMAT:
            raise InputError(f"expected what {cls.__name__}.save writes, with the format {cls.FORMAT!r}")
        rows = saved.get("findings")
        if not isinstance(rows, dict) or set(rows) != set(FINDINGS):
            named = some(rows, 14) if isinstance(rows, dict) else rows
            raise InputError(f"the findings are {named}; expected {some(FINDINGS, 14)}")
        missing = [repr(field) for field in fields if field not in saved]
        for name, row in rows.items():
            missing += [f"{key!r} of {name}" for key in keys if not isinstance(row, dict) or key not in row]
        if missing:
            raise InputError(f"{some(missing)} missing; write it again with {cls.__name__}.save")
        return [rows[name] for name in FINDINGS]


def fourteen(name: str, values: Sequence[float], nan: bool = True) -> np.ndarray:
    """`values` as float64 (14,), None as NaN; InputError for anything else, and for NaN unless allowed by `nan`."""
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape != (len(FINDINGS),) or (np.isnan(numbers).any() and not nan):
        allowed = "" if nan else ", none NaN"
        raise InputError(f"{name}: {values!r}; expected {len(FINDINGS)} numbers, one per finding{allowed}")
    return numbers


def too_few(positive: np.ndarray, least: int) -> str:
    """A note where fewer than `least` images are positive (n,) bool, or negative; else an empty text."""
    counts = {"positive": int(positive.sum()), "negative": int((~positive).sum())}
    kind = min(counts, key=counts.get)
    return f"{counts[kind]} {kind} of {len(positive)} images, fewer than {least}" if counts[kind] < least else ""
