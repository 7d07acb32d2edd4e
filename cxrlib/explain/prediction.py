"""From image files to fourteen calls each: one trained model, or the mean of several, in constant memory."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from operator import length_hint
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import cpu_count

from cxrlib.core.errors import InputError, printable
from cxrlib.data.findings import FINDINGS
from cxrlib.data.images import looks_inverted, read_radiograph
from cxrlib.evaluation.calibration import operating_points
from cxrlib.evaluation.metrics import at_or_above
from cxrlib.explain.gradcam import grad_cam, mean_maps
from cxrlib.models.architectures import model_from_checkpoint
from cxrlib.models.checkpoints import load_ensemble
from cxrlib.training.device import kept_memory, pick_device
from cxrlib.training.familiarity import Familiarity
from cxrlib.training.inference import Engine


@dataclass(eq=False)
class Prediction:
    """What is predicted for one image; with an `error` there are no scores."""

    path: Path
    error: str = ""  # why the image could not be read or is refused
    warnings: tuple[str, ...] = ()  # sentences about the image
    images: tuple[np.ndarray, ...] = ()  # as each model gets it, (side, side) uint8
    scores: np.ndarray | None = None  # of each model, (models, 14)
    members: np.ndarray | None = None  # the calibrated scores of each model, (models, 14)
    thresholds: np.ndarray | None = None  # on the calibrated scores, (14,), NaN where none is tuned
    notes: tuple[str, ...] = ()  # 14 texts, which say why none is

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
        """The findings as plain values; low, high: among models. Untuned, threshold and call are None."""
        numbers = [self.scores.mean(axis=0), self.probability, self.members.min(axis=0), self.members.max(axis=0)]
        rounded = ([float(f"{value:.6g}") for value in values] for values in numbers)
        tuned = ~np.isnan(self.thresholds)
        calls = np.where(tuned, np.where(self.positive, "positive", "negative"), None)
        names = ("finding", "score", "probability", "low", "high", "threshold", "call", "note")
        columns = zip(FINDINGS, *rounded, np.where(tuned, self.thresholds, None), calls, self.notes, strict=True)
        return [dict(zip(names, row, strict=True)) for row in columns]

    @property
    def table(self) -> pd.DataFrame:
        """`rows` as a table, indexed by finding."""
        return pd.DataFrame(self.rows).set_index("finding")


class Predictor:
    """One or several trained models, or an ensemble, each with its calibration and thresholds.

    Of several, the calibrated scores are averaged, and compared with the thresholds that an ensemble has for the mean,
    else with the mean of the models' thresholds. An image that none of them takes for a radiograph as in its training
    is refused, or with `force` predicted with a warning. Raises InputError for files that are no checkpoints.
    """

    def __init__(self, weights: Sequence[str | Path], device: str = "auto", force: bool = False):
        self.force, ensemble = force, load_ensemble(weights)
        self.names, checkpoints = list(ensemble.members), list(ensemble.members.values())
        self._calibrators, mean = operating_points([one.get("calibration") for one in checkpoints], ensemble.thresholds)
        each = [operating_points([one.get("calibration")], one.get("thresholds"))[1] for one in checkpoints]
        points = [mean] if mean else each
        if None in points:
            self.thresholds = np.full(len(FINDINGS), np.nan)
            self.notes = ("no threshold is tuned: run cxr eval --update_checkpoint",) * len(FINDINGS)
        else:
            self.thresholds = np.mean([np.where(one.tuned, one.values, np.nan) for one in points], axis=0)
            notes = zip(*(one.notes for one in points), strict=True)
            # without what an evaluation falls back to: here nothing is called
            why = (dict.fromkeys(re.sub(r"; \S+ is kept$", "", note) for note in each if note) for each in notes)
            self.notes = tuple(map("; ".join, why))
        self.models = [model_from_checkpoint(checkpoint).to(pick_device(device)) for checkpoint in checkpoints]
        kinds = zip((each.get("familiarity") for each in checkpoints), self.models, strict=True)
        self._familiarity = [None if kind is None else Familiarity(kind, of.head.in_features) for kind, of in kinds]
        self._learned_from = {name for each in checkpoints for names in each["parts"].values() for name in names}

    def predict(self, files: Iterable, batch_size: int = 16, threads: int | None = None) -> Iterator[Prediction]:
        """One `Prediction` per file, in order. A file that cannot be read or is refused gives one with its `error`.

        files: paths, or open binary files with a `name`. threads: that decode ahead; default: one per core.
        """
        engines = [Engine(model, length_hint(files)) for model in self.models]
        files = iter(files)
        with kept_memory(), ThreadPoolExecutor(threads or cpu_count()) as pool:
            ahead = deque(pool.map(self._read, islice(files, batch_size)) for _ in range(2))
            while batch := list(ahead.popleft()):
                ahead.append(pool.map(self._read, islice(files, batch_size)))
                if readable := [case for case in batch if not case.error]:
                    self._score(readable, engines)
                yield from batch

    def all_maps(self, case: Prediction) -> np.ndarray:
        """The Grad-CAM maps of all findings, (14, side, side) of the first image, in [0, 1]; the models' mean."""
        pairs = zip(self.models, case.images, strict=True)
        return mean_maps([grad_cam(model, torch.from_numpy(image)[None, None])[0].numpy() for model, image in pairs])

    def _read(self, file) -> Prediction:
        path = Path(file if isinstance(file, str | Path) else file.name)
        try:
            radiograph = read_radiograph(file)
        except InputError as error:
            return Prediction(path, error=str(error))
        images = tuple(radiograph.square(model.image_size).copy() for model in self.models)
        warnings = radiograph.warnings
        if not radiograph.is_dicom and looks_inverted(images[0]):
            warnings += ("air is bright and bone dark, as in an inverted radiograph; it is scored as it is",)
        if not self._learned_from.isdisjoint("/".join(path.parts[start:]) for start in range(len(path.parts))):
            warnings += ("an image of this name was used for training or validation",)
        return Prediction(path, warnings=warnings, images=images)

    def _score(self, cases: list[Prediction], engines: list[Engine]) -> None:
        """Give the cases their scores, or an error where each model refuses their kind."""
        raw, calibrated, verdicts = [], [], []
        for number, engine in enumerate(engines):
            images = torch.from_numpy(np.stack([case.images[number] for case in cases]))[:, None]
            scores, features = (each.cpu() for each in engine(images))
            raw.append(scores.numpy())
            calibrated.append(self._calibrators[number].calibrate(raw[-1]))
            if self._familiarity[number]:
                verdicts.append(self._familiarity[number].judge(features, images))
        raw, calibrated = np.stack(raw, axis=1), np.stack(calibrated, axis=1)  # (n, models, 14)
        unchecked = "not compared with the training images, of which the checkpoint has no record (train again)"
        for place, case in enumerate(cases):
            kinds = [of_model[place] for of_model in verdicts] or [(False, unchecked)]
            reasons = tuple(dict.fromkeys(reason for _, reason in kinds if reason))
            if all(refused for refused, _ in kinds) and not self.force:
                case.error = f"{printable(case.path)} is refused: {reasons[0]}; --force predicts it all the same"
                continue
            case.warnings += reasons
            case.scores, case.members = raw[place], calibrated[place]
            case.thresholds, case.notes = self.thresholds, self.notes
