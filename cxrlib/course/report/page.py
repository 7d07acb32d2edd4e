"""The report of a run as one HTML file that opens offline, and as PDF: results, model card, figures, parameters."""

import json
import re
from pathlib import Path

from PIL import Image

from cxrlib.core.errors import InputError
from cxrlib.course.report.evidence import Evidence
from cxrlib.course.report.pages import data_uri, print_pdf, write_page
from cxrlib.course.runs import RunFolder

_PLACED = ("splits", "metrics", "audit", "experts", "comparison", "comparison_differences", "localization")


def write_report(run: RunFolder) -> list[Path]:
    """Write report.html, and report.pdf where a browser is installed, into the run folder; returns their paths.

    Results that the run does not have yet are named, each with the notebook that makes it. Raises InputError for a
    folder that holds no run.
    """
    if not run.read():
        raise InputError(f"{run.path} holds no run.json; expected a run folder such as runs/quick: make run makes one")
    page = write_page(
        run.path / "report.html",
        "report.html",
        e=Evidence(run.path),
        name=run.path.name,
        phantoms=run.on_phantoms,
        others=sorted(file.name for file in run.path.glob("*.csv") if file.stem not in _PLACED),
        figures=_figures(run),
    )
    return [page, *print_pdf(page, run.path / "report.pdf")]


def _figures(run: RunFolder) -> list[dict]:
    """The figures of the run in the order of the notebooks, each with its alt text and a caption."""
    headings = _headings(run)
    figures = []
    for file in sorted(run.figures.glob("*.png")):
        with Image.open(file) as image:
            words = image.info.get("Description", "")
        caption = headings.get(file.stem) or file.stem[3:].replace("_", " ").capitalize()
        figures.append({"file": file.name, "uri": data_uri(file), "alt": words or caption, "caption": caption})
    return figures


def _headings(run: RunFolder) -> dict[str, str]:
    """{each word in quotes in a cell, such as a figure's name: the heading above it}, from the executed notebooks."""
    headings = {}
    for path in sorted(run.notebooks.glob("*.ipynb")):
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        except (ValueError, KeyError, TypeError):
            continue  # a notebook that was stopped while its copy was written
        heading = ""
        for cell in cells:
            source = "".join(cell.get("source", ""))
            if cell.get("cell_type") == "markdown":
                heading = (re.findall(r"^#+(.*)", source, re.MULTILINE) or [heading])[-1].strip()
            elif cell.get("cell_type") == "code":
                headings |= dict.fromkeys(re.findall(r'"([\w.-]+)"', source), heading.lstrip("0123456789. "))
    return headings
