"""The tables that come with the radiographs: entries, boxes, official lists, expert labels.

Every reader takes the files as NIH, Kaggle and Google ship them, checks them and returns plain DataFrames. The
metadata of all 112,120 images, without a single image, comes with the package torchxrayvision: `reference_entries`.
"""

import functools
import importlib.util
import warnings
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.findings import FINDINGS, canonical, encode
from cxrlib.data.sources import newest_version

BOX_FRAME = 1024  # the boxes are drawn in the coordinates of the published 1024 x 1024 pixel images

# column of ours -> its names in the 2017 release, the v2020 release and Kaggle's sample
COLUMNS = {
    "image": ("Image Index",),
    "labels": ("Finding Labels",),
    "patient": ("Patient ID",),
    "follow_up": ("Follow-up #",),
    "age": ("Patient Age",),
    "sex": ("Patient Gender", "Patient Sex"),
    "view": ("View Position",),
    "width": ("OriginalImage[Width", "OriginalImageWidth"),
    "height": ("Height]", "OriginalImageHeight"),
    "spacing_x": ("OriginalImagePixelSpacing[x", "OriginalImagePixelSpacing_x"),
    "spacing_y": ("y]", "OriginalImagePixelSpacing_y"),
}
NEEDED = ("image", "labels", "patient")
UNSAFE_NAME = r"[/\\\x00-\x1f\x7f]"  # would leave its folder, or speak to the terminal that prints it
_AGE_IN_YEARS = {"Y": 1.0, "M": 1 / 12, "D": 1 / 365.25}  # Kaggle's sample writes 060Y, 007M, 012D


def read_entries(csv_path: str | Path) -> pd.DataFrame:
    """The entries of a ``Data_Entry_2017*.csv`` or ``sample_labels.csv``: one row an image.

    Returns columns image, patient (int where all are numbers, else str), follow_up, age (years; NaN where it is not
    given), sex, view, width, height (pixels of the original), spacing_x, spacing_y (mm a pixel), labels (as written),
    and the fourteen findings as 0 / 1 (uint8). Optional columns that the file lacks are left out.
    Raises InputError for a missing file, missing columns, unusable labels, repeated or unsafe image names.
    """
    csv_path = Path(csv_path)
    table = _read_csv(csv_path)
    found = {ours: next((c for c in theirs if c in table.columns), None) for ours, theirs in COLUMNS.items()}
    missing = [COLUMNS[ours][0] for ours in NEEDED if found[ours] is None]
    if missing:
        raise InputError(
            f"{csv_path} lacks the column {some(missing)} (it has {some(table.columns, 12)}); "
            "expected the NIH's Data_Entry_2017*.csv or Kaggle's sample_labels.csv"
        )
    if table.empty:
        raise InputError(f"{csv_path} holds a header and no row; expected one row an image")
    entries = pd.DataFrame({ours: table[theirs].str.strip() for ours, theirs in found.items() if theirs})
    _check_images(entries["image"], csv_path)
    try:
        hot = encode(entries["labels"])
    except InputError as error:
        raise InputError(f"{csv_path}: {error}") from None
    if (entries["patient"] == "").any():
        rows = np.flatnonzero(entries["patient"] == "")
        raise InputError(f"{csv_path} names no patient in row {some(rows)}; every image needs its Patient ID")
    entries["patient"] = _numbers_or_text(entries["patient"])
    if "age" in entries:
        entries["age"] = age_in_years(entries["age"])
    for name in {"follow_up", "width", "height", "spacing_x", "spacing_y"} & set(entries):
        entries[name] = pd.to_numeric(entries[name], errors="coerce")
    return entries.join(pd.DataFrame(hot, columns=list(FINDINGS), index=entries.index))


def read_boxes(csv_path: str | Path) -> pd.DataFrame:
    """The boxes of ``BBox_List_2017.csv``: columns image, finding, x, y, w, h in 1024-pixel image coordinates.

    x, y is the upper left corner. The file's "Infiltrate" is our "Infiltration". Raises InputError for a missing
    file, missing columns, an unknown finding or a box without size.
    """
    csv_path = Path(csv_path)
    table = _read_csv(csv_path)
    columns = {"Image Index": "image", "Finding Label": "finding", "Bbox [x": "x", "y": "y", "w": "w", "h]": "h"}
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(
            f"{csv_path} lacks the column {some(missing)} (it has {some(table.columns, 12)}); "
            "expected the NIH's BBox_List_2017.csv"
        )
    boxes = table[list(columns)].rename(columns=columns)
    try:
        boxes["finding"] = [canonical(name) for name in boxes["finding"]]
    except InputError as error:
        raise InputError(f"{csv_path}: {error}") from None
    for name in ("x", "y", "w", "h"):
        boxes[name] = pd.to_numeric(boxes[name], errors="coerce").astype(float)
    whole = np.isfinite(boxes[["x", "y", "w", "h"]]).all(axis=1)
    bad = np.flatnonzero(~(whole & (boxes["w"] > 0) & (boxes["h"] > 0)))
    if len(bad):
        raise InputError(f"{csv_path} holds a box without place or size in row {some(bad)}; expected x, y, w, h > 0")
    return boxes


def find_csv(folder: str | Path) -> Path:
    """The entries' CSV of a data set folder: ``Data_Entry_2017*.csv``, or Kaggle's ``sample_labels.csv``.

    Looked for in the folder (in its newest version, where it is one of kagglehub's cache) and one level below.
    Raises InputError where there is none, or more than one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected one with the radiographs and their Data_Entry_2017*.csv")
    folder = newest_version(folder)
    for pattern in ("Data_Entry_2017*.csv*", "*/Data_Entry_2017*.csv*", "sample_labels.csv", "*/sample_labels.csv"):
        matches = sorted(folder.glob(pattern))
        if len(matches) > 1:
            raise InputError(f"{folder} holds {some(matches)}; choose one with csv_path")
        if matches:
            return matches[0]
    raise InputError(f"{folder} holds neither Data_Entry_2017*.csv nor sample_labels.csv; name the CSV with csv_path")


def read_lists(*folders: str | Path) -> dict[str, frozenset[str]] | None:
    """The official lists from the first folder that holds both: {"train_val": names, "test": names}; else None.

    Raises InputError where the two lists name the same image.
    """
    for folder in map(Path, folders):
        paths = {part: folder / f"{part}_list.txt" for part in ("train_val", "test")}
        if not all(path.is_file() for path in paths.values()):
            continue
        try:
            lists = {part: frozenset(path.read_text(encoding="utf-8-sig").split()) for part, path in paths.items()}
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"the lists in {folder} cannot be read ({error}); expected one image name a line"
            ) from None
        both = lists["train_val"] & lists["test"]
        if both:
            raise InputError(f"the lists in {folder} both name {some(sorted(both))}; expected disjoint lists")
        return lists
    return None


def official_part(entries: pd.DataFrame, *folders: str | Path) -> pd.Series:
    """Part of each entry by the official lists: "train_val" or "test".

    The lists are taken from `folders`; where none is there and all images are NIH's, from the package, which knows the
    2,797 patients of the official test part (the lists are disjoint by patient, so these say all).
    Raises InputError where neither applies, or where the lists do not name an image.
    """
    lists = read_lists(*folders)
    if lists is None:
        reference = reference_entries()
        if not entries["image"].isin(reference["image"]).all():
            raise InputError(
                f"no official lists (train_val_list.txt and test_list.txt) in {some(folders) or 'any folder'}, and not "
                "all images are NIH's; put the lists there or split by patient (split=patient)"
            )
        test_patients = resources.files("cxrlib.data").joinpath("official_test_patients.txt").read_text().split()
        of_test = reference["patient"].isin([int(patient) for patient in test_patients])
        is_test = entries["image"].isin(reference.loc[of_test, "image"])  # by image: the CSV's patients may be text
    else:
        is_test = entries["image"].isin(lists["test"])
        unnamed = entries.loc[~is_test & ~entries["image"].isin(lists["train_val"]), "image"]
        if len(unnamed):
            raise InputError(
                f"the official lists name neither part for {some(unnamed)}; leave these out or use split=patient"
            )
    return pd.Series(np.where(is_test, "test", "train_val"), index=entries.index, name="official")


def read_expert_labels(csv_path: str | Path) -> pd.DataFrame:
    """Radiologists' labels (Nabulsi et al. 2021, 14 findings; Majkowska et al. 2019, four): image, patient, findings.

    The findings are 1 for YES and 0 for NO (uint8), named as in FINDINGS where they are among the fourteen, else as in
    the file ("Airspace opacity"). Raises InputError for a missing file, missing columns or another value than YES / NO.
    """
    csv_path = Path(csv_path)
    table = _read_csv(csv_path).rename(columns={"Image ID": "Image Index"})
    yes_no = [name for name in table.columns if len(table) and table[name].isin(["YES", "NO"]).all()]
    half = [name for name in table.columns if name not in yes_no and table[name].isin(["YES", "NO"]).any()]
    if not {"Image Index", "Patient ID"} <= set(table.columns) or not yes_no or half:
        what = f"other values than YES and NO in {some(half)}" if half else f"the columns {some(table.columns, 12)}"
        raise InputError(f"{csv_path} has {what}; expected an image, a Patient ID and YES / NO findings")
    labels = pd.DataFrame({"image": table["Image Index"], "patient": _numbers_or_text(table["Patient ID"])})
    by_name = {name.replace("_", " "): name for name in FINDINGS}
    for name in yes_no:
        labels[by_name.get(name, name)] = (table[name] == "YES").astype(np.uint8)
    return labels


@functools.cache
def _reference_file(name: str) -> Path:
    # find_spec does not import the package, which would take seconds and load torch
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None:
        raise InputError("the package torchxrayvision, which carries NIH's metadata, is missing; pip install it")
    return Path(spec.submodule_search_locations[0]) / "data" / name


@functools.cache
def _reference_entries() -> pd.DataFrame:
    return read_entries(_reference_file("Data_Entry_2017_v2020.csv.gz"))


def reference_entries() -> pd.DataFrame:
    """The entries of all 112,120 images (release v2020), from the package torchxrayvision: no image, no network."""
    return _reference_entries().copy()


def reference_boxes() -> pd.DataFrame:
    """All 984 boxes of NIH's BBox_List_2017.csv, from the package torchxrayvision, as `read_boxes` returns them."""
    return read_boxes(_reference_file("BBox_List_2017.csv.gz"))


def reference_expert_labels() -> pd.DataFrame:
    """Four findings of 4,376 images as three radiologists read them (Majkowska et al. 2019), from the same package."""
    return read_expert_labels(_reference_file("google2019_nih-chest-xray-labels.csv.gz"))


def _read_csv(path: Path) -> pd.DataFrame:
    """All columns as text, nothing guessed; empty, unnamed columns dropped."""
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected a CSV of the data set (csv_path)")
    try:
        with warnings.catch_warnings():  # pandas would cut values off the first row with no more than a warning
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except pd.errors.ParserWarning:
        raise InputError(f"{path} has a row with more values than its header; expected one value a column") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as a CSV ({reason}); expected commas and UTF-8") from None
    return table.loc[:, [not str(name).startswith("Unnamed:") for name in table.columns]]


def _check_images(images: pd.Series, csv_path: Path) -> None:
    unsafe = images[images.str.contains(UNSAFE_NAME) | images.isin(["", ".", ".."])]
    if len(unsafe):
        raise InputError(f"{csv_path} names images {some(map(repr, unsafe))}; expected plain file names without a path")
    repeated = images[images.duplicated()]
    if len(repeated):
        raise InputError(f"{csv_path} names {some(repeated)} more than once; expected one row an image")


def _numbers_or_text(column: pd.Series) -> pd.Series:
    return column.astype(np.int64) if column.str.fullmatch(r"\d{1,18}").all() else column


def age_in_years(column: pd.Series) -> pd.Series:
    """Ages as NIH (58) and Kaggle's sample (058Y, 007M, 012D) write them, in years; NaN for anything else."""
    distinct = pd.Series(column.unique(), dtype=str)
    parts = distinct.str.extract(r"^(?P<number>\d{1,9})(?P<unit>[YMD]?)$")
    years = pd.to_numeric(parts["number"]) * parts["unit"].replace("", "Y").map(_AGE_IN_YEARS)
    return column.map(dict(zip(distinct, years, strict=True))).astype(float)
