"""Train, validation and test: by patient, by the official lists, or by image to see what leaks; nested subsets.

Everything is chosen on validation; test is read once. Only a split by patient (the official one is) keeps two visits
of one patient from standing on both sides.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, nearest, some
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import official_part

PARTS = ("train", "val", "test")
KINDS = ("official", "patient", "image")
FRACTIONS = (0.7, 0.1, 0.2)
_NIH_NAME = re.compile(r"(\d{8})_\d{3}\.png")


def split(
    entries: pd.DataFrame,
    kind: str = "patient",
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    lists_in: Iterable[str | Path] = (),
) -> pd.DataFrame:
    """The entries with a column part: "train", "val" or "test".

    kind: "patient" puts each patient into one part; "official" takes test from NIH's lists (in one of the folders
    `lists_in`, else those the package knows) and divides the rest by patient; "image" ignores the patients, and is
    here to show what leaks. Every kind is stratified, so that rare findings reach each part.
    fractions: images in train, val and test; with "official" only the ratio of the first two counts.
    Raises InputError for an unknown kind, or fractions that are not three shares above 0 that add up to 1.
    """
    if kind not in KINDS:
        raise InputError(f"unknown split {kind!r}; expected one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"fractions {fractions} cannot be used; expected three shares above 0 that add up to 1")
    entries = entries.drop(columns="part", errors="ignore").copy()
    if kind == "official":
        part = official_part(entries, *lists_in).replace("train_val", "")
        rest = part == ""
        part[rest] = _stratify(entries[rest], entries.loc[rest, "patient"], np.array(fractions[:2]), seed)
    else:
        groups = entries["patient" if kind == "patient" else "image"]
        part = pd.Series(_stratify(entries, groups, np.array(fractions), seed), index=entries.index)
    entries.insert(min(2, entries.shape[1]), "part", part)
    return entries


def subset(entries: pd.DataFrame, part: str, size: int, seed: int = 0) -> pd.DataFrame:
    """About `size` images of one part, whole patients, never more than `size`; 0 means all.

    The subsets of one seed are nested: a larger one holds every smaller one. Only where the first patient alone has
    more than `size` images is that patient cut. Raises InputError for an unknown part or a negative size.
    """
    if part not in PARTS or size < 0:
        raise InputError(f"a subset of {size} images of part {part!r} cannot be taken; expected a size >= 0 (0 is all) "
                         f"and a part from {', '.join(PARTS)}")  # fmt: skip
    chosen = entries[entries["part"] == part]
    if size == 0 or size >= len(chosen):
        return chosen
    counts = chosen.groupby("patient").size()  # sorted by patient: the order of the rows does not matter
    counts = counts.sample(frac=1, random_state=seed)
    kept = counts.index[counts.cumsum() <= size]
    if len(kept) == 0:
        return chosen[chosen["patient"] == counts.index[0]].sort_values("image").head(size)
    return chosen[chosen["patient"].isin(kept)]


def subsets(entries: pd.DataFrame, train: int = 0, val: int = 0, test: int = 0, seed: int = 0) -> pd.DataFrame:
    """The entries of all three parts, each cut to about so many images as `subset` does."""
    sizes = {"train": train, "val": val, "test": test}
    return pd.concat([subset(entries, part, size, seed) for part, size in sizes.items()])


def leakage(entries: pd.DataFrame) -> pd.DataFrame:
    """How much of val and test leaks from train: images, patients, patients also in train, and the images of those.

    Returns one row each for val and test with columns images, patients, patients_in_train, images_leaked,
    share_leaked (of the images, 0-1).
    """
    in_train = set(entries.loc[entries["part"] == "train", "patient"])
    rows = {}
    for part in ("val", "test"):
        patients = entries.loc[entries["part"] == part, "patient"]
        leaked = patients.isin(in_train)
        rows[part] = {
            "images": len(patients),
            "patients": patients.nunique(),
            "patients_in_train": patients[leaked].nunique(),
            "images_leaked": int(leaked.sum()),
            "share_leaked": float(leaked.mean()) if len(patients) else np.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def remembered(
    entries: pd.DataFrame, kind: str, earlier: dict[str, list[str]] | None = None, of: str | Path = "the checkpoint"
) -> dict[str, list[str]]:
    """The parts that a checkpoint remembers: {"train": image names, "val": image names}, each sorted.

    earlier: the parts of the checkpoint `of` that the training started from; they are remembered, too. Raises
    InputError where that one learned from what is held out here: from a patient of val or test, or, by choosing on its
    val, from one of test.
    """
    parts = {part: set(entries.loc[entries["part"] == part, "image"]) for part in ("train", "val")}
    if earlier is not None:
        before = restore(entries, earlier, kind)["part"]
        seen = (before == "train") & (entries["part"] != "train") | (before == "val") & (entries["part"] == "test")
        if seen.any():
            raise InputError(
                f"{of} learned from {seen.sum():,} images, or other images of their patients, that are held out here "
                f"(such as {some(entries.loc[seen, 'image'], 3)}); expected the split and seed of its training"
            )
        parts["train"] |= set(earlier["train"])
        parts["val"] |= set(earlier["val"]) - parts["train"]
    return {part: sorted(names) for part, names in parts.items()}


def digest(*parts: pd.DataFrame) -> str:
    """16 hex digits of the images, patients and labels of some entries; the order of the rows does not matter."""
    summed = hashlib.sha256()
    for entries in parts:
        rows = entries[["image", "patient", *FINDINGS]].sort_values("image")
        summed.update(rows.to_csv(index=False).encode() + b"\n\n")
    return summed.hexdigest()[:16]


def restore(entries: pd.DataFrame, parts: dict[str, list[str]], kind: str) -> pd.DataFrame:
    """The entries with the parts that a checkpoint remembers, so that nothing it was trained on is evaluated.

    parts: {"train": image names, "val": image names}, as the training saw them. An image that they do not name goes
    where its patient is known, and to test where neither is (with kind "image": to test, as that split does). NIH's
    names say the patient, so that he is known even where none of the images that were trained on is among the entries.
    """
    entries = entries.drop(columns="part", errors="ignore").copy()
    of_image, of_patient, of_name = {}, {}, {}
    for part in ("val", "train"):  # train last: where both claim a patient, he is not evaluated
        of_image |= dict.fromkeys(parts[part], part)
        of_patient |= dict.fromkeys(entries.loc[entries["image"].isin(parts[part]), "patient"], part)
        of_name |= dict.fromkeys(filter(None, map(_patient_of_name, parts[part])), part)

    def where(image: str, patient: int | str) -> str:
        if image in of_image or kind == "image":
            return of_image.get(image, "test")
        claims = {of_patient.get(patient), of_name.get(_patient_of_name(image))}
        return next((part for part in ("train", "val") if part in claims), "test")

    part = [where(image, patient) for image, patient in zip(entries["image"], entries["patient"], strict=True)]
    entries.insert(min(2, entries.shape[1]), "part", part)
    return entries


def _patient_of_name(image: str) -> str | None:
    """The patient in a name such as "00000013_005.png"; None where NIH did not give the name."""
    match = _NIH_NAME.fullmatch(image)
    return match and match[1]


def _stratify(entries: pd.DataFrame, groups: pd.Series, fractions: np.ndarray, seed: int) -> np.ndarray:
    """Assign whole groups (patients) to parts, rarest finding first (after Sechidis et al. 2011).

    Each part is an urn of the images of each finding that it still wants; a group is drawn into a part with the odds
    of its rarest finding there. Counts come out as wanted, and large and small groups fall everywhere alike (always
    taking the largest want would leave validation and test only patients of one image). Returns a part name an entry.
    """
    rng = np.random.default_rng(seed)
    names = np.array(PARTS[: len(fractions)])
    codes, patients = pd.factorize(groups, sort=True)
    counts = np.zeros((len(patients), len(FINDINGS) + 1))  # images of each finding in a group; last column: images
    np.add.at(counts[:, :-1], codes, entries[list(FINDINGS)].to_numpy(float))
    counts[:, -1] = np.bincount(codes, minlength=len(patients))
    wanted = np.outer(fractions / fractions.sum(), counts.sum(axis=0))

    rarity = np.argsort(counts[:, :-1].sum(axis=0), kind="stable")
    has = counts[:, rarity] > 0
    rarest = np.where(has.any(axis=1), rarity[has.argmax(axis=1)], len(FINDINGS))  # last column where there is none
    order = rng.permutation(len(patients))
    assigned = np.empty(len(patients), dtype=int)
    for finding in [*rarity, len(FINDINGS)]:
        for group in order[rarest[order] == finding]:
            odds = wanted[:, finding].clip(min=0)
            if odds.sum() == 0:  # all have what they wanted: a group larger than its share came before
                odds = fractions
            part = min(np.searchsorted(odds.cumsum(), rng.random() * odds.sum(), side="right"), len(names) - 1)
            assigned[group] = part
            wanted[part] -= counts[group]
    return names[assigned[codes]].astype(object)
