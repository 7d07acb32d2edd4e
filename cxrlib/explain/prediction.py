"""From image files to fourteen calls each: one trained model, or the mean of several, in constant memory.

>>> predictor = Predictor(["model_best.pth"])
>>> for case in predictor.predict(["film.dcm", "film.png"]):
...     print(case.error or case.table)
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import torch
from joblib import cpu_count

from cxrlib.core.errors import InputError, printable
from cxrlib.data.findings import FINDINGS
from cxrlib.data.images import looks_inverted, read_radiograph
from cxrlib.evaluation.calibration import operating_point, operating_points
from cxrlib.evaluation.sums import at_or_above
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.explain.gradcam import default_layers, grad_cam, mean_maps
from cxrlib.models.architectures import model_from_checkpoint
from cxrlib.models.checkpoints import load_ensemble
from cxrlib.training.device import kept_memory, pick_device
from cxrlib.training.familiarity import Familiarity
from cxrlib.training.inference import Engine

_INVERTED = "air is bright and bone dark, as in an inverted radiograph; it is scored as it is"
_UNCHECKED = "not compared with the training images, of which the checkpoint has no record (train again)"
_NOT_TUNED = "no threshold is tuned: run cxr eval --update_checkpoint"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted for one image.

    error: why it could not be read or is refused; then there are no scores. warnings: sentences about the image.
    images: as each model gets it, (side, side) uint8. scores, members: (models, 14) raw and calibrated, of each model.
    thresholds: (14,) on the calibrated scores, NaN where none is tuned, and notes (14 texts) say why.
    """

    path: Path
    error: str = ""
    warnings: tuple[str, ...] = ()
    images: tuple[np.ndarray, ...] = ()
    scores: np.ndarray | None = None
    members: np.ndarray | None = None
    thresholds: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def probability(self) -> np.ndarray:
        """(14,) calibrated probabilities, the mean over the models."""
        return self.members.mean(axis=0)

    @property
    def positive(self) -> np.ndarray:
        """(14,) bool: probability >= threshold; False where no threshold is tuned."""
        return at_or_above(self.probability, self.thresholds)

    @property
    def rows(self) -> list[dict]:
        """The fourteen findings as plain values: score, probability (low, high: among models), threshold, call, note.

        Where no threshold is tuned, threshold and call are None.
        """
        numbers = [self.scores.mean(axis=0), self.probability, self.members.min(axis=0), self.members.max(axis=0)]
        names, rows = ("finding", "score", "probability", "low", "high", "threshold", "call", "note"), []
        for k, (finding, positive) in enumerate(zip(FINDINGS, self.positive, strict=True)):
            threshold, call = float(self.thresholds[k]), "positive" if positive else "negative"
            operating = (None, None) if np.isnan(threshold) else (threshold, call)
            values = [finding, *(float(f"{each[k]:.6g}") for each in numbers), *operating, self.notes[k]]
            rows.append(dict(zip(names, values, strict=True)))
        return rows

    @property
    def table(self) -> pd.DataFrame:
        """`rows` as a table, indexed by finding."""
        return pd.DataFrame(self.rows).set_index("finding")


class Predictor:
    """One or several trained models, or an ensemble, each with its calibration and thresholds.

    Of several, the calibrated scores are averaged, and compared with the thresholds that an ensemble has for the mean,
    else with the mean of the models' thresholds. An image that none of them takes for a radiograph as in its training
    is refused, or with `force` predicted with a warning.
    Raises InputError for files that are no checkpoints.
    """

    def __init__(self, weights: Sequence[str | Path], device: str = "auto", force: bool = False):
        self.names = [str(path) for path in weights]
        ensemble = load_ensemble(weights)
        checkpoints = list(ensemble.members.values())
        points = [operating_point(checkpoint) for checkpoint in checkpoints]
        self._calibrators = tuple(calibrator for calibrator, _ in points)
        tuned = [thresholds for _, thresholds in points]
        if ensemble.thresholds is not None:  # for the mean
            tuned = [operating_points(ensemble.calibrations, ensemble.thresholds)[1]]
        self.thresholds, self.notes = _mean_thresholds(tuned)
        self.models = [model_from_checkpoint(checkpoint).to(pick_device(device)) for checkpoint in checkpoints]
        self.force, pairs = force, zip(checkpoints, self.models, strict=True)
        kinds = ((each.get("familiarity"), model.head.in_features) for each, model in pairs)
        self._familiarity = [None if fitted is None else Familiarity(fitted, width) for fitted, width in kinds]
        self._learned_from = {name for each in checkpoints for names in each["parts"].values() for name in names}

    def predict(
        self, files: Iterable[str | Path | BinaryIO], batch_size: int = 16, threads: int | None = None
    ) -> Iterator[Prediction]:
        """One `Prediction` per file, in order. A file that cannot be read or is refused gives one with its `error`.

        files: paths, or open binary files with a `name`.
        threads: that decode the following batches while the models compute; default: one per core.
        """
        cases = _ahead(self._read, files, 2 * batch_size, threads or cpu_count())
        engines = [Engine(model, len(files) if isinstance(files, Sized) else 0) for model in self.models]
        with kept_memory():
            while batch := list(islice(cases, batch_size)):
                yield from self._scored(batch, engines)

    def maps(self, case: Prediction, method: str = "gradcam") -> dict[str, np.ndarray]:
        """The heat map of each positive finding, as in `all_maps`."""
        positive = np.flatnonzero(case.positive)
        mean = self.all_maps(case, method) if len(positive) else ()
        return {FINDINGS[k]: mean[k] for k in positive}

    def all_maps(self, case: Prediction, method: str = "gradcam") -> np.ndarray:
        """The heat maps of all findings, (14, side, side) of the first image, in [0, 1]; the models' mean."""
        maps = []
        for model, image in zip(self.models, case.images, strict=True):
            heat = grad_cam(model, torch.from_numpy(image)[None, None], default_layers(model, method), method)
            maps.append(heat[0].numpy())
        return mean_maps(maps)

    def _read(self, file: str | Path | BinaryIO) -> Prediction:
        path = Path(file if isinstance(file, str | Path) else file.name)
        try:
            radiograph = read_radiograph(file)
        except InputError as error:
            return Prediction(path, error=str(error))
        images = tuple(radiograph.square(model.image_size).copy() for model in self.models)
        warnings = radiograph.warnings
        if not radiograph.header and looks_inverted(images[0]):
            warnings += (_INVERTED,)
        if path.name in self._learned_from:
            warnings += ("an image of this name was used for training or validation",)
        return Prediction(path, warnings=warnings, images=images)

    def _scored(self, batch: list[Prediction], engines: list[Engine]) -> list[Prediction]:
        readable = [n for n, case in enumerate(batch) if not case.error]
        raw, verdicts = [], []
        for number, engine in enumerate(engines if readable else ()):
            images = torch.from_numpy(np.stack([batch[n].images[number] for n in readable]))[:, None]
            scores, features = (each.cpu() for each in engine(images))
            raw.append(scores.numpy())
            if self._familiarity[number] is not None:
                verdicts.append(self._familiarity[number].judge(features, images))
        calibrated = [one.calibrate(scores) for one, scores in zip(self._calibrators, raw, strict=False)]
        for place, n in enumerate(readable):
            scores, members = (np.stack([of_model[place] for of_model in each]) for each in (raw, calibrated))
            how = {"scores": scores, "members": members, "thresholds": self.thresholds, "notes": self.notes}
            batch[n] = self._judged(replace(batch[n], **how), [of_model[place] for of_model in verdicts])
        return batch

    def _judged(self, case: Prediction, verdicts: list[tuple[bool, str]]) -> Prediction:
        """The case with what the models say of its kind; refused where each of them refuses it."""
        reasons = tuple(dict.fromkeys(reason for _, reason in verdicts if reason)) if verdicts else (_UNCHECKED,)
        if verdicts and all(refused for refused, _ in verdicts) and not self.force:
            error = f"{printable(case.path)} is refused: {reasons[0]}; --force predicts it all the same"
            return Prediction(case.path, error=error, warnings=case.warnings, images=case.images)
        return replace(case, warnings=case.warnings + reasons)


def _mean_thresholds(points: list[Thresholds | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(14,) the mean over models, NaN where one of them is not tuned, and 14 notes."""
    if None in points:
        return np.full(len(FINDINGS), np.nan), (_NOT_TUNED,) * len(FINDINGS)
    values = np.mean([np.where(each.tuned, each.values, np.nan) for each in points], axis=0)
    notes = zip(*(each.notes for each in points), strict=True)
    # without what an evaluation falls back to: here nothing is called
    reasons = (dict.fromkeys(re.sub(r"; \S+ is kept$", "", note) for note in each if note) for each in notes)
    return values, tuple("; ".join(each) for each in reasons)


def _ahead(function: Callable, items: Iterable, most: int, threads: int) -> Iterator:
    """function(item) in order, from threads that are at most `most` items ahead: the memory needed is constant."""
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
