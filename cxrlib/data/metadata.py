"""The tables that come with the radiographs: entries, boxes, official lists, expert labels.

Every reader takes the files as NIH, Kaggle and Google publish them, checks them and returns plain DataFrames. The
metadata of all 112,120 images, without the images, comes with the package torchxrayvision: `reference_entries`.
"""

import functools
import importlib.util
import re
import warnings
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.findings import FINDINGS, canonical, encode
from cxrlib.data.sources import image_root

BOX_FRAME = 1024  # the boxes are drawn in the coordinates of the published 1024 x 1024 pixel images

NIH_NAME = re.compile(r"(\d{8})_\d{3}\.png")  # the patient and the follow-up

# our column -> its names in the 2017 release, the v2020 release and Kaggle's sample
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
BOX_COLUMNS = {"image": ("Image Index",), "finding": ("Finding Label",)}
BOX_COLUMNS |= {"x": ("Bbox [x",), "y": ("y",), "w": ("w",), "h": ("h]",)}
_AGE_IN_YEARS = {"Y": 1.0, "M": 1 / 12, "D": 1 / 365.25}  # Kaggle's sample writes 060Y, 007M, 012D


def read_entries(csv_path: str | Path) -> pd.DataFrame:
    """The entries of a ``Data_Entry_2017*.csv`` or ``sample_labels.csv``: one row per image.

    Returns columns image, patient (int where all are numbers, else str), follow_up, age (years; NaN where it is not
    given), sex, view, width, height (pixels of the original), spacing_x, spacing_y (mm per pixel), labels (as in the
    file), and the fourteen findings as 0 / 1 (uint8). Optional columns that the file lacks are left out.
    Raises InputError for a missing file, missing columns, unusable labels, repeated or unsafe image names.
    """
    csv_path = Path(csv_path)
    entries = _select(csv_path, COLUMNS, NEEDED, "Data_Entry_2017*.csv or Kaggle's sample_labels.csv")
    if entries.empty:
        raise InputError(f"{csv_path} has a header and no row; expected one row per image")
    images, patients = entries["image"], entries["patient"]
    if len(unsafe := images[is_unsafe(images)]):
        raise InputError(f"{csv_path} names images {some(map(repr, unsafe))}; expected plain file names without a path")
    if len(repeated := images[images.duplicated()]):
        raise InputError(f"{csv_path} names {some(repeated)} more than once; expected one row per image")
    try:
        hot = encode(entries["labels"])
    except InputError as error:
        raise InputError(f"{csv_path}: {error}") from None
    if len(rows := np.flatnonzero(patients == "")):
        raise InputError(f"{csv_path} has no patient in row {some(rows)}; every image needs its Patient ID")
    entries["patient"] = _numbers_or_text(patients)
    if "age" in entries:
        entries["age"] = age_in_years(entries["age"])
    for name in {"follow_up", "width", "height", "spacing_x", "spacing_y"} & set(entries):
        entries[name] = pd.to_numeric(entries[name], errors="coerce")
    return entries.join(pd.DataFrame(hot, columns=list(FINDINGS), index=entries.index))


def read_boxes(csv_path: str | Path) -> pd.DataFrame:
    """The boxes of ``BBox_List_2017.csv``: columns image, finding, x, y, w, h in 1024-pixel image coordinates.

    x, y is the upper left corner. "Infiltrate" in the file becomes "Infiltration". Raises InputError for a missing
    file, missing columns, an unknown finding or a box without size.
    """
    csv_path = Path(csv_path)
    boxes = _select(csv_path, BOX_COLUMNS, BOX_COLUMNS, "BBox_List_2017.csv")
    try:
        boxes["finding"] = [canonical(name) for name in boxes["finding"]]
    except InputError as error:
        raise InputError(f"{csv_path}: {error}") from None
    boxes, bad = parse_numbers(boxes)
    if len(rows := np.flatnonzero(bad)):
        raise InputError(f"{csv_path} has a box without place or size in row {some(rows)}; expected x, y, w, h > 0")
    return boxes


def find_csv(folder: str | Path) -> Path:
    """The CSV of a data set's entries: ``Data_Entry_2017*.csv``, or Kaggle's ``sample_labels.csv``.

    Searches the folder (in kagglehub's cache: its newest version) and one level below.
    Raises InputError where there is none, or more than one.
    """
    folder = image_root(folder)
    for pattern in ("Data_Entry_2017*.csv*", "*/Data_Entry_2017*.csv*", "sample_labels.csv", "*/sample_labels.csv"):
        matches = sorted(folder.glob(pattern))
        if len(matches) > 1:
            raise InputError(f"{folder} contains {some(matches)}; choose one with csv_path")
        if matches:
            return matches[0]
    raise InputError(f"{folder} has neither Data_Entry_2017*.csv nor sample_labels.csv; name the CSV with csv_path")


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
            raise InputError(f"the lists in {folder} cannot be read ({error}); expected one name per line") from None
        both = lists["train_val"] & lists["test"]
        if both:
            raise InputError(f"the lists in {folder} both name {some(sorted(both))}; expected disjoint lists")
        return lists
    return None


def official_part(entries: pd.DataFrame, *folders: str | Path) -> pd.Series:
    """The official split of the entries: "train_val" or "test" for each.

    The lists are taken from `folders`. Where none has them and all images are NIH's, the 2,797 patients of the official
    test set, which come with the package, determine the split (it is by patient).
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
        is_test = entries["image"].isin(reference.loc[of_test, "image"])  # by image: patients may be text
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
    the file ("Airspace opacity"). Raises InputError for a missing file, missing columns or values besides YES and NO.
    """
    csv_path = Path(csv_path)
    table = read_csv(csv_path).rename(columns={"Image ID": "Image Index"})
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
        raise InputError("the package torchxrayvision, which contains NIH's metadata, is missing; pip install it")
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


def known_columns(table: pd.DataFrame, columns: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    """The columns of a table of text that are listed in `columns`, under our names, stripped of spaces."""
    found = {ours: next((name for name in theirs if name in table), None) for ours, theirs in columns.items()}
    return pd.DataFrame({ours: table[name].str.strip() for ours, name in found.items() if name})


def parse_numbers(boxes: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """The boxes with x, y, w, h as floats, and which of them lack a finite place or a positive size."""
    sides = ["x", "y", "w", "h"]
    boxes = boxes.assign(**{name: pd.to_numeric(boxes[name], errors="coerce").astype(float) for name in sides})
    return boxes, ~(np.isfinite(boxes[sides]).all(axis=1) & (boxes["w"] > 0) & (boxes["h"] > 0))


def is_unsafe(images: pd.Series) -> pd.Series:
    """Which names would leave their folder or control the terminal that prints them."""
    return images.str.contains(r"[/\\\x00-\x1f\x7f]") | images.isin(["", ".", ".."])


def age_in_years(column: pd.Series) -> pd.Series:
    """Ages as in NIH's CSV (58) and Kaggle's sample (058Y, 007M, 012D), in years; NaN for anything else."""
    distinct = pd.Series(column.unique(), dtype=str)
    parts = distinct.str.extract(r"^(?P<number>\d{1,9})(?P<unit>[YMD]?)$")
    years = pd.to_numeric(parts["number"]) * parts["unit"].replace("", "Y").map(_AGE_IN_YEARS)
    return column.map(dict(zip(distinct, years, strict=True))).astype(float)


def read_csv(path: Path) -> pd.DataFrame:
    """All columns of a CSV as text, nothing guessed; empty, unnamed columns dropped. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected a CSV of the data set (csv_path)")
    try:
        with warnings.catch_warnings():  # for a first row that is too long, pandas drops values with only a warning
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except pd.errors.ParserWarning:
        raise InputError(f"{path} has a row with more values than its header; expected one value per column") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as a CSV ({reason}); expected commas and UTF-8") from None
    return table.loc[:, [not str(name).startswith("Unnamed:") for name in table.columns]]


def _select(path: Path, columns: dict[str, tuple[str, ...]], needed: Iterable[str], published: str) -> pd.DataFrame:
    """The known columns of a CSV. Raises InputError where one of the needed is missing."""
    table = read_csv(path)
    known = known_columns(table, columns)
    missing = [columns[name][0] for name in needed if name not in known]
    if missing:
        has = some(table.columns, 12)
        raise InputError(f"{path} lacks the column {some(missing)} (it has {has}); expected the NIH's {published}")
    return known


def _numbers_or_text(column: pd.Series) -> pd.Series:
    return column.astype(np.int64) if column.str.fullmatch(r"\d{1,18}").all() else column
