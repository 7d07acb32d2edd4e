"""The pages of runs: the report of one (HTML that opens offline, PDF), the index of all, and copies of its figures.

Each number of a report names its file, row, column: `<data value="0.8513506" data-source="metrics.csv#macro/auroc">`.
A row is named by its first column where the values there are unique, else by its number (`#3`, counted from 1).
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from cxrlib.core.errors import InputError
from cxrlib.core.html import data_uri, write_page
from cxrlib.core.paths import NOTEBOOKS, one_process, read_json, written_whole
from cxrlib.course.notebooks import COURSE
from cxrlib.course.runs import RunFolder

_TEMPLATES = Path(__file__).parent / "templates"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge",
             "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")  # fmt: skip
_WIDEST = 864  # pixels, 122 per inch on A4 and more than the page shows; the files in figures/ have 300 dpi
_DPI = 110  # of the copies
_PATIENCE = 120  # seconds for a PDF
_PLACED = ("splits", "metrics", "audit", "experts", "comparison", "comparison_differences", "localization")
_METRICS = ("n", "auroc", "auroc_low", "auroc_high", "f1", "f1_low", "f1_high")
_NAMES = pd.read_csv(Path(__file__).with_name("columns.csv"), index_col="column")["name"]
_ELEMENT = Markup('<data value="{0}" data-source="{1}" title="{1} = {0}">{2}</data>')
_UNDEFINED = Markup('<span class="undefined">undefined</span>')


class Evidence:
    """The files of a run folder, each read once; one that is missing or cannot be read counts as empty."""

    def __init__(self, path: Path):
        self.path = path
        self.table, self.json = cache(self._table), cache(lambda file: read_json(path / file))

    def _table(self, file: str) -> pd.DataFrame:
        try:
            table = pd.read_csv(self.path / file)
        except (OSError, ValueError):  # pandas' own errors are ValueErrors
            return pd.DataFrame()
        keys = table.iloc[:, 0].astype(str)
        return table.set_axis(keys if keys.is_unique else [f"#{n}" for n in range(1, len(table) + 1)], axis=0)

    def value(self, file: str, *keys: str):
        """A cell (row, column) of a CSV file, or the value under nested keys of a JSON file; None if missing."""
        found, path = (self.table(file), keys[::-1]) if file.endswith(".csv") else (self.json(file), keys)
        for key in path:
            found = found.get(key) if hasattr(found, "get") else None
        return found.item() if hasattr(found, "item") else found

    def show(self, file: str, *keys: str, exact: bool = False) -> Markup:
        """The element that shows a value; the word "undefined" for one that is missing or not a number."""
        value = self.value(file, *keys)
        if value is None or value != value:  # NaN
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
        titles = [_NAMES.get(name, (name[:1].upper() + name[1:]).replace("_", " ")) for name in names]
        head = list(zip(names, titles, (table[name].dtype.kind in "iuf" for name in names), strict=True))
        shown = [{"total": totals[key] and not totals.all(), "cells": cells[key]} for key in cells]
        return {"file": file, "head": head, "rows": shown, "left_out": len(table) - len(rows)}


def written(value) -> str:
    """A value for readers: 1,605; 0.851; 9.4e-05; yes or no; lists with commas; other text as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none given"
    if not isinstance(value, int | float):
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


def write_report(run: RunFolder) -> list[Path]:
    """Write report.html, and report.pdf where a browser is installed; returns their paths. InputError without a run."""
    if not run.read():
        raise InputError(f"{run.path} holds no run.json; expected a run folder such as runs/quick: cxr run makes one")
    others = sorted(file.name for file in run.path.glob("*.csv") if file.stem not in _PLACED)
    values = {"name": run.path.name, "phantoms": run.on_phantoms, "others": others, "figures": _figures(run)}
    page = write_page(run.path / "report.html", _TEMPLATES / "report.html", e=Evidence(run.path), **values)
    return [page, *print_pdf(page, run.path / "report.pdf")]


def _figures(run: RunFolder) -> Iterator[dict]:
    """The figures with caption, alt text and, for `<img src>`, the smaller of a PNG with 256 colours and a JPEG."""
    for file in sorted(run.figures.glob("[!.]*.png")):
        caption = file.stem[3:].replace("_", " ").capitalize()
        with Image.open(file) as image:
            alt = image.info.get("Description", caption)
            image = image.convert("RGB")
            image.thumbnail((_WIDEST, _WIDEST * 4))
        drawing = data_uri(image.quantize(dither=Image.Dither.NONE), "png", optimize=True)
        uri = min(drawing, data_uri(image, "jpeg", quality=85), key=len)
        yield {"file": file.name, "uri": uri, "alt": alt, "caption": caption}


def print_pdf(page: Path, target: Path) -> list[Path]:
    """Print a page to PDF; returns [target], or [] where there is no browser. RuntimeError where the browser fails."""
    browser = next(filter(None, map(shutil.which, (os.environ.get("CXR_BROWSER", ""), *_BROWSERS))), None)
    if browser is None:
        print("no PDF: no browser of the Chromium family is installed or named by CXR_BROWSER; the HTML prints as well")
        return []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, written_whole(target) as unfinished:
        command = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={profile}"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []  # root cannot have one
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--print-to-pdf={unfinished}", page.resolve().as_uri()]
        how = f"took more than {_PATIENCE} s"
        with suppress(subprocess.TimeoutExpired):
            code = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False).returncode
            how = "" if unfinished.is_file() else f"ended with code {code}"
        if how:
            raise RuntimeError(f"no PDF: {browser} {how}; the HTML is there: {page}")
    return [target]


def export_figures(run: RunFolder, folder: Path) -> list[Path]:
    """Copy a run's PNGs, at 110 dpi, into `folder`; InputError without any, or for those of patients in the project."""
    if not (copies := {file: folder / file.name for file in sorted(run.figures.glob("[!.]*.png"))}):
        raise InputError(f"{run.figures} holds no figures (PNG); run the notebooks of this run first")
    if folder.resolve() == run.figures.resolve():
        raise InputError(f"{folder} holds the figures for print, which the copies would replace; choose another folder")
    project = NOTEBOOKS.parent
    if folder.resolve().is_relative_to(project) and not run.on_phantoms:
        unknown = f"{run.path} is not recorded as a run on phantoms, and pictures of patients must not be committed"
        raise InputError(f"{unknown}; expected a folder outside {project}, found {folder}")
    for file, copy in copies.items():
        with Image.open(file) as image, written_whole(copy) as unfinished:
            (about := PngInfo()).add_text("Description", image.info.get("Description", ""))
            scale = _DPI / (round(image.info.get("dpi", (0,))[0]) or 300)
            small = ImageOps.scale(image.convert("RGB"), scale, Image.Resampling.LANCZOS)
            small.save(unfinished, "PNG", optimize=True, dpi=(_DPI, _DPI), pnginfo=about)
    return list(copies.values())


def write_index(folder: Path) -> Path:
    """Write index.html for all runs in `folder`, newest first; a run that cannot be read is listed as such."""
    with one_process(folder / ".index.lock"):  # of two runs that end together, the later page shows both
        runs = [_row(Evidence(path.parent)) for path in folder.glob("*/run.json")]
        return write_page(folder / "index.html", _TEMPLATES / "index.html", runs=runs)


def _row(run: Evidence) -> dict:
    macro = {name: run.value("metrics.csv", "macro", name) for name in _METRICS}
    measured = all(isinstance(value, int | float) for value in macro.values())
    times = [run.value("run.json", "stages", name, "seconds") for name in COURSE]
    seconds = [value for value in times if isinstance(value, int | float)]
    failed = [name for name in COURSE if run.value("run.json", "stages", name, "error") is not None]
    needed = {"run.json": run.json("run.json"), "metrics.csv": measured}
    unread = [file for file, content in needed.items() if not content and (run.path / file).is_file()]
    state = f"{len(seconds)} of {len(COURSE)} notebooks" if seconds else "run by hand"
    if unread:
        state = f"cannot be read: {unread[0]}"
    elif failed:
        state = f"failed in {failed[0]}"
    elif len(seconds) == len(COURSE):
        state = "finished"
    copies = {path.stem[:2]: f"notebooks/{path.name}" for path in sorted(run.path.glob("notebooks/*.ipynb"))}
    files = {"report": "report.html", "PDF": "report.pdf"} | copies | {file: file for file in sorted(needed)}
    name, started = run.path.name, str(run.value("run.json", "started") or "")
    links = {text: quote(f"{name}/{file}") for text, file in files.items() if (run.path / file).is_file()}
    about = {"name": name, "started": started, "links": links, "seconds": sum(seconds), "state": state}
    return about | {"evidence": run, "macro": macro if measured else None}
