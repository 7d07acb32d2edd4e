"""The doctor's checks of the tables: the CSV, the official lists and the boxes.

The readers in `metadata` stop at the first problem; here every problem is found and named by row or image.
"""

import csv
import io
from collections import defaultdict
from pathlib import Path

import pandas as pd

from cxrlib.core.errors import InputError
from cxrlib.data import metadata
from cxrlib.data.findings import parse
from cxrlib.data.sources import find_beside

OLDEST = 110  # years; the 2017 release has typing errors up to 414
_NIH_PATIENTS = 30_805

Found = dict[str, list[str]]


def check_csv(path: Path) -> tuple[Found, pd.DataFrame]:
    """Names or rows by check, and the readable columns of `metadata.COLUMNS` as text ("" where a value is missing)."""
    found: Found = defaultdict(list)
    table = _read(path, found)
    entries = metadata.known_columns(table, metadata.COLUMNS)
    found["column missing"] = [metadata.COLUMNS[name][0] for name in metadata.NEEDED if name not in entries]
    if table.empty:
        found["no row"] = [path.name]
    elif not found["column missing"]:
        _check_values(entries, found)
    return found, entries.reindex(columns=[*dict.fromkeys([*metadata.NEEDED, *entries])], fill_value="")


def _read(path: Path, found: Found) -> pd.DataFrame:
    """All values as text; notes what keeps the file from being read as a CSV, and rows of another length."""
    try:
        try:
            text = metadata.read_text(path)
        except InputError:
            text = metadata.read_text(path, encoding="latin-1")
            found["not UTF-8"] = [path.name]
        first = text.partition("\n")[0]
        if first.count(";") > first.count(","):
            found["semicolons"] = [path.name]
        lines = io.StringIO(text.replace("\0", ""), newline="")
        header, *rows = csv.reader(lines, delimiter=";" if found["semicolons"] else ",")
    except (csv.Error, ValueError):  # ValueError: not readable, or not even a header
        found["not a text file"] = [path.name]
        return pd.DataFrame()
    rows = [row for row in rows if row]
    named = max((place + 1 for place, name in enumerate(header) if name.strip()), default=0)
    found["row too long"] = [f"row {number}" for number, row in enumerate(rows) if len(row) > len(header)]
    found["row too short"] = [f"row {number}" for number, row in enumerate(rows) if len(row) < named]
    missing = [""] * len(header)
    table = pd.DataFrame([[*row, *missing][: len(header)] for row in rows], columns=header, dtype=str)
    return table.loc[:, ~table.columns.duplicated()]


def _check_values(entries: pd.DataFrame, found: Found) -> None:
    image, patient = entries["image"], entries["patient"]
    found["unsafe name"] = [repr(name) for name in image[metadata.is_unsafe(image)]]
    found["image named twice"] = list(image[image.duplicated()].unique())
    found["no patient"] = list(image[patient == ""])
    usable = entries["labels"].map({label: parse(label) is not None for label in entries["labels"].unique()})
    found["unknown label"] = list((image + " (" + entries["labels"] + ")")[~usable])
    if "age" in entries:
        wrong = ~(metadata.age_in_years(entries["age"]) <= OLDEST)
        found["age out of range"] = list((image + " (" + entries["age"].replace("", "none") + ")")[wrong])
    number = metadata.nih_patient(image)
    other = number.notna() & patient.str.fullmatch(r"\d+") & (number.str.lstrip("0") != patient.str.lstrip("0"))
    found["patient unlike the name"] = list((image + " (" + patient + ")")[other])
    if pd.to_numeric(number).between(1, _NIH_PATIENTS).any():
        known = entries.drop_duplicates("image")
        both = known.merge(metadata.reference_entries(), on="image", suffixes=("", "_v2020"))
        both = both[both["labels"] != both["labels_v2020"]]  # most are the same text and need no parsing
        parsed = zip(both["image"], both["labels"].map(parse), both["labels_v2020"].map(parse), strict=True)
        found["labels of another release"] = [
            name for name, ours, theirs in parsed if ours is not None and set(ours) != set(theirs)
        ]


def check_lists(folders: tuple[Path, ...], entries: pd.DataFrame) -> Found | None:
    """Names by check of train_val_list.txt and test_list.txt; None where neither is in one of the folders."""
    names = ("train_val_list.txt", "test_list.txt")
    folder = next((folder for folder in folders if any(find_beside(name, folder) for name in names)), None)
    if folder is None:
        return None
    lists = []
    for name in names:
        path = find_beside(name, folder)
        if path is None:
            return {"list missing": [name]}
        try:
            lists.append(set(metadata.read_text(path).split()))
        except InputError:
            return {"list unreadable": [name]}
    image, patient = entries["image"], entries["patient"].str.lstrip("0")
    in_train_val, in_test = (image.isin(listed) for listed in lists)
    return {
        "in both lists": sorted(set.intersection(*lists)),
        "in neither list": list(image[~in_train_val & ~in_test]),
        "patient on both sides": sorted((set(patient[in_train_val]) & set(patient[in_test])) - {""}),
    }


def check_boxes(folders: tuple[Path, ...], entries: pd.DataFrame) -> Found | None:
    """Rows by check of BBox_List_2017.csv; None where it is in none of the folders."""
    path = find_beside(metadata.BOXES, *folders)
    if path is None:
        return None
    found: Found = defaultdict(list)
    boxes = metadata.known_columns(_read(path, found), metadata.BOX_COLUMNS)
    missing = len(boxes.columns) < len(metadata.BOX_COLUMNS)
    if missing or any(found[check] for check in ("row too long", "not a text file", "not UTF-8")):
        return {"boxes unreadable": [path.name]}
    what = pd.Series([f"row {number}: {name}" for number, name in enumerate(boxes["image"])], dtype=str)
    known = boxes["finding"].map(lambda name: "|" not in name and parse(name) is not None)
    boxes, bad = metadata.parse_numbers(boxes)
    corner, size = boxes[["x", "y"]].to_numpy(), boxes[["w", "h"]].to_numpy()
    outside = ((corner < 0) | (corner + size > metadata.BOX_FRAME)).any(axis=1)
    return {
        "box of an unknown finding": list((what + " (" + boxes["finding"] + ")")[~known.astype(bool)]),
        "box without place or size": list(what[bad]),
        "box outside the image": list(what[outside & ~bad]),
        "box on an unknown image": list(what[~boxes["image"].isin(entries["image"])]),
        "box twice": list(what[boxes.duplicated()]),
    }
