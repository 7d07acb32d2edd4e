"""The fourteen findings of ChestX-ray14: their names, their order, and label strings to multi-hot rows and back."""

from collections.abc import Iterable, Sequence

import numpy as np

from cxrlib.core.errors import InputError, nearest, some

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
    "Hernia",
)
NO_FINDING = "No Finding"

# Spellings met in the NIH files: the boxes say "Infiltrate", the expert labels "Pleural Thickening".
_ALIASES = {"infiltrate": "Infiltration"}
_CANONICAL = {name.lower().replace("_", " "): name for name in (*FINDINGS, NO_FINDING)} | _ALIASES


def canonical(name: str) -> str:
    """The name as FINDINGS spells it ("Infiltrate" is "Infiltration", "pleural thickening" is "Pleural_Thickening").

    Raises InputError for a name that is neither a finding nor "No Finding".
    """
    try:
        return _CANONICAL[name.strip().lower().replace("_", " ")]
    except KeyError:
        hint = nearest(name, (*FINDINGS, NO_FINDING))
        raise InputError(f"{name!r} is not one of the fourteen findings nor {NO_FINDING!r}{hint}") from None


def encode(labels: Iterable[str], separator: str = "|") -> np.ndarray:
    """Multi-hot rows of label strings such as ``"Effusion|Mass"``.

    labels: n strings; "No Finding" alone is an all-zero row.
    Returns (n, 14) uint8, 1 where the finding is named, columns in the order of FINDINGS.
    Raises InputError that names the rows (counted from 0) of unknown, empty or contradictory label strings.
    """
    labels = list(labels)
    column = {name: index for index, name in enumerate(FINDINGS)}
    rows_of = {}  # bad label string -> rows; a million rows hold few distinct strings, so each is parsed once
    parsed = {}
    encoded = np.zeros((len(labels), len(FINDINGS)), dtype=np.uint8)
    for row, text in enumerate(labels):
        if text not in parsed:
            parsed[text] = _parse(text, separator, column)
        if parsed[text] is None:
            rows_of.setdefault(text, []).append(row)
        else:
            encoded[row, parsed[text]] = 1
    if rows_of:
        what = "; ".join(f"{text!r} in row {some(rows)}" for text, rows in list(rows_of.items())[:5])
        what += f"; and {len(rows_of) - 5} more" if len(rows_of) > 5 else ""
        raise InputError(
            f"unusable finding labels: {what} (rows counted from 0); expected {NO_FINDING!r}, "
            f"or names from {', '.join(FINDINGS)} joined by {separator!r}"
        )
    return encoded


def decode(row: Sequence[int], separator: str = "|") -> str:
    """The label string of one multi-hot row (14 values, 0 or 1): ``"Effusion|Mass"``, or "No Finding"."""
    if len(row) != len(FINDINGS):
        raise InputError(f"a row of {len(row)} values cannot be decoded; expected {len(FINDINGS)}, one a finding")
    return separator.join(name for name, value in zip(FINDINGS, row, strict=True) if value) or NO_FINDING


def _parse(text: str, separator: str, column: dict[str, int]) -> list[int] | None:
    """Columns named by one label string; None where it cannot be used."""
    try:
        names = [canonical(name) for name in str(text).split(separator)]
    except InputError:
        return None
    if NO_FINDING in names:
        return [] if len(names) == 1 else None  # "No Finding|Mass" contradicts itself
    return [column[name] for name in names]
