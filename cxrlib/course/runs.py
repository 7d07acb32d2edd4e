"""A run: the folder where each stage leaves what the next one reads."""

import datetime
import json
import platform
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import metadata as installed
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import cxrlib
from cxrlib.core.errors import InputError
from cxrlib.core.paths import check_folder, check_not_committed, located, one_process, write_csv, write_text
from cxrlib.plots.style import PRINT, save_figure

_LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "numpy", "scipy", "pandas", "scikit-learn",
              "pillow", "matplotlib", "torchxrayvision", "papermill")  # fmt: skip


class RunFolder:
    """One run, one folder. Raises InputError where its figures or notebooks would be those that the project commits."""

    def __init__(self, path: str | Path):
        self.path = located(path)
        check_not_committed(self.path, "figures", "notebooks")
        self.figures = self.path / "figures"
        self.notebooks = self.path / "notebooks"
        self.splits = self.path / "splits.csv"
        self.thresholds = self.path / "thresholds.json"
        self.metrics = self.path / "metrics.csv"

    def arch(self, arch: str) -> Path:
        """The folder of one architecture: checkpoints, history, predictions."""
        return self.path / arch

    def checkpoint(self, arch: str) -> Path:
        """The best checkpoint of an architecture."""
        return self.arch(arch) / "model_best.pth"

    def predictions(self, arch: str, part: str) -> Path:
        """The predictions of an architecture on part "val" or "test"."""
        return self.arch(arch) / f"predictions_{part}.npz"

    def need(self, path: Path, notebook: str) -> Path:
        """`path`, or an InputError that names the notebook that makes it."""
        if not path.exists():
            raise InputError(f"{path.relative_to(self.path)} is not in {self.path} yet; run notebook {notebook} first")
        return path

    def save_splits(self, entries: pd.DataFrame) -> None:
        """splits.csv: image, patient, part of every entry."""
        write_csv(self.splits, entries[["image", "patient", "part"]], index=False)

    def load_splits(self, entries: pd.DataFrame) -> pd.DataFrame:
        """The entries with their parts, but for what notebook 02 left out; InputError for splits of other images."""
        path = self.need(self.splits, "02_preprocess")
        try:
            parts = pd.read_csv(path).set_index("image")["part"].to_dict()
        except (ValueError, KeyError):  # pandas' own errors are ValueErrors
            raise InputError(f"{self.splits} cannot be read; run notebook 02_preprocess again") from None
        part = entries["image"].map(parts)
        if part.isna().any() or len(parts) != len(entries):
            raise InputError(f"{self.splits} was made from other images than these; run notebook 02_preprocess again")
        left_out = self.read().get("stages", {}).get("02_preprocess", {}).get("left_out", {})
        return entries.assign(part=part)[~entries["image"].isin(left_out)]

    def record(self, stage: str, **values) -> None:
        """Write values under the name of a stage into run.json, with the versions of the libraries."""
        with self._changed() as run:
            run.setdefault("versions", versions())
            run.setdefault("stages", {}).setdefault(stage, {}).update(values)

    def read(self) -> dict:
        """What run.json holds; empty where there is none yet."""
        path = self.path / "run.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
        except (ValueError, TypeError):  # no JSON, or something else than a dict
            raise InputError(f"{path} cannot be read; move it aside, or choose another run_dir") from None

    @property
    def on_phantoms(self) -> bool:
        """Whether run.json records the data as phantoms: the runner does for a whole run, notebook 02 by hand."""
        recorded = self.read()
        return (recorded.get("data") or (recorded.get("stages") or {}).get("02_preprocess", {})).get("phantoms") is True

    def stage(self, name: str) -> dict:
        """What a stage recorded. Raises InputError, naming the notebook, where it has not run yet."""
        stages = self.read().get("stages", {})
        if name not in stages:
            raise InputError(f"{self.path} has no record of {name} yet; run notebook {name} first")
        return stages[name]

    def start(self, keep: Collection[str] = (), **about) -> None:
        """Begin run.json, with the records of the stages `keep`; a run on other data, or by hand, is moved aside."""
        old = self.read()
        if old and old.get("data") != about.get("data"):
            stamp = datetime.datetime.fromtimestamp((self.path / "run.json").stat().st_mtime)
            aside = self.path.with_name(f"{self.path.name}-{stamp:%Y%m%d-%H%M%S}")
            self.path.rename(aside)
            held = "a run on other data" if "data" in old else "results of notebooks run by hand"
            print(f"{self.path} held {held}; moved to {aside}")
        started = datetime.datetime.now().isoformat(timespec="seconds")
        with self._changed() as run:
            stages = {name: values for name, values in run.get("stages", {}).items() if name in keep}
            run.clear()
            run.update(about | {"started": started, "versions": versions(), "stages": stages})

    def save_figure(self, figure: Figure, name: str) -> None:
        """Export a figure for print into the run folder: a PNG at 300 dots per inch and a PDF."""
        save_figure(figure, name, self.figures, dpi=PRINT, pdf=True)

    @contextmanager
    def _changed(self) -> Iterator[dict]:
        """What run.json holds, to be changed in place: no other process changes it until it is written."""
        check_folder(self.path)
        with one_process(self.path / ".run.json.lock"):
            run = self.read()
            yield run
            # numpy's numbers as Python's, anything else that JSON does not know as text
            text = json.dumps(run, indent=2, default=lambda one: one.item() if hasattr(one, "item") else str(one))
            write_text(self.path / "run.json", text)


def versions() -> dict[str, str]:
    """The versions of this package, which need not be installed, of the libraries and of Python."""
    ours = {"cxrlib": cxrlib.__version__, "python": platform.python_version()}
    return ours | {name: installed.version(name) for name in _LIBRARIES}
