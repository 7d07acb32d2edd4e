"""Scores that mean what they say: of the images scored 0.2, one in five bears the finding.

A map a finding, fitted on validation and frozen. Every map rises with the score, so no image overtakes another: the
AUROC stays (isotonic maps tie neighbours), and the best threshold calls the same images. What changes is what a score,
and a threshold on it, says to a reader. A calibrator and the thresholds on its scores are one operating point.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

from cxrlib.core.errors import InputError, nearest, some
from cxrlib.core.paths import write_json
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds

METHODS = ("none", "platt", "temperature", "isotonic")
_FORMAT = "cxrlib calibration 1"
_NOT = "not calibrated"
_EDGE = 1e-7  # scores nearer to 0 or 1 than this, the resolution of float32 at 1, have no finite logit
_KINDS = {"platt": {"slope", "intercept"}, "temperature": {"slope"}, "isotonic": {"scores", "values"}, "none": set()}


@dataclass(frozen=True, eq=False)
class Calibrator:
    """One map from scores to calibrated scores a finding, in the order of FINDINGS, and how it came about.

    method: "platt", "temperature", "isotonic", or "none", which leaves all scores as they are.
    maps: 14 dicts. Of numbers "slope" (above 0) and "intercept": sigmoid(slope * logit(score) + intercept), where
    temperature is 1 / slope and has no intercept; of lists "scores" (rising) and "values" (not falling), in [0, 1]:
    straight lines between them; empty: the score as it is.
    notes: 14 texts; empty where the map was fitted, else why it was not.
    Raises InputError for what does not fit.
    """

    method: str = "none"
    maps: tuple[dict, ...] = ({},) * len(FINDINGS)
    notes: tuple[str, ...] = ("",) * len(FINDINGS)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            hint = nearest(self.method, METHODS)
            raise InputError(f"the calibration {self.method!r} is unknown; expected one of {', '.join(METHODS)}{hint}")
        if len(self.maps) != len(FINDINGS) or len(self.notes) != len(FINDINGS):
            raise InputError(
                f"a calibration comes with {len(self.maps)} maps and {len(self.notes)} notes; expected one a finding"
            )
        maps = tuple(_checked(self.method, *pair) for pair in zip(FINDINGS, self.maps, strict=True))
        object.__setattr__(self, "maps", maps)
        if not all(isinstance(note, str) for note in self.notes):
            raise InputError(f"the notes of a calibration are {self.notes!r}; expected 14 texts")
        object.__setattr__(self, "notes", tuple(self.notes))

    @classmethod
    def fit(cls, val: Predictions, method: str = "platt", min_positives: int = 5) -> "Calibrator":
        """The maps that make `val` most likely.

        method: "platt" (slope and intercept on the logit; Platt 1999, whose targets a little inside 0 and 1 keep the
        map finite), "temperature" (slope alone; Guo et al. 2017: it sharpens or flattens, and cannot move scores that
        are too high altogether, as those trained with pos_weight are), "isotonic" (any rising map; Zadrozny & Elkan
        2002: it needs hundreds of positives, and ties scores) or "none".
        min_positives: a finding with fewer positive images (or negative ones) keeps its scores, and its note says so;
        so does one whose higher scores do not go with more positives, for which no rising map is right.
        """
        calibrator, _ = cls(method), raw(val)  # refuse both before any work
        fitted = {"platt": _platt, "temperature": _temperature, "isotonic": _isotonic, "none": lambda *_: {}}[method]
        maps, notes = [], []
        for k in range(len(FINDINGS)):
            positive = val.labels[:, k] == 1
            note = "" if method == "none" else _too_few(positive, min_positives)
            one = {} if note else fitted(val.scores[:, k], positive)
            if one is None:
                one, note = {}, f"{_NOT}: higher scores do not go with more positives; the scores are kept"
            maps, notes = [*maps, one], [*notes, note]
        return replace(calibrator, maps=tuple(maps), notes=tuple(notes))

    @property
    def fitted(self) -> np.ndarray:
        """(14,) bool: False where a finding keeps its scores."""
        return np.array([bool(one) for one in self.maps])

    def calibrate(self, scores: np.ndarray) -> np.ndarray:
        """Scores (n, 14) in [0, 1] to calibrated scores (n, 14) float32."""
        scores = np.asarray(scores, dtype=np.float32)
        if scores.ndim != 2 or scores.shape[1] != len(FINDINGS):
            raise InputError(f"scores of shape {scores.shape} cannot be calibrated; expected (n, {len(FINDINGS)})")
        return np.stack([_mapped(one, scores[:, k]) for k, one in enumerate(self.maps)], axis=1)

    def apply(self, predictions: Predictions) -> Predictions:
        """The same images with calibrated scores, and they say so. Raises InputError where they already were."""
        return replace(raw(predictions), scores=self.calibrate(predictions.scores), calibration=self.method)

    def to_dict(self) -> dict:
        """Plain types only, for JSON and for a checkpoint."""
        rows = {name: one | {"note": note} for name, one, note in zip(FINDINGS, self.maps, self.notes, strict=True)}
        return {"format": _FORMAT, "method": self.method, "findings": rows}

    @classmethod
    def from_dict(cls, saved: dict) -> "Calibrator":
        """What `to_dict` gave. Raises InputError where something is missing or does not fit."""
        if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
            raise InputError(f"this is no calibration; expected what Calibrator.save wrote, with format {_FORMAT!r}")
        rows = saved.get("findings")
        if not isinstance(rows, dict) or set(rows) != set(FINDINGS):
            named = some(rows, 14) if isinstance(rows, dict) else rows
            raise InputError(f"a calibration names the findings {named}; expected {some(FINDINGS, 14)}")
        bad = [name for name in FINDINGS if not isinstance(rows[name], dict) or "note" not in rows[name]]
        if bad or "method" not in saved:
            raise InputError(
                f"a calibration lacks {f'the note of {some(bad)}' if bad else 'its method'}; save it again"
            )
        maps = [{key: value for key, value in rows[name].items() if key != "note"} for name in FINDINGS]
        return cls(saved["method"], tuple(maps), tuple(rows[name]["note"] for name in FINDINGS))

    def save(self, path: str | Path) -> Path:
        """Write JSON: the old file or the whole new one, never a part. Returns the path."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Calibrator":
        """Read what `save` wrote. Raises InputError for a missing, broken or foreign file."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path} is not a file; expected a calibration (JSON): fit it on validation first")
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:  # InputError and JSONDecodeError are ValueErrors
            raise InputError(f"{path}: {error}") from None


def operating_point(checkpoint: dict) -> tuple[Calibrator, Thresholds | None]:
    """The calibrator of a checkpoint (one that changes nothing where it holds none) and its thresholds (or None).

    The thresholds are on the calibrated scores: `thresholds.apply(calibrator.apply(predictions).scores)`.
    Raises InputError where the thresholds were tuned on the scores of another calibration.
    """
    saved, tuned = checkpoint.get("calibration"), checkpoint.get("thresholds")
    calibrator = Calibrator() if saved is None else Calibrator.from_dict(saved)
    thresholds = None if tuned is None else Thresholds.from_dict(tuned)
    if thresholds is not None and thresholds.calibration not in (None, calibrator.method):
        raise InputError(
            f"the checkpoint's thresholds are on scores of calibration {thresholds.calibration}, its calibration is "
            f"{calibrator.method}; tune both again (cxr eval)"
        )
    return calibrator, thresholds


def raw(predictions: Predictions) -> Predictions:
    """`predictions`, or InputError where their scores are not those of the model."""
    if predictions.calibration != "none":
        raise InputError(f"the scores are calibrated already ({predictions.calibration}); expected those of the model")
    return predictions


def _too_few(positive: np.ndarray, least: int) -> str:
    counts = {"positive": int(positive.sum()), "negative": int((~positive).sum())}
    kind = min(counts, key=counts.get)
    if counts[kind] >= least:
        return ""
    return f"{_NOT}: {counts[kind]} {kind} of {len(positive)} images, fewer than {least}; the scores are kept"


def _logit(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(scores.astype(np.float64), _EDGE, 1 - _EDGE))


def _mapped(one: dict, scores: np.ndarray) -> np.ndarray:
    if "slope" in one:
        return expit(one["slope"] * _logit(scores) + one.get("intercept", 0.0)).astype(np.float32)
    if "scores" in one:
        return np.interp(scores, one["scores"], one["values"]).astype(np.float32)
    return scores


def _targets(positive: np.ndarray) -> np.ndarray:
    """Platt's: as if one more image of each class had been seen."""
    positives, negatives = positive.sum(), (~positive).sum()
    return np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def _loss(z: np.ndarray, target: np.ndarray) -> float:
    """Mean cross-entropy of logits z."""
    return (np.logaddexp(0, z) - target * z).mean()


def _platt(scores: np.ndarray, positive: np.ndarray) -> dict | None:
    x, target = _logit(scores), _targets(positive)

    def loss_and_gradient(map_: np.ndarray) -> tuple[float, np.ndarray]:
        z = map_[0] * x + map_[1]
        error = expit(z) - target
        return _loss(z, target), np.array([(error * x).mean(), error.mean()])

    slope, intercept = minimize(loss_and_gradient, np.array([1.0, 0.0]), jac=True, method="BFGS", tol=1e-8).x
    return {"slope": float(slope), "intercept": float(intercept)} if slope > 0 else None


def _temperature(scores: np.ndarray, positive: np.ndarray) -> dict:
    x, target = _logit(scores), _targets(positive)
    found = minimize_scalar(lambda log: _loss(np.exp(log) * x, target), bounds=(-5, 5), method="bounded")
    return {"slope": float(np.exp(found.x))}


def _isotonic(scores: np.ndarray, positive: np.ndarray) -> dict | None:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1).fit(scores.astype(np.float64), positive)
    values = fitted.y_thresholds_.tolist()
    return {"scores": fitted.X_thresholds_.tolist(), "values": values} if values[-1] > values[0] else None


def _checked(method: str, finding: str, one: dict) -> dict:
    """The map of one finding as plain floats; InputError where it is none of the method's."""
    if not isinstance(one, dict) or set(one) not in (set(), _KINDS[method]):
        keys, wanted = some(one) if isinstance(one, dict) else one, some(sorted(_KINDS[method])) or "nothing"
        raise InputError(f"the {method} map of {finding} holds {keys}; expected {wanted}")
    try:
        if "scores" in one:
            one = {key: [float(value) for value in one[key]] for key in ("scores", "values")}
            good = _rising(**one)
        else:
            one = {key: float(value) for key, value in one.items()}
            good = np.isfinite(list(one.values())).all() and one.get("slope", 1) > 0
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(
            f"the {method} map of {finding} is {one}; expected finite numbers: a slope above 0, or scores that rise "
            "and values that do not fall, both in [0, 1]"
        )
    return one


def _rising(scores: Sequence[float], values: Sequence[float]) -> bool:
    inside = all(0 <= number <= 1 for number in (*scores, *values))
    return len(scores) == len(values) > 1 and inside and (np.diff(scores) > 0).all() and (np.diff(values) >= 0).all()
