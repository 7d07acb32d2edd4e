"""Phantom radiographs: a drawn data set in the layout of NIH's ChestX-ray14, with the truth beside the mined labels.

Who comes (age, sex, views, number of visits, findings and their company) is drawn from NIH's metadata of 30,805
patients; the pictures are drawn by `phantom_film`. No pixel comes from a patient.
"""

import glob
import json
import math
import shutil
import tempfile
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import joblib
import numpy as np
from PIL import Image, PngImagePlugin

from cxrlib.core.errors import InputError, nearest
from cxrlib.core.paths import one_process, sync, written_whole
from cxrlib.core.progress import bar
from cxrlib.data.findings import FINDINGS, decode
from cxrlib.data.metadata import BOX_FRAME
from cxrlib.phantom.anatomy import draw_patient
from cxrlib.phantom.film import render
from cxrlib.phantom.lesions import Lesion
from cxrlib.phantom.patients import PREVALENCES, plan_visits

VERSION = 1  # of the drawing: another version draws other pictures from the same seed
_MANIFEST = "phantom.json"
_BOXED = {"Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"}


def make_phantoms(
    root: str | Path,
    n_patients: int = 500,
    size: int = 256,
    seed: int = 0,
    prevalence: str = "teaching",
    label_noise: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Draws a data set of phantom radiographs and returns its folder, `root`.

    n_patients: 500 patients make about 1,600 images. size: 64 or more pixels a side, 8-bit grey. prevalence: "teaching"
    (rare findings lifted, so that each has positives in every part of a small set) or "nih" (as in ChestX-ray14).
    label_noise: whether the mined labels err. workers: processes, all cores if None; the bytes do not depend on it.

    Written are ``images_001/images/*.png`` (10,000 a folder), ``Data_Entry_2017.csv`` with the mined labels,
    ``BBox_List_2017.csv`` (the eight findings that NIH boxed, true places, 1024-pixel frame), ``train_val_list.txt``
    and ``test_list.txt`` (20 % of the patients), ``true_labels.csv`` and ``true_boxes.csv`` with the truth, and
    ``phantom.json``. The folder appears under its name only when complete. A complete set of the same parameters is
    kept as it is.
    Raises InputError for parameters out of range, and for a folder that holds anything else.
    """
    root = Path(root)
    wanted = _parameters(n_patients, size, seed, prevalence, label_noise, workers)
    if _is_complete(root, wanted):
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with one_process(root.with_name(f".{root.name}.lock"), f"drawing {root}"):
            if not _is_complete(root, wanted):
                _make(root, wanted, workers, progress)
    except BrokenProcessPool:
        raise InputError(f"a process that drew phantoms for {root} was ended from outside, often for want of memory; "
                         "draw with fewer workers") from None  # fmt: skip
    except OSError as error:
        raise InputError(f"the phantoms cannot be written to {root} ({error.strerror or error}); make room, "
                         "or name another folder") from None  # fmt: skip
    return root


def _make(root, wanted, workers, progress):
    """Draws into a folder beside, which takes its name in the end. One process at a time."""
    for left in root.parent.glob(f".{glob.escape(root.name)}.partial-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    visits = plan_visits(wanted["n_patients"], wanted["seed"], wanted["prevalence"], wanted["label_noise"])
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.partial-", dir=root.parent))
    try:
        boxes = _draw(visits, wanted["size"], folder, workers, progress)
        _write_tables(visits, boxes, folder)
        (folder / "README.md").write_text(_README, encoding="utf-8")
        manifest = {"PHANTOM": "drawn by cxrlib; no patient", **wanted, "images": len(visits)}
        with written_whole(folder / _MANIFEST) as beside:
            beside.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        folder.chmod(0o755)
        for path in folder.rglob("*.*"):
            sync(path)
        folder.rename(root)
        sync(root.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parameters(n_patients, size, seed, prevalence, label_noise, workers):
    """The parameters that decide what is drawn, checked."""
    for name, value, least in (
        ("n_patients", n_patients, 1),
        ("size", size, 64),
        ("seed", seed, 0),
        ("workers", workers, 1),
    ):
        if name == "workers" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} is {value!r}; expected a whole number of at least {least}")
    if prevalence not in PREVALENCES:
        raise InputError(
            f"prevalence is {prevalence!r}; expected one of {', '.join(PREVALENCES)}{nearest(prevalence, PREVALENCES)}"
        )
    return {
        "version": VERSION,
        "n_patients": int(n_patients),
        "size": int(size),
        "seed": int(seed),
        "prevalence": prevalence,
        "label_noise": bool(label_noise),
    }


def _is_complete(root, wanted):
    """True where `root` is the very set, False where nothing is there; InputError where anything else is."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        manifest = json.loads((root / _MANIFEST).read_text(encoding="utf-8"))
        found = {name: manifest[name] for name in wanted}
        images = int(manifest["images"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{root} exists and is not a set of phantoms; name another folder or remove it") from None
    if found != wanted:
        differs = ", ".join(
            f"{name}={found[name]!r}, not {wanted[name]!r}" for name in wanted if found[name] != wanted[name]
        )
        raise InputError(f"{root} holds phantoms of other parameters ({differs}); name another folder or remove it")
    there = sum(1 for _ in root.glob("images_*/images/*.png"))
    if there != images:
        raise InputError(f"{root} holds {there} of its {images} phantoms; remove the folder to draw them again")
    return True


# ---- drawing and writing ---------------------------------------------------------------------------------------------
def _draw(visits, size, folder, workers, progress):
    """Draws every visit into the folder; returns rows (image, finding, x, y, w, h), in pixels of the 1024 frame."""
    visits["path"] = [f"images_{1 + row // 10_000:03d}/images/{name}" for row, name in enumerate(visits["image"])]
    visits["rgba"] = np.arange(len(visits)) % 97 == 5
    for name in visits["path"].map(lambda path: path.rsplit("/", 1)[0]).unique():
        (folder / name).mkdir(parents=True)
    patients = [group.to_dict("records") for _, group in visits.groupby("patient", sort=True)]
    parallel = joblib.Parallel(n_jobs=workers or joblib.cpu_count(), return_as="generator", pre_dispatch="4*n_jobs")
    boxes = []
    with bar(total=len(visits), show=progress, desc="phantoms", unit=" images") as shown:
        for group, rows in zip(
            patients, parallel(joblib.delayed(_draw_visits)(group, size, folder) for group in patients), strict=True
        ):
            boxes += rows
            shown.update(len(group))
    return boxes


def _draw_visits(visits, size, folder):
    """Draws all visits of one patient and returns the boxes' rows."""
    np.empty(30 << 20, np.uint8)  # freed at once; glibc then keeps the memory of freed maps, a fifth of a worker's time
    rows = []
    for visit, picture, boxes in render_visits(visits, size):
        _save(picture, folder / visit["path"], visit["rgba"])
        rows += [(visit["image"], name, *(v * BOX_FRAME / size for v in box)) for name in boxes for box in boxes[name]]
    return rows


def render_visits(visits, size, places=None):
    """Each visit of one patient with its picture and boxes. places: a dict that takes masks by image, as `render` does.

    Random numbers depend on seed and patient alone.
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
        masks = {} if places is None else {"places": places.setdefault(visit["image"], {})}
        yield visit, *render(patient, visit["view"], lesions, size, rng, drain, **masks)


def _save(picture, path, rgba):
    film = Image.fromarray(picture)
    note = PngImagePlugin.PngInfo()
    note.add_text("PHANTOM", "Drawn by cxrlib. Not a radiograph, not a patient.")
    (film.convert("RGBA") if rgba else film).save(path, pnginfo=note, compress_level=3)


def _write_tables(visits, boxes, folder):
    """The tables, in NIH's own form to the letter: the header of 2017 with its extra comma, boxes with `Infiltrate`."""
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    lines = [header + "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"]
    columns = (
        "image",
        "mined",
        "follow_up",
        "patient",
        "age",
        "sex",
        "view",
        "width",
        "height",
        "spacing_x",
        "spacing_y",
    )
    for row in visits[list(columns)].itertuples(index=False):
        row = row._replace(
            mined=decode(row.mined), age=math.floor(row.age), width=int(row.width), height=int(row.height)
        )
        lines.append(",".join(map(str, row)) + ",")
    _write(folder / "Data_Entry_2017.csv", lines)

    names = [name.replace("_", " ") for name in FINDINGS]
    lines = [",".join(["Image ID", "Patient ID", "Abnormal", *names])]
    for image, patient, truth in zip(visits["image"], visits["patient"], visits["truth"], strict=True):
        lines.append(",".join([image, str(patient), *("YES" if value else "NO" for value in (truth.any(), *truth))]))
    _write(folder / "true_labels.csv", lines)

    lines = ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    for image, finding, *numbers in boxes:
        label = "Infiltrate" if finding == "Infiltration" else finding
        lines.append(",".join([image, label, *(f"{number:.3f}" for number in numbers), "", "", ""]))
    _write(folder / "true_boxes.csv", lines)
    _write(
        folder / "BBox_List_2017.csv",
        lines[:1] + [line for line, box in zip(lines[1:], boxes, strict=True) if box[1] in _BOXED],
    )
    _write(folder / "train_val_list.txt", visits.loc[~visits["test"], "image"])
    _write(folder / "test_list.txt", visits.loc[visits["test"], "image"])


def _write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


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
