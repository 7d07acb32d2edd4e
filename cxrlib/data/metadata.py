"""The tables beside the radiographs, as NIH, Kaggle and Google publish them: entries, boxes, lists, expert labels."""

import functools
import gzip
import importlib.util
import io
import re
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.findings import FINDINGS, canonical, encode
from cxrlib.data.sources import find_beside, find_table, image_root

BOXES = "BBox_List_2017.csv"
# find_spec does not import the package, which would take seconds and load torch
REFERENCE = Path(importlib.util.find_spec("torchxrayvision").submodule_search_locations[0], "data")
BOX_FRAME = 1024  # the boxes are drawn in the coordinates of the published 1024 x 1024 pixel images

NIH_NAME = re.compile(r"(\d{8})_\d{3}\.png")  # the patient and the follow-up
UNSAFE = r"[/\\\x00-\x1f\x7f]|^\.{0,2}$"  # a name that would leave its folder or control the terminal that prints it

# our column -> its names in the 2017 release, the v2020 release and Kaggle's sample, but for case and punctuation
NEEDED = {"image": ("Image Index",), "labels": ("Finding Labels",), "patient": ("Patient ID",)}
COLUMNS = NEEDED | {
    "follow_up": ("Follow-up #",),
    "age": ("Patient Age",),
    "sex": ("Patient Gender", "Patient Sex"),
    "view": ("View Position",),
    "width": ("OriginalImage[Width",),
    "height": ("Height]", "OriginalImageHeight"),
    "spacing_x": ("OriginalImagePixelSpacing[x",),
    "spacing_y": ("y]", "OriginalImagePixelSpacing_y"),
}
# sexes and views that mean the same, but for case and punctuation
_SPELLED = {"f": "F", "female": "F", "w": "F", "woman": "F", "m": "M", "male": "M", "man": "M", "portableap": "AP"}
_SPELLED |= {view + how: "PA" for view in ("pa", "posteroanterior") for how in ("", "erect")}
_SPELLED |= {view + how: "AP" for view in ("ap", "anteroposterior") for how in ("", "erect", "supine", "portable")}
BOX_COLUMNS = {"image": ("Image Index",), "finding": ("Finding Label",), "x": ("Bbox [x",)} | {s: (s,) for s in "ywh"}
_A_CSV = "a CSV of the data set with commas, in UTF-8 (csv_path)"
_AGE_IN_YEARS = {"Y": 1.0, "M": 1 / 12, "D": 1 / 365.25}  # Kaggle's sample writes 060Y, 007M, 012D


def read_entries(csv_path: str | Path) -> pd.DataFrame:
    """The entries of a ``Data_Entry_2017*.csv`` or ``sample_labels.csv``: one row per image.

    Returns columns image, patient (int where all are numbers, else str), labels (as in the file), the fourteen findings
    as 0 / 1 (uint8), and those of follow_up, age (years or NaN), sex (M, F), view (PA, AP; other values as they are),
    width, height (pixels of the original), spacing_x, spacing_y (mm per pixel) that the file has.
    Raises InputError for a missing file, missing columns, unusable labels, repeated or unsafe image names.
    """
    entries = _select(csv_path, COLUMNS, NEEDED, "Data_Entry_2017*.csv or Kaggle's sample_labels.csv")
    if entries.empty:
        raise InputError(f"{csv_path} has a header and no row; expected one row per image")
    images, patients = entries["image"], entries["patient"]
    if len(unsafe := images[images.str.contains(UNSAFE)]):
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
    for name in {"sex", "view"} & set(entries):
        entries[name] = spelled(entries[name])
    for name in {"follow_up", "width", "height", "spacing_x", "spacing_y"} & set(entries):
        entries[name] = pd.to_numeric(entries[name], errors="coerce")
    return entries.join(pd.DataFrame(hot, columns=list(FINDINGS), index=entries.index))


def read_boxes(csv_path: str | Path) -> pd.DataFrame:
    """Boxes as in BBox_List_2017.csv: image, finding, x, y (upper left), w, h of 1024 pixels; InputError otherwise."""
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
    """Data_Entry_2017*.csv or Kaggle's sample_labels.csv, also packed, in a folder or one below; InputError if none."""
    names = "Data_Entry_2017*.csv", "*/Data_Entry_2017*.csv", "sample_labels.csv", "*/sample_labels.csv"
    return find_table(image_root(folder), *names)


def read_lists(*folders: str | Path) -> dict[str, set[str]] | None:
    """{"train_val": names, "test": names} of the first folder with both lists, or None; InputError if they overlap."""
    for folder in folders:
        paths = {part: find_beside(f"{part}_list.txt", folder) for part in ("train_val", "test")}
        if all(paths.values()):
            lists = {part: set(read_lines(path)) for part, path in paths.items()}
            if both := sorted(lists["train_val"] & lists["test"]):
                raise InputError(f"the lists in {folder} both name {some(both)}; expected disjoint lists")
            return lists
    return None


def official_part(entries: pd.DataFrame, *folders: str | Path) -> pd.Series:
    """The official split, "train_val" or "test" for each entry, by the lists in one of the folders.

    Without them, the package's own list of the 2,797 patients of NIH's test set decides. InputError for other images.
    """
    lists = read_lists(*folders)
    if lists is None:
        nih = reference_entries()
        of_test = nih["patient"].isin(np.loadtxt(Path(__file__).with_name("official_test_patients.txt"), dtype=int))
        lists = {"train_val": nih["image"][~of_test], "test": nih["image"][of_test]}
    of_image = {image: part for part, listed in lists.items() for image in listed}
    part = entries["image"].map(of_image).rename("official")
    if len(unnamed := entries.loc[part.isna(), "image"]):
        raise InputError(f"the official lists name neither part for {some(unnamed)}; put train_val_list.txt and "
                         "test_list.txt of this data set into img_root, or take split=patient")  # fmt: skip
    in_test = entries["patient"].isin(entries.loc[part == "test", "patient"])
    if len(both := entries.loc[in_test & (part != "test"), "patient"].unique()):
        raise InputError(f"the official lists put images of the patients {some(both)} on both sides; expected each "
                         "patient in one list, or take split=patient")  # fmt: skip
    return part


def read_expert_labels(csv_path: str | Path) -> pd.DataFrame:
    """Radiologists' labels (Nabulsi et al. 2021, 14 findings; Majkowska et al. 2019, four): image, patient, findings.

    These are 0 or 1 (uint8), and may be others than the fourteen ("Airspace opacity"). InputError for another table.
    """
    table = read_csv(csv_path).rename(columns={"Image ID": "Image Index"})
    known = table.isin(["YES", "NO"])
    yes_no, half = table.columns[known.all() & known.any()], table.columns[known.any() & ~known.all()]
    if not {"Image Index", "Patient ID"} <= set(table.columns) or yes_no.empty or len(half):
        what = f"values besides YES and NO in {some(half)}" if len(half) else f"the columns {some(table.columns, 12)}"
        raise InputError(f"{csv_path} has {what}; expected an image, a Patient ID and YES / NO findings")
    if len(repeated := table["Image Index"][table["Image Index"].duplicated()]):
        raise InputError(f"{csv_path} names {some(repeated)} more than once; expected one row per image")
    spaced = {name.replace("_", " "): name for name in FINDINGS}
    labels = (table[yes_no] == "YES").astype(np.uint8).rename(columns=spaced)
    return pd.DataFrame({"image": table["Image Index"], "patient": _numbers_or_text(table["Patient ID"])}).join(labels)


_read_once = functools.cache(read_entries)


def reference_entries() -> pd.DataFrame:
    """The entries of all 112,120 images (release v2020), from the package torchxrayvision: no image, no network."""
    return _read_once(REFERENCE / "Data_Entry_2017_v2020.csv.gz").copy()


def reference_boxes() -> pd.DataFrame:
    """All 984 boxes of NIH's BBox_List_2017.csv, from the package torchxrayvision, as `read_boxes` returns them."""
    return read_boxes(REFERENCE / "BBox_List_2017.csv.gz")


def reference_expert_labels() -> pd.DataFrame:
    """Four findings of 4,376 images as three radiologists read them (Majkowska et al. 2019), from the same package."""
    return read_expert_labels(REFERENCE / "google2019_nih-chest-xray-labels.csv.gz")


def known_columns(table: pd.DataFrame, columns: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    """The columns of a table of text that `columns` lists, but for case and punctuation, under our names."""
    there = {_plain(name): name for name in reversed(table.columns)}
    found = ((ours, there.get(_plain(name))) for ours, theirs in columns.items() for name in reversed(theirs))
    return pd.DataFrame({ours: table[name].str.strip() for ours, name in found if name})


def parse_numbers(boxes: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """The boxes with x, y, w, h as floats, and which of them lack a finite place or a positive size."""
    sides = ["x", "y", "w", "h"]
    boxes = boxes.assign(**{name: pd.to_numeric(boxes[name], errors="coerce").astype(float) for name in sides})
    return boxes, ~(np.isfinite(boxes[sides]).all(axis=1) & (boxes["w"] > 0) & (boxes["h"] > 0))


def nih_patient(images: pd.Series) -> pd.Series:
    """The patient in each name such as "00000013_005.png", as text; missing for names that are not NIH's."""
    return images.where(images.str.fullmatch(NIH_NAME)).str[:8]


def age_in_years(column: pd.Series) -> pd.Series:
    """Ages as in NIH's CSV (58, or 58.0) and Kaggle's sample (058Y, 007M, 012D), in years; NaN for anything else."""
    parts = column.str.upper().str.extract(r"^(?P<number>\d{1,9}(?:\.\d{1,9})?)(?P<unit>[YMD]?)$")
    return (pd.to_numeric(parts["number"]) * parts["unit"].replace("", "Y").map(_AGE_IN_YEARS)).astype(float)


def read_csv(path: str | Path) -> pd.DataFrame:
    """All columns of a CSV as text, nothing guessed; empty, unnamed columns dropped. Raises InputError."""
    try:
        # for a first row that is too long, pandas drops values with only a warning
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            table = pd.read_csv(io.StringIO(read_text(path)), dtype=str, keep_default_na=False, index_col=False)
    except (pd.errors.ParserWarning, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        too_long = isinstance(error, pd.errors.ParserWarning)
        reason = "a row has more values than its header" if too_long else " ".join(str(error).split())
        raise InputError(f"{path} cannot be read ({reason}); expected {_A_CSV}") from None
    return table.loc[:, [not str(name).startswith("Unnamed:") for name in table.columns]]


def spelled(column: pd.Series) -> pd.Series:
    """Sexes (M, F) and views (PA, AP) in one spelling; other values as they are."""
    return column.map({text: _SPELLED.get(_plain(text), text) for text in column.unique()})


def read_lines(path: str | Path) -> list[str]:
    """The image names in a list; InputError as `read_text`."""
    return list(filter(None, map(str.strip, read_text(path, "one image name per line").splitlines())))


def read_text(path: str | Path, expected: str = _A_CSV, errors: str = "strict") -> str:
    """The text of a table or list, unpacked where it is gzip or zip. Raises InputError with `expected`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected {expected}")
    try:
        content = path.read_bytes()
        if content.startswith(b"PK\3\4"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:  # a Mac adds a folder of its own
                names = [name for name in archive.namelist() if not name.startswith("__MACOSX/") and name[-1:] != "/"]
                if len(names) != 1:
                    raise ValueError(f"it holds {len(names)} files")
                content = archive.read(names[0])
        elif content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        return content.decode("utf-8-sig", errors)
    except Exception as error:  # of the disk, of either kind of packing, or of the encoding
        raise InputError(f"{path} cannot be read ({error}); expected {expected}") from None


def _select(path: Path, columns: dict[str, tuple[str, ...]], needed: Iterable[str], published: str) -> pd.DataFrame:
    table = read_csv(path)
    known = known_columns(table, columns)
    if missing := [columns[name][0] for name in needed if name not in known]:
        has = some(table.columns, 12)
        raise InputError(f"{path} lacks the column {some(missing)} (it has {has}); expected the NIH's {published}")
    return known


def _plain(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower()) or str(name)


def _numbers_or_text(column: pd.Series) -> pd.Series:
    return column.astype(np.int64) if column.str.fullmatch(r"\d{1,18}").all() else column
