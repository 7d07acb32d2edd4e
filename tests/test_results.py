"""Stored results of real radiographs: whole, without images, and the source of the figures that are quoted."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import results
from cxrlib.core.paths import RESULTS
from cxrlib.evaluation.calibration import Calibrator
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds
from tests.test_docs import text_of

ROOT = Path(__file__).resolve().parents[1]
RUNS = sorted(path.parent.name for path in RESULTS.glob("*/model.json"))
MEMBERS = [name for name in RUNS if name.startswith("recipe_")]  # three seeds on one split
INTERVAL = r"(-?\d\.\d+) \[(-?\d\.\d+), (-?\d\.\d+)\]"


@pytest.fixture(scope="module")
def tables():
    """What README quotes, by the file's name."""
    return {
        "summary": pd.read_csv(RESULTS / "summary.csv", index_col="run"),
        "points": pd.read_csv(RESULTS / "operating_points.csv", index_col=["run", "how"]),
        "ensemble": pd.read_csv(RESULTS / "ensemble.csv", index_col="model"),
        "boxes": {
            path.stem.removeprefix("localization_"): pd.read_csv(path, index_col=["metric", "finding", "maps"])
            for path in RESULTS.glob("official/localization_*.csv")
        },
    }


def readme_rows(start: str) -> list[list[str]]:
    """The cells of README's table rows that begin with `start`."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith(f"| {start}")]


def agree(texts, values) -> bool:
    """Whether numbers in text are those of a table, to the digits that the text gives."""
    digits = [len(text.partition(".")[2]) for text in texts]
    return all(
        abs(float(text) - value) <= 0.51 * 10.0**-n for text, value, n in zip(texts, values, digits, strict=True)
    )


def same(cell: str, row, name: str) -> bool:
    """Whether a cell says what a row of a table says: "value [low, high]" or the value alone."""
    texts = re.findall(r"-?\d+\.\d+", cell)
    values = [row[name], row.get(f"{name}_low", row.get("low")), row.get(f"{name}_high", row.get("high"))]
    return len(texts) in (1, 3) and agree(texts, values[: len(texts)])


# ---- what is stored --------------------------------------------------------------------------------------------------
def test_there_are_tables_and_no_images():
    files = [path for path in RESULTS.parent.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".md", ".csv", ".json", ".npz"}
    assert sum(path.stat().st_size for path in files) < 1_000_000
    for path in RESULTS.rglob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            shapes = {name: arrays[name].shape for name in arrays.files}
        assert set(shapes) == {"scores", "labels", "image", "patient", "findings", "calibration"}
        assert shapes["scores"] == shapes["labels"] == (*shapes["image"], 14)


def test_the_readme_says_how_each_run_was_made():
    text = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    assert RUNS
    for name in RUNS:
        assert f"| `{name}` |" in text
        assert re.search(rf"{name}=(runs|\$MEMBER)/", text)
        command, variable, of = ("compare", "RECIPE", "recipe") if name in MEMBERS else ("train", "SAME", name)
        [flags] = re.findall(rf"cxr {command} \${variable} (.+) --run_dir runs/nih/{of}$", text, re.MULTILINE)
        [shared] = re.findall(rf'^{variable}="(.+)"$', text, re.MULTILINE)
        given = {"tta": False, **flags_of(f"{shared} {flags}")}
        model = json.loads((RESULTS / name / "model.json").read_text())
        if name in MEMBERS:
            assert name.removeprefix("recipe_") in given["seeds"].split(",")
            given |= {"arch": given["archs"], "seed": model["seed"], "mode": "full"}
            given["epochs"] = given["budget"].removeprefix("epochs=")
        compared = {flag: value for flag, value in given.items() if flag in model}
        assert compared.keys() >= {"arch", "mode", "image_size", "seed", "split"}
        assert {flag: type(model[flag])(value) for flag, value in compared.items()} == {
            flag: model[flag] for flag in compared
        }


def flags_of(text: str) -> dict:
    """{name: value} of a command line; True for a switch."""
    words = [word.split() for word in text.split("--")[1:]]
    return {name: "".join(value) or True for name, *value in words}


@pytest.mark.parametrize("name", RUNS)
def test_parts_are_apart_and_of_the_subset(name):
    val, test = results.stored(RESULTS / name)
    assert not set(val.image) & set(test.image)
    assert {*val.image, *test.image} < set(results.NAMES.read_text().split())
    apart = not set(val.patient) & set(test.patient)
    assert apart == (json.loads((RESULTS / name / "model.json").read_text())["split"] != "image")


@pytest.mark.parametrize("name", RUNS)
def test_metrics_follow_from_the_stored_scores(name):
    folder = RESULTS / name
    test = Calibrator.load(folder / "calibration.json").apply(Predictions.load(folder / "predictions_test.npz"))
    again = evaluate(test, Thresholds.load(folder / "thresholds.json"), replicates=0)
    table = pd.read_csv(folder / "metrics.csv", index_col="finding")
    for metric in ("positives", "auroc", "ap", "brier", "ece_mass", "f1", "sensitivity", "ppv"):
        np.testing.assert_allclose(table[metric], again[metric], atol=1e-4, err_msg=metric)


def test_the_tables_follow_from_what_is_stored(tables, tmp_path):
    runs = {name: results.stored(RESULTS / name) for name in RUNS}
    assert list(tables["summary"].index) == RUNS
    for name, (val, test) in runs.items():
        for column, value in results.figures(val, test).items():
            assert tables["summary"].loc[name, column] == pytest.approx(value, abs=2e-4, nan_ok=True), column
    name, (val, test) = next(iter(runs.items()))
    again = results.operating_points(val, test)
    np.testing.assert_allclose(tables["points"].loc[name].to_numpy(), again.to_numpy(float), atol=2e-4)
    again = results.ensemble(RESULTS, MEMBERS)
    np.testing.assert_allclose(tables["ensemble"], again, atol=2e-4)


# ---- what is quoted --------------------------------------------------------------------------------------------------
def test_readme_quotes_the_main_result(tables):
    [row] = readme_rows("the same, linear probe, stored")
    summary, points = tables["summary"].loc["patient"], tables["points"].loc["patient"]
    assert int(row[2]) == summary["test_images"]
    assert same(row[3], summary, "auroc")
    assert same(row[4], points.loc["0.5"], "f1")
    assert same(row[5], points.loc["grid"], "f1")


def test_readme_quotes_the_ensemble(tables):
    names = {"seed 0": "1", "seed 1": "2", "seed 2": "3", "their mean": "members"}
    names |= {"the mean of their scores": "ensemble", "difference": "ensemble - members"}
    for start, model in names.items():
        [row] = readme_rows(f"{start}, stored")
        assert same(row[1].replace("+", ""), tables["ensemble"].loc[model], "auroc"), start


@pytest.mark.parametrize(("start", "run"), [("plain cross-entropy", "patient"), ("pos_weight", "patient_pos_weight")])
def test_readme_quotes_the_operating_points(start, run, tables):
    rows = readme_rows(f"linear probe, {start}, stored")
    assert len(rows) == (run in RUNS), "what is stored is quoted, and nothing else"
    for row in rows:
        points = tables["points"].loc[run]
        assert all(same(cell, points.loc[how], "f1") for cell, how in zip(row[1:5], results.HOW, strict=True))
        assert agree(row[5].split(", "), points.loc[["grid", "grid, calibrated"], "ece"])


@pytest.mark.parametrize(("name", "method"), [("LayerCAM", "layercam"), ("Grad-CAM", "gradcam")])
@pytest.mark.parametrize("finding", ["macro", "Cardiomegaly"])
def test_readme_quotes_the_localization(name, method, finding, tables):
    rows = readme_rows(f"linear probe, {name}, {finding}, stored")
    assert len(rows) == (method in tables["boxes"]), "what is stored is quoted, and nothing else"
    for row in rows:
        table = tables["boxes"][method].loc["pointing"].loc[finding]
        kinds = ("model", "chance", "random", "average", "untrained")
        assert all(same(cell, table.loc[maps], "value") for cell, maps in zip(row[1:], kinds, strict=True))


def test_readme_quotes_what_a_split_by_image_adds(tables):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    sentences = re.findall(r"On the real radiographs \(stored\) it is (.+?)\.\s", text, re.DOTALL)
    assert len(sentences) == ("image" in RUNS), "what is stored is quoted, and nothing else"
    for sentence in sentences:
        for texts, run in zip(re.findall(INTERVAL, sentence), ("patient", "image"), strict=True):
            assert agree(texts, tables["summary"].loc[run, ["auroc", "auroc_low", "auroc_high"]])
        [leaked] = re.findall(r"(\d+) of the (\d+) test images", text)
        counts = tables["summary"].loc["image", ["test_images_of_trained_patients", "test_images"]]
        assert [int(number) for number in leaked] == counts.to_list()


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_prose_of_notebooks_quotes_intervals_that_are_stored(path):
    """In paragraphs that name data/results, each "value [low, high]" is one of a table there, to the digits given."""
    rows = [np.empty((0, 3))]
    for file in RESULTS.rglob("*.csv"):
        table = pd.read_csv(file)
        names = [name for name in table if f"{name}_low" in table]
        rows += [table[[name, f"{name}_low", f"{name}_high"]].to_numpy(float) for name in names]
        rows += [table[["value", "low", "high"]].to_numpy(float)] if "value" in table else []
    known = np.concatenate(rows)
    for paragraph in text_of(path).split("\n\n"):
        for texts in re.findall(INTERVAL, paragraph) if "data/results" in paragraph else ():
            assert any(agree(texts, values) for values in known), f"{texts} in {paragraph[:80]}"
