"""The capstone: a model with one hidden flaw or none, as a seed draws, delivered with a record that is silent on it."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxrlib.core.paths import write_csv
from cxrlib.course.exercises import seal
from cxrlib.data.cache import ImageCache, build_cache
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import tune_thresholds
from cxrlib.models import architectures, checkpoints
from cxrlib.phantom.shortcut import trap
from cxrlib.training import inference, inputs, loop
from cxrlib.training.config import TrainConfig

FLAWS = ("leak", "shortcut", "swapped", "preprocessing", "tuned on test", "pos_weight", "none")
_PLAIN = ("Cardiomegaly", "Effusion", "Emphysema")  # findings that even a small model ranks well


def draw(seed: int) -> tuple[str, list[str]]:
    """The flaw of a seed, and its findings: one for "shortcut", two for "swapped", [] for "none", else ["all"]."""
    rng = np.random.default_rng(seed)
    flaw, drawn = FLAWS[rng.integers(len(FLAWS))], rng.permutation(_PLAIN).tolist()
    return flaw, {"shortcut": drawn[:1], "swapped": drawn[:2], "none": []}.get(flaw, ["all"])


def deliver(entries: pd.DataFrame, images: ImageCache, out: Path, seed: int, config: TrainConfig) -> tuple:
    """Train a model as `config` says, but for the flaw of `seed`, and write model_best.pth and splits.csv to `out`.

    entries: with the column part, as the record will say. Returns the `ImageCache` that comes with the model, whose
    radiographs bear a marker, on test all of them; and the seal of one set: the word for the flaw, and its findings.
    """
    flaw, findings = draw(seed)
    used = entries.copy()
    if flaw == "leak":  # every other test patient
        used.loc[used["patient"].isin(used.loc[used["part"] == "test", "patient"].unique()[::2]), "part"] = "train"
    with tempfile.TemporaryDirectory() as folder:
        marked, _ = trap(Path(folder), images, entries, findings[0] if flaw == "shortcut" else FINDINGS[0], seed=seed)
        films = build_cache(marked["marked" if flaw == "shortcut" else "clean"], images.image_size, cache_dir=out,
                            progress=False)  # fmt: skip
        how = {"loss": "bce_pos_weight"} if flaw == "pos_weight" else {}
        loop.fit(config.replace(**how), used, films, Path(folder), progress=False, familiarity=False)
        checkpoint = checkpoints.load_checkpoint(Path(folder) / "model_best.pth")
        val = Predictions.load(Path(folder) / "predictions_val.npz")
    model = architectures.model_from_checkpoint(checkpoint)
    test = inference.predict(model, inputs.make_dataset(entries[entries["part"] == "test"], films, images.image_size))
    thresholds = tune_thresholds(test if flaw == "tuned on test" else val, grid=None)
    with torch.no_grad():
        if flaw == "swapped":
            rows = [FINDINGS.index(name) for name in findings]
            for weight in (model.head.weight, model.head.bias):
                weight[rows] = weight[rows[::-1]]
        if flaw == "preprocessing":
            model.mean.copy_(1 - model.mean)
            model.std.neg_()
    about = {name: checkpoint[name] for name in ("parts", "epoch", "val_auroc")} | {"config": config.model_dump()}
    architectures.save_checkpoint(out / "model_best.pth", model, thresholds=thresholds.to_dict(), **about)
    write_csv(out / "splits.csv", entries[["image", "patient", "part"]], index=False)
    return films, seal({flaw, *findings})
