"""The fourteen findings of ChestX-ray14: names, order, and conversion of label strings to multi-hot rows and back."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, nearest, some

FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis",
            "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax", "Hernia")  # fmt: skip
NO_FINDING = "No Finding"

_CANONICAL = {name.lower().replace("_", " "): name for name in (*FINDINGS, NO_FINDING)} | {"infiltrate": "Infiltration"}


def canonical(name: str) -> str:
    """The name as FINDINGS spells it ("Infiltrate" is "Infiltration"), or "No Finding"; InputError for another."""
    if known := _CANONICAL.get(name.strip().lower().replace("_", " ")):
        return known
    hint = nearest(name, (*FINDINGS, NO_FINDING))
    raise InputError(f"{name!r} is not one of the fourteen findings nor {NO_FINDING!r}{hint}")


def encode(labels: Iterable[str]) -> np.ndarray:
    """Multi-hot rows (n, 14) uint8 of n label strings such as "Effusion|Mass"; InputError names unusable rows."""
    # a million rows have few distinct strings, each of which is parsed once
    codes, texts = pd.factorize(np.array([str(text) for text in labels], dtype=object))
    columns = [parse(text) for text in texts]
    if None in columns:
        bad = (number for number, found in enumerate(columns) if found is None)
        named = some(f"{texts[number]!r} in row {some(np.flatnonzero(codes == number))}" for number in bad)
        raise InputError(f"unusable finding labels: {named} (rows counted from 0); expected {NO_FINDING!r}, or names "
                         f"from {', '.join(FINDINGS)} joined by '|'")  # fmt: skip
    hot = [np.isin(np.arange(len(FINDINGS)), found) for found in columns]
    return np.array(hot, dtype=np.uint8).reshape(-1, len(FINDINGS))[codes]


def parse(text: str) -> list[int] | None:
    """The columns of a label string; None where it has a name that is unknown, or "No Finding" with another."""
    names = [_CANONICAL.get(name.strip().lower().replace("_", " ")) for name in text.split("|")]
    if None in names or (NO_FINDING in names and len(names) > 1):
        return None
    return [FINDINGS.index(name) for name in names if name != NO_FINDING]


def decode(row: Sequence[int]) -> str:
    """The label string of one multi-hot row (14 values, 0 or 1): ``"Effusion|Mass"``, or "No Finding"."""
    return "|".join(name for name, value in zip(FINDINGS, row, strict=True) if value) or NO_FINDING
