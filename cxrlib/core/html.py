"""HTML from templates, with everything escaped, and pictures as text inside it."""

import base64
import io
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from cxrlib.core.paths import write_text


def templates_in(folder: Path) -> Environment:
    """The templates of a folder; text that they are given is escaped unless it is `Markup`."""
    no_empty_lines = {"trim_blocks": True, "lstrip_blocks": True}
    return Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, **no_empty_lines)


def write_page(path: Path, template: Path, **values) -> Path:
    """Fill a template file, whose values are escaped unless they are `Markup`, and return the path of the page."""
    return write_text(path, templates_in(template.parent).get_template(template.name).render(**values))


def radiograph_uri(pixels: np.ndarray, side: int) -> str:
    """A radiograph, (h, w) or (h, w, 3) uint8, as a JPEG of side x side pixels for `<img src>`."""
    return data_uri(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR), "jpeg", quality=80)


def data_uri(picture: Image.Image, kind: str, **options) -> str:
    """A picture as text for `<img src>`. kind: "jpeg" or "png"; options: of Pillow's writer."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
