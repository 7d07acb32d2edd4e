"""Another hospital's table and radiographs: a labels.csv, CheXpert, MIMIC-CXR, PadChest, VinDr-CXR or Open-i."""

import glob
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import known_columns, read_csv, spelled
from cxrlib.data.sources import find_table, image_root

TABLES = ("labels.csv", "train.csv", "valid.csv", "mimic-cxr-*-chexpert.csv", "PADCHEST_*.csv", "image_labels_*.csv",
          "indiana_reports.csv")  # fmt: skip
COLUMNS = {
    "image": ("image", "Path", "dicom_id", "ImageID", "image_id", "filename"),
    "patient": ("patient", "subject_id", "PatientID", "uid", "Patient ID"),
    "view": ("view", "ViewPosition", "Projection", "projection", "AP/PA", "View Position"),
    "reader": ("rad_id", "rad_ID"),
    "terms": ("Labels", "class_name", "Problems"),
}
FRONTAL = ("", "PA", "AP", "AP_HORIZONTAL", "FRONTAL")  # "": not stated
_OTHERS = pd.read_csv(Path(__file__).with_name("terms.csv")).groupby("finding")["term"].apply(tuple)
# finding -> how it is called, in lower case: the name of a column, or a term of a list
TERMS = {name: (name.lower().replace("_", " "), *_OTHERS.get(name, ())) for name in FINDINGS}
_EITHER = "nodule/mass"  # of VinDr: 0 is 0 for both, 1 does not say which
_NO_STATEMENT = ("exclude", "unchanged", "suboptimal study", "nan", "")  # of PadChest
_REFUSED = {  # columns -> what the table is
    ("Finding Labels",): "in the layout of ChestX-ray14 itself, which cxr eval reads with --img_root",
    ("patientId", "Target"): "that of the RSNA challenge, whose images are all of ChestX-ray14",
    ("patientId", "class"): "that of the RSNA challenge, whose images are all of ChestX-ray14",
    ("ImageId", "EncodedPixels"): "that of the SIIM-ACR challenge, whose images are of ChestX-ray14",
}
_TRAINED_ON = {"xrv-chex": ("Path", "AP/PA"), "xrv-mimic": ("subject_id", "study_id"), "xrv-pc": ("ImageID", "Labels")}
_NIH = r"000(?:[0-2]\d{4}|30[0-7]\d{2}|3080[0-5])_\d{3}\b|1\.2\.276\.0\.7230010\.3\.1\.4\.8323329\."  # or SIIM's


def open_external(folder: str | Path, csv_path: str | Path = "", weights: str = "") -> tuple[pd.DataFrame, dict, str]:
    """Entries, images (name -> path) and a sentence on what was read and left out, of another hospital's folder.

    csv_path: "" for the table in the folder (`TABLES`). Entries have columns image (the file's name, or where the table
    gives a path its path), patient (text), view if there is one, and the fourteen findings as 1, 0, NaN (float32). In a
    column, empty and -1 (uncertain) are unknown, and all that the table asks is 0 where its "No finding" is 1; in a
    list of terms, a finding that is not named is 0 if the table names it anywhere. Of several readers the majority
    counts. Rows of stated other than frontal views, rows that say nothing, and those whose file does not lie below the
    folder, at the path or by the name of the table, with any suffix, are left out. Raises InputError where there is no
    table or no such image, for a table of NIH's images, or of those that `weights` (such as "xrv-chex") were trained
    on, one without an image column or any finding, and other values.
    """
    folder = image_root(folder)
    csv_path = Path(csv_path) if str(csv_path) else find_table(folder, *TABLES)
    entries, said = read_external(csv_path, weights)
    if entries.empty:
        raise InputError(f"{csv_path} leaves no radiograph ({said}); expected frontal ones, with a label")
    files = _files(folder)
    paths = pd.Series([_find(name, files) for name in entries["image"]], dtype=object)
    found = paths.notna()
    if not found.any():
        raise InputError(f"none of the {len(entries):,} images of {csv_path} ({some(entries['image'], 3)}) lies below "
                         f"{folder}; expected them by the name, or the path, that the table gives")  # fmt: skip
    stated = zip(entries.loc[found, "image"], paths[found], strict=True)  # not named by which other rows there are
    names = [path.relative_to(folder).as_posix() if re.search(r"[/\\]", name) else path.name for name, path in stated]
    if twice := [path.name for path, count in Counter(paths[found]).items() if count > 1]:
        raise InputError(f"{csv_path} names {some(twice)} more than once; expected one row per image, or per reader")
    lost = entries.loc[~found, "image"]
    entries = entries[found].assign(image=names).reset_index(drop=True)
    known = [f"{name} {n:,}" for name, n in entries[list(FINDINGS)].notna().sum().items() if n]
    counts = f"{len(entries):,} radiographs of {entries['patient'].nunique():,} patients"
    left_out = f"{len(lost):,} rows without an image left out ({some(lost, 3)})" if len(lost) else ""
    said = "; ".join(filter(None, (counts, f"known labels: {some(known, 14)}", said, left_out)))
    return entries, dict(zip(names, paths[found], strict=True)), said


def read_external(csv_path: str | Path, weights: str = "") -> tuple[pd.DataFrame, str]:
    """The entries of a table, with image as it stands there, and a sentence on how it was read; of no file is asked."""
    table = _joined(Path(csv_path), read_csv(csv_path).rename(columns=str.strip))
    known = known_columns(table, COLUMNS)
    _refuse(csv_path, table, known, weights)
    if {"Frontal/Lateral", "Path"} & set(table):  # CheXpert, which may name the view in the path alone
        named = known["image"].str.extract(r"_(frontal|lateral)\.", expand=False).fillna("")
        side = table.get("Frontal/Lateral", named).str.upper()
        known["view"] = known.get("view", side).where(side != "LATERAL", side)
        known["patient"] = known.get("patient", known["image"].str.extract(r"(patient\d+)", expand=False))
    if "terms" in known and known["image"].duplicated().any():  # a row per box
        known = known.groupby([*known.columns.drop("terms")], as_index=False, dropna=False)["terms"].agg(";".join)
    labels = _from_terms(known["terms"]) if "terms" in known else _from_columns(csv_path, table)
    if not labels.notna().any(axis=None):
        raise InputError(f"{csv_path} gives no label of the fourteen findings (it has {some(table.columns, 12)}); "
                         f"expected columns such as {some(FINDINGS[:2])}, with 1, 0 or empty")  # fmt: skip
    entries = known[[name for name in ("image", "patient", "view") if name in known]].join(labels)
    if "reader" in known:
        yes, no = ((labels == value).groupby(known["image"]).mean() > 0.5 for value in (1, 0))
        labels, once = yes.astype(np.float32).where(yes | no), known.drop_duplicates("image")
        entries = once.drop(columns=["reader", "terms"], errors="ignore").join(labels, on="image", sort=True)
    patient = entries.get("patient", pd.Series("", entries.index)).fillna("").replace("nan", "")
    entries["patient"] = patient.where(patient != "", entries["image"])
    silent = entries[list(FINDINGS)].isna().all(axis=1)
    if "view" in entries:
        entries["view"] = spelled(entries["view"])
    frontal = entries["view"].str.upper().isin(FRONTAL) if "view" in entries else pd.Series(True, entries.index)
    counted = {"name no patient and count as a patient each": patient == ""}
    counted |= {"of other than frontal views left out": ~frontal, "of no known label left out": frontal & silent}
    said = "; ".join(f"{rows.sum():,} rows {what}" for what, rows in counted.items() if rows.any())
    return entries[frontal & ~silent].reset_index(drop=True), said


def _joined(csv_path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """One row per image where the table has one per study (MIMIC-CXR) or report (Open-i)."""
    table = table.drop(columns="image", errors="ignore") if "MeSH" in table else table  # Open-i's is a text
    for keys, pattern in ((["subject_id", "study_id"], "mimic-cxr-*-metadata.csv*"),
                          (["uid"], "indiana_projections.csv*")):  # fmt: skip
        if set(keys) <= set(table) and "image" not in known_columns(table, COLUMNS):
            if not (beside := sorted(csv_path.parent.glob(pattern))):
                raise InputError(f"{csv_path} names no image; expected {pattern} beside it, which does")
            return table.merge(read_csv(beside[0]), on=keys, suffixes=("", " beside"))
    return table


def _refuse(csv_path: Path, table: pd.DataFrame, known: pd.DataFrame, weights: str) -> None:
    """Raise InputError for images that the model may have seen, and for a row without one."""
    seen = {_TRAINED_ON.get(weights): f"that of the images on which the weights {weights} were trained"}
    for columns, what in (_REFUSED | seen).items():
        if columns and set(columns) <= set(table):
            raise InputError(f"the table {csv_path} is {what}; expected another hospital, which shares no patient")
    if "image" not in known or known.empty or (known["image"] == "").any():
        raise InputError(f"{csv_path} has no image, or a row without one; expected one of the columns "
                         f"{some(COLUMNS['image'], 6)} (it has {some(table.columns, 12)})")  # fmt: skip
    if len(unsafe := known["image"][known["image"].str.contains(r"[\x00-\x1f\x7f]")]):
        raise InputError(f"{csv_path} names images {some(map(repr, unsafe))}; expected printable names")
    if len(nih := known["image"][known["image"].str.contains(rf"(?:^|[/\\])(?:{_NIH})")]):
        raise InputError(f"{csv_path} names {some(nih, 3)}, of ChestX-ray14 (or SIIM-ACR, which took them from it); "
                         "expected another hospital, which shares no patient")  # fmt: skip


def _from_columns(csv_path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Labels (rows, 14) of a table with a column per finding."""
    own = {name.lower().replace("_", " "): table[name].str.strip() for name in table}
    if len(own) < table.shape[1]:
        raise InputError(f"{csv_path} has two columns for one name ({some(table.columns, 20)}); expected one for each")
    healthy = pd.to_numeric(own.get("no finding", pd.Series("", table.index)), errors="coerce") == 1

    def numbers(term: str) -> pd.Series:
        values = pd.to_numeric(own[term], errors="coerce")
        wrong = ~values.isin([0, 1, -1]) & ~own[term].str.lower().isin(["", "nan"])
        if wrong.any():
            raise InputError(f"{csv_path} has {own[term][wrong].iloc[0]!r} for {term!r} in row {wrong.idxmax()}, "
                             "counted from 0; expected 1, 0, empty, or -1 for uncertain")  # fmt: skip
        return values.mask(healthy & (values != 1), 0)

    labels = pd.DataFrame(index=table.index)
    for finding, terms in TERMS.items():
        each = pd.DataFrame({term: numbers(term) for term in terms if term in own}, table.index)
        labels[finding] = each.max(axis=1).where((each != -1).all(axis=1) | (each == 1).any(axis=1)).astype(np.float32)
    if _EITHER in own:
        for finding in ("Mass", "Nodule"):
            labels.loc[(numbers(_EITHER) == 0) & labels[finding].isna(), finding] = 0
    return labels


def _from_terms(lists: pd.Series) -> pd.DataFrame:
    """Labels (rows, 14) of lists of terms, such as "['nodule', 'scoliosis']" or "Cardiomegaly;Nodule/Mass"."""
    lists = lists.str.lower().str.replace(r"[\[\]']", "", regex=True).str.split(r"[;,|]", regex=True)
    terms = lists.explode().str.strip()
    labels = {}
    for finding, words in TERMS.items():
        named, both = terms.isin(words), (terms == _EITHER) & (finding in ("Mass", "Nodule"))
        rows, open_ = (each.groupby(level=0).any() for each in (named, both))
        known = named.any() or both.any()
        labels[finding] = rows.astype(np.float32).where(rows | ~open_) if known else np.float32(np.nan)
    return pd.DataFrame(labels, lists.index).mask(terms.isin(_NO_STATEMENT).groupby(level=0).any())


def _files(folder: Path) -> dict[str, Path | None]:
    """Every file below a folder by its path, by "*/" and its name, and both without suffix; None: one of several."""
    files = {}
    below = glob.iglob(f"{glob.escape(str(folder))}/**", recursive=True)  # which follows links to folders
    for path in filter(Path.is_file, map(Path, below)):
        place = path.relative_to(folder).as_posix()
        for key in {place, f"*/{path.name}", _bare(place), f"*/{_bare(path.name)}"}:
            files[key] = path if key not in files else None
    return files


def _find(name: str, files: dict[str, Path | None]) -> Path | None:
    """The file of an image of the table: by as much of its path as fits, in "images", or a bare name anywhere."""
    parts = name.replace("\\", "/").split("/")
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    tails += [f"images/{parts[-1]}", f"*/{name}"]  # masks may have the same names
    return next((files[key] for tail in tails for key in (tail, _bare(tail)) if files.get(key)), None)


def _bare(name: str) -> str:
    return re.sub(r"\.(png|jpe?g|dcm|dicom)$", "", name, flags=re.IGNORECASE)
