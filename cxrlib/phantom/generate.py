"""Phantom radiographs: a drawn data set in the layout of NIH's ChestX-ray14, with the true and the mined labels.

Age, sex, views, number of visits and findings are sampled from NIH's metadata of 30,805 patients; the radiographs are
drawn by `film`. No pixel comes from a patient.
"""

import glob
import json
import shutil
import tempfile
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin

from cxrlib.core.errors import InputError, nearest
from cxrlib.core.paths import one_process, sync, write_json
from cxrlib.core.progress import bar
from cxrlib.data.findings import FINDINGS, decode
from cxrlib.data.metadata import BOX_FRAME
from cxrlib.phantom.anatomy import draw_patient
from cxrlib.phantom.film import render
from cxrlib.phantom.lesions import Lesion
from cxrlib.phantom.patients import PREVALENCES, plan_visits

VERSION = 1  # of the drawing: another version draws other radiographs from the same seed
_MANIFEST = "phantom.json"
_BOXED = {"Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"}


class _Run(NamedTuple):
    """How a set is drawn; the bytes do not depend on it."""

    workers: int | None = None
    progress: bool = True


def make_phantoms(
    root: str | Path,
    n_patients: int = 500,
    size: int = 256,
    seed: int = 0,
    prevalence: str = "teaching",
    label_noise: bool = True,
    **run,
) -> Path:
    """Draws a data set of phantom radiographs.

    The folder gets ``images_001/images/*.png`` (10,000 per folder), ``Data_Entry_2017.csv`` with the mined labels,
    ``BBox_List_2017.csv`` (true boxes of the eight findings that NIH boxed, 1024-pixel frame), ``train_val_list.txt``
    and ``test_list.txt`` (20 % of the patients), ``true_labels.csv``, ``true_boxes.csv`` and ``phantom.json``. It
    appears under its name only when complete; a complete set of the same parameters is not drawn again.

    Args:
        root: The folder.
        n_patients: 500 patients make about 1,600 images.
        size: Pixels per side, at least 64; images are 8-bit grey.
        seed: Of the random numbers.
        prevalence: "nih" (as in ChestX-ray14) or "teaching" (rare findings are more frequent, so that each split of a
            small set has positives).
        label_noise: Whether the mined labels contain errors.
        **run: `workers`, the number of processes (None: one per core), and `progress`, whether to show a bar (True).

    Returns:
        `root`.

    Raises:
        InputError: If a parameter is out of range, the folder holds anything else, or drawing or writing fails.
    """
    root, run = Path(root), _Run(**run)
    wanted = _checked(n_patients, size, seed, prevalence, label_noise, run.workers)
    if _is_complete(root, wanted):
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with one_process(root.with_name(f".{root.name}.lock"), f"drawing {root}"):
            if not _is_complete(root, wanted):
                _make(root, wanted, run)
    except BrokenProcessPool:
        raise InputError(f"a process that drew phantoms for {root} was killed, often because memory ran out; "
                         "draw with fewer workers") from None  # fmt: skip
    except OSError as error:
        raise InputError(f"the phantoms cannot be written to {root} ({error.strerror or error}); free some space "
                         "or name another folder") from None  # fmt: skip
    return root


def _checked(n_patients, size, seed, prevalence, label_noise, workers):
    """The parameters that decide what is drawn, as the manifest has them."""
    numbers = {"n_patients": n_patients, "size": size, "seed": seed, "workers": 1 if workers is None else workers}
    for (name, value), least in zip(numbers.items(), (1, 64, 0, 1), strict=True):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} is {value!r}; expected a whole number of at least {least}")
    if prevalence not in PREVALENCES:
        known = f"{', '.join(PREVALENCES)}{nearest(prevalence, PREVALENCES)}"
        raise InputError(f"prevalence is {prevalence!r}; expected one of {known}")
    wanted = {"version": VERSION, "n_patients": int(n_patients), "size": int(size), "seed": int(seed)}
    return wanted | {"prevalence": prevalence, "label_noise": bool(label_noise)}


def _is_complete(root, wanted):
    """Whether `root` is this very set; False if it is missing or empty, InputError if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        manifest = json.loads((root / _MANIFEST).read_text(encoding="utf-8"))
        found = {name: manifest[name] for name in wanted}
        images = int(manifest["images"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{root} exists and is not a set of phantoms; name another folder or remove it") from None
    if found != wanted:
        differ = ", ".join(f"{key}={found[key]!r}, not {wanted[key]!r}" for key in wanted if found[key] != wanted[key])
        raise InputError(f"{root} holds phantoms of other parameters ({differ}); name another folder or remove it")
    there = sum(1 for _ in root.glob("images_*/images/*.png"))
    if there != images:
        raise InputError(f"{root} holds {there} of its {images} phantoms; remove the folder to draw them again")
    return True


def _make(root, wanted, run):
    """Draws into a temporary folder next to `root` and renames it at the end."""
    for left in root.parent.glob(f".{glob.escape(root.name)}.partial-*"):  # of processes that were killed
        shutil.rmtree(left, ignore_errors=True)
    visits = plan_visits(wanted["n_patients"], wanted["seed"], wanted["prevalence"], wanted["label_noise"])
    # absolute: a worker that was started earlier may have another working directory
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.partial-", dir=root.parent)).absolute()
    try:
        boxes = _draw(visits, wanted["size"], folder, run)
        _write_tables(visits, boxes, folder)
        (folder / "README.md").write_text(_README, encoding="utf-8")
        write_json(folder / _MANIFEST, {"PHANTOM": "drawn by cxrlib; no patient", **wanted, "images": len(visits)})
        folder.chmod(0o755)
        for path in folder.rglob("*.*"):
            sync(path)
        folder.rename(root)
        sync(root.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _draw(visits, size, folder, run):
    """Draws all visits; returns rows (image, finding, x, y, w, h) in the 1024-pixel frame."""
    visits["path"] = [f"images_{1 + row // 10_000:03d}/images/{name}" for row, name in enumerate(visits["image"])]
    visits["rgba"] = np.arange(len(visits)) % 97 == 5  # NIH has a few such files, too
    for path in visits["path"][::10_000]:
        (folder / path).parent.mkdir(parents=True)
    patients = [group.to_dict("records") for _, group in visits.groupby("patient", sort=True)]
    parallel = joblib.Parallel(n_jobs=run.workers or -1, return_as="generator", pre_dispatch="4*n_jobs")
    drawn = parallel(joblib.delayed(_draw_visits)(group, size, folder) for group in patients)
    boxes = []
    with bar(total=len(visits), show=run.progress, desc="phantoms", unit=" images") as shown:
        for group, rows in zip(patients, drawn, strict=True):
            boxes += rows
            shown.update(len(group))
    return boxes


def _draw_visits(visits, size, folder):
    """Draws all visits of one patient; returns the rows of the boxes."""
    np.empty(30 << 20, np.uint8)  # freed at once; glibc then keeps the memory of freed maps, a fifth of a worker's time
    rows = []
    for visit, picture, boxes in render_visits(visits, size):
        _save(picture, folder / visit["path"], visit["rgba"])
        rows += [(visit["image"], name, *(v * BOX_FRAME / size for v in box)) for name in boxes for box in boxes[name]]
    return rows


def render_visits(visits, size, places=None):
    """Draws the visits of one patient, rows of `plan_visits` as dicts; yields each with its radiograph and boxes.

    The random numbers depend on the seed and the patient only. The masks of `render` are added to the dict `places`, by
    image, unless it is None.
    """
    first = visits[0]
    seed, number = first["seed"], first["patient"]
    patient = draw_patient(np.random.default_rng([seed, 2, number]), first["age"], first["sex"])
    traits = np.random.default_rng([seed, 3, number])
    sides, where = traits.integers(0, 2, len(FINDINGS)).tolist(), traits.random((len(FINDINGS), 2)).tolist()
    seeds = traits.integers(2**31, size=len(FINDINGS)).tolist()
    for visit in visits:
        lesions = [
            Lesion(name, float(visit["strength"][i]), sides[i], tuple(where[i]), seeds[i])
            for i, name in enumerate(FINDINGS)
            if visit["truth"][i]
        ]
        rng = np.random.default_rng([seed, 4, number, visit["follow_up"]])
        drain = None if visit["drain"] < 0 else visit["drain"]
        masks = None if places is None else places.setdefault(visit["image"], {})
        yield visit, *render(patient, visit["view"], lesions, size, rng, drain, masks)


def _save(picture, path, rgba):
    film = Image.fromarray(picture)
    note = PngImagePlugin.PngInfo()
    note.add_text("PHANTOM", "Drawn by cxrlib. Not a radiograph, not a patient.")
    (film.convert("RGBA") if rgba else film).save(path, pnginfo=note, compress_level=3)


def _write_tables(visits, boxes, folder):
    """Writes the tables exactly as NIH does: an extra comma after the header of 2017, boxes of an `Infiltrate`."""

    def write(name, header, table):
        rows = table.to_csv(header=False, index=False, lineterminator="\n")
        (folder / name).write_text(header + rows, encoding="utf-8")

    columns = ["image", "mined", "follow_up", "patient", "age", "sex", "view", "width", "height", "spacing_x"]
    entries = visits[[*columns, "spacing_y"]].astype({"age": int, "width": int, "height": int})
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    header += "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
    write("Data_Entry_2017.csv", header, entries.assign(mined=entries["mined"].map(decode), end=""))

    truth = np.stack(visits["truth"])
    answers = pd.DataFrame(np.where(np.column_stack([truth.any(axis=1), truth]), "YES", "NO"))
    names = ["Image ID", "Patient ID", "Abnormal", *(name.replace("_", " ") for name in FINDINGS)]
    write("true_labels.csv", ",".join(names) + "\n", pd.concat([visits[["image", "patient"]], answers], axis=1))

    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
    rows = [(*box[:2], *(f"{number:.3f}" for number in box[2:]), "", "", "") for box in boxes]
    table = pd.DataFrame(rows, columns=range(9))
    boxed = table[1].isin(_BOXED)
    table[1] = table[1].replace("Infiltration", "Infiltrate")
    write("true_boxes.csv", header, table)
    write("BBox_List_2017.csv", header, table[boxed])
    write("train_val_list.txt", "", visits.loc[~visits["test"], ["image"]])
    write("test_list.txt", "", visits.loc[visits["test"], ["image"]])


_README = """\
# PHANTOM radiographs

Every picture in this folder is a PHANTOM: drawn by the program cxrlib, from no patient. Nothing here says anything
about medicine. The form is that of NIH's ChestX-ray14, so that the same commands read both.

| file | what |
|---|---|
| `images_001/images/*.png` | the pictures; each says PHANTOM in a PNG text chunk |
| `Data_Entry_2017.csv` | one row an image; its labels are *mined*: wrong at times, as a report parser's are |
| `true_labels.csv` | what was drawn, YES or NO, in the form of the expert labels |
| `BBox_List_2017.csv` | where: boxes of the eight findings that NIH boxed, in 1024-pixel coordinates |
| `true_boxes.csv` | boxes of all findings that have a place |
| `train_val_list.txt`, `test_list.txt` | a split by patient |
| `phantom.json` | the parameters from which the same bytes are drawn again |
"""
