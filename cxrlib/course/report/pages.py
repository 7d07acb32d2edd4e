"""HTML pages that open offline: everything escaped, pictures embedded, no request to any host."""

import base64
import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from cxrlib.core.paths import written_whole

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_MAC_BROWSER = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
_WIDEST = 1600  # pixels; the files in figures/ have 300 dpi and are larger
_PATIENCE = 120  # seconds for a PDF


def write_page(path: Path, template: str, **values) -> Path:
    """Fill a template of templates/ and write the page whole. Values are escaped unless they are `Markup`.

    The page is written piece by piece, so that values may be generators of any length.
    """
    with written_whole(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.writelines(_TEMPLATES.get_template(template).generate(**values))
    return path


def data_uri(path: Path) -> str:
    """A picture as a value for `<img src>`: a PNG no wider than a screen."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        image.thumbnail((_WIDEST, _WIDEST * 4))
        return picture_uri(image, "png", optimize=True)


def picture_uri(picture: Image.Image, kind: str, **options) -> str:
    """A picture as a value for `<img src>`. kind: "jpeg" or "png"; options: of Pillow's writer."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def print_pdf(page: Path, target: Path) -> list[Path]:
    """Print a page of this package to PDF; returns [target], or [] with a message where no browser is installed.

    The browser is of the Chromium family, which CXR_BROWSER may name, and gets no network. Raises RuntimeError if it
    fails.
    """
    browser = next(filter(None, map(shutil.which, (os.environ.get("CXR_BROWSER", ""), *_BROWSERS, _MAC_BROWSER))), None)
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
