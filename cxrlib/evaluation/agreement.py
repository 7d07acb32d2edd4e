"""Agreement of the labels, mined from reports, with radiologists who read the images: kappa, PPV and sensitivity."""

from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import read_expert_labels
from cxrlib.data.sources import find_beside
from cxrlib.evaluation import bootstrap
from cxrlib.evaluation.predictions import UNKNOWN

EXPERT_FILES = ("all_findings_expert_labels_test_labels.csv", "true_labels.csv")
EACH = {name: (name,) for name in FINDINGS}
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


def agreement(entries: pd.DataFrame, expert: pd.DataFrame, findings=EACH, replicates=1000, seed=0) -> pd.DataFrame:
    """One row per finding: the mined labels of `entries` against the expert labels, on the images in both tables.

    entries: image, patient and 0 / 1 columns; expert: image (each once) and 0 / 1 columns; an image counts where both
    are known (not NaN). findings: {column of expert: columns of entries}, any of which counts as positive.
    Returns images, mined and expert (positives), both (positive in both), Cohen's kappa with its 95 % interval over
    patients, ppv (of the mined positives, the share that the experts confirm) and sensitivity (of the experts', the
    share mined); NaN where undefined. Where no image is positive in both, or they never differ, the limit of kappa on
    that side is that of the positive agreement 2 both / (mined + expert).
    """
    both = entries[entries["image"].isin(expert["image"])]
    expert = expert.set_index("image").loc[both["image"]]
    codes, patients = pd.factorize(both["patient"])
    times = bootstrap.draw_patients(len(patients), replicates, seed)
    rows = {}
    for name, names in findings.items():
        known, mined, read = both_known(both[list(names)].to_numpy(float), expert[name].to_numpy())
        cells = (3 - 2 * mined - read).astype(int)  # both, mined alone, read alone, neither
        cells = bootstrap.patient_sums(cells, codes[known], (4, len(patients)))
        tp, fp, fn, _ = counts = cells.sum(axis=1)
        low, high = _kappa_interval(cells, times)
        rows[name] = {"images": len(mined), "mined": tp + fp, "expert": tp + fn, "both": tp,
                      "kappa": cohen_kappa(*counts), "kappa_low": low, "kappa_high": high,
                      "ppv": bootstrap.ratio(tp, tp + fp), "sensitivity": bootstrap.ratio(tp, tp + fn)}  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=float).rename_axis("finding")
    return table.astype(dict.fromkeys(("images", "mined", "expert", "both"), int))


def both_known(mined: np.ndarray, read: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the mined label "any of m findings", from (n, m), and that of a reader (n,) are known; and both there."""
    mined, read = (np.where(np.isnan(labels), UNKNOWN, labels) for labels in (mined, read))
    mined = np.where((mined == 1).any(axis=1), 1, mined.max(axis=1)).astype(int)  # 0 where all are 0, else UNKNOWN
    known = (mined != UNKNOWN) & (read != UNKNOWN)
    return known, mined[known], read[known]


def _kappa_interval(cells, times: np.ndarray) -> tuple[float, float]:
    """The ends of the interval of kappa. cells: (4, patients) counts, in the order of `cohen_kappa`."""
    tp, fp, fn, _ = counts = cells.sum(axis=1)
    drawn = np.concatenate([cohen_kappa(*(cells @ weights)) for weights in bootstrap.chunks(times, 4)])[:, None]
    both, first, second, neither = cells.toarray()
    read = np.stack([both + second, first + neither])
    low, high = bootstrap.interval(drawn, cohen_kappa(*counts)[None], [np.count_nonzero(read, axis=1).min()])[:, 0]
    if tp == 0 or fp + fn == 0:  # no replicate can show any overlap, or any difference
        support = bootstrap.Support(bootstrap.effective_number((both + first + second)[None]))
        share = bootstrap.limits(np.full_like(drawn, tp > 0), np.array([float(tp > 0)]), support)[:, 0]
        end = 2 * share / (1 + share)
        low, high = (end[0], high) if tp else (low, end[1])
    return low, high


def cohen_kappa(both: np.ndarray, first: np.ndarray, second: np.ndarray, neither: np.ndarray) -> np.ndarray:
    """Cohen's kappa (1960) from counts: positive for both readers, for the first or second alone, for neither.

    (observed - expected) / (1 - expected) agreement, expected of independent readers; NaN where expected is 1.
    """
    n = both + first + second + neither
    observed = bootstrap.ratio(both + neither, n)
    share_first, share_second = bootstrap.ratio(both + first, n), bootstrap.ratio(both + second, n)
    expected = share_first * share_second + (1 - share_first) * (1 - share_second)
    return bootstrap.ratio(observed - expected, 1 - expected)
