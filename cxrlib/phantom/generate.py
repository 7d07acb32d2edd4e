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

import joblib
import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin

from cxrlib.core.errors import InputError
from cxrlib.core.paths import one_process, sync, write_json
from cxrlib.core.progress import bar
from cxrlib.data.findings import FINDINGS, decode
from cxrlib.data.metadata import BOX_FRAME
from cxrlib.phantom.anatomy import draw_patient
from cxrlib.phantom.config import PhantomConfig
from cxrlib.phantom.film import MACHINES, render
from cxrlib.phantom.patients import TRAITS, plan_visits
from cxrlib.phantom.signs import Lesion

VERSION = 2  # of the drawing: another version draws other radiographs from the same seed
_MANIFEST = "phantom.json"
_README = Path(__file__).with_name("set_readme.md")


def make_phantoms(root: str | Path, progress: bool = True, **parameters) -> Path:
    """Draws a data set of phantom radiographs into the folder `root` and returns it.

    The folder gets ``images_001/images/*.png`` (10,000 per folder), ``Data_Entry_2017.csv`` with the mined labels,
    ``BBox_List_2017.csv`` (true boxes of the eight findings that NIH boxed, 1024-pixel frame), ``train_val_list.txt``
    and ``test_list.txt`` (20 % of the patients), ``true_labels.csv``, ``true_boxes.csv`` and ``phantom.json``. It
    appears under its name only when complete; a complete set of the same parameters is not drawn again.
    **parameters: those of `PhantomConfig`, such as `n_patients=1000, size=256, seed=0`.

    Raises InputError if a parameter is out of range, the folder holds anything else, or drawing or writing fails.
    """
    root, config = Path(root), PhantomConfig(**parameters)
    if _is_complete(root, config):
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with one_process(root.with_name(f".{root.name}.lock"), f"drawing {root}"):
            if not _is_complete(root, config):
                _make(root, config, progress)
    except BrokenProcessPool:
        raise InputError(f"a process that drew phantoms for {root} was killed, often because memory ran out; "
                         "draw with fewer workers") from None  # fmt: skip
    except OSError as error:
        raise InputError(f"the phantoms cannot be written to {root} ({error.strerror or error}); free some space "
                         "or name another folder") from None  # fmt: skip
    return root


def read_manifest(root: str | Path) -> tuple[PhantomConfig, int]:
    """The parameters of a set of phantoms, and its number of images. Raises InputError for any other folder."""
    try:
        manifest = {"hospital": "first"} | json.loads((Path(root) / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["version"] == VERSION:
            drawn = {name: manifest[name] for name in PhantomConfig().model_dump()}
            return PhantomConfig(**drawn), int(manifest["images"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{root} holds no phantoms of version {VERSION}; name another folder, or remove it and draw anew")


def _is_complete(root, config):
    """Whether `root` is this very set; False if it is missing or empty, InputError if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    drawn, images = read_manifest(root)
    found, wanted = drawn.model_dump(), config.model_dump()
    if found != wanted:
        differ = ", ".join(f"{key}={found[key]!r}, not {wanted[key]!r}" for key in wanted if found[key] != wanted[key])
        raise InputError(f"{root} holds phantoms of other parameters ({differ}); name another folder or remove it")
    there = sum(1 for _ in root.glob("images_*/images/*.png"))
    if there != images:
        raise InputError(f"{root} holds {there} of its {images} phantoms; remove the folder to draw them again")
    return True


def _make(root, config, progress):
    """Draws into a temporary folder next to `root` and renames it at the end."""
    for left in root.parent.glob(f".{glob.escape(root.name)}.partial-*"):  # of processes that were killed
        # moved first: its orphaned workers may still write there, and a folder is not removed while it fills
        shutil.rmtree(left.rename(f"{left}.old"), ignore_errors=True)
    visits = plan_visits(config)
    # absolute: a worker that was started earlier may have another working directory
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.partial-", dir=root.parent)).absolute()
    try:
        boxes = _draw(visits, config, folder, progress)
        _write_tables(visits, boxes, folder)
        shutil.copyfile(_README, folder / "README.md")
        known = {"hospital"} if config.hospital == "first" else set()  # of all sets that do not name it
        drawn = {"version": VERSION, **config.model_dump(exclude=known), "images": len(visits)}
        write_json(folder / _MANIFEST, {"PHANTOM": "drawn by cxrlib; no patient", **drawn})
        folder.chmod(0o755)
        for path in folder.rglob("*.*"):
            sync(path)
        folder.rename(root)
        sync(root.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _draw(visits, config, folder, progress):
    """Draws all visits; returns rows (image, finding, x, y, w, h) in the 1024-pixel frame."""
    visits["path"] = [f"images_{1 + row // 10_000:03d}/images/{name}" for row, name in enumerate(visits["image"])]
    visits["rgba"] = np.arange(len(visits)) % 97 == 5  # NIH has a few such files, too
    for path in visits["path"][::10_000]:  # not by the workers: one that outlived a killed process would bring it back
        (folder / path).parent.mkdir(parents=True)
    patients = [group.to_dict("records") for _, group in visits.groupby("patient")]
    parallel = joblib.Parallel(n_jobs=config.workers or -1, return_as="generator", pre_dispatch="4*n_jobs")
    drawn = parallel(joblib.delayed(_draw_visits)(group, config, folder) for group in patients)
    shown = bar(drawn, progress, total=len(patients), desc="phantoms", unit=" patients")
    return [row for rows in shown for row in rows]


def _draw_visits(visits, config, folder):
    """Draws all visits of one patient; returns the rows of the boxes."""
    np.empty(30 << 20, np.uint8)  # freed at once; glibc then keeps the memory of freed maps, a fifth of a worker's time
    rows = []
    for visit, picture, boxes, _ in render_visits(visits, config):
        _save(picture, folder / visit["path"], visit["rgba"])
        rows += [
            (visit["image"], name, *np.multiply(box, BOX_FRAME) / config.size) for name in boxes for box in boxes[name]
        ]
    return rows


def render_visits(visits, config):
    """Draws the visits of one patient, rows of `plan_visits` as dicts; yields each with what `render` returns.

    The random numbers depend on the seed and the patient only.
    """
    seed, number = config.seed, visits[0]["patient"]
    patient = draw_patient(np.random.default_rng([seed, 2, number]), visits[0]["age"], visits[0]["sex"])
    traits, n = np.random.default_rng([seed, 3, number]), len(FINDINGS)
    sides, places, seeds = traits.integers(0, 2, n), traits.random((n, 2)), traits.integers(2**31, size=n)
    for visit in visits:
        lesions = [
            Lesion(FINDINGS[i], float(visit["strength"][i]), int(sides[i]), places[i].tolist(), int(seeds[i]))
            for i in np.flatnonzero(visit["truth"])
        ]
        rng = np.random.default_rng([seed, 4, number, visit["follow_up"]])
        machine = MACHINES[config.hospital]
        yield visit, *render(patient, visit["view"], lesions, config.size, rng, visit["drain"], machine)


def _save(picture, path, rgba):
    note = PngImagePlugin.PngInfo()
    note.add_text("PHANTOM", "Drawn by cxrlib. Not a radiograph, not a patient.")
    Image.fromarray(picture).convert("RGBA" if rgba else "L").save(path, pnginfo=note, compress_level=3)


def _write_tables(visits, boxes, folder):
    """Writes the tables exactly as NIH does: an extra comma after the header of 2017, boxes of an `Infiltrate`."""

    def write(name, header, table, **options):
        rows = table.to_csv(header=False, index=False, lineterminator="\n", **options)
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
    table = pd.DataFrame(boxes, columns=range(6)).reindex(columns=range(9))  # three empty columns
    boxed = table[1].isin(TRAITS.index[TRAITS["boxed"]])
    table[1] = table[1].replace("Infiltration", "Infiltrate")
    write("true_boxes.csv", header, table, float_format="%.3f")
    write("BBox_List_2017.csv", header, table[boxed], float_format="%.3f")
    write("train_val_list.txt", "", visits.loc[~visits["test"], ["image"]])
    write("test_list.txt", "", visits.loc[visits["test"], ["image"]])
