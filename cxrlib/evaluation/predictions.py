"""Predictions of a model with their labels, images and patients, and what else is saved for each finding."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import write_json, written_whole
from cxrlib.data.findings import FINDINGS

_ARRAYS = ("scores", "labels", "image", "patient")
UNKNOWN = 255  # the label where nobody said whether the finding is there


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scores and labels, one row per image, one column per finding in the order of FINDINGS.

    scores: (n, 14) float32 in [0, 1], after the sigmoid; no NaN.
    labels: (n, 14) uint8, 1 or 0, or UNKNOWN (given as NaN or as 255): such an image enters nothing of this finding.
    image: (n,) str, unique. patient: (n,) int64 or str; images of one patient share it.
    calibration: "none" for the scores of the model, else the method applied to them, such as "platt".
    Lists, DataFrames and other dtypes are converted. Raises InputError for invalid values.
    """

    scores: np.ndarray
    labels: np.ndarray
    image: np.ndarray
    patient: np.ndarray
    calibration: str = "none"

    def __post_init__(self) -> None:
        scores, labels = np.asarray(self.scores, dtype=np.float32), np.asarray(self.labels, dtype=np.float64)
        labels = np.where(np.isnan(labels), UNKNOWN, labels)
        image, patient = np.asarray(self.image).astype(str), np.asarray(self.patient)
        patient = np.array(patient.tolist()) if patient.dtype == object else patient
        patient = patient.astype(np.int64 if patient.dtype.kind in "iu" else str)
        n = len(image) if image.ndim == 1 else -1
        if not scores.shape == labels.shape == (n, len(FINDINGS)) or patient.shape != (n,):
            raise InputError(f"predictions have scores {scores.shape}, labels {labels.shape}, image {image.shape} and "
                             f"patient {patient.shape}; expected (n, {len(FINDINGS)}) twice, (n,) twice")  # fmt: skip
        for bad, values, what in (
            (np.isnan(scores), scores, "scores that are NaN; check whether training diverged"),
            ((scores < 0) | (scores > 1), scores, "scores outside [0, 1]; apply a sigmoid to logits"),
            (~np.isin(labels, (0, 1, UNKNOWN)), labels, "labels other than 0 and 1; expected NaN for unknown"),
        ):
            if bad.any():
                row, column = np.argwhere(bad)[0]
                where = f"first {values[row, column]:g} for {FINDINGS[column]} in row {row}, counted from 0"
                raise InputError(f"predictions contain {bad.sum()} {what} ({where})")
        names, times = np.unique(image, return_counts=True)
        if len(names) < len(image):
            raise InputError(f"predictions contain {some(names[times > 1])} more than once; expected one row per image")
        vars(self).update(scores=scores, labels=labels.astype(np.uint8), image=image, patient=patient)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def known(self) -> np.ndarray:
        """(n, 14) bool: whether the label is 0 or 1."""
        return self.labels != UNKNOWN

    def by_finding(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each finding scores, whether it is there, and patients, each (m,): of the images of known label."""
        for k, rows in enumerate(self.known.T):
            yield self.scores[rows, k], self.labels[rows, k] == 1, self.patient[rows]

    def take(self, rows: np.ndarray) -> "Predictions":
        """The rows of a boolean mask (n,) or of an array of positions, in that order."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _ARRAYS})

    def save(self, path: str | Path) -> Path:
        """Write an ``.npz`` without pickles, atomically, and return the path."""
        with written_whole(path) as beside, beside.open("wb") as file:
            arrays = {name: getattr(self, name) for name in _ARRAYS}
            np.savez_compressed(file, findings=np.array(FINDINGS), calibration=np.array(self.calibration), **arrays)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises InputError for a missing, broken or foreign file."""
        if not Path(path).is_file():
            raise InputError(f"{path} is not a file; expected predictions (.npz): run the evaluation that writes them")
        try:
            with np.load(path, allow_pickle=False) as file:  # pickles can run code
                arrays = {name: file[name] for name in (*_ARRAYS, "findings")}
                calibration = str(file["calibration"]) if "calibration" in file.files else "none"
        except Exception as error:  # a dozen kinds, of zipfile, zlib and numpy
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{path} cannot be read as predictions ({reason}); expected Predictions.save's") from None
        findings = arrays.pop("findings").tolist()
        if findings != list(FINDINGS):
            raise InputError(f"{path} was saved for the findings {some(findings, 14)}; expected {some(FINDINGS, 14)}")
        try:
            return cls(**arrays, calibration=calibration)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: {error}") from None


def fourteen(name: str, values, nan: bool = True) -> np.ndarray:
    """`values`, or those of Thresholds, as float64 (14,); None is NaN. InputError for others, and NaN without `nan`."""
    try:
        numbers = np.array(getattr(values, "values", values), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape != (len(FINDINGS),) or (np.isnan(numbers).any() and not nan):
        allowed = "" if nan else ", none NaN"
        raise InputError(f"{name}: {values!r}; expected {len(FINDINGS)} numbers, one per finding{allowed}")
    return numbers


class SavedPerFinding:
    """What thresholds and calibrators share: one entry per finding, saved as JSON with the FORMAT of their class."""

    def save(self, path: str | Path) -> Path:
        """Write JSON atomically and return the path."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises InputError for a missing, broken or foreign file."""
        if not Path(path).is_file():
            raise InputError(f"{path} is not a file; expected what {cls.__name__}.save, or cxr eval, writes")
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:  # InputError and JSONDecodeError are ValueErrors
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, saved: dict) -> Self:
        """The inverse of `to_dict`. Raises InputError where something is missing or invalid."""
        if not isinstance(saved, dict) or saved.get("format") != cls.FORMAT:
            raise InputError(f"expected what {cls.__name__}.save writes, with the format {cls.FORMAT!r}")
        try:
            return cls._read(saved, [{**saved["findings"][name]} for name in FINDINGS])
        except (KeyError, TypeError) as error:
            raise InputError(f"{error} is missing or invalid; write it again with {cls.__name__}.save") from None
