"""The report of a run as one HTML file that opens offline, and as PDF: results, model card, figures, parameters."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from cxrlib.core.errors import InputError
from cxrlib.core.html import data_uri
from cxrlib.core.paths import written_whole
from cxrlib.course.report.evidence import Evidence
from cxrlib.course.report.templates import write_page
from cxrlib.course.runs import RunFolder

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge",
             "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")  # fmt: skip
_WIDEST = 1100  # pixels, 155 per inch on A4; the files in figures/ have 300 dpi and are larger
_PATIENCE = 120  # seconds for a PDF
_PLACED = ("splits", "metrics", "audit", "experts", "comparison", "comparison_differences", "localization")


def write_report(run: RunFolder) -> list[Path]:
    """Write report.html, and report.pdf where a browser is installed, into the run folder; returns their paths.

    Results that the run does not have yet are named, each with the notebook that makes it. Raises InputError for a
    folder that holds no run.
    """
    if not run.read():
        raise InputError(f"{run.path} holds no run.json; expected a run folder such as runs/quick: cxr run makes one")
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
    """The figures of the run in the order of the notebooks, each with its caption and its alt text.

    They are embedded as values for `<img src>`, each in the smaller form: a PNG with 256 colours, which suits drawings,
    or a JPEG, which suits radiographs.
    """
    figures = []
    for file in sorted(run.figures.glob("*.png")):
        caption = file.stem[3:].replace("_", " ").capitalize()
        with Image.open(file) as image:
            alt = image.info.get("Description", caption)
            image = image.convert("RGB")
            image.thumbnail((_WIDEST, _WIDEST * 4))
            forms = (
                data_uri(image.quantize(dither=Image.Dither.NONE), "png", optimize=True),
                data_uri(image, "jpeg", quality=85),
            )
            uri = min(forms, key=len)
        figures.append({"file": file.name, "uri": uri, "alt": alt, "caption": caption})
    return figures


def print_pdf(page: Path, target: Path) -> list[Path]:
    """Print a page of this package to PDF; returns [target], or [] with a message where no browser is installed.

    The browser is of the Chromium family, which CXR_BROWSER may name, and gets no network. Raises RuntimeError if it
    fails.
    """
    browser = next(filter(None, map(shutil.which, (os.environ.get("CXR_BROWSER", ""), *_BROWSERS))), None)
    if browser is None:
        print("no PDF: no browser of the Chromium family is installed or named by CXR_BROWSER; the HTML prints as well")
        return []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, written_whole(target) as unfinished:
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-pdf-header-footer",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            f"--print-to-pdf={unfinished}",
            *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),  # root cannot have one
            page.resolve().as_uri(),
        ]
        try:
            code = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False).returncode
            failed = "" if unfinished.is_file() else f"{browser} ended with code {code}"
        except subprocess.TimeoutExpired:
            failed = f"{browser} took more than {_PATIENCE} s"
        if failed:
            raise RuntimeError(f"no PDF: {failed}; the HTML is there: {page}")
    return [target]
