"""Phantom radiographs: a drawn data set in the layout of NIH's ChestX-ray14, with the truth beside the mined labels.

Who comes (age, sex, views, number of visits, findings and their company) is drawn from NIH's metadata of 30,805
patients; the pictures are drawn by `phantom_film`. No pixel comes from a patient.
"""

import json
import math
import shutil
import tempfile
from pathlib import Path

import joblib
import numpy as np
from PIL import Image, PngImagePlugin
from tqdm.auto import tqdm

from cxrlib.errors import InputError, nearest
from cxrlib.findings import FINDINGS, decode
from cxrlib.metadata import BOX_FRAME, reference_entries
from cxrlib.phantom_anatomy import draw_patient
from cxrlib.phantom_film import render
from cxrlib.phantom_findings import Lesion

VERSION = 1  # of the drawing: another version draws other pictures from the same seed
PREVALENCES = ("teaching", "nih")
FIRST_PATIENT = 90001  # beyond NIH's last, 30805: no phantom carries the name of a real image
_MANIFEST = "phantom.json"
_CARRIERS = 0.11  # teaching: at least this share of the patients has each finding at some visit
_VISITS = 3.2  # teaching: mean number of visits, and
_MOST_VISITS = 20  # the most; NIH's mean is 3.6 with up to 184
_TEST_SHARE = 0.2
_BOXED = {"Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"}

# Cohen's kappa of NIH's mined labels against three radiologists' majority on 810 test images (Nabulsi et al. 2021).
_NIH_KAPPA = dict(
    zip(FINDINGS, (0.18, 0.34, 0.13, 0.0, 0.34, 0.04, 0.05, 0.07, 0.36, 0.29, 0.17, 0.0, 0.54, 0.44), strict=True)
)
_DISAGREEMENT = 0.45  # share of NIH's disagreement that the phantoms have: part of NIH's lies between the readers
_CONFUSED = {  # a wrong mined label is likelier where a look-alike is on the film
    "Atelectasis": ("Effusion", "Infiltration"),
    "Cardiomegaly": ("Edema", "Effusion"),
    "Consolidation": ("Pneumonia", "Infiltration", "Atelectasis"),
    "Edema": ("Cardiomegaly", "Infiltration", "Effusion"),
    "Effusion": ("Pleural_Thickening", "Atelectasis"),
    "Emphysema": ("Pneumothorax",),
    "Fibrosis": ("Infiltration", "Pleural_Thickening"),
    "Infiltration": ("Pneumonia", "Consolidation", "Edema", "Fibrosis"),
    "Mass": ("Nodule", "Consolidation"),
    "Nodule": ("Mass",),
    "Pleural_Thickening": ("Effusion", "Fibrosis"),
    "Pneumonia": ("Infiltration", "Consolidation"),
    "Pneumothorax": ("Emphysema",),
    "Hernia": ("Cardiomegaly",),
}


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
    root.parent.mkdir(parents=True, exist_ok=True)
    visits = _plan(wanted)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.partial-", dir=root.parent))
    try:
        boxes = _draw(visits, size, folder, workers, progress)
        _write_tables(visits, boxes, folder)
        (folder / "README.md").write_text(_README, encoding="utf-8")
        manifest = {"PHANTOM": "drawn by cxrlib; no patient", **wanted, "images": len(visits)}
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        folder.chmod(0o755)
        try:
            folder.rename(root)
        except OSError:  # another process was faster
            if not _is_complete(root, wanted):
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return root


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


# ---- who comes, with what --------------------------------------------------------------------------------------------
def _plan(wanted):
    """One row a visit: who, view, film, part; truth, mined and strength hold 14 values each."""
    rng = np.random.default_rng([wanted["seed"], 1])
    visits, truth = _histories(rng, wanted["n_patients"], wanted["prevalence"])
    who = visits["patient"].to_numpy() - FIRST_PATIENT
    strength = _strengths(rng, who)
    mined, drain = _mine(rng, who, truth, strength, visits["view"].eq("AP").to_numpy(), wanted["label_noise"])
    visits["image"] = [f"{p:08d}_{k:03d}.png" for p, k in zip(visits["patient"], visits["follow_up"], strict=True)]
    visits["test"] = _test_patients(rng, who, truth | mined)[who]
    visits["truth"], visits["mined"], visits["strength"], visits["drain"] = (
        list(truth),
        list(mined),
        list(strength),
        drain,
    )
    visits["seed"] = wanted["seed"]
    return visits


def _histories(rng, n_patients, prevalence):
    """Visits of patients drawn from NIH's metadata, and which findings are truly there: (n, 14) bool."""
    entries = reference_entries().sort_values(["patient", "image"], kind="stable").reset_index(drop=True)
    if prevalence == "teaching":
        entries = entries[entries.groupby("patient").cumcount() < _MOST_VISITS].reset_index(drop=True)
    labels = entries[list(FINDINGS)].to_numpy(bool)
    starts = np.flatnonzero(~entries["patient"].duplicated().to_numpy())
    counts = np.diff(np.append(starts, len(entries)))
    carries = np.logical_or.reduceat(labels, starts)
    weights = _lifted(carries, counts) if prevalence == "teaching" else np.ones(len(starts))
    chosen = _systematic(rng, weights, counts, n_patients)
    rows = np.concatenate([np.arange(starts[i], starts[i] + counts[i]) for i in chosen])
    visits = entries.loc[rows, ["age", "sex", "view", "width", "height", "spacing_x", "spacing_y"]].reset_index(
        drop=True
    )
    visits["patient"] = FIRST_PATIENT + np.repeat(np.arange(n_patients), counts[chosen])
    visits["follow_up"] = visits.groupby("patient").cumcount()
    truth = np.concatenate([_episodes(labels[starts[i] : starts[i] + counts[i]]) for i in chosen])
    return visits, truth


def _lifted(carries, counts):
    """Weights of the patients under which every finding has its share of carriers and the mean of visits holds.

    Raking: the carriers of a finding that is too rare are weighted up, and all their company, until all shares hold.
    """
    weights = np.ones(len(counts))
    for _ in range(200):
        for column in carries.T:
            share = weights[column].sum() / weights.sum()
            if share < _CARRIERS:
                weights[column] *= _CARRIERS / share * (1 - share) / (1 - _CARRIERS)
        excess = np.average(counts, weights=weights) / _VISITS
        weights *= np.exp(-0.5 * (excess - 1) * np.log(counts))
    return weights


def _systematic(rng, weights, counts, n):
    """n patients drawn with these weights, evenly over the number of visits, so that the total hardly varies."""
    order = rng.permutation(len(weights))
    order = order[np.argsort(counts[order], kind="stable")]
    share = np.cumsum(weights[order])
    points = (np.arange(n) + rng.random()) / n * share[-1]
    return rng.permutation(order[np.minimum(np.searchsorted(share, points, side="right"), len(order) - 1)])


def _episodes(labels):
    """One patient's labels, each finding's visits moved together: a finding comes, stays and goes. Counts are kept."""
    true = np.zeros_like(labels)
    for finding in np.flatnonzero(labels.any(axis=0)):
        at = np.flatnonzero(labels[:, finding])
        first = int(np.clip(round(at.mean() - (len(at) - 1) / 2), 0, len(labels) - len(at)))
        true[first : first + len(at), finding] = True
    return true


def _strengths(rng, who):
    """How plain each finding would be: (n, 14) in 0..1, most of it the patient's, some of it the visit's."""
    patients = rng.beta(1.7, 1.4, (who.max() + 1, len(FINDINGS)))
    return np.clip(patients[who] + rng.normal(0, 0.10, (len(who), len(FINDINGS))), 0.02, 1)


def _mine(rng, who, truth, strength, bedside, noise):
    """Mined labels (n, 14) bool, and the side of a chest drain or -1 for each visit.

    The subtle is missed more often than the plain; a wrong label falls where a look-alike is, or, for the pneumothorax,
    where a drain is (Oakden-Rayner 2017). Reports copy from their predecessor: most errors stay with the patient.
    """
    n_patients = who.max() + 1
    copied = rng.random((2, n_patients, len(FINDINGS)))[:, who]
    fresh = rng.random((2, *truth.shape))
    chance = np.where(rng.random((n_patients, len(FINDINGS)))[who] < 0.7, copied, fresh)
    had_drain = (rng.random(n_patients) < 0.08)[who] & (rng.random(len(who)) < 0.8)
    pneumothorax = FINDINGS.index("Pneumothorax")
    drained = had_drain | (truth[:, pneumothorax] & (chance[0, :, pneumothorax] < 0.35))
    drain = np.where(drained, rng.integers(0, 2, n_patients)[who], -1)
    mined = truth.copy()
    if not noise:
        return mined, drain
    for column, finding in enumerate(FINDINGS):
        true = truth[:, column]
        error = _DISAGREEMENT * (1 - _NIH_KAPPA[finding])
        miss = true * (1.6 - 1.2 * strength[:, column])
        alike = truth[:, [FINDINGS.index(name) for name in _CONFUSED[finding]]].any(axis=1)
        alarm = ~true * (
            1 + 6.0 * alike + 1.5 * bedside * (finding in ("Edema", "Infiltration", "Atelectasis", "Effusion"))
        )
        alarm = alarm * np.where(drained, 8.0, 0.3) if finding == "Pneumothorax" else alarm
        wrong = np.zeros(len(true), dtype=bool)
        for kind, tendency in enumerate((miss, alarm)):  # as many false labels as missed ones: the prevalence stays
            scale = error * true.sum() / max(tendency.sum(), 1e-9)
            wrong |= chance[kind, :, column] < np.minimum(scale * tendency, 0.95)
        mined[:, column] ^= wrong
    return mined, drain


def _test_patients(rng, who, labels):
    """The patients of the test part, (patients,) bool: a fifth of the carriers of every finding, the rarest first."""
    n_patients = who.max() + 1
    carries = np.zeros((n_patients, len(FINDINGS)), dtype=bool)
    np.logical_or.at(carries, who, labels)
    test, placed = np.zeros(n_patients, dtype=bool), np.zeros(n_patients, dtype=bool)
    groups = [carries[:, column] for column in np.argsort(carries.sum(axis=0), kind="stable")]
    for group in [*groups, np.ones(n_patients, dtype=bool)]:
        free = rng.permutation(np.flatnonzero(group & ~placed))
        lacking = round(_TEST_SHARE * group.sum()) - (group & test).sum()
        test[free[: max(lacking, 0)]] = True
        placed[free] = True
    return test


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
    with tqdm(total=len(visits), desc="phantoms", unit="image", disable=not progress) as bar:
        for group, rows in zip(
            patients, parallel(joblib.delayed(_draw_visits)(group, size, folder) for group in patients), strict=True
        ):
            boxes += rows
            bar.update(len(group))
    return boxes


def _draw_visits(visits, size, folder):
    """Draws all visits of one patient and returns the boxes' rows. Random numbers depend on seed and patient alone."""
    first = visits[0]
    seed, number = first["seed"], first["patient"]
    patient = draw_patient(np.random.default_rng([seed, 2, number]), first["age"], first["sex"])
    traits = np.random.default_rng([seed, 3, number])
    sides, places = traits.integers(0, 2, len(FINDINGS)).tolist(), traits.random((len(FINDINGS), 2)).tolist()
    seeds = traits.integers(2**31, size=len(FINDINGS)).tolist()
    rows = []
    for visit in visits:
        lesions = [
            Lesion(name, float(visit["strength"][i]), sides[i], tuple(places[i]), seeds[i])
            for i, name in enumerate(FINDINGS)
            if visit["truth"][i]
        ]
        rng = np.random.default_rng([seed, 4, number, visit["follow_up"]])
        picture, boxes = render(
            patient, visit["view"], lesions, size, rng, None if visit["drain"] < 0 else visit["drain"]
        )
        _save(picture, folder / visit["path"], visit["rgba"])
        rows += [(visit["image"], name, *(v * BOX_FRAME / size for v in box)) for name in boxes for box in boxes[name]]
    return rows


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
