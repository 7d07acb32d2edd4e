"""HTML pages that open offline: everything escaped, pictures inside, no request to any host."""

import base64
import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from cxrlib.core.paths import write_text, written_whole

_TEMPLATES = Path(__file__).parent / "templates"
_WIDEST = 1600  # pixels; a figure of 300 dots an inch is larger, and lies beside the page


def write_page(path: Path, template: str, **values) -> Path:
    """Fill a template of templates/ and write the page whole. Values are escaped unless they are `Markup`."""
    filled = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(template)
    css = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return write_text(path, filled.render(css=css, **values))


def data_uri(path: Path) -> str:
    """A picture as text for `<img src>`: a PNG no wider than a screen."""
    picture = io.BytesIO()
    with Image.open(path) as image:
        image = image.convert("RGB")
        image.thumbnail((_WIDEST, _WIDEST * 4))
        image.save(picture, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()


def print_pdf(page: Path, target: Path, seconds: int = 120) -> list[Path]:
    """Print a page of ours with a browser of this machine; returns [target], or [] and a word where there is none.

    CXR_BROWSER names a browser of the Chromium family elsewhere. The browser gets no network.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
    known = [os.environ.get("CXR_BROWSER"), *names, "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"]
    browser = next((found for name in known if name and (found := shutil.which(name))), None)
    if browser is None:
        print(
            "no PDF: no browser of the Chromium family is installed (or named by CXR_BROWSER); the HTML prints as well"
        )
        return []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, written_whole(target) as beside:
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-pdf-header-footer",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            f"--print-to-pdf={beside}",
            *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),  # root cannot have one
            page.resolve().as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
            failed = "" if beside.is_file() else f"{browser} ended with code {done.returncode}"
        except subprocess.TimeoutExpired:
            failed = f"{browser} took more than {seconds} s"
        if failed:
            raise RuntimeError(f"no PDF: {failed}; the HTML is there: {page}")
    return [target]
