"""Agreement of the mined labels with radiologists who read the images: Cohen's kappa, PPV and sensitivity.

The labels of ChestX-ray14 were mined from reports by a program. Radiologists have since read some of the images:
Majkowska et al. 2019 for four findings (their table is part of the package torchxrayvision), Nabulsi et al. 2021 for
all fourteen. Phantoms provide their true labels in the same form.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import read_expert_labels
from cxrlib.data.sources import find_beside
from cxrlib.evaluation.bootstrap import (
    Support,
    chunks,
    draw_patients,
    effective_number,
    interval,
    limits,
    patient_sums,
    ratio,
)
from cxrlib.evaluation.predictions import UNKNOWN, any_positive, coded

EXPERT_FILES = ("all_findings_expert_labels_test_labels.csv", "true_labels.csv")
# findings of Majkowska et al. -> the corresponding mined labels; those of "Airspace opacity" are our interpretation
EXPERT_TASKS = {
    "Pneumothorax": ("Pneumothorax",),
    "Nodule or mass": ("Nodule", "Mass"),
    "Airspace opacity": ("Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"),
}


def find_expert_labels(*folders: str | Path) -> tuple[pd.DataFrame, Path] | None:
    """The expert labels (or true labels of phantoms) in the first folder that has them, and their file; else None."""
    paths = (find_beside(name, folder) for folder in folders for name in EXPERT_FILES)
    return next(((read_expert_labels(path), path) for path in paths if path), None)


def agreement(
    entries: pd.DataFrame,
    expert: pd.DataFrame,
    findings: Sequence[str] | Mapping[str, Sequence[str]] = FINDINGS,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per finding: the mined labels of `entries` against the expert labels, on the images in both tables.

    entries: image, patient and 0 / 1 columns; expert: image and 0 / 1 columns; NaN is unknown, and an image counts
    where both labels are known. findings: the columns to compare, or
    {column of expert: columns of entries}, any of which counts as positive.
    Returns images, mined and expert (positives), both (positive in both), Cohen's kappa with its 95 % interval over
    patients, ppv (the fraction of mined positives that the experts confirm) and sensitivity (the fraction of the
    experts' positives that were mined). NaN where undefined: kappa where both give all images the same label.
    Where no image is positive in both, or they never differ, the limit of kappa on that side is the limit of the
    positive agreement 2 both / (mined + expert), which kappa does not exceed.
    Raises InputError where the tables have no image in common, lack a column, or hold an image twice.
    """
    columns = findings if isinstance(findings, Mapping) else {name: (name,) for name in findings}
    missing = [name for name in columns if name not in expert]
    missing += [name for names in columns.values() for name in names if name not in entries]
    expert = by_image(expert)
    both = entries[entries["image"].isin(expert.index)]
    if missing or both.empty:
        what = f"lack {some(missing)}" if missing else "share no image"
        raise InputError(f"the mined and the expert labels {what}; expected tables of the same images and findings")
    expert = expert.loc[both["image"]]
    codes, patients = pd.factorize(both["patient"])
    times = draw_patients(len(patients), replicates, seed)
    rows = {}
    for name, names in columns.items():
        mined, read = any_positive(both[list(names)].to_numpy(float)), coded(expert[name].to_numpy())
        known = (mined != UNKNOWN) & (read != UNKNOWN)
        mined, read = mined[known], read[known].astype(int)
        cells = 3 - 2 * mined - read  # both, mined alone, read alone, neither
        cells = patient_sums(cells, codes[known], (4, len(patients)))
        tp, fp, fn, _ = cells.sum(axis=1)
        low, high = _kappa_interval(cells, times)
        rows[name] = {"images": len(mined), "mined": tp + fp, "expert": tp + fn, "both": tp,
                      "kappa": cohen_kappa(*cells.sum(axis=1)), "kappa_low": low, "kappa_high": high,
                      "ppv": ratio(tp, tp + fp), "sensitivity": ratio(tp, tp + fn)}  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=float).rename_axis("finding")
    return table.astype(dict.fromkeys(("images", "mined", "expert", "both"), int))


def by_image(experts: pd.DataFrame) -> pd.DataFrame:
    """The expert labels with the images as index; InputError where an image has more than one row."""
    twice = experts["image"][experts["image"].duplicated()].unique()
    if len(twice):
        raise InputError(f"the expert labels contain {some(twice)} more than once; expected one row per image")
    return experts.set_index("image")


def _kappa_interval(cells, times: np.ndarray) -> tuple[float, float]:
    """The ends of the interval of kappa. cells: (4, patients) counts, in the order of `cohen_kappa`."""
    tp, fp, fn, _ = counts = cells.sum(axis=1)
    drawn = np.concatenate([cohen_kappa(*(cells @ weights)) for weights in chunks(times, 4)])[: len(times), None]
    both, first, second, neither = cells.toarray()
    read = np.stack([both + second, first + neither])
    low, high = interval(drawn, cohen_kappa(*counts)[None], [np.count_nonzero(read, axis=1).min()])[:, 0]
    if tp == 0 or fp + fn == 0:  # no replicate can show any overlap, or any difference
        support = Support(effective_number((both + first + second)[None]))
        share = limits(np.full((len(drawn), 1), float(tp > 0)), np.array([float(tp > 0)]), support)[:, 0]
        end = 2 * share / (1 + share)
        low, high = (end[0], high) if tp else (low, end[1])
    return low, high


def cohen_kappa(both: np.ndarray, first: np.ndarray, second: np.ndarray, neither: np.ndarray) -> np.ndarray:
    """Cohen's kappa of two readers from counts: positive for both, for the first or second alone, for neither.

    (observed - expected) / (1 - expected) agreement, where the expected agreement is that of two independent readers
    with the same shares of positives (Cohen 1960). 1 is perfect, 0 is chance; NaN where the expected agreement is 1.
    """
    n = both + first + second + neither
    observed = ratio(both + neither, n)
    share_first, share_second = ratio(both + first, n), ratio(both + second, n)
    expected = share_first * share_second + (1 - share_first) * (1 - share_second)
    return ratio(observed - expected, 1 - expected)
