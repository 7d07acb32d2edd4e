"""HTML pages that open offline: everything escaped, pictures inside, no request to any host."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from cxrlib.paths import written_whole

_TEMPLATES = Path(__file__).parent / "templates"
_WIDEST = 1600  # pixels; a figure of 300 dots an inch is larger, and lies beside the page


def write_page(path: Path, template: str, **values) -> Path:
    """Fill a template of cxrlib/templates and write the page whole. Values are escaped unless they are `Markup`."""
    filled = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(template)
    css = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    with written_whole(path) as beside:
        beside.write_text(filled.render(css=css, **values), encoding="utf-8")
    return path


def data_uri(path: Path) -> str:
    """A picture as text for `<img src>`: an SVG as it is, a PNG no wider than a screen."""
    if path.suffix == ".svg":
        return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
    picture = io.BytesIO()
    with Image.open(path) as image:
        image = image.convert("RGB")
        image.thumbnail((_WIDEST, _WIDEST * 4))
        image.save(picture, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
