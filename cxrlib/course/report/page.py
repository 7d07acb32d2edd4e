"""The report of a run as one HTML file that opens offline, and as PDF: results, model card, figures, parameters."""

import json
from pathlib import Path

from PIL import Image

from cxrlib.core.errors import InputError
from cxrlib.course.report.evidence import Evidence
from cxrlib.course.report.model_card import card, macro_rows
from cxrlib.course.report.pages import data_uri, print_pdf, write_page
from cxrlib.course.runs import RunFolder

_METRICS = ["finding", "positives", "auroc", "ap", "f1", "threshold", "sensitivity", "specificity", "ppv"]
_TOLD = ("splits.csv", "metrics.csv", "audit.csv", "experts.csv", "comparison.csv", "comparison_differences.csv")


def write_report(run: RunFolder) -> list[Path]:
    """Write report.html, and report.pdf where a browser is installed, into the run folder; returns what was written.

    What the run has not made yet is named there, with the notebook that makes it. Raises InputError for a folder
    that holds no run.
    """
    if not run.read():
        raise InputError(f"{run.path} holds no run.json; expected a run folder such as runs/quick: make run makes one")
    evidence = Evidence(run.path)
    arch = evidence.value("run.json", "stages", "03_train_efficientnet", "arch") or ""
    thresholds = evidence.value("thresholds.json", "findings")
    thresholds = thresholds if isinstance(thresholds, dict) else {}
    page = write_page(
        run.path / "report.html",
        "report.html",
        e=evidence,
        name=run.path.name,
        started=str(evidence.value("run.json", "started") or "").replace("T", " "),
        split=evidence.value("run.json", "stages", "02_preprocess", "split"),
        parameters=evidence.value("run.json", "parameters"),
        metrics=evidence.listing("metrics.csv", _METRICS),
        notes=_notes(evidence),
        thresholds=thresholds,
        noted=any(isinstance(one, dict) and one.get("note") for one in thresholds.values()),
        history=evidence.listing(f"{arch}/history.csv"),
        comparison=evidence.listing("comparison.csv"),
        differences=evidence.listing("comparison_differences.csv"),
        experts=evidence.listing("experts.csv"),
        localization=evidence.cross("localization.csv", "maps", "metric", {"finding": "macro"}),
        pointing=evidence.cross("localization.csv", "finding", "maps", {"metric": "pointing"}),
        others=[macro_rows(evidence, file.name) for file in _others(run.path)],
        card=card(evidence),
        figures=_figures(run),
    )
    return [page, *print_pdf(page, run.path / "report.pdf")]


def _notes(evidence: Evidence) -> list:
    table = evidence.table("metrics.csv")
    if table is None or "note" not in table:
        return []
    rows = table["note"].dropna().drop("macro", errors="ignore").index
    return [(evidence.show("metrics.csv", row, "finding"), evidence.show("metrics.csv", row, "note")) for row in rows]


def _others(folder: Path) -> list[Path]:
    """Tables of the run folder that the report has no place of its own for."""
    return [file for file in sorted(folder.glob("*.csv")) if file.name not in (*_TOLD, "localization.csv")]


def _figures(run: RunFolder) -> list[dict]:
    """Every figure of the run, in the order of the notebooks: its picture, its words, the section that draws it."""
    titles = _titles(run)
    figures = []
    for file in sorted(run.figures.glob("*.png")):
        with Image.open(file) as image:
            words = image.info.get("Description", "")
        caption = titles.get(file.stem) or file.stem[3:].replace("_", " ").capitalize()
        figures.append({"file": file.name, "uri": data_uri(file), "alt": words or caption, "caption": caption})
    return figures


def _titles(run: RunFolder) -> dict[str, str]:
    """{name of a figure: the heading above the cell that draws it}, from the notebooks as they were executed."""
    titles = {}
    for path in sorted(run.notebooks.glob("*.ipynb")):
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        except (ValueError, KeyError, TypeError):
            continue  # the copy of a notebook that was stopped while it was written
        heading = ""
        for cell in cells:
            source = "".join(cell.get("source", ""))
            if cell.get("cell_type") == "markdown":
                found = [line.lstrip("#").strip() for line in source.split("\n") if line.startswith("#")]
                heading = found[-1] if found else heading
            for name in (file.stem for file in run.figures.glob("*.png")):
                if cell.get("cell_type") == "code" and f'"{name}"' in source:
                    titles[name] = heading.lstrip("0123456789. ")
    return titles
