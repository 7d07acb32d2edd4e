"""The report of a run: every number names its file, everything is escaped, nothing is fetched."""

import base64
import io
import json
import re
import shutil
import threading
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrlib.cli.main import main
from cxrlib.course.report import page
from cxrlib.course.report.page import write_index, write_report, written
from cxrlib.course.runs import RunFolder
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.audits import audit
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import tune_thresholds

NASTY = '"><script>alert(1)</script>&'
NUMBER = re.compile(r"(?<![\w.#-])\d+(?:[.,]\d+)*")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The texts of a page, each with the nearest data-source and data-fact around it; its tags and its URLs."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.tags, self.urls = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        self.urls += [value for name, value in attributes if name in ("src", "href", "action", "srcset", "data")]
        if tag not in VOID:
            self.open.append((tag, given))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, f"</{tag}> closes nothing"

    def handle_data(self, text):
        if not any(tag in ("style", "title") for tag, _ in self.open):
            around = {}
            for _, given in self.open:
                around |= {name: given[name] for name in ("data-source", "data-fact", "value") if name in given}
            self.texts.append((text, around))


@pytest.fixture(scope="module")
def _whole(tmp_path_factory):
    """A run folder with everything that the report can show, from small random predictions."""
    rng = np.random.default_rng(0)
    labels = rng.random((240, 14)) < 0.25
    labels[:, FINDINGS.index("Fibrosis")] = False
    scores = np.clip(0.2 * labels + rng.random((240, 14)) * 0.6, 0, 1)
    names = [f"{90001 + n // 2:08d}_{n % 2:03d}.png" for n in range(240)]
    entries = pd.DataFrame({"image": names, "patient": 90001 + np.arange(240) // 2, "age": rng.integers(20, 90, 240)})
    entries = entries.assign(sex=rng.choice(["M", "F"], 240), view=rng.choice(["PA", "AP"], 240))
    parts = {part: slice(120 * k, 120 * (k + 1)) for k, part in enumerate(("val", "test"))}
    val, test = (
        Predictions(scores[at], labels[at], names[at], entries["patient"].to_numpy()[at]) for at in parts.values()
    )
    run = RunFolder(tmp_path_factory.mktemp("runs") / "one")
    data = {"csv_path": "/d/x.csv", "img_root": "/d", "images": 240, "phantoms": False, "fingerprint": "0f" * 8}
    run.start(
        profile="quick", parameters={"arch": "resnet18", "lr": 3e-4, "epochs": 1, "archs": [], "tta": True}, data=data
    )
    run.record("02_preprocess", split="patient", data="240 radiographs of 120 patients", seconds=3.25)
    run.record("03_train_efficientnet", arch="resnet18", seconds=61.0)
    run.save_splits(entries.assign(part=np.repeat(["val", "test"], 120)))
    thresholds = tune_thresholds(val, resampling=Bootstrap(20))
    thresholds.save(run.thresholds)
    evaluate(test, thresholds, replicates=40).to_csv(run.metrics)
    audit(test, entries, thresholds.values, replicates=20).to_csv(run.path / "audit.csv", index=False)
    rows = [("model", "Mass", "pointing", 12, 0.5, 0.25, 0.75), ("model", "macro", "pointing", 20, 0.625, 0.5, 0.75)]
    columns = ["maps", "finding", "metric", "cases", "value", "low", "high"]
    pd.DataFrame(rows, columns=columns).to_csv(run.path / "localization.csv", index=False)
    (run.path / "calibration.json").write_text(json.dumps({"method": "platt", "findings": {}}))
    run.arch("resnet18").mkdir()
    history = {"epoch": [1, 2], "lr": [9.4e-4, 1.01e-5], "val_auroc": [0.70764, 0.7], "best": [True, False]}
    pd.DataFrame(history).to_csv(run.arch("resnet18") / "history.csv", index=False)
    compared = {"arch": ["resnet18", "vgg16"], "auroc": [0.59, 0.5], "auroc_low": [0.5, 0.4], "auroc_high": [0.6, 0.55]}
    costs = ("seeds", "parameters", "gflop", "train_images_per_s", "images_per_s", "memory", "minutes")
    pd.DataFrame(compared | dict.fromkeys(costs, 11.25)).to_csv(run.path / "comparison.csv", index=False)
    run.figures.mkdir()
    about = PngInfo()
    about.add_text("Description", f"what it shows {NASTY}")
    Image.new("RGB", (2000, 1000), "white").save(run.figures / "05_f1.png", pnginfo=about)
    write_report(run)
    return run.path


@pytest.fixture
def run(_whole, tmp_path):
    """A copy of the run folder that a test may change."""
    shutil.copytree(_whole, tmp_path / "one")
    return RunFolder(tmp_path / "one")


def page_of(run):
    return Page((run.path / "report.html").read_text(encoding="utf-8"))


def looked_up(folder, source):
    """The value that a data-source points to, read without the code under test."""
    file, _, keys = source.partition("#")
    if file.endswith(".json"):
        found = json.loads((folder / file).read_text())
        for key in keys.split("/"):
            found = found[key]
        return found
    table = pd.read_csv(folder / file)
    if keys.startswith("count/"):
        condition, _, unique = keys.removeprefix("count/").partition("/")
        column, value = condition.split("=")
        return table.loc[table[column] == value, unique].nunique()
    row, column = keys.split("/")
    if row.startswith("#"):
        return table[column][int(row[1:]) - 1]
    return table.loc[table.iloc[:, 0].astype(str) == row, column].item()


# ---- every number ----------------------------------------------------------------------------------------------------
def test_every_number_names_the_file_it_comes_from(run):
    page = page_of(run)
    loose = [(text.strip(), found) for text, around in page.texts if not around and (found := NUMBER.findall(text))]
    assert not loose
    sources = {around.get("data-source", "run.json").partition("#")[0] for _, around in page.texts}
    assert all((run.path / source).is_file() for source in sources), sources


def test_every_number_is_what_stands_in_that_file(run):
    shown = [(text, around["data-source"]) for text, around in page_of(run).texts if "value" in around]
    assert len(shown) > 200
    for text, source in shown:
        value = looked_up(run.path, source)
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, bool):
            assert text == ("yes" if value else "no"), source
        elif isinstance(value, list):
            assert text == (", ".join(map(str, value)) or "none given"), source
        elif isinstance(value, str):
            assert text.replace(" ", "_") == value.replace(" ", "_"), source
        else:
            decimals = len(text.partition(".")[2]) if "e" not in text and "." in text else 0
            near = 0.5 * 10.0**-decimals if "e" not in text else 0.05 * abs(value)
            assert float(text.replace(",", "")) == pytest.approx(value, abs=near * 1.000001), source


def test_the_whole_table_of_metrics_is_there(run):
    sources = {around.get("data-source") for _, around in page_of(run).texts}
    table = pd.read_csv(run.metrics, index_col="finding")
    for finding in table.index:
        for metric in ("auroc", "auroc_low", "auroc_high", "ap", "f1", "f1_high", "sensitivity", "positives"):
            assert (f"metrics.csv#{finding}/{metric}" in sources) == bool(pd.notna(table.loc[finding, metric]))
    assert "metrics.csv#Fibrosis/note" in sources, "why it is undefined"
    assert "run.json#parameters/lr" in sources
    assert "run.json#versions/torch" in sources
    assert any(source and source.startswith("audit.csv#") for source in sources)
    assert {f"localization.csv##2/{end}" for end in ("value", "low", "high")} <= sources
    assert not {"audit.csv##1/value", "localization.csv##1/value"} & sources, "single findings stay in the file"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1605, "1,605"),
        (0.86, "0.860"),
        (54.3836, "54.4"),
        (0.00094, "0.00094"),
        (1.01e-5, "1e-05"),
        (0.0, "0.000"),
        (1.0, "1.000"),
        (True, "yes"),
        ([], "none given"),
        ("Pleural_Thickening", "Pleural Thickening"),
        ("efficientnet_lite0", "efficientnet_lite0"),
    ],
)
def test_values_are_written_for_readers(value, text):
    assert written(value) == text


# ---- missing files and hostile content -------------------------------------------------------------------------------
def test_what_is_missing_is_named_with_its_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    run = RunFolder(tmp_path / "bare")
    run.record("01_eda", seconds=1)
    assert write_report(run) == [run.path / "report.html"]
    text = re.sub(r"<[^>]+>|\s+", " ", (run.path / "report.html").read_text())
    files = {"metrics.csv": "05", "audit.csv": "05", "thresholds.json": "05", "calibration.json": "05"}
    files |= {"localization.csv": "06", "comparison.csv": "04", "history.csv": "03"}
    for file, notebook in files.items():
        assert re.search(rf" {file} +is not in the run folder. Notebook +{notebook}", text), file


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "holds no run.json; expected a run folder" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_page_over_all_runs_links_to_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    run = RunFolder(tmp_path / "bare")
    run.record("01_eda", seconds=1)
    assert main(["report", str(run.path)]) == 0
    assert not (tmp_path / "index.html").exists(), "where there is no such page, none is made"
    write_index(tmp_path).write_text("old")
    assert main(["report", str(run.path)]) == 0
    assert "bare/report.html" in Page((tmp_path / "index.html").read_text()).urls


def test_html_in_a_name_a_label_or_a_file_is_only_text(run, monkeypatch):
    monkeypatch.setenv("PATH", "")
    nasty = RunFolder(run.path.with_name("a<img src=x onerror=alert(1)>"))
    run.path.rename(nasty.path)
    table = pd.read_csv(nasty.metrics)
    table.loc[0, ["finding", "note"]] = NASTY
    table.to_csv(nasty.metrics, index=False)
    pd.DataFrame({NASTY: ["x"], "b": [1.5]}).to_csv(nasty.path / "<b>other.csv", index=False)
    content = nasty.read()
    content["parameters"][NASTY] = NASTY
    content["data"]["img_root"] = NASTY
    content["stages"]["02_preprocess"]["data"] = NASTY
    (nasty.path / "run.json").write_text(json.dumps(content))
    (nasty.figures / "05_f1.png").rename(nasty.figures / "05_<script>.png")
    write_report(nasty)
    write_index(nasty.path.parent)
    for path in (nasty.path / "report.html", nasty.path.parent / "index.html"):
        page = Page(path.read_text(encoding="utf-8"))
        tags = {tag for tag, _ in page.tags}
        assert not tags & {"script", "iframe", "object", "embed", "link", "b", "form"}
        assert not [name for _, given in page.tags for name in given if name.startswith("on")]
        assert not page.open


def test_broken_files_are_missing_files(run, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for name in ("metrics.csv", "thresholds.json", "audit.csv", "comparison.csv"):
        (run.path / name).write_bytes(b'\xff"')
    write_report(run)
    assert "metrics.csv" in (run.path / "report.html").read_text()


# ---- offline ---------------------------------------------------------------------------------------------------------
def test_the_page_asks_no_host_for_anything(run):
    page = page_of(run)
    policy = [given["content"] for tag, given in page.tags if given.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert all(url.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#")) for url in page.urls), (
        page.urls
    )
    text = (run.path / "report.html").read_text()
    assert "url(" not in text
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_figures_are_no_larger_than_a_page_needs(run):
    """A drawing keeps its sharp lines as a PNG of few colours, a picture of radiographs is a JPEG."""
    grey = np.clip(np.random.default_rng(0).normal(120, 25, (1500, 2400)), 0, 255).astype(np.uint8)
    Image.fromarray(grey).convert("RGB").save(run.figures / "06_maps.png")
    kinds = {}
    for figure in page._figures(run):
        head, _, content = figure["uri"].partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            kinds[figure["file"]] = head, image.width
    assert kinds == {"05_f1.png": ("data:image/png", 864), "06_maps.png": ("data:image/jpeg", 864)}


@pytest.mark.parametrize(("media", "width"), [("screen", 1100), ("print", 672)])  # A4 without its margins, at 96 dpi
def test_no_column_is_cut_off(media, width, run, chrome):
    pages = chrome.new_page(viewport={"width": width, "height": 1000})
    pages.emulate_media(media=media)
    pages.goto((run.path / "report.html").as_uri())
    frames = pages.evaluate("""[...document.querySelectorAll(".scroll")].map(
        frame => [frame.querySelector("caption").innerText, frame.clientWidth, frame.scrollWidth])""")
    pages.close()
    assert len(frames) > 5
    assert not [frame for frame in frames if frame[2] > frame[1]]


def test_a_report_with_pictures_of_patients_must_not_be_committed(run):
    assert "git ignores; do not commit it" in (run.path / "report.html").read_text()
    run.record("x")
    content = run.read()
    content["data"]["phantoms"] = True
    (run.path / "run.json").write_text(json.dumps(content))
    write_report(run)
    assert "no pixel comes from a patient" in (run.path / "report.html").read_text()
    assert "do not commit" not in (run.path / "report.html").read_text()


def test_html_and_pdf_and_nothing_else(run):
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no browser of the Chromium family is installed, so there is no PDF to look at")
    (run.path / "report.pdf").unlink()
    written = write_report(run)
    assert [path.name for path in written] == ["report.html", "report.pdf"]
    assert (run.path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert not list(run.path.glob(".*tmp*"))


def test_without_a_browser_the_html_stands_alone_and_says_so(run, monkeypatch, capsys):
    monkeypatch.setattr(page.shutil, "which", lambda name: None)
    assert page.print_pdf(run.path / "report.html", run.path / "other.pdf") == []
    assert "no browser of the Chromium family" in capsys.readouterr().out


def test_a_browser_that_fails_is_reported(run, monkeypatch):
    monkeypatch.setenv("CXR_BROWSER", "/bin/false")
    with pytest.raises(RuntimeError, match=r"no PDF: /bin/false ended with code 1; the HTML is there"):
        page.print_pdf(run.path / "report.html", run.path / "other.pdf")
    assert not (run.path / "other.pdf").exists()


# ---- the index -------------------------------------------------------------------------------------------------------
def test_two_runs_that_end_together_write_the_index_one_after_the_other(run):
    folder = run.path.parent
    with FileLock(folder / ".index.lock"):
        other = threading.Thread(target=write_index, args=[folder])
        other.start()
        other.join(0.3)
        assert not (folder / "index.html").exists()
        shutil.copytree(run.path, folder / "two")
    other.join(10)
    assert "two/report.html" in Page((folder / "index.html").read_text()).urls


def test_the_index_lists_every_run_even_one_that_cannot_be_read(run):
    broken = run.path.with_name("broken")
    broken.mkdir()
    (broken / "run.json").write_text("[")
    page = Page(write_index(run.path.parent).read_text())
    text = " ".join(" ".join(text for text, _ in page.texts).split())
    macro = pd.read_csv(run.metrics, index_col="finding").loc["macro"]
    assert f"{macro['auroc']:.3f} [{macro['auroc_low']:.3f}, {macro['auroc_high']:.3f}]" in text
    assert f"{macro['f1']:.3f} [{macro['f1_low']:.3f}, {macro['f1_high']:.3f}]" in text
    assert "2 of 6 notebooks" in text
    assert "resnet18 patient 240 radiographs of 120 patients" in text
    assert "broken" in text
    assert "cannot be read: run.json" in text
    assert "1:04" in text
    assert {"one/report.html", "one/metrics.csv", "one/run.json"} <= set(page.urls)
