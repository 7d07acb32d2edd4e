"""The values of a run folder for a page: every number is an element that names its file, row and column.

`<data value="0.8513506" data-source="metrics.csv#macro/auroc">0.851</data>`: a reader, or a test, can look it up. A row
is named by its first column where the values there are unique, else by its number (`#3`, counted from 1).
"""

import json
import math
import numbers
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pandas as pd
from markupsafe import Markup

_NAMES = pd.read_csv(Path(__file__).with_name("columns.csv"), index_col="column")["name"]
_ELEMENT = Markup('<data value="{0}" data-source="{1}" title="{1} = {0}">{2}</data>')
_UNDEFINED = Markup('<span class="undefined">undefined</span>')


class Evidence:
    """The files of a run folder, each read once; one that is missing or cannot be read counts as empty."""

    def __init__(self, path: Path):
        self.path = path
        self.table, self.json = cache(self._table), cache(self._json)

    def _table(self, file: str) -> pd.DataFrame:
        try:
            table = pd.read_csv(self.path / file)
        except (OSError, ValueError):  # pandas' own errors are ValueErrors
            return pd.DataFrame()
        keys = table.iloc[:, 0].astype(str)
        return table.set_axis(keys if keys.is_unique else [f"#{n}" for n in range(1, len(table) + 1)], axis=0)

    def _json(self, file: str) -> dict:
        try:
            content = json.loads((self.path / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def value(self, file: str, *keys: str):
        """A cell (row, column) of a CSV file, or the value under nested keys of a JSON file; None if missing."""
        if file.endswith(".csv"):
            row, column = keys
            found = self.table(file).get(column, {}).get(row)
            return found.item() if hasattr(found, "item") else found
        found = self.json(file)
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def show(self, file: str, *keys: str, exact: bool = False) -> Markup:
        """The element that shows a value; the word "undefined" for one that is missing or not a number."""
        value = self.value(file, *keys)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return _UNDEFINED
        text = str(value) if exact and isinstance(value, float) else written(value)
        return _ELEMENT.format(value, f"{file}#{'/'.join(keys)}", text)

    def count(self, file: str, column: str, value: str, unique: str) -> Markup:
        """The number of distinct values of `unique` in the rows of a CSV file with `value` in a column."""
        table = self.table(file)
        if not {column, unique} <= set(table):
            return _UNDEFINED
        found = table.loc[table[column] == value, unique].nunique()
        return _ELEMENT.format(found, f"{file}#count/{column}={value}/{unique}", written(found))

    def interval(self, file: str, row: str, column: str) -> Markup:
        """The element that shows a value, followed by its interval where the file has one."""
        shown = self.show(file, row, column)
        ends = [self.show(file, row, end) for end in _ends(column, self.table(file))]
        if not ends or _UNDEFINED in ends:
            return shown
        return shown + Markup(' <span class="interval">[{}, {}]</span>').format(*ends)

    def listing(self, file: str, columns: Sequence[str] = (), summary: bool = False) -> dict | None:
        """A CSV file as a table: head and rows of cells, each value with its interval; None if the file is missing.

        It has all columns, or `columns` in this order; a `summary` leaves out single findings, except those that are
        significant after correction (p_holm). What a mean does not have, such as a threshold, is blank.
        """
        table = rows = self.table(file)
        if table.columns.empty:
            return None
        ends = {end for name in table for end in _ends(name, table)}
        names = [name for name in columns or table if name in table and name not in ends and table[name].notna().any()]
        if summary and "finding" in table:
            rows = table[(table["finding"] == "macro") | (table.get("p_holm", 1) < 0.05)]
        totals = rows.iloc[:, :4].eq("macro").any(axis=1)
        cells = {key: [self.interval(file, key, name) for name in names] for key in rows.index}
        if "macro" in cells:
            cells["macro"] = ["" if cell == _UNDEFINED else cell for cell in cells["macro"]]
        return {
            "file": file,
            "head": [
                {
                    "text": _NAMES.get(name, (name[:1].upper() + name[1:]).replace("_", " ")),
                    "title": name,
                    "number": table[name].dtype.kind in "iuf",
                }
                for name in names
            ],
            "rows": [{"total": totals[key] and not totals.all(), "cells": cells[key]} for key in cells],
            "left_out": len(table) - len(rows),
        }


def written(value) -> str:
    """A value for readers: 1,605; 0.851; 9.4e-05; yes or no; lists with commas; other text as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none given"
    if not isinstance(value, numbers.Real):
        return str(value).replace("_", " ") if str(value).istitle() else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if 0 < abs(value) < 0.001:
        return f"{value:.2g}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _ends(name: str, table: pd.DataFrame) -> list[str]:
    """The columns with the interval of a column: name_low and name_high, or low and high where these follow it."""
    ends = [f"{name}_low", f"{name}_high"]
    if set(ends) <= set(table):
        return ends
    return ["low", "high"] if (name, "low") in pairwise(table) else []
