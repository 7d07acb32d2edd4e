"""Splits into train, val and test by patient, by the official lists, or by image to show leakage; nested subsets."""

import hashlib
from collections.abc import Iterable
from itertools import permutations

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, nearest, some
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import NIH_NAME, nih_patient, official_part

PARTS = ("train", "val", "test")
KINDS = ("official", "patient", "image")
FRACTIONS = (0.7, 0.1, 0.2)
Parts = dict[str, list[str]]  # "train" and "val" -> image names


def split(
    entries: pd.DataFrame, kind: str = "patient", seed: int = 0, fractions: tuple = FRACTIONS, lists_in: Iterable = ()
) -> pd.DataFrame:
    """The entries with a column part: "train", "val" or "test", each with its share of rare findings.

    kind: "patient" assigns each patient to one part; "official" takes test from NIH's lists (in one of the folders
    `lists_in`, else those built into the package) and splits the rest by patient; "image" ignores the patients, to show
    leakage. fractions: of the images in train, val and test; for "official" the ratio of the first two matters.
    Raises InputError for an unknown kind, or fractions that are not three shares above 0 that add up to 1.
    """
    if kind not in KINDS:
        raise InputError(f"unknown split {kind!r}; expected one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"fractions {fractions} cannot be used; expected three shares above 0 that add up to 1")
    part = pd.Series("", index=entries.index)
    if kind == "official":
        part, fractions = official_part(entries, *lists_in).replace("train_val", ""), fractions[:2]
    rest = part == ""
    part[rest] = _stratify(entries[rest], "image" if kind == "image" else "patient", np.array(fractions), seed)
    return entries.assign(part=part)


def subset(entries: pd.DataFrame, part: str, size: int, seed: int = 0) -> pd.DataFrame:
    """At most `size` images of a part (0: all), of whole patients unless the first has more; larger contain smaller."""
    chosen = entries[entries["part"] == part]
    if size == 0 or size >= len(chosen):
        return chosen
    # grouping sorts by patient, so that the order of the rows does not matter
    counts = chosen.groupby("patient").size().sample(frac=1, random_state=seed)
    kept = counts.index[counts.cumsum() <= size]
    if len(kept) == 0:
        return chosen[chosen["patient"] == counts.index[0]].sort_values("image").head(size)
    return chosen[chosen["patient"].isin(kept)]


def subsets(entries: pd.DataFrame, train: int = 0, val: int = 0, test: int = 0, seed: int = 0) -> pd.DataFrame:
    """All three parts, each reduced by `subset`; prints which have fewer images than asked for."""
    sizes = {"train": train, "val": val, "test": test}
    counts = entries["part"].value_counts()
    if few := [f"{counts[part]:,} of the {n:,} {part} images" for part, n in sizes.items() if counts.get(part, n) < n]:
        print(f"the data set has only {' and '.join(few)} asked for; all of them are used")
    return pd.concat([subset(entries, part, size, seed) for part, size in sizes.items()])


def leakage(entries: pd.DataFrame) -> pd.DataFrame:
    """Of val and test: images, patients, patients_in_train, images_leaked (of those patients), share_leaked (0-1)."""
    in_train = entries["patient"].isin(entries.loc[entries["part"] == "train", "patient"])
    of_part = entries.assign(leaked=entries["patient"].where(in_train)).groupby("part")
    table = of_part.agg(images=("patient", "size"), patients=("patient", "nunique"),
                        patients_in_train=("leaked", "nunique"), images_leaked=("leaked", "count"))  # fmt: skip
    table = table.reindex(["val", "test"], fill_value=0).rename_axis(None)
    return table.assign(share_leaked=table["images_leaked"] / table["images"])


def remembered(entries: pd.DataFrame, kind: str, earlier: Parts | None = None, source: str = "the checkpoint") -> Parts:
    """What a checkpoint has seen, with the parts of an `earlier` one.

    Raises InputError where this one (`source`) has trained on patients of val or test, or was chosen on those of test.
    """
    parts = {part: set(entries.loc[entries["part"] == part, "image"]) for part in ("train", "val")}
    if earlier is not None:
        before = _seen(entries, earlier, kind)
        seen = (before == "train") & (entries["part"] != "train") | (before == "val") & (entries["part"] == "test")
        if seen.any():
            those = f"{seen.sum():,} images, or of their patients, that are held out here"
            shown = some(entries.loc[seen, "image"], 3)
            raise InputError(f"{source} learned from {those} ({shown}); expected the split and seed of its training")
        parts["train"] |= set(earlier["train"])
        parts["val"] |= set(earlier["val"]) - parts["train"]
    return {part: sorted(names) for part, names in parts.items()}


def united(parts: dict[str, Parts], kind: str) -> Parts:
    """What several models of one split have seen together, from {model: `remembered`}.

    Raises InputError where one learned from a patient (by NIH's names) or image that is validation for another or,
    except for kind "official", whose test part is the same for all, test.
    """

    def known(names: list[str]) -> set[str]:
        images = pd.Series(names, dtype=str)
        return set(images if kind == "image" else nih_patient(images).fillna(images))

    seen = {model: {part: known(names) for part, names in each.items()} for model, each in parts.items()}
    for (one, ours), (other, theirs) in permutations(seen.items(), 2):
        held_out = ours["train"] & theirs["val"]
        if kind != "official":
            held_out |= (ours["train"] | ours["val"]) - theirs["train"] - theirs["val"]
        if held_out:
            whom = "images" if kind == "image" else "patients"
            raise InputError(f"{one} learned from {len(held_out):,} {whom} that {other} holds out, such as "
                             f"{some(sorted(held_out), 3)}; expected models of one split")  # fmt: skip
    return {part: sorted({name for each in parts.values() for name in each[part]}) for part in ("train", "val")}


def digest(*parts: pd.DataFrame) -> str:
    """16 hex digits of the images, patients and labels of some entries; the order of the rows does not matter."""
    tables = (entries[["image", "patient", *FINDINGS]].sort_values("image").to_csv(index=False) for entries in parts)
    return hashlib.sha256("".join(f"{table}\n\n" for table in tables).encode()).hexdigest()[:16]


def restore(entries: pd.DataFrame, parts: Parts, kind: str, lists_in: Iterable = ()) -> pd.DataFrame:
    """The entries with the `parts` that a checkpoint remembers, so that nothing it was trained on is evaluated.

    Other images of their patients, also by NIH's file names, go to the same part (not for kind "image"). All others
    are test where they are of the official test part or, for the other kinds, of the data set of the training (which
    shares images or patients with `parts`, and NIH's names); else "". Says which images of `parts` are missing, since
    their patients are then not recognized. Raises InputError as `split` does.
    """
    part = _seen(entries, parts, kind)
    new = part == ""
    if kind == "official":
        part[new] = official_part(entries[new], *lists_in).replace("train_val", "")
    elif not new.all():
        others = {name for name in parts["train"] + parts["val"] if not NIH_NAME.fullmatch(name)}
        part[new & (nih_patient(entries["image"]).notna() | bool(others))] = "test"
        lost = sorted(others - {*entries["image"], *entries["image"].str.rsplit("/").str[-1]})
        if lost and kind != "image":
            print(f"warning: {len(lost):,} images of the model's training are not in this table ({some(lost, 3)}); "
                  "other images of their patients are not recognized, and count as test")  # fmt: skip
    return entries.assign(part=part)


def _seen(entries: pd.DataFrame, parts: Parts, kind: str) -> pd.Series:
    """The part, "train" or "val", of which a checkpoint has seen the image or (by patient) its patient; else ""."""
    image, patient, part = entries["image"], entries["patient"], pd.Series("", index=entries.index)
    for name in ("val", "train"):  # train last, so that a patient in both is not evaluated
        seen = image.isin(parts[name]) | image.str.rsplit("/").str[-1].isin(parts[name])  # older models know no folder
        if kind != "image":
            numbers = nih_patient(pd.Series(parts[name], dtype=str)).dropna()
            seen = patient.isin(patient[seen]) | nih_patient(image).isin(numbers)
        part[seen] = name
    return part


def _stratify(entries: pd.DataFrame, by: str, fractions: np.ndarray, seed: int) -> np.ndarray:
    """Assign whole groups (patients) to parts, rarest finding first (after Sechidis et al. 2011): a part per entry."""
    rng = np.random.default_rng(seed)
    names = np.array(PARTS[: len(fractions)])
    codes, patients = pd.factorize(entries[by], sort=True)
    counts = np.zeros((len(patients), len(FINDINGS) + 1))  # images of each finding in a group; last column: images
    np.add.at(counts, codes, np.column_stack([entries[list(FINDINGS)].to_numpy(float) == 1, np.ones(len(entries))]))
    wanted = np.outer(fractions / fractions.sum(), counts.sum(axis=0))

    rarity = np.argsort(counts[:, :-1].sum(axis=0), kind="stable")
    has = counts[:, rarity] > 0
    rarest = np.where(has.any(axis=1), rarity[has.argmax(axis=1)], len(FINDINGS))  # last column: no finding
    order = rng.permutation(len(patients))
    assigned = np.empty(len(patients), dtype=int)
    for finding in [*rarity, len(FINDINGS)]:
        for group in order[rarest[order] == finding]:
            need = wanted[:, finding].clip(min=0)  # the greatest need would leave val and test patients of one image
            odds = need if need.any() else fractions  # no part needs more, after a group larger than its share
            part = np.searchsorted(odds[:-1].cumsum(), rng.random() * odds.sum(), side="right")
            assigned[group] = part
            wanted[part] -= counts[group]
    return names[assigned[codes]].astype(object)
