"""What a run folder says, for a page: every figure as an element that names the file, row and column it was read from.

`<data value="0.8513506" data-source="metrics.csv#macro/auroc">0.851</data>`: a reader, or a test, can look it up. A row
is named by what stands in the first column where that is unique in the file, else by its number (`#3`, from 1).
"""

import json
import math
import numbers
from functools import cache
from pathlib import Path

import pandas as pd
from markupsafe import Markup

_NAMES = {
    "a": "Better",
    "auroc": "AUROC",
    "ap": "Average precision",
    "arch": "Architecture",
    "ap_lift": "AP over prevalence",
    "auroc_expert": "AUROC, better labels",
    "auroc_mined": "AUROC, mined labels",
    "b": "Other",
    "expert": "Positive, better labels",
    "ece": "Calibration error",
    "f1": "F1",
    "gflop": "GFLOP an image",
    "images_per_s": "Images a second",
    "lr": "Learning rate",
    "mined": "Positive, mined",
    "n": "Images",
    "npv": "NPV",
    "p": "p",
    "p_holm": "p (Holm)",
    "parameters": "Parameters, millions",
    "ppv": "PPV",
    "seed_sd": "SD over seeds",
    "train_images_per_s": "Training, images a second",
    "val_auroc": "Validation AUROC",
    "val_loss": "Validation loss",
}
_UNDEFINED = Markup('<span class="undefined">undefined</span>')


class Evidence:
    """The files of a run folder, each read once. What is not there, or cannot be read, is None."""

    def __init__(self, path: Path):
        self.path = path
        self.table = cache(self._table)
        self.json = cache(self._json)

    def _table(self, file: str) -> pd.DataFrame | None:
        try:
            table = pd.read_csv(self.path / file)
        except (OSError, ValueError):  # pandas' own errors are ValueErrors
            return None
        keys = table.iloc[:, 0].astype(str)
        return table.set_axis(keys if keys.is_unique else [f"#{n}" for n in range(1, len(table) + 1)], axis=0)

    def _json(self, file: str) -> dict | None:
        try:
            content = json.loads((self.path / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def value(self, file: str, *keys: str):
        """A cell (row, column) of a CSV, or what stands under some keys of a JSON; None where it is not there."""
        if file.endswith(".csv"):
            table = self.table(file)
            return None if table is None or keys[0] not in table.index or keys[1] not in table else table.loc[*keys]
        found = self.json(file)
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def show(self, file: str, *keys: str, exact: bool = False) -> Markup:
        """The element that shows a value; the word "undefined" for one that is missing or not a number."""
        value = self.value(file, *keys)
        value = value.item() if hasattr(value, "item") else value
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return _UNDEFINED
        text = str(value) if exact and isinstance(value, float) else written(value)
        return _element(value, f"{file}#{'/'.join(keys)}", text)

    def count(self, file: str, column: str, value: str, unique: str = "") -> Markup:
        """How many rows of a CSV hold `value` in a column; of those, how many different ones another column has."""
        table = self.table(file)
        if table is None or column not in table or (unique and unique not in table):
            return _UNDEFINED
        rows = table[table[column] == value]
        found = rows[unique].nunique() if unique else len(rows)
        return _element(found, f"{file}#count/{column}={value}{'/' + unique if unique else ''}", written(found))

    def interval(self, file: str, row: str, column: str, low: str = "", high: str = "") -> Markup:
        """A value with its interval; by default that of the columns `column`_low and `column`_high."""
        shown = self.show(file, row, column)
        ends = [self.show(file, row, end) for end in (low or f"{column}_low", high or f"{column}_high")]
        if _UNDEFINED in ends:
            return shown
        return shown + Markup(' <span class="interval">[{}, {}]</span>').format(*ends)

    def listing(self, file: str, columns: list[str] | None = None, rows: list[str] | None = None) -> dict | None:
        """A CSV as a table: head and rows of cells; a column takes its interval (x_low, x_high; or low, high) with it.

        columns, rows: which, in what order; default: all. None where the file is not there.
        """
        table = self.table(file)
        if table is None:
            return None
        ends = {end for name in table for end in _ends(name, table)}
        names = [name for name in columns or table.columns if name in table and (columns or name not in ends)]
        names = [name for name in names if table[name].notna().any()]
        keys = list(table.index if rows is None else rows)
        totals = {row for row in keys if "macro" in map(str, table.loc[row].head(4))}
        return {
            "file": file,
            "head": [{"text": heading(name), "title": name, "number": _is_number(table[name])} for name in names],
            "rows": [
                {
                    "total": row in totals and len(totals) < len(keys),  # among others: where all are, none stands out
                    "cells": [self._cell(file, row, name, _ends(name, table)) for name in names],
                }
                for row in keys
            ],
            "left_out": len(table) - len(keys),
        }

    def cross(self, file: str, down: str, across: str, keep: dict[str, str], most: int = 8) -> dict | None:
        """A long table's column value, with its interval, as a table of two of its columns: `down` by `across`.

        keep: {column: value} of the rows that are meant; most: so many columns of the result. None without the file.
        """
        table = self.table(file)
        if table is None or not {down, across, "value", *keep} <= set(table):
            return None
        for column, value in keep.items():
            table = table[table[column] == value]
        names = list(dict.fromkeys(table[across]))[:most]
        at = {(row[down], row[across]): key for key, row in table.iterrows()}
        return {
            "file": file,
            "head": [{"text": heading(down), "title": down, "number": False}]
            + [{"text": heading(str(name)), "title": name, "number": True} for name in names],
            "rows": [
                {
                    "total": first == "macro",
                    "cells": [self.show(file, next(at[first, name] for name in names if (first, name) in at), down)]
                    + [
                        self.interval(file, at[first, name], "value", "low", "high") if (first, name) in at else ""
                        for name in names
                    ],
                }
                for first in dict.fromkeys(table[down])
            ],
            "left_out": 0,
        }

    def _cell(self, file: str, row: str, name: str, ends: tuple[str, ...]) -> Markup:
        shown = self.interval(file, row, name, *ends) if ends else self.show(file, row, name)
        return Markup("") if shown == _UNDEFINED and row == "macro" else shown  # such as the threshold of a mean


def _element(value, source: str, text: str) -> Markup:
    element = '<data value="{}" data-source="{}" title="{}">{}</data>'
    return Markup(element).format(value, source, f"{source} = {value}", text)


def heading(name: str) -> str:
    """The name of a column for readers."""
    return _NAMES.get(name) or (name[:1].upper() + name[1:]).replace("_", " ").replace("Iou", "IoU").replace(
        "Iobb", "IoBB"
    )


def written(value, digits: int = 3) -> str:
    """A value for readers: 1,605; 0.851; 9.4e-05; on, off; text, lists and names as they are."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none given"
    if not isinstance(value, numbers.Real):
        return str(value).replace("_", " ") if str(value).istitle() else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if 0 < abs(value) < 10**-digits:
        return f"{value:.2g}"
    return f"{value:,.{1 if abs(value) >= 10 else digits}f}"


def _ends(name: str, table: pd.DataFrame) -> tuple[str, ...]:
    """The columns that hold the interval of a column: its own, or a plain low and high for the last figure before."""
    if f"{name}_low" in table and f"{name}_high" in table:
        return f"{name}_low", f"{name}_high"
    columns = list(table.columns)
    if "low" in columns and columns.index(name) == columns.index("low") - 1:
        return "low", "high"
    return ()


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
