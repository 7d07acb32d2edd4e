"""The doctor's look at the tables: the CSV as it was written, the official lists, the boxes.

The readers of `metadata` stop at the first thing they cannot use; here all of it is found, named by row or by image.
"""

import csv
import gzip
import io
import re
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError
from cxrlib.data.doctor.checks import OLDEST
from cxrlib.data.findings import FINDINGS, canonical, encode
from cxrlib.data.metadata import BOX_FRAME, COLUMNS, NEEDED, UNSAFE_NAME, age_in_years, reference_entries

_NIH_NAME = re.compile(r"(\d{8})_\d{3}\.png")
_NIH_PATIENTS = 30_805

Found = dict[str, list[str]]


def check_csv(path: Path) -> tuple[Found, pd.DataFrame]:
    """Names or rows by check, and what could be read: columns of `metadata.COLUMNS`, all text, "" where it lacks."""
    found: Found = defaultdict(list)
    header, rows = _rows(path, found)
    names = {theirs: ours for ours, known in COLUMNS.items() for theirs in known}
    known = dict.fromkeys(names[name] for name in header if name in names)
    places = {ours: next(place for place, name in enumerate(header) if names.get(name) == ours) for ours in known}
    values = {ours: [row[place].strip() for row in rows] for ours, place in places.items()}
    entries = pd.DataFrame(values, dtype=str)
    found["column missing"] = [COLUMNS[name][0] for name in NEEDED if name not in entries]
    if not rows:
        found["no row"] = [path.name]
    entries = entries.reindex(columns=[*dict.fromkeys([*NEEDED, *entries])], fill_value="")
    if rows and not found["column missing"]:
        _check_values(entries, found)
    return found, entries


def _rows(path: Path, found: Found) -> tuple[list[str], list[list[str]]]:
    """The header, and every row with as many values; notes how the file is written."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error):
        found["not a text file"] = [path.name]
        return [], []
    for check, mark in (
        ("byte order mark", content.startswith(b"\xef\xbb\xbf")),
        ("Windows line ends", b"\r\n" in content),
    ):
        if mark:
            found[check] = [path.name]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        found["not UTF-8"] = [path.name]
        text = content.decode("latin-1")
    first = text.partition("\n")[0]
    separator = ";" if first.count(";") > first.count(",") else ","
    if separator == ";":
        found["semicolons"] = [path.name]
    try:
        header, *rows = csv.reader(io.StringIO(text.replace("\0", ""), newline=""), delimiter=separator)
    except (csv.Error, ValueError):
        found["not a text file"] = [path.name]
        return [], []
    rows = [row for row in rows if row]
    named = max((place + 1 for place, name in enumerate(header) if name.strip()), default=0)
    quotes = '"' in text
    for number, row in enumerate(rows):
        if len(row) > len(header):
            found["row too long"].append(f"row {number}")
        elif len(row) < named:
            found["row too short"].append(f"row {number}")
        if quotes and any("," in value for value in row):
            found["quoted comma"].append(f"row {number}")
    missing = [""] * len(header)
    return [name.strip() for name in header], [[*row, *missing][: len(header)] for row in rows]


def _check_values(entries: pd.DataFrame, found: Found) -> None:
    image, patient = entries["image"], entries["patient"]
    found["unsafe name"] = [repr(name) for name in image[image.str.contains(UNSAFE_NAME) | image.isin(["", ".", ".."])]]
    found["image named twice"] = list(image[image.duplicated()].unique())
    found["no patient"] = list(image[patient == ""])
    for label, images in image.groupby(entries["labels"]):
        try:
            encode([label])
        except InputError:
            found["unknown label"] += [f"{name} ({label})" for name in images]
    if "age" in entries:
        age = age_in_years(entries["age"])
        found["age out of range"] = [
            f"{name} ({text or 'none'})" for name, text in entries.loc[~(age <= OLDEST), ["image", "age"]].to_numpy()
        ]
    number = image.str.extract(_NIH_NAME, expand=False)
    other = number.notna() & patient.str.fullmatch(r"\d+") & (number.str.lstrip("0") != patient.str.lstrip("0"))
    found["patient unlike the name"] = [
        f"{name} ({who})" for name, who in zip(image[other], patient[other], strict=True)
    ]
    if (pd.to_numeric(number).between(1, _NIH_PATIENTS)).any():
        found["labels of another release"] = _unlike_reference(entries)


def _unlike_reference(entries: pd.DataFrame) -> list[str]:
    """Names of NIH's images whose labels differ from those of the release v2020."""
    ours = entries.drop_duplicates("image").set_index("image")["labels"].rename("ours")
    both = reference_entries().set_index("image")["labels"].to_frame("theirs").join(ours, how="inner")
    both = both[both["ours"] != both["theirs"]]  # of equal text no label can differ
    different = []
    for name, theirs, label in both.itertuples():
        try:
            if not np.array_equal(*encode([theirs, label])):
                different.append(name)
        except InputError:
            continue  # an unknown label is a check of its own
    return different


def check_lists(folders: tuple[Path, ...], entries: pd.DataFrame) -> Found | None:
    """Names by check of train_val_list.txt and test_list.txt; None where neither is in one of the folders."""
    found: Found = defaultdict(list)
    parts = ("train_val", "test")
    where = next((f for f in folders if any((f / f"{part}_list.txt").is_file() for part in parts)), None)
    if where is None:
        return None
    lists = {}
    for part in parts:
        path = where / f"{part}_list.txt"
        if not path.is_file():
            found["list missing"] = [path.name]
            return found
        try:
            lists[part] = path.read_text(encoding="utf-8-sig").split()
        except (UnicodeDecodeError, OSError):
            found["list unreadable"].append(path.name)
            return found
        found["listed twice"] += [name for name, times in Counter(lists[part]).items() if times > 1]
    train_val, test = map(set, lists.values())
    found["in both lists"] = sorted(train_val & test)
    image, patient = entries["image"], entries["patient"].str.lstrip("0")
    found["in neither list"] = list(image[~image.isin(train_val | test)])
    both = set(patient[image.isin(train_val)]) & set(patient[image.isin(test)])
    found["patient on both sides"] = sorted(both)
    return found


def check_boxes(folders: tuple[Path, ...], entries: pd.DataFrame) -> Found | None:
    """Rows by check of BBox_List_2017.csv; None where it is in none of the folders."""
    path = next((f / "BBox_List_2017.csv" for f in folders if (f / "BBox_List_2017.csv").is_file()), None)
    if path is None:
        return None
    found: Found = defaultdict(list)
    as_written: Found = defaultdict(list)
    header, rows = _rows(path, as_written)
    places = [
        header.index(name) if name in header else None
        for name in ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")
    ]
    if None in places or as_written["row too long"] or as_written["not a text file"] or as_written["not UTF-8"]:
        found["boxes unreadable"] = [path.name]
        return found
    labels = dict(zip(entries["image"], entries["labels"], strict=True))
    seen = set()
    for number, row in enumerate(rows):
        image, finding, *frame = (row[place] for place in places)
        what = f"row {number}: {image}"
        x, y, w, h = pd.to_numeric(pd.Series(frame), errors="coerce")
        try:
            finding = canonical(finding)
        except InputError:
            found["box of an unknown finding"].append(f"{what} ({finding})")
            finding = None
        if not (np.isfinite([x, y, w, h]).all() and w > 0 and h > 0):
            found["box without place or size"].append(what)
        elif x < 0 or y < 0 or x + w > BOX_FRAME or y + h > BOX_FRAME:
            found["box outside the image"].append(what)
        if image not in labels:
            found["box on an unknown image"].append(what)
        elif finding and finding not in _findings(labels[image]):
            found["box without its label"].append(f"{what} ({finding})")
        if (image, finding, *frame) in seen:
            found["box twice"].append(what)
        seen.add((image, finding, *frame))
    return found


def _findings(label: str) -> list[str]:
    try:
        return [name for name, value in zip(FINDINGS, encode([label])[0], strict=True) if value]
    except InputError:
        return list(FINDINGS)  # what is unknown contradicts nothing
