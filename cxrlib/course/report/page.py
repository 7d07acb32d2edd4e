"""The report of a run as one HTML file that opens offline, and as PDF: results, model card, figures, parameters."""

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
    """The figures of the run in the order of the notebooks, each with its caption and its alt text."""
    figures = []
    for file in sorted(run.figures.glob("*.png")):
        caption = file.stem[3:].replace("_", " ").capitalize()
        with Image.open(file) as image:
            words = image.info.get("Description", caption)
        figures.append({"file": file.name, "uri": data_uri(file), "alt": words, "caption": caption})
    return figures
