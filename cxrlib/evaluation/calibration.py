"""Calibrated scores: of the images scored 0.2, one in five has the finding; and how far scores are from that."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy  # scipy.optimize takes half a second to import, which a prediction need not wait for
from scipy.special import expit, logit, ndtri

from cxrlib.core.errors import InputError, some
from cxrlib.data.findings import FINDINGS, canonical
from cxrlib.evaluation.bootstrap import with_macro
from cxrlib.evaluation.metrics import ECE_BINS, check_calibration, mass_bins, point_estimates
from cxrlib.evaluation.predictions import Predictions, SavedPerFinding
from cxrlib.evaluation.thresholds import Thresholds, too_few

# the calibrations, and what the map of a finding holds for each
METHODS = {"none": (), "platt": ("slope", "intercept"), "temperature": ("slope",), "isotonic": ("scores", "values")}


@dataclass(frozen=True, eq=False)
class Calibrator(SavedPerFinding):
    """One rising map from scores to calibrated scores per finding, in the order of FINDINGS; "none" changes nothing.

    maps: 14 dicts. Of numbers "slope" (above 0) and "intercept": sigmoid(slope * logit(score) + intercept), where
    temperature is 1 / slope and has no intercept; of lists "scores" (rising) and "values" (not falling), in [0, 1]:
    linear interpolation; empty: the score unchanged.
    notes: 14 texts; empty where the map was fitted, else why it was not. Raises InputError for invalid values.
    """

    FORMAT = "cxrlib calibration 1"

    method: str = "none"
    maps: tuple[dict, ...] = ({},) * len(FINDINGS)
    notes: tuple[str, ...] = ("",) * len(FINDINGS)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"the calibration {self.method!r} is unknown; expected one of {', '.join(METHODS)}")
        maps = tuple(_checked(self.method, name, one) for name, one in zip(FINDINGS, self.maps, strict=True))
        vars(self).update(maps=maps, notes=tuple(map(str, self.notes)))

    @classmethod
    def fit(cls, val: Predictions, method: str = "platt") -> "Calibrator":
        """The maps that make `val` most likely; where that is impossible, the scores stay, and the note says why.

        method: "platt" (slope and intercept on the logit; Platt 1999), "temperature" (slope alone; Guo et al. 2017: it
        cannot shift scores that are too high overall), "isotonic" (any rising map; Zadrozny & Elkan 2002: it needs
        hundreds of positives) or "none". A finding needs five images of each class, and positives that score higher.
        """
        unfitted, _ = cls(method), raw(val)  # both may raise
        if method == "none":
            return unfitted
        maps, notes = [], []
        for scores, positive, _ in val.by_finding():
            note = too_few(positive) or ("" if np.ptp(scores) else "all images have the same score")
            one = {} if note else _fitted(method, scores, positive)
            note = "higher scores do not go with more positives" if one is None else note
            maps.append(one or {})
            notes.append(note and f"not calibrated: {note}; the scores are kept")
        return cls(method, tuple(maps), tuple(notes))

    def calibrate(self, scores: np.ndarray) -> np.ndarray:
        """Scores (n, 14) in [0, 1] to calibrated scores (n, 14) float32."""
        calibrated = np.array(scores, dtype=np.float32, order="C")
        for column, one in zip(calibrated.T, self.maps, strict=True):
            if "slope" in one:
                column[:] = expit(one["slope"] * _logit(column) + one.get("intercept", 0.0))
            elif one:
                column[:] = np.interp(column, one["scores"], one["values"])
        return calibrated

    def apply(self, predictions: Predictions) -> Predictions:
        """The same images with calibrated scores, marked as such. Raises InputError where they already were."""
        return replace(raw(predictions), scores=self.calibrate(predictions.scores), calibration=self.method)

    def to_dict(self) -> dict:
        """Plain types only, for JSON and for a checkpoint."""
        rows = {name: one | {"note": note} for name, one, note in zip(FINDINGS, self.maps, self.notes, strict=True)}
        return {"format": self.FORMAT, "method": self.method, "findings": rows}

    @classmethod
    def _read(cls, saved: dict, rows: list[dict]) -> "Calibrator":
        notes = tuple(row.pop("note") for row in rows)
        return cls(saved["method"], tuple(rows), notes)


def operating_points(calibrations: Sequence, tuned: dict | None) -> tuple[tuple[Calibrator, ...], Thresholds | None]:
    """The calibrators of models (None: the identity), and thresholds on their mean; InputError for other scores."""
    calibrators = tuple(Calibrator() if saved is None else Calibrator.from_dict(saved) for saved in calibrations)
    thresholds = None if tuned is None else Thresholds.from_dict(tuned)
    check_calibration(methods_text(calibrators), thresholds)
    return calibrators, thresholds


def mean_calibrated(calibrators: Sequence[Calibrator], each: Sequence[Predictions]) -> Predictions:
    """The mean of the calibrated scores of several models on the same images; of one model, its calibrated scores."""
    calibrated = [calibrator.apply(one) for calibrator, one in zip(calibrators, each, strict=True)]
    mean = np.mean([one.scores for one in calibrated], axis=0)
    return replace(calibrated[0], scores=mean, calibration=methods_text(calibrators))


def methods_text(calibrators: Sequence[Calibrator]) -> str:
    """What thresholds and predictions record as their calibration: "platt", or "mean of platt, none" of two models."""
    methods = ", ".join(calibrator.method for calibrator in calibrators)
    return methods if len(calibrators) == 1 else f"mean of {methods}"


def raw(predictions: Predictions) -> Predictions:
    """`predictions`, or InputError where their scores are not those of the model."""
    if predictions.calibration != "none":
        raise InputError(f"the scores are calibrated already ({predictions.calibration}); expected those of the model")
    return predictions


def _logit(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7))  # finite; the resolution of float32 at 1


def _fitted(method: str, scores: np.ndarray, positive: np.ndarray) -> dict | None:
    """The most likely map of one finding; None where higher scores do not go with more positives."""
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # slow to import

        fitted = IsotonicRegression(y_min=0, y_max=1).fit(scores.astype(np.float64), positive)
        values = fitted.y_thresholds_.tolist()
        return {"scores": fitted.X_thresholds_.tolist(), "values": values} if values[-1] > values[0] else None
    x, positives, negatives = _logit(scores), positive.sum(), (~positive).sum()
    # Platt's: as if one more image of each class had been seen
    target = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(line: Sequence) -> tuple[float, np.ndarray]:  # mean cross-entropy of the logits, and its gradient
        z = line[0] * x + line[1]
        error = expit(z) - target
        return (np.logaddexp(0, z) - target * z).mean(), np.array([(error * x).mean(), error.mean()])

    if method == "temperature":
        found = scipy.optimize.minimize_scalar(lambda log: loss((np.exp(log), 0))[0], bounds=(-5, 5), method="bounded")
        return {"slope": float(np.exp(found.x))} if found.x > -4.9 else None  # at its bound all scores become 0.5
    found = scipy.optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS", tol=1e-8)
    slope, intercept = map(float, found.x)
    return {"slope": slope, "intercept": intercept} if slope > 0 else None


def _checked(method: str, finding: str, one: dict) -> dict:
    """The map of one finding as plain floats; InputError where it does not belong to the method."""
    keys = METHODS[method]
    if set(one) not in (set(), set(keys)):
        raise InputError(f"the {method} map of {finding} has {some(one)}; expected {some(keys) or 'nothing'}")
    try:
        table = np.array([one[key] for key in keys if one], dtype=np.float64)  # (slope, intercept) or (2, knots)
    except (TypeError, ValueError, OverflowError):
        table = np.array([np.nan])
    if "scores" not in one:
        good = table.ndim == 1 and np.isfinite(table).all() and (table[:1] > 0).all()
    else:
        steps = np.diff(table)
        good = steps.ndim == 2 and steps.size and (steps[0] > 0).all() and (steps[1] >= 0).all()
        good = good and ((table >= 0) & (table <= 1)).all()
    if not good:
        raise InputError(f"the {method} map of {finding} is {one}; expected finite numbers: a slope above 0, or scores "
                         "that rise and values that do not fall, both in [0, 1]")  # fmt: skip
    return dict(zip(keys, table.tolist(), strict=False))


def reliability(predictions: Predictions, finding: str, bins: int = 10) -> pd.DataFrame:
    """Scores against the share of positives, in `bins` bins of equally many images (ties share a bin).

    Columns: score (mean), share (of positives), images, patients, positives, low, high (95 %). The interval is Wilson's
    (1927) with the number of patients of a bin instead of images, which are correlated within a patient.
    """
    scores, labels, patient = list(predictions.by_finding())[FINDINGS.index(canonical(finding))]
    table = pd.DataFrame({"score": scores.astype(np.float64), "label": labels.astype(int), "patient": patient})
    of_bin = table.groupby(mass_bins(scores, bins))
    table = of_bin.agg(score=("score", "mean"), share=("label", "mean"), images=("label", "size"),
                       patients=("patient", "nunique"), positives=("label", "sum")).reset_index(drop=True)  # fmt: skip
    share, n, z = table["share"], table["patients"], ndtri(0.975)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # against rounding at shares of 0 and 1
    return table.assign(low=np.clip(middle - half, 0, share), high=np.clip(middle + half, share, 1))


def out_of_fold(val: Predictions, method: str) -> Predictions:
    """`val` with each image calibrated by a map fitted on four fifths of the patients, without its own."""
    patients, patient = np.unique(val.patient, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(patients))[patient] % 5
    scores = val.scores.copy()
    for number in range(5):
        calibrator = Calibrator.fit(val.take(fold != number), method)
        scores[fold == number] = calibrator.calibrate(val.scores[fold == number])
    return replace(val, scores=scores, calibration=method)


def choose_method(val: Predictions) -> str:
    """The calibration with the lowest Brier score (macro mean) on held-out patients, of those that keep the AUROC."""
    held_out = {method: out_of_fold(val, method) for method in ("none", "platt", "temperature")}
    return min(held_out, key=lambda method: with_macro(point_estimates(held_out[method])["brier"])[-1])


def ece_floor(predictions: Predictions) -> np.ndarray:
    """(14,) the `ece_mass` that perfectly calibrated scores would show on this number of images, by noise alone.

    The mean error of 200 data sets whose labels are drawn with the scores as probabilities, independently even within a
    patient, so that the floor is, if anything, too low. NaN where no label is known (Roelofs et al. 2022).
    """
    rng, floor = np.random.default_rng(0), np.empty(len(FINDINGS))
    for k, (scores, _, _) in enumerate(predictions.by_finding()):
        bins, scores = mass_bins(scores), scores.astype(np.float64)
        drawn = ((rng.random(len(scores)) < scores) - scores for _ in range(200))
        gaps = [np.abs(np.bincount(bins, errors, ECE_BINS)).sum() for errors in drawn]
        floor[k] = np.mean(gaps) / len(scores) if len(scores) else np.nan
    return floor
