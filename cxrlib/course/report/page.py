"""The pages of runs: the report of one (HTML that opens offline, PDF), the index of all, and copies of its figures."""

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from cxrlib.core.errors import InputError
from cxrlib.core.html import data_uri, templates_in
from cxrlib.core.paths import NOTEBOOKS, one_process, written_whole
from cxrlib.course.parameters import COURSE
from cxrlib.course.report.evidence import Evidence
from cxrlib.course.runs import RunFolder

_TEMPLATES = templates_in(Path(__file__).parent / "templates")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge",
             "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")  # fmt: skip
_WIDEST = 1100  # pixels, 155 per inch on A4; the files in figures/ have 300 dpi and are larger
_DPI = 110  # of the copies
_PATIENCE = 120  # seconds for a PDF
_PLACED = ("splits", "metrics", "audit", "experts", "comparison", "comparison_differences", "localization")
_METRICS = ("n", "auroc", "auroc_low", "auroc_high", "f1", "f1_low", "f1_high")


def write_page(path: Path, template: str, **values) -> Path:
    """Fill a template of templates/; values are escaped unless they are `Markup`, and may be long generators."""
    with written_whole(path) as beside, beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(_TEMPLATES.get_template(template).generate(**values))
    return path


def write_report(run: RunFolder) -> list[Path]:
    """Write report.html, and report.pdf where a browser is installed, into the run folder; returns their paths.

    Raises InputError for a folder that holds no run.
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
    """The figures in the order of the notebooks, each with its caption, its alt text and a value for `<img src>`.

    Of two forms the smaller: a PNG with 256 colours, which suits drawings, or a JPEG, which suits radiographs.
    """
    figures = []
    for file in sorted(run.figures.glob("*.png")):
        caption = file.stem[3:].replace("_", " ").capitalize()
        with Image.open(file) as image:
            alt = image.info.get("Description", caption)
            image = image.convert("RGB")
            image.thumbnail((_WIDEST, _WIDEST * 4))
        drawing = data_uri(image.quantize(dither=Image.Dither.NONE), "png", optimize=True)
        uri = min(drawing, data_uri(image, "jpeg", quality=85), key=len)
        figures.append({"file": file.name, "uri": uri, "alt": alt, "caption": caption})
    return figures


def print_pdf(page: Path, target: Path) -> list[Path]:
    """Print a page to PDF without a network; returns [target], or [] with a message where no browser is installed.

    Raises RuntimeError if the browser (of the Chromium family, CXR_BROWSER may name it) fails.
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
        how = f"took more than {_PATIENCE} s"
        with suppress(subprocess.TimeoutExpired):
            code = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False).returncode
            how = "" if unfinished.is_file() else f"ended with code {code}"
        if how:
            raise RuntimeError(f"no PDF: {browser} {how}; the HTML is there: {page}")
    return [target]


def export_figures(run: RunFolder, folder: Path) -> list[Path]:
    """Copy the PNGs of a run's figures into `folder`, scaled from 300 to 110 dpi; returns the paths of the copies.

    Raises InputError if there are none, or if they may show patients and `folder` lies in the project.
    """
    copies = {file: folder / file.name for file in sorted(run.figures.glob("*.png"))}
    if not copies:
        raise InputError(f"{run.figures} holds no figures (PNG); run the notebooks of this run first")
    project = NOTEBOOKS.parent
    if folder.resolve().is_relative_to(project) and not run.on_phantoms:
        raise InputError(
            f"{run.path} is not recorded as a run on phantoms, and pictures of patients must not be committed; "
            f"expected a folder outside {project}, found {folder}"
        )
    for file, copy in copies.items():
        with Image.open(file) as image, written_whole(copy) as unfinished:
            about = PngInfo()
            about.add_text("Description", image.info.get("Description", ""))
            small = ImageOps.scale(image.convert("RGB"), _DPI / 300, Image.Resampling.LANCZOS)
            small.save(unfinished, "PNG", optimize=True, dpi=(_DPI, _DPI), pnginfo=about)
    return list(copies.values())


def write_index(folder: Path) -> Path:
    """Write index.html for all runs in `folder`, newest first; a run that cannot be read is listed as such."""
    with one_process(folder / ".index.lock"):  # of two runs that end together, the later page shows both
        runs = [_row(Evidence(path.parent)) for path in folder.glob("*/run.json")]
        newest_first = sorted(runs, key=lambda row: (row["started"], row["name"]), reverse=True)
        return write_page(folder / "index.html", "index.html", runs=newest_first)


def _row(run: Evidence) -> dict:
    macro = {name: run.value("metrics.csv", "macro", name) for name in _METRICS}
    seconds = [run.value("run.json", "stages", name, "seconds") for name in COURSE]
    measured = all(isinstance(value, int | float) for value in macro.values())
    files = {"report": "report.html", "PDF": "report.pdf"}
    files |= {file.stem[:2]: f"notebooks/{file.name}" for file in sorted(run.path.glob("notebooks/*.ipynb"))}
    files |= {"metrics.csv": "metrics.csv", "run.json": "run.json"}
    return {
        "name": run.path.name,
        "started": str(run.value("run.json", "started") or ""),
        "profile": run.value("run.json", "profile") or "",
        "arch": run.value("run.json", "stages", "03_train_efficientnet", "arch") or "",
        "split": run.value("run.json", "stages", "02_preprocess", "split") or "",
        "data": run.value("run.json", "stages", "02_preprocess", "data") or "",
        "phantoms": run.value("run.json", "data", "phantoms"),
        "links": {
            text: quote(f"{run.path.name}/{file}") for text, file in files.items() if (run.path / file).is_file()
        },
        "seconds": sum(value for value in seconds if isinstance(value, int | float)),
        "state": _state(run, measured),
        "macro": macro if measured else None,
    }


def _state(run: Evidence, measured: bool) -> str:
    for file, content in {"run.json": run.json("run.json"), "metrics.csv": measured}.items():
        if not content and (run.path / file).is_file():
            return f"cannot be read: {file}"
    failed = [name for name in COURSE if run.value("run.json", "stages", name, "error") is not None]
    done = [name for name in COURSE if run.value("run.json", "stages", name, "seconds") is not None]
    if failed:
        return f"failed in {failed[0]}"
    if len(done) == len(COURSE):
        return "finished"
    return f"{len(done)} of {len(COURSE)} notebooks" if done else "run by hand"
