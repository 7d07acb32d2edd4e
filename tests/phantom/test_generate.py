"""Phantoms: the NIH layout, true and mined labels, the signs, the grey levels, and invalid input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import cohen_kappa_score

import cxrlib.phantom.generate as phantom
import cxrlib.phantom.patients as cohort
from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import read_boxes, read_entries, read_expert_labels, read_lists, reference_entries
from cxrlib.phantom.config import PhantomConfig
from cxrlib.phantom.film import MACHINES, render
from cxrlib.phantom.generate import make_phantoms
from cxrlib.phantom.patients import draw_exposure, draw_patient
from cxrlib.phantom.scene import Scene
from cxrlib.phantom.signs import Lesion, reshape

SMALL = {"n_patients": 30, "size": 64, "seed": 5, "progress": False}
NIH_BOXED = {"Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"}
RESHAPING = {"Atelectasis", "Cardiomegaly", "Edema", "Effusion", "Emphysema", "Fibrosis", "Pneumothorax"}
REFERENCE = Path(__file__).with_name("reference.json")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_phantoms(tmp_path_factory.mktemp("phantoms") / "set", workers=1, **SMALL)


def plan(n_patients=1000, seed=0, prevalence="teaching", label_noise=True):
    config = PhantomConfig(n_patients=n_patients, seed=seed, prevalence=prevalence, label_noise=label_noise)
    visits = cohort.plan_visits(config)
    return visits, np.stack(visits["truth"]), np.stack(visits["mined"])


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- layout ----------------------------------------------------------------------------------------------------------
def test_tables_have_exactly_the_nih_format(small):
    header = (small / "Data_Entry_2017.csv").read_text().splitlines()[0]
    assert header == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    )
    boxes = (small / "BBox_List_2017.csv").read_text().splitlines()
    assert boxes[0] == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    assert all(line.count(",") == 8 for line in boxes)
    expert = (small / "true_labels.csv").read_text().splitlines()[0]
    assert expert.startswith("Image ID,Patient ID,Abnormal,Atelectasis,")
    assert "Pleural Thickening" in expert


def test_readers_agree_with_the_folder(small):
    entries, truth = read_entries(small / "Data_Entry_2017.csv"), read_expert_labels(small / "true_labels.csv")
    files = sorted(small.glob("images_001/images/*.png"))
    assert [path.name for path in files] == list(entries["image"]) == list(truth["image"])
    assert entries["patient"].nunique() == SMALL["n_patients"]
    assert set(FINDINGS) <= set(truth.columns)
    assert entries["age"].between(0, 95).all()
    assert set(entries["view"]) <= {"PA", "AP"}
    assert not entries["image"].isin(reference_entries()["image"]).any()
    lists = read_lists(small)
    assert lists["train_val"] | lists["test"] == set(entries["image"])
    in_test = entries["image"].isin(lists["test"])
    assert not set(entries.loc[in_test, "patient"]) & set(entries.loc[~in_test, "patient"])
    assert (entries["follow_up"] == entries.groupby("patient").cumcount()).all()


def test_every_picture_says_phantom_and_some_are_rgba(small):
    modes = set()
    for path in small.glob("images_*/images/*.png"):
        with Image.open(path) as picture:
            assert picture.size == (64, 64)
            assert "PHANTOM" in picture.text
            modes.add(picture.mode)
    assert modes == {"L", "RGBA"}
    assert "PHANTOM" in (small / "README.md").read_text()


def test_boxes_are_true_and_in_the_frame(small):
    truth = read_expert_labels(small / "true_labels.csv").set_index("image")
    boxes = read_boxes(small / "BBox_List_2017.csv")
    assert len(boxes) > 10
    assert all(truth.loc[image, finding] for image, finding in zip(boxes["image"], boxes["finding"], strict=True))
    assert (boxes[["x", "y"]] >= 0).all(axis=None)
    assert ((boxes["x"] + boxes["w"]).max() <= 1024) & ((boxes["y"] + boxes["h"]).max() <= 1024)
    assert set(boxes["finding"]) <= NIH_BOXED
    everything = read_boxes(small / "true_boxes.csv")
    assert set(everything["finding"]) - NIH_BOXED <= {"Consolidation", "Hernia", "Pleural_Thickening"}
    assert len(everything) > len(boxes)
    raw = (small / "BBox_List_2017.csv").read_text()
    assert ("Infiltrate," in raw) == ("Infiltration" in set(boxes["finding"]))
    assert "Infiltration" not in raw


# ---- the same bytes --------------------------------------------------------------------------------------------------
def test_bytes_depend_on_the_seed_and_not_on_the_workers(tmp_path):
    few = SMALL | {"n_patients": 5}
    one, two = (contents(make_phantoms(tmp_path / str(workers), workers=workers, **few)) for workers in (1, 2))
    assert two == one
    assert contents(make_phantoms(tmp_path / "other", workers=1, **few | {"seed": 6})) != one


def test_a_complete_set_is_kept(small):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    assert make_phantoms(small, **SMALL) == small
    assert before == {path: path.stat().st_mtime_ns for path in small.rglob("*")}


# ---- invalid input ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"size": 63}, "size 63 cannot be used; expected a whole number at least 64"),
        ({"size": 64.5}, "size 64.5"),
        ({"n_patients": 0}, "n_patients 0"),
        ({"n_patients": True}, "n_patients True"),
        ({"seed": -1}, "seed -1"),
        ({"workers": -1}, "workers -1"),
        ({"prevalence": "teach"}, "did you mean 'teaching'"),
        ({"prevalence": None}, "prevalence None"),
        ({"patients": 10}, "did you mean 'n_patients'"),
    ],
)
def test_bad_parameters_are_refused_before_anything_is_written(tmp_path, bad, says):
    with pytest.raises(InputError, match=says):
        make_phantoms(tmp_path / "set", **SMALL | bad)
    assert not list(tmp_path.iterdir())


def test_folders_that_are_not_this_set_are_refused(small, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds no phantoms"):
        make_phantoms(foreign, **SMALL)
    with pytest.raises(InputError, match="holds no phantoms"):
        make_phantoms(foreign / "thesis.txt", **SMALL)
    assert (foreign / "thesis.txt").read_text() == "years of work"
    with pytest.raises(InputError, match="seed=5, not 6"):
        make_phantoms(small, **SMALL | {"seed": 6})
    partial = tmp_path / "partial"
    shutil.copytree(small, partial)
    next(partial.glob("images_001/images/*.png")).unlink()
    with pytest.raises(InputError, match="remove the folder to draw them again"):
        make_phantoms(partial, **SMALL)


@pytest.mark.parametrize("step", ["render", "_write_tables"])
def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, step):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_phantoms(tmp_path / "set", workers=1, **SMALL | {"n_patients": 2})
    assert [path.name for path in tmp_path.iterdir()] == [".set.lock"]


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "set").mkdir()
    make_phantoms(tmp_path / "set", workers=1, **SMALL | {"n_patients": 1})
    assert (tmp_path / "set" / "phantom.json").is_file()


# ---- statistics ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(3))
def test_teaching_has_every_finding_in_every_split(seed):
    visits, truth, mined = plan(seed=seed)
    assert 2300 <= len(visits) <= 2500
    test = visits["test"].to_numpy()
    patients = visits["patient"].to_numpy()
    assert 0.18 <= visits.groupby("patient")["test"].first().mean() <= 0.22
    for labels in (truth, mined):
        assert labels[test].sum(axis=0).min() >= 10
        assert labels[~test].sum(axis=0).min() >= 60
    rng = np.random.default_rng(seed)
    complete = 0
    for _ in range(20):  # 60 / 20 / 20 % of the patients at random
        part = rng.choice(3, 1000, p=[0.6, 0.2, 0.2])[patients - cohort.FIRST_PATIENT]
        complete += all(mined[part == p].any(axis=0).all() for p in range(3))
    assert complete >= 15


def test_nih_prevalence_ages_views_and_visits_are_nihs():
    entries = reference_entries()
    visits, truth, _ = plan(n_patients=6000, prevalence="nih")
    real = entries[list(FINDINGS)].to_numpy().mean(axis=0)
    assert np.abs(truth.mean(axis=0) - real).max() < 0.03
    assert abs(truth.any(axis=1).mean() - (1 - 0.5384)) < 0.04
    assert abs(visits["view"].eq("AP").mean() - entries["view"].eq("AP").mean()) < 0.05
    assert abs(visits["age"].mean() - entries["age"].mean()) < 1.5
    assert abs(len(visits) / 6000 - len(entries) / 30805) < 0.05


def test_findings_keep_their_company():
    _, truth, _ = plan(n_patients=3000)
    infiltration, edema = truth[:, FINDINGS.index("Infiltration")], truth[:, FINDINGS.index("Edema")]
    assert infiltration[edema].mean() > 1.5 * infiltration[~edema].mean()  # NIH: 0.43 against 0.17


def test_findings_stay_for_consecutive_visits():
    history = np.zeros((9, 14), dtype=bool)
    history[[1, 4, 8], 2] = True
    true = cohort._episodes(history)
    assert true[:, 2].sum() == 3
    assert np.flatnonzero(true[:, 2]).tolist() == [3, 4, 5]
    assert true.sum() == 3


def test_mined_labels_err_as_nihs_do_and_not_without_noise():
    visits, truth, mined = plan(n_patients=3000)
    kappa = np.array([cohen_kappa_score(truth[:, i], mined[:, i]) for i in range(14)])
    nih = cohort.TRAITS["kappa"]
    assert 0.45 < kappa.mean() < 0.75
    assert np.corrcoef(kappa, nih)[0, 1] > 0.6
    assert np.abs(mined.mean(axis=0) / truth.mean(axis=0) - 1).max() < 0.25
    strength = np.stack(visits["strength"])
    missed, kept = strength[truth & ~mined].mean(), strength[truth & mined].mean()
    assert kept - missed > 0.05
    drained = visits["drain"].to_numpy() >= 0
    column = FINDINGS.index("Pneumothorax")
    wrong = mined[:, column] & ~truth[:, column]
    assert wrong[drained].mean() > 5 * wrong[~drained].mean()
    _, truth, mined = plan(n_patients=200, label_noise=False)
    assert (truth == mined).all()


def test_errors_and_strengths_stay_with_the_patient():
    visits, truth, mined = plan(n_patients=1000)
    wrong, who = truth ^ mined, visits["patient"].to_numpy()
    again = np.flatnonzero(who[1:] == who[:-1])
    after = wrong[again + 1][wrong[again] & (truth[again] == truth[again + 1])].mean()
    assert after > 0.45  # 0.19 if errors were independent between visits
    strength = np.stack(visits["strength"])
    assert (
        np.abs(strength[again + 1] - strength[again]).mean() < 0.5 * np.abs(strength[1:] - strength[:-1]).mean() + 0.05
    )


def test_a_finding_keeps_its_place_over_the_visits(tmp_path, monkeypatch):
    drawn = []

    def note(patient, view, lesions, *_):
        drawn.append((patient.texture, {lesion.finding: lesion for lesion in lesions}))
        return np.zeros((64, 64), np.uint8), {}, {}

    monkeypatch.setattr(phantom, "render", note)
    make_phantoms(tmp_path / "set", n_patients=60, size=64, workers=1, progress=False)
    seen, pairs = {}, 0
    for texture, lesions in drawn:
        for name, lesion in lesions.items():
            first = seen.setdefault((texture, name), lesion)
            pairs += first is not lesion
            assert (first.side, first.place, first.seed) == (lesion.side, lesion.place, lesion.seed)
    assert pairs > 30


# ---- the second hospital ---------------------------------------------------------------------------------------------
def test_the_first_hospital_is_the_default_and_the_second_shares_no_image(tmp_path):
    few = SMALL | {"n_patients": 5, "workers": 1}
    plain = make_phantoms(tmp_path / "plain", **few)
    assert contents(make_phantoms(tmp_path / "first", hospital="first", **few)) == contents(plain)
    assert "hospital" not in json.loads((plain / "phantom.json").read_text()), "as in all sets drawn before"
    second = make_phantoms(tmp_path / "second", hospital="second", **few)
    assert json.loads((second / "phantom.json").read_text())["hospital"] == "second"
    names, others = (set(read_entries(root / "Data_Entry_2017.csv")["image"]) for root in (plain, second))
    assert not names & others
    assert make_phantoms(second, hospital="second", **few) == second
    with pytest.raises(InputError, match="hospital='second', not 'first'"):
        make_phantoms(second, **few)
    with pytest.raises(InputError, match="did you mean 'second'"):
        make_phantoms(tmp_path / "third", hospital="secnd", **few)


@pytest.mark.parametrize("prevalence", ["teaching", "nih"])
def test_the_second_hospital_has_other_patients(prevalence):
    first, second = (
        np.stack(
            cohort.plan_visits(PhantomConfig(n_patients=2000, prevalence=prevalence, hospital=name))["truth"]
        ).mean(axis=0)
        for name in ("first", "second")
    )
    change = dict(zip(FINDINGS, second / first, strict=True))
    assert all(change[name] < 0.75 for name in ("Atelectasis", "Effusion", "Edema", "Consolidation"))
    assert all(change[name] > 1.3 for name in ("Fibrosis", "Nodule"))


def test_every_finding_is_in_both_parts_of_the_second_hospital():
    visits = cohort.plan_visits(PhantomConfig(hospital="second"))
    test, truth = visits["test"].to_numpy(), np.stack(visits["truth"])
    assert truth[test].sum(axis=0).min() >= 3
    assert truth[~test].sum(axis=0).min() >= 5


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_the_second_machine_is_noisier_less_sharp_and_flatter(view):
    """The same exposures of the same patients, without a border, by each machine and by the first with one change."""

    def taken(**changes):
        machine = MACHINES["first"]._replace(borders=0, **changes)
        return np.stack([draw(view=view, seed=seed, machine=machine)[0] for seed in range(6)])

    def detail(pictures):
        return np.abs(np.diff(pictures[:, 30:100, 30:100], axis=2)).mean()

    second = MACHINES["second"]
    still = detail(taken(noise=0))
    assert detail(taken(noise=second.noise)) - still > 1.5 * (detail(taken()) - still)
    assert detail(taken(noise=0, sharpness=second.sharpness)) < 0.9 * still
    assert detail(taken(noise=0, edges=second.edges)) < still
    plain, flat = taken(), taken(lungs=second.lungs, mediastinum=second.mediastinum)
    core = np.s_[:, 30:100, 20:108]
    dark, bright = np.percentile(flat[core], [22, 88]) - np.percentile(plain[core], [22, 88])
    assert dark > 8
    assert bright < -8
    assert (taken(plate=True) != plain).any(axis=(1, 2)).all()


# ---- signs -----------------------------------------------------------------------------------------------------------
def draw(lesions=(), view="PA", size=128, seed=0, machine=MACHINES["first"]):
    patient = draw_patient(np.random.default_rng([1, seed]), 50.0, "M")
    picture, boxes, _ = render(patient, view, lesions, size, np.random.default_rng([2, seed]), machine=machine)
    return picture.astype(float), boxes


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_shows_and_shows_more_when_it_is_stronger(finding):
    weak, strong, gross, inside = [], [], [], []
    for seed in range(4):
        plain, none = draw(seed=seed)
        assert not none
        changes = []
        for strength in (0.1, 0.5, 0.95):
            lesion = Lesion(finding, strength, seed % 2, (0.4, 0.6), 11 * seed + 2)
            picture, boxes = draw([lesion], seed=seed)
            changes.append(np.abs(picture - plain))
        for change, kept in zip(changes, (weak, strong, gross), strict=True):
            kept.append(change.mean())
        if boxes[finding] and finding not in RESHAPING:
            mask = np.zeros(plain.shape, dtype=bool)
            for x, y, w, h in boxes[finding]:
                mask[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1] = True
            inside.append(changes[-1][mask].mean() / changes[-1][~mask].mean())
    assert np.mean(gross) > np.mean(strong) > np.mean(weak) > 0
    assert np.mean(gross) > 0.5
    if inside:
        assert np.mean(inside) > 2  # what is not reshaped anatomy changes mostly inside its box


def scene(lesions=(), size=128, seed=0):
    patient = draw_patient(np.random.default_rng([1, seed]), 50.0, "M")
    exposure = draw_exposure(np.random.default_rng([2, seed]), patient, "PA")
    for lesion in lesions:
        reshape(exposure, lesion)
    return Scene(patient, exposure, size)


def test_signs_that_are_measured_in_centimetres():
    def ratio(built):
        left, right, _, _ = built.heart_frame
        return (right - left) / (2 * built.cage_table.max())

    healthy = [ratio(scene(seed=seed)) for seed in range(12)]
    wide = [ratio(scene([Lesion("Cardiomegaly", 0.6, 0, (0.5, 0.5), 0)], seed=seed)) for seed in range(12)]
    assert 0.36 < np.mean(healthy) < 0.5 < np.mean(wide)
    built, low = scene(), scene([Lesion("Emphysema", 0.8, 0, (0.5, 0.5), 0)])
    across = np.linspace(2, 12, 20, dtype=np.float32)
    assert np.ptp(low.dome(0, across)) < 0.5 * np.ptp(built.dome(0, across))
    assert low.lung_height > built.lung_height + 2
    raised = scene([Lesion("Atelectasis", 0.8, 0, (0.5, 0.5), 0)])
    assert raised.dome(0, across).mean() < built.dome(0, across).mean() - 1
    assert raised.midline < built.midline
    for seed in range(3):
        for finding, least, most in (("Nodule", 1.0, 3.0), ("Mass", 3.0, 9.0)):
            for strength in (0.02, 1.0):
                _, boxes = draw([Lesion(finding, strength, 0, (0.5, 0.5), 1)], size=512, seed=seed)
                diameter = boxes[finding][0][2] / scene(size=512, seed=seed).px_per_cm
                assert least < diameter < most


def test_sides_and_depth_of_the_signs():
    def brightness(finding, side, rows, cols, strength=0.9):
        picture, _ = draw([Lesion(finding, strength, side, (0.5, 0.5), 3)], size=128)
        plain, _ = draw(size=128)
        return (picture - plain)[rows, cols].mean()

    base, right, left = slice(78, 92), slice(28, 44), slice(84, 100)
    assert brightness("Effusion", 0, base, right) > 15 > abs(brightness("Effusion", 0, base, left)) + 5
    assert brightness("Effusion", 1, base, left) > 15
    top = slice(30, 42)
    assert brightness("Pneumothorax", 0, top, slice(28, 36)) < -2
    both = [brightness("Edema", 0, slice(50, 66), cols) for cols in (slice(38, 50), slice(78, 90))]
    assert min(both) > 4


def test_the_anatomy_is_not_mirrored():
    """The heart is on the right of the image, and the right dome is higher."""
    pictures = [draw(seed=seed)[0] for seed in range(20)]
    mean = np.mean(pictures, axis=0)
    assert mean[70:86, 72:90].mean() > mean[70:86, 38:56].mean() + 5
    domes = [(scene(seed=s).dome(0, np.float32(6)), scene(seed=s).dome(1, np.float32(6))) for s in range(20)]
    assert np.mean([right < left for right, left in domes]) > 0.7  # y counts downwards


# ---- grey levels and patients ----------------------------------------------------------------------------------------
def grey_statistics(path):
    """Five statistics of one image at 64 x 64 pixels: mean and contrast (standard deviation) of the grey levels; heart,
    the grey level left of the patient's midline minus that to its right at the level of the heart; the ratio of lungs
    to mediastinum; and detail, the mean difference between adjacent rows.
    """
    with Image.open(path) as picture:
        grey = np.asarray(picture.convert("L").resize((64, 64), Image.BOX), dtype=float)
    lungs = (grey[16:32, 14:23].mean() + grey[16:32, 41:50].mean()) / 2
    return {
        "mean": grey.mean(),
        "contrast": grey.std(),
        "heart": grey[32:44, 36:45].mean() - grey[32:44, 19:28].mean(),
        "lung_over_mediastinum": lungs / max(grey[16:38, 29:35].mean(), 1),
        "detail": np.abs(np.diff(grey[16:32], axis=0)).mean(),
    }


def measure(paths):
    rows = [grey_statistics(path) for path in paths]
    return {
        name: {
            str(q): round(float(np.percentile([row[name] for row in rows], q)), 3) for q in (1, 5, 25, 50, 75, 95, 99)
        }
        for name in rows[0]
    }


def test_grey_levels_are_within_the_range_of_real_radiographs(tmp_path):
    reference = json.loads(REFERENCE.read_text())["percentiles"]
    folder = make_phantoms(tmp_path / "set", n_patients=30, size=128, seed=3, workers=1, progress=False)
    paths = sorted(folder.glob("images_*/images/*.png"))
    drawn = measure(paths)
    rows = [grey_statistics(path) for path in paths]
    for name, known in reference.items():
        assert known["25"] <= drawn[name]["50"] <= known["75"], name
        assert np.mean([known["1"] <= row[name] <= known["99"] for row in rows]) >= 0.9, name


@pytest.mark.real
def test_reference_is_what_the_real_radiographs_measure(real):
    reference = json.loads(REFERENCE.read_text())
    paths = sorted((real / "nih-mini").glob("images_*/images/*.png"))[:: reference["every"]]
    assert len(paths) == reference["images"]
    for name, percentiles in measure(paths).items():
        assert percentiles == pytest.approx(reference["percentiles"][name], abs=0.01), name


def test_patients_can_be_recognized(tmp_path):
    """The most similar image is mostly of the same patient, which a split by image leaks."""
    folder = make_phantoms(tmp_path / "set", n_patients=40, size=64, seed=4, workers=1, progress=False)
    entries = read_entries(folder / "Data_Entry_2017.csv")
    pictures = np.stack([np.asarray(Image.open(p).convert("L")) for p in sorted(folder.glob("images_*/images/*.png"))])
    flat = pictures.reshape(len(pictures), -1).astype(float)
    flat = (flat - flat.mean(axis=1, keepdims=True)) / flat.std(axis=1, keepdims=True)
    likeness = flat @ flat.T
    np.fill_diagonal(likeness, -np.inf)
    patients = entries["patient"].to_numpy()
    many = entries.groupby("patient")["image"].transform("size").to_numpy() > 2
    same = patients[likeness.argmax(axis=1)] == patients
    chance = np.mean([(patients == p).mean() for p in patients[many]])
    assert same[many].mean() > 3 * chance


def test_a_relative_folder_is_found_by_workers_that_started_elsewhere(tmp_path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        phantom.make_phantoms("made", n_patients=3, size=64, workers=2)
        assert (tmp_path / name / "made" / "phantom.json").is_file()
