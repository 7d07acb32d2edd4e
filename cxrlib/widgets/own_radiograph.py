"""`OwnRadiograph`: choose a file, and see its fourteen probabilities and heat maps."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import ipywidgets as w
import numpy as np

from cxrlib.core.errors import printable
from cxrlib.core.html import radiograph_uri
from cxrlib.data.findings import FINDINGS
from cxrlib.explain.prediction import Prediction, Predictor
from cxrlib.plots.style import pretty
from cxrlib.widgets import html
from cxrlib.widgets.html import SIDE

_CONTROL = {"width": "330px"}
_SHOW, _HEAT = html.macros("own.html"), html.macros("heat.html")


class OwnRadiograph(w.HBox):
    """A radiograph of one's own, PNG, JPEG or DICOM, with its probabilities and the heat map of one finding.

    A chosen file is read from memory, predicted once with all fourteen maps, and not kept: another finding or opacity
    only redraws. All controls use observe and nothing is printed, so that a notebook with it also runs headless.

    Args:
        models: a `Predictor`, or the checkpoints of one or several models.
        example: the path of an image to begin with. JupyterLab passes on uploads of 10 MB at most, unless it was
            started by `make lab`: a larger file can be given here.
    """

    def __init__(self, models: Predictor | Sequence[str | Path], example: str | Path | None = None):
        self._predictor = models if isinstance(models, Predictor) else Predictor(models)
        self.case: Prediction | None = None
        self._maps = np.empty(0)
        self._picture, self._opaque, self._notice, self._status, self._table = (w.HTML() for _ in range(5))
        left = w.VBox([self._picture, self._opaque], layout={"width": f"{SIDE + 16}px"})
        right = [w.HTML(_SHOW.invitation()), *self._controls(), self._notice, self._status, self._table]
        super().__init__([w.HTML(html.STYLE), left, w.VBox(right, layout={"flex": "1 1 360px"})], layout=html.WRAP)
        self.add_class("cxr")
        self._fade()
        if example is not None:
            self._load(example)

    def __repr__(self) -> str:
        return f"OwnRadiograph({', '.join(model.arch for model in self._predictor.models)})"

    def _controls(self) -> list[w.Widget]:
        findings = [(pretty(name), k) for k, name in enumerate(FINDINGS)]
        tip = "Choose a PNG, JPEG or DICOM file of a frontal chest radiograph; it stays on this machine"
        self._upload = w.FileUpload(description="Choose a radiograph", tooltip=tip, layout=_CONTROL)
        self._finding = w.Dropdown(options=findings, description="Finding", disabled=True, layout=_CONTROL)
        self._opacity = w.FloatSlider(0.6, min=0, max=1, step=0.05, description="Opacity", layout=_CONTROL)
        self._upload.observe(lambda _: self._take(), "value")
        self._finding.observe(lambda _: self._show(), "value")
        self._opacity.observe(lambda _: self._fade(), "value")
        return [self._upload, self._finding, self._opacity]

    def _take(self) -> None:
        """Read the chosen file, and forget its bytes, which a saved notebook could otherwise hold."""
        if not self._upload.value:
            return
        file = io.BytesIO(self._upload.value[0]["content"])
        file.name = self._upload.value[0]["name"]
        self._upload.value = ()
        self._load(file)

    def _load(self, file: str | Path | BinaryIO) -> None:
        self.case = None  # until all is there, nothing is drawn, and nothing of an earlier image stays beside its error
        for part in (self._picture, self._notice, self._table):
            part.value = ""
        name = file if isinstance(file, str | Path) else file.name
        self._status.value = _SHOW.reading(printable(Path(name).name))
        case = next(self._predictor.predict([file], threads=1))
        notices = _SHOW.warnings(case.warnings)
        self._finding.disabled = bool(case.error)
        if case.error:
            self._notice.value, self._status.value = _SHOW.error(case.error) + notices, ""
            return
        self._maps = self._predictor.all_maps(case)
        self._finding.value = int(np.argmax(case.positive + case.probability))  # the positives come first
        self._notice.value, self.case = notices, case
        self._show()

    def _fade(self) -> None:
        """Set the opacity alone, so that no picture is sent again."""
        self._opaque.value = _HEAT.fading(self._picture.model_id, self._opacity.value)

    def _show(self) -> None:
        if self.case is None:
            return
        k, name = self._finding.value, printable(self.case.path.name)
        rows = [row | {"name": pretty(row["finding"])} for row in self.case.rows]
        lacking = "" if self._maps[k].any() else "The map is empty: no region speaks for the finding."
        self._status.value = _SHOW.status(name, rows, rows[k], lacking)
        self._picture.value = _HEAT.case_picture(
            self._picture.model_id,
            name,
            rows[k]["name"],
            radiograph_uri(self.case.images[0], SIDE),
            html.heat_uri(self._maps[k]),
            (),
        )
        self._table.value = _SHOW.table(rows, k, len(self._predictor.models) > 1)
