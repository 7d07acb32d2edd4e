"""Smaller copies of a run's figures, such as those of a README."""

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrlib.core.errors import InputError
from cxrlib.core.paths import NOTEBOOKS, written_whole
from cxrlib.course.runs import RunFolder

_DPI = 110
_SCALE = _DPI / 300  # of the files in the run folder, which are for print


def export_figures(run: RunFolder, folder: Path) -> list[Path]:
    """Copy the PNGs of a run's figures into `folder`, scaled from 300 to 110 dpi; returns the paths of the copies.

    Raises InputError if the run has no figures, or if `folder` lies in the project and the run's data are not recorded
    as phantoms: pictures of patients must not be committed.
    """
    files = sorted(run.figures.glob("*.png"))
    if not files:
        raise InputError(f"{run.figures} holds no figures (PNG); run the notebooks of this run first")
    project = NOTEBOOKS.parent
    if Path(folder).resolve().is_relative_to(project) and not run.on_phantoms:
        raise InputError(
            f"{run.path} is not recorded as a run on phantoms, and pictures of patients must not be committed; "
            f"expected a folder outside {project}, found {folder}"
        )
    for file in files:
        with Image.open(file) as image, written_whole(Path(folder) / file.name) as unfinished:
            about = PngInfo()
            if "Description" in image.info:
                about.add_text("Description", image.info["Description"])
            size = [round(side * _SCALE) for side in image.size]
            small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            small.save(unfinished, "PNG", optimize=True, dpi=(_DPI, _DPI), pnginfo=about)
    return [Path(folder) / file.name for file in files]
