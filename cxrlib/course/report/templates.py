"""Pages from the templates of templates/: everything is escaped, and no host is asked for anything."""

from pathlib import Path

from cxrlib.core.html import templates_in
from cxrlib.core.paths import written_whole

_TEMPLATES = templates_in(Path(__file__).parent / "templates")


def write_page(path: Path, template: str, **values) -> Path:
    """Fill a template of templates/ and write the page whole. Values are escaped unless they are `Markup`.

    The page is written piece by piece, so that values may be generators of any length.
    """
    with written_whole(path) as beside, beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(_TEMPLATES.get_template(template).generate(**values))
    return path
