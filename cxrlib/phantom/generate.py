"""Phantom radiographs: a drawn data set in the layout of NIH's ChestX-ray14, of which no pixel comes from a patient."""

import glob
import shutil
import tempfile
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin

from cxrlib.core.errors import InputError
from cxrlib.core.paths import one_process, read_json, sync, write_json
from cxrlib.core.progress import bar
from cxrlib.data.findings import FINDINGS, decode
from cxrlib.data.metadata import BOX_FRAME
from cxrlib.phantom.config import PhantomConfig
from cxrlib.phantom.film import MACHINES, render
from cxrlib.phantom.patients import TRAITS, draw_patient, plan_visits
from cxrlib.phantom.signs import Lesion

VERSION = 2  # of the drawing: another version draws other radiographs from the same seed


def make_phantoms(root: str | Path, progress: bool = True, **parameters) -> Path:
    """Draws phantom radiographs, a data set that data/README.md describes, into the folder `root`, and returns that.

    It appears only when complete; a complete set of the same parameters (of `PhantomConfig`) is not drawn again.
    Raises InputError if a parameter is out of range, the folder holds anything else, or drawing or writing fails.
    """
    root, config = Path(root), PhantomConfig(**parameters)
    try:
        if not _is_complete(root, config):
            with one_process(root.with_name(f".{root.name}.lock"), f"drawing {root}"):
                if not _is_complete(root, config):  # another process may have drawn it
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
    manifest, names = {"hospital": "first"} | read_json(Path(root) / "phantom.json"), PhantomConfig().model_dump()
    if manifest.get("version") == VERSION and manifest.keys() >= {*names, "images"}:
        return PhantomConfig(**{name: manifest[name] for name in names}), manifest["images"]
    raise InputError(f"{root} holds no phantoms of version {VERSION}; name another folder, or remove it and draw anew")


def _is_complete(root, config):
    """Whether `root` is this very set; False if it is missing or empty, InputError if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    drawn, images = read_manifest(root)
    pairs = zip(drawn.model_dump().items(), config.model_dump().values(), strict=True)
    if differ := ", ".join(f"{key}={found!r}, not {wanted!r}" for (key, found), wanted in pairs if found != wanted):
        raise InputError(f"{root} holds phantoms of other parameters ({differ}); name another folder or remove it")
    if (there := sum(1 for _ in root.glob("images_*/images/*.png"))) != images:
        raise InputError(f"{root} holds {there} of its {images} phantoms; remove the folder to draw them again")
    return True


def _make(root, config, progress):
    """Draws into a temporary folder next to `root` and renames it at the end."""
    prefix = f".{root.name}.partial-"
    for left in root.parent.glob(f"{glob.escape(prefix)}*"):  # of processes that were killed
        # moved first: its orphaned workers may still write there, and a folder is not removed while it fills
        shutil.rmtree(left.rename(f"{left}.old"), ignore_errors=True)
    visits = plan_visits(config)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=root.parent, ignore_cleanup_errors=True) as made:
        folder = Path(made).absolute()  # a worker that was started earlier may have another working directory
        visits["path"] = [f"images_{1 + row // 10_000:03d}/images/{name}" for row, name in enumerate(visits["image"])]
        visits["rgba"] = np.arange(len(visits)) % 97 == 5  # NIH has a few such files, too
        for path in visits["path"][::10_000]:  # not by the workers: an orphan of a killed process would bring it back
            (folder / path).parent.mkdir(parents=True)
        patients = [group.to_dict("records") for _, group in visits.groupby("patient")]
        parallel = joblib.Parallel(n_jobs=config.workers or -1, return_as="generator", pre_dispatch="4*n_jobs")
        drawn = parallel(joblib.delayed(_draw_visits)(group, config, folder) for group in patients)
        shown = bar(drawn, progress, total=len(patients), desc="phantoms", unit=" patients")
        _write_tables(visits, [row for rows in shown for row in rows], folder)
        shutil.copyfile(Path(__file__).with_name("set_readme.md"), folder / "README.md")
        known = {"hospital"} if config.hospital == "first" else set()  # of all sets that do not name it
        manifest = {"PHANTOM": "drawn by cxrlib; no patient", "version": VERSION, **config.model_dump(exclude=known)}
        write_json(folder / "phantom.json", manifest | {"images": len(visits)})
        folder.chmod(0o755)
        for path in folder.rglob("*.*"):
            sync(path)
        folder.rename(root)
        sync(root.parent)


def _draw_visits(visits, config, folder):
    """Draws one patient; returns the boxes as rows (image, finding, x, y, w, h) of text, in the 1024-pixel frame."""
    np.empty(30 << 20, np.uint8)  # freed at once; glibc then keeps the memory of freed maps, a fifth of a worker's time
    rows, note = [], PngImagePlugin.PngInfo()
    note.add_text("PHANTOM", "Drawn by cxrlib. Not a radiograph, not a patient.")
    for visit, picture, boxes, _ in render_visits(visits, config):
        picture = Image.fromarray(picture).convert("RGBA" if visit["rgba"] else "L")
        picture.save(folder / visit["path"], pnginfo=note, compress_level=3)
        for name, of_finding in boxes.items():
            shares = np.array(of_finding) * BOX_FRAME / config.size
            rows += [(visit["image"], name, *(f"{value:.3f}" for value in box)) for box in shares]
    return rows


def render_visits(visits, config):
    """Draws the visits of one patient, rows of `plan_visits` as dicts; yields each with what `render` returns."""
    seed, number, n = config.seed, visits[0]["patient"], len(FINDINGS)
    patient = draw_patient(np.random.default_rng([seed, 2, number]), visits[0]["age"], visits[0]["sex"])
    traits = np.random.default_rng([seed, 3, number])
    sides, places, seeds = traits.integers(0, 2, n), traits.random((n, 2)).tolist(), traits.integers(2**31, size=n)
    for visit in visits:  # each random number depends on the seed, the patient and the visit only
        found, strength = np.flatnonzero(visit["truth"]), visit["strength"].tolist()
        lesions = [Lesion(FINDINGS[i], strength[i], sides[i], places[i], seeds[i]) for i in found]
        rng, machine = np.random.default_rng([seed, 4, number, visit["follow_up"]]), MACHINES[config.hospital]
        yield visit, *render(patient, visit["view"], lesions, config.size, rng, visit["drain"], machine)


def _write_tables(visits, boxes, folder):
    """Writes the tables exactly as NIH does: an extra comma after the header of 2017, boxes of an `Infiltrate`."""
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    header += "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    columns = ["image", "mined", "follow_up", "patient", "age", "sex", "view", "width", "height", "spacing_x"]
    entries = visits.assign(mined=visits["mined"].map(decode), end="").astype({"age": int, "width": int, "height": int})
    names = ["Image ID", "Patient ID", "Abnormal", *(name.replace("_", " ") for name in FINDINGS)]
    truth = np.stack(visits["truth"])
    answers = pd.DataFrame(np.where(np.column_stack([truth.any(axis=1), truth]), "YES", "NO"))
    boxes = pd.DataFrame(boxes, columns=range(6)).reindex(columns=range(9))  # three empty columns
    boxed = boxes[1].isin(TRAITS.index[TRAITS["boxed"]])
    boxes[1] = boxes[1].replace("Infiltration", "Infiltrate")
    for name, head, table in (
        ("Data_Entry_2017.csv", header, entries[[*columns, "spacing_y", "end"]]),
        ("true_labels.csv", ",".join(names), pd.concat([visits[["image", "patient"]], answers], axis=1)),
        ("true_boxes.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", boxes),
        ("BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", boxes[boxed]),
        ("train_val_list.txt", "", visits.loc[~visits["test"], ["image"]]),
        ("test_list.txt", "", visits.loc[visits["test"], ["image"]]),
    ):
        rows = table.to_csv(header=False, index=False, lineterminator="\n")
        (folder / name).write_text(f"{head}\n{rows}".lstrip("\n"), encoding="utf-8")
