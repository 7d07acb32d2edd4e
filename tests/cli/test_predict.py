"""`cxr predict` and its three lines of Python: any image in, a line, a table and a page out; nothing stops the rest."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
import torch
from PIL import Image

from cxrlib.cli.main import main
from cxrlib.data.cache import build_cache
from cxrlib.data.findings import FINDINGS
from cxrlib.data.images import read_radiograph
from cxrlib.data.sources import find_images
from cxrlib.evaluation.calibration import Calibrator
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.explain.prediction import Predictor
from cxrlib.models.architectures import build_model, save_checkpoint
from cxrlib.models.checkpoints import load_checkpoint, load_ensemble, write_checkpoint
from tests.data.test_images import SECRET, dicom

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "predict.py"
PLATT = Calibrator("platt", ({"slope": 1.5, "intercept": 0.2},) * 14)


def checkpoint(path, seed=0, size=32, thresholds=0.5, **fields):
    torch.manual_seed(seed)
    model = build_model("mobilenet_v2", "none", size).eval()
    config = {"split": "patient", "seed": 0, "val_subset": 0}
    tuned = Thresholds(np.full(14, thresholds), calibration="platt").to_dict() if thresholds is not None else None
    save_checkpoint(path, model, parts={"train": ["seen.png"], "val": []}, config=config, epoch=1,
                    calibration=PLATT.to_dict(), thresholds=tuned, **fields)  # fmt: skip
    return path


@pytest.fixture
def films(tmp_path):
    """A folder with a PNG, a JPEG, a DICOM without suffix, a file in pieces, one that is no image, and a subfolder."""
    folder = tmp_path / "films"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "more/seen.png"):
        Image.fromarray(rng.integers(0, 255, (40, 50), dtype=np.uint8)).save(folder / name)
    dicom(folder / "c", PhotometricInterpretation="MONOCHROME1")
    (folder / "d.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no image")
    return folder


def predict(*arguments):
    return main(["predict", *map(str, arguments), "--device", "cpu"])


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_training_image_with_its_folder_is_known_again(films, tmp_path, capsys):
    weights = checkpoint(tmp_path / "m.pth")
    content = load_checkpoint(weights)
    write_checkpoint(weights, content | {"parts": {"train": ["more/seen.png", "other/a.png"], "val": []}})
    predict(films / "a.png", films / "more/seen.png", "--weights", weights, "--no_page", "--out", tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert ["used for training" in line for line in lines[:2]] == [False, True]


def test_closed_streams_are_no_traceback(films, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    weights = checkpoint(tmp_path / "m.pth")
    assert predict(films / "a.png", "--weights", weights, "--no_page", "--out", tmp_path / "out") == 0


def test_a_folder_may_be_linked(films, tmp_path, capsys):
    (tmp_path / "given").mkdir()
    (tmp_path / "given/films").symlink_to(films)
    weights = checkpoint(tmp_path / "m.pth")
    assert predict(tmp_path / "given", "--weights", weights, "--no_page", "--out", tmp_path / "out") == 1
    assert "of 5 images" in capsys.readouterr().err


def test_a_line_a_table_and_a_page(films, tmp_path, capsys):
    weights = checkpoint(tmp_path / "m.pth", thresholds=0.45)
    assert predict(films, "--weights", weights, "--out", tmp_path / "out") == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split(" cannot")[0].split(":")[0] for line in lines[:5]] == [
        str(films / name) for name in ("a.png", "b.jpg", "c", "d.png", "more/seen.png")
    ]
    assert "warning: the header says MONOCHROME1, with which air is bright; inverted" in lines[2]
    assert "d.png cannot be decoded" in lines[3]
    assert "an image of this name was used for training" in lines[4]
    assert "1 of 5 images are not predicted" in err
    rows = table(tmp_path / "out" / "predictions.csv")
    [bad] = [row for row in rows if not row["finding"]]
    assert bad["image"].endswith("d.png")
    assert "cannot be decoded" in bad["note"]
    rows.remove(bad)
    assert [row["finding"] for row in rows] == list(FINDINGS) * 4
    for row in rows:
        assert row["call"] == ("positive" if float(row["probability"]) >= 0.45 else "negative")
        said = f"{row['finding']} {float(row['probability']):.2f} (threshold 0.45)"
        assert (said in next(line for line in lines if line.startswith(row["image"]))) == (row["call"] == "positive")
    page = (tmp_path / "out" / "predictions.html").read_text()
    positives = sum(row["call"] == "positive" for row in rows)
    assert positives > 0
    assert page.count('alt="heat map') == positives
    assert page.count('alt="radiograph') == 4
    assert "Not predicted." in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page), "everything is inside"


def test_scores_are_those_of_an_evaluation(tiny_nih, tmp_path):
    weights, images = checkpoint(tmp_path / "m.pth"), find_images(tiny_nih.root)
    names = list(images)[:5]
    cases = list(Predictor([weights], "cpu").predict(images[name] for name in names))
    cache = build_cache(images, 32, names, tmp_path / "cache", progress=False)
    with torch.inference_mode():
        model = Predictor([weights], "cpu").models[0]
        expected = model(torch.from_numpy(np.stack([cache[name] for name in names]))[:, None]).sigmoid().numpy()
    np.testing.assert_allclose([case.scores[0] for case in cases], expected, atol=1e-6)
    np.testing.assert_allclose([case.probability for case in cases], PLATT.calibrate(expected), atol=1e-6)
    assert list(cases[0].table.index) == list(FINDINGS)


def test_several_models_are_averaged_with_their_spread(films, tmp_path):
    one, other = checkpoint(tmp_path / "1.pth", 1, 32, 0.4), checkpoint(tmp_path / "2.pth", 2, 48, 0.6)
    both, first, second = (
        next(Predictor(each, "cpu").predict([films / "a.png"])) for each in ([one, other], [one], [other])
    )
    np.testing.assert_allclose(both.probability, (first.probability + second.probability) / 2, atol=1e-6)
    np.testing.assert_allclose(both.thresholds, 0.5)
    low = np.minimum(first.probability, second.probability)
    np.testing.assert_allclose(both.table["low"], low, rtol=1e-5)
    maps = Predictor([one, other], "cpu").all_maps(both)
    assert maps.shape == (14, 32, 32)
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_the_page_shows_the_members_of_an_ensemble_file(films, tmp_path):
    members = [checkpoint(tmp_path / f"{n}.pth", n, 32, 0.4) for n in (1, 2)]
    load_ensemble(members).save(tmp_path / "e.pth")
    pages = []
    for weights in ([tmp_path / "e.pth"], members):
        assert predict(films / "a.png", "--weights", *weights, "--out", tmp_path) == 0
        pages.append((tmp_path / "predictions.html").read_text())
    assert all(page.count('class="interval"') == 14 and "Mean of 2 models" in page for page in pages)
    assert "e.pth (1)" in pages[0]


def test_where_nothing_is_tuned_nothing_is_called_and_the_reason_is_said(films, tmp_path, capsys):
    weights = checkpoint(tmp_path / "m.pth", thresholds=None)
    assert predict(films / "a.png", "--weights", weights, "--out", tmp_path, "--no_page") == 0
    line = capsys.readouterr().out
    assert "nothing is called, no threshold is tuned: run cxr eval --update_checkpoint; highest:" in line
    assert {row["call"] + row["threshold"] for row in table(tmp_path / "predictions.csv")} == {""}
    content = load_checkpoint(weights)
    notes = ("not tuned: 3 positive of 109 images, fewer than 5; 0.5 is kept", *[""] * 13)
    tuned = Thresholds(np.full(14, 0.0), notes=notes, calibration="platt").to_dict()
    write_checkpoint(weights, content | {"thresholds": tuned})
    case = next(Predictor([weights], "cpu").predict([films / "a.png"]))
    assert case.rows[0]["call"] is None
    assert case.rows[0]["note"] == "not tuned: 3 positive of 109 images, fewer than 5"
    assert case.positive.tolist() == [False, *[True] * 13]


def test_json_for_programs(films, tmp_path, capsys):
    weights = checkpoint(tmp_path / "m.pth")
    assert predict(films, "--weights", weights, "--out", tmp_path, "--json", "--no_page") == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 5
    assert [finding["finding"] for finding in found[0]["findings"]] == list(FINDINGS)
    assert "cannot be decoded" in found[3]["error"]
    assert not (tmp_path / "predictions.html").exists()


def test_the_name_of_a_file_cannot_speak_to_the_terminal(films, tmp_path, capsys):
    (films / "a.png").rename(films / "x\x1b[2J<b>\udce9.png")
    assert predict(films / "x*", "--weights", checkpoint(tmp_path / "m.pth"), "--out", tmp_path / "out") == 0
    text = shown_to_anyone(tmp_path / "out", capsys.readouterr())
    assert "\x1b" not in text
    assert "x\\x1b[2J<b>\\udce9.png: " in text
    assert "x\\x1b[2J&lt;b&gt;\\udce9.png</h2>" in text


def test_globs_missing_files_and_nothing_at_all(films, tmp_path, capsys):
    weights, out = checkpoint(tmp_path / "m.pth"), ["--out", tmp_path / "out", "--no_page"]
    assert predict(films / "[ab].*", films / "a.png", "--weights", weights, *out) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3, "each once, and where the table is"
    assert predict(films / "nowhere.png", films / "a.png", "--weights", weights, *out) == 1
    assert "nowhere.png does not exist" in capsys.readouterr().out
    for nothing in (tmp_path / "*.tif", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert predict(nothing, "--weights", weights, *out) == 2
        assert "no image found" in capsys.readouterr().err
    assert predict(films, "--weights", tmp_path / "none.pth", *out) == 2
    assert predict(films, "--weights", weights, "--out", films / "a.png" / "out") == 2
    assert "a.png" in (said := capsys.readouterr()).err
    assert not said.out


def test_an_inverted_picture_is_said_and_not_changed(tmp_path):
    grey = np.asarray(read_radiograph(dicom(tmp_path / "a.dcm")).grey)
    Image.fromarray(255 - grey).save(tmp_path / "a.png")
    case = next(Predictor([checkpoint(tmp_path / "m.pth", size=64)], "cpu").predict([tmp_path / "a.png"]))
    assert "as in an inverted radiograph" in case.warnings[0]
    np.testing.assert_array_equal(case.images[0], 255 - grey)
    dicom(tmp_path / "hip", BodyPartExamined="HIP", PhotometricInterpretation="MONOCHROME1")
    hip = next(Predictor([tmp_path / "m.pth"], "cpu").predict([tmp_path / "hip"]))
    assert hip.warnings[:-1] == ("the header names another part of the body than the chest",)
    assert "no record" in hip.warnings[-1]


def test_reading_is_never_far_ahead(tmp_path):
    started = []
    files = (started.append(number) or tmp_path / f"{number}.png" for number in range(1000))
    cases = Predictor([checkpoint(tmp_path / "m.pth")], "cpu").predict(files, batch_size=4)
    for number in range(100):
        assert next(cases).path.name == f"{number}.png"
        assert len(started) <= number + 12, "two batches ahead"
    cases.close()


def test_many_images_need_no_more_memory_than_few(films, tmp_path):
    predictor = Predictor([checkpoint(tmp_path / "m.pth")], "cpu")
    Image.fromarray(np.zeros((1024, 1024), np.uint8)).save(tmp_path / "large.png")

    def used(count: int) -> int:
        for _ in predictor.predict([tmp_path / "large.png"] * count, batch_size=8):
            pass
        return psutil.Process().memory_info().rss

    used(32)
    assert used(400) - used(32) < 60 << 20, "400 decoded images have 400 MB"


def shown_to_anyone(folder: Path, streams) -> str:
    return "".join(streams) + "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_no_text_of_a_header_reaches_any_output(films, tmp_path, capfd):
    weights, out = checkpoint(tmp_path / "m.pth", thresholds=0.4), tmp_path / "out"
    dicom(films / "e.dcm", Modality=SECRET, ViewPosition=SECRET, BodyPartExamined=SECRET)
    predict(films, "--weights", weights, "--out", out)
    predict(films, "--weights", weights, "--out", out / "json", "--json")
    text = shown_to_anyone(out, capfd.readouterr())
    assert "another part of the body" in text
    for value in (SECRET, "ID-4711", "19700101", "Klinik", "Husten", "horse", "private words"):
        assert value not in text


@pytest.mark.real
def test_no_text_of_a_real_header_reaches_any_output(real, tmp_path, capfd):
    folder = real / "elsewhere" / "dicom"
    if not folder.is_dir():
        pytest.skip("the DICOM files of shared/elsewhere are not there")
    assert predict(folder, "--weights", checkpoint(tmp_path / "m.pth", thresholds=0.4), "--out", tmp_path / "out") == 1
    text = shown_to_anyone(tmp_path / "out", capfd.readouterr())
    assert text.count("cannot be decoded (its pixels") == 3, "on the screen, in the table and on the page"
    texts = ("PN", "LO", "SH", "LT", "ST", "UT", "DA", "TM", "DT", "UI", "AS")
    for path in folder.rglob("*"):
        if path.is_dir() or path.suffix == ".md":
            continue
        for element in pydicom.dcmread(path, force=True, stop_before_pixels=True).iterall():
            values = [element.value] if element.VM == 1 else element.value
            for value in values if element.VR in texts else ():
                assert len(str(value)) < 6 or str(value) not in text, element.tag


def test_the_script_is_the_command(films, tmp_path):
    weights = checkpoint(tmp_path / "m.pth")
    command = [sys.executable, SCRIPT, films / "a.png", "--weights", weights, "--out", tmp_path / "out"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    assert "a.png:" in done.stdout
    assert (tmp_path / "out" / "predictions.html").is_file()
