"""How far the mined labels agree with readers who looked at the images: Cohen's kappa and its company.

The labels of ChestX-ray14 were read out of reports by a program. Radiologists have read some of the images since:
Majkowska et al. 2019 for four findings (their table comes with the package torchxrayvision), Nabulsi et al. 2021 for
all fourteen. Phantoms bring their truth in the same form.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import read_expert_labels
from cxrlib.evaluation.bootstrap import chunks, draw_patients, interval, patient_sums, ratio

EXPERT_FILES = ("all_findings_expert_labels_test_labels.csv", "true_labels.csv")
# what Majkowska et al. asked their readers -> the mined labels that say the same; "Airspace opacity" is our reading
FOUR_FINDINGS = {
    "Pneumothorax": ("Pneumothorax",),
    "Nodule or mass": ("Nodule", "Mass"),
    "Airspace opacity": ("Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"),
}


def find_expert_labels(*folders: str | Path) -> tuple[pd.DataFrame, Path] | None:
    """The readers' labels (or the phantoms' truth) in the first folder that has them, and their file; else None."""
    paths = [Path(folder) / name for folder in folders for name in EXPERT_FILES]
    return next(((read_expert_labels(path), path) for path in paths if path.is_file()), None)


def agreement(
    entries: pd.DataFrame,
    expert: pd.DataFrame,
    findings: Sequence[str] | Mapping[str, Sequence[str]] = FINDINGS,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a finding: the mined labels of `entries` against the readers' of `expert`, on the images both know.

    entries: image, patient and 0 / 1 columns; expert: image and 0 / 1 columns. findings: the columns to compare, or
    {column of expert: columns of entries}, of which one is enough.
    Returns images, mined and expert (positives), both (positive in both), Cohen's kappa with its 95 % interval over
    patients, ppv (of the mined positives, how many the readers confirm) and sensitivity (of the readers' positives,
    how many were mined), 0-1. NaN where a figure is undefined: kappa where both say the same of every image, its
    interval also where they share no positive.
    Raises InputError where no image, or not every column, is known to both.
    """
    columns = findings if isinstance(findings, Mapping) else {name: (name,) for name in findings}
    both, cells = _answers(entries, expert, columns)
    codes, patients = pd.factorize(both["patient"])
    tp, fp, fn, tn = cells.sum(axis=1)
    kappa = cohen_kappa(tp, fp, fn, tn)
    drawn = _kappas_drawn(cells, codes, draw_patients(np.ones((len(patients), 1), dtype=bool), replicates, seed))
    drawn[:, tp == 0] = np.nan  # no draw can show another overlap than none: an interval would be false comfort
    read = (cells[0] + cells[2]).astype(bool)
    rarer = [min(len(np.unique(codes[column == value])) for value in (False, True)) for column in read.T]
    low, high = interval(drawn, kappa, np.array(rarer))
    counts = {"images": len(both), "mined": tp + fp, "expert": tp + fn, "both": tp}
    figures = {"kappa": kappa, "kappa_low": low, "kappa_high": high}
    figures |= {"ppv": ratio(tp, tp + fp), "sensitivity": ratio(tp, tp + fn)}
    table = pd.DataFrame(counts | figures, index=pd.Index(list(columns), name="finding"))
    return table.astype(dict.fromkeys(counts, int))


def _answers(
    entries: pd.DataFrame, expert: pd.DataFrame, columns: Mapping[str, Sequence[str]]
) -> tuple[pd.DataFrame, np.ndarray]:
    """The n images that both know, and (4, n, findings) 0 / 1: yes of both, mined alone, read alone, of neither."""
    missing = [name for name in columns if name not in expert]
    missing += [name for names in columns.values() for name in names if name not in entries]
    both = entries.merge(expert[["image"]], on="image")
    if missing or both.empty:
        what = f"lack {some(missing)}" if missing else "share no image"
        raise InputError(f"the mined and the readers' labels {what}; expected tables of the same images and findings")
    mined = np.stack([both[list(names)].any(axis=1) for names in columns.values()], axis=1)
    read = expert.set_index("image").loc[both["image"], list(columns)].to_numpy(bool)
    return both, np.stack([mined & read, mined & ~read, ~mined & read, ~mined & ~read]).astype(float)


def _kappas_drawn(cells: np.ndarray, codes: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Kappa (replicates, findings) of each draw of patients; codes: (n,) the column of `times` of each image."""
    drawn = np.empty((len(times), cells.shape[2]))
    for k in range(cells.shape[2]):
        table = patient_sums(cells[:, :, k].argmax(axis=0), codes, (4, times.shape[1]))
        drawn[:, k] = np.concatenate([cohen_kappa(*(table @ weights)) for weights in chunks(times, 4)])
    return drawn


def cohen_kappa(both: np.ndarray, first: np.ndarray, second: np.ndarray, neither: np.ndarray) -> np.ndarray:
    """Cohen's kappa from the counts of two readers' answers: yes of both, of the first or second alone, of neither.

    (observed - expected) / (1 - expected) agreement, where expected is what two readers reach who say yes as often as
    these do, independently of each other (Cohen 1960). 1 is perfect, 0 is chance; NaN where expected is 1.
    """
    n = both + first + second + neither
    observed = ratio(both + neither, n)
    says, tells = ratio(both + first, n), ratio(both + second, n)
    expected = says * tells + (1 - says) * (1 - tells)
    return ratio(observed - expected, 1 - expected)
