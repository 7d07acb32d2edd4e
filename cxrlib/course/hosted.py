"""Kaggle and Colab: which radiographs are attached there, and where results are kept. docs/hosted.md tells the rest."""

import importlib.metadata
import sys
from contextlib import suppress
from pathlib import Path

from cxrlib.core.errors import InputError
from cxrlib.core.paths import ROOT, RUNS, SERVICES
from cxrlib.data.metadata import find_csv

# where Kaggle mounts a data set, now and earlier; where Colab has what was unpacked there, and the user's Drive
_PLACES = ("kaggle/input/datasets/organizations/*/*", "kaggle/input/datasets/*/*", "kaggle/input/*",
           "content/drive/MyDrive/*", "content/*")  # fmt: skip


def welcome() -> None:
    """On Kaggle and Colab, say what is attached; InputError where a library was replaced after its import."""
    if ROOT not in SERVICES:
        return
    for name in ("numpy", "pandas"):  # Colab loads them before the first cell
        loaded, installed = getattr(sys.modules.get(name), "__version__", None), importlib.metadata.version(name)
        if loaded not in (None, installed):
            raise InputError(f"{name} {loaded} is loaded, {installed} is installed; restart the session and run again")
    for folder in attached():
        print(f'radiographs: img_root = "{folder}", in the cell of parameters, reads those that are attached')
    print(f"results: {RUNS}")


def attached(root: str | Path = "/") -> list[Path]:
    """The folders with radiographs and NIH's table, among those where Kaggle and Colab keep what a user attaches."""
    found = []
    for folder in (folder for place in _PLACES for folder in sorted(Path(root).glob(place)) if folder.is_dir()):
        inner = any(other.is_relative_to(folder) for other in found)  # a table is also found one level below
        with suppress(InputError, OSError):  # where there is none
            if not inner and find_csv(folder).is_file():
                found.append(folder)
    return found
