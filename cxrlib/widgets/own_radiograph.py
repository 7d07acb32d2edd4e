"""`OwnRadiograph`: choose a file, and see its fourteen probabilities and heat maps."""

import io
from pathlib import Path

import ipywidgets as w
import numpy as np

from cxrlib.core.errors import printable
from cxrlib.explain.prediction import Prediction, Predictor
from cxrlib.plots.style import pretty
from cxrlib.widgets.html import CONTROL, HeatExplorer, finding_choice, macros

_SHOW = macros("own.html")


class OwnRadiograph(HeatExplorer):
    """A radiograph of one's own, PNG, JPEG or DICOM, with its probabilities and the heat map of one finding.

    A chosen file is read from memory, predicted once, and not kept. models: the checkpoints of one or several models;
    example: the path of an image to begin with, such as a file over the 10 MB that JupyterLab usually passes on.
    """

    def __init__(self, models, example=None):
        self._predictor = Predictor(models)
        self.case: Prediction | None = None
        super().__init__(finding_choice(disabled=True, layout=CONTROL))
        tip = "Choose a PNG, JPEG or DICOM file of a frontal chest radiograph; it stays on this machine"
        self._upload = w.FileUpload(description="Choose a radiograph", tooltip=tip, layout=CONTROL)
        self._upload.observe(lambda _: self._take(), "value")
        self._notice = w.HTML()
        self._arrange(w.HTML(_SHOW.invitation()), self._upload, self._finding, self._opacity, self._notice)
        if example is not None:
            self._load(example)

    def __repr__(self) -> str:
        return f"OwnRadiograph({', '.join(model.arch for model in self._predictor.models)})"

    def _take(self) -> None:
        """Read the chosen file, and forget its bytes, which a saved notebook could otherwise hold."""
        for given in self._upload.value:  # one, and none once it is forgotten
            file = io.BytesIO(given["content"])
            file.name = given["name"]
            self._upload.value = ()
            self._load(file)

    def _load(self, file) -> None:
        self.case = None  # until all is there, nothing is drawn, and nothing of an earlier image stays beside its error
        for part in (self._picture, self._notice, self._table):
            part.value = ""
        self._status.value = _SHOW.reading(printable(Path(getattr(file, "name", file)).name))
        case = next(self._predictor.predict([file], threads=1))
        self._finding.disabled = bool(case.error)
        if case.error:
            self._notice.value, self._status.value = _SHOW.error(case.error) + _SHOW.warnings(case.warnings), ""
            return
        self._maps = self._predictor.all_maps(case)
        self._finding.value = int(np.argmax(case.positive + case.probability))  # the positives come first
        self._notice.value, self.case = _SHOW.warnings(case.warnings), case
        self._show()

    def _show(self) -> None:
        if self.case is None:
            return
        k, name = self._finding.value, printable(self.case.path.name)
        rows = [row | {"name": pretty(row["finding"])} for row in self.case.rows]
        lacking = "" if self._maps[k].any() else "The map is empty: no region speaks for the finding."
        self._status.value = _SHOW.status(name, rows, rows[k], lacking)
        self._draw(name, self.case.images[0], self._maps[k])
        self._table.value = _SHOW.table(rows, k, len(self._predictor.models) > 1)
