"""The page of `cxr predict`: each radiograph with its fourteen bars, its warnings and the maps of what is positive."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from matplotlib import colormaps

from cxrlib.core.errors import printable
from cxrlib.core.html import radiograph_uri
from cxrlib.course.report.templates import write_page
from cxrlib.explain.prediction import Prediction, Predictor

MOST = 200  # images on a page, which a browser still opens; the table has all
_SIDE = 320  # pixels of a picture


def write_predictions(path: Path, cases: Iterable[Prediction], predictor: Predictor, total: int) -> Path:
    """Write the page while the cases are predicted; the first `MOST` of `total` are shown, and all are consumed."""
    shown = _shown(cases, predictor)
    return write_page(path, "predictions.html", cases=shown, models=predictor.names, total=total, most=MOST)


def _shown(cases: Iterable[Prediction], predictor: Predictor) -> Iterator[dict]:
    for number, case in enumerate(cases):
        if number >= MOST:
            continue
        shown = {"name": printable(case.path.name), "error": case.error}
        if not case.error:
            grey = case.images[0]
            maps = predictor.maps(case).items()
            shown |= {"warnings": case.warnings, "picture": radiograph_uri(grey, _SIDE), "rows": case.rows}
            shown["maps"] = {finding: radiograph_uri(_under(grey, heat), _SIDE) for finding, heat in maps}
        yield shown


def _under(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The radiograph (h, w) under a heat map (h, w) in [0, 1]: (h, w, 3) uint8."""
    opacity = 0.6 * np.sqrt(heat)[..., None]
    colours = colormaps["inferno"](heat)[..., :3] * 255
    return np.round(grey[..., None] * (1 - opacity) + colours * opacity).astype(np.uint8)
