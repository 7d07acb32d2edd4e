"""The explorers in JupyterLab in a real browser: a key moves the point and the numbers, and quickly."""

import re
import statistics
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from cxrlib.course.opening import open_data
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.phantom.generate import make_phantoms
from cxrlib.training.familiarity import remember_training
from cxrlib.training.inputs import make_dataset
from tests.browser import lab
from tests.cli.test_predict import checkpoint
from tests.data.test_images import chest, dicom

PRESSES = 50
MEDIAN, WORST = 150, 400  # milliseconds from the key to the repainted page
ROUNDS = 6  # a machine that others use at the same time may need another try

CELL = """
import numpy as np
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import tune_thresholds
from cxrlib.widgets.threshold_explorer import ThresholdExplorer

val = Predictions.load("val.npz")
pictures = {name: np.full((64, 64), 16 * (i % 16), np.uint8) for i, name in enumerate(val.image)}
explorer = ThresholdExplorer(val, tune_thresholds(val), images=pictures, save_to="thresholds.json")
explorer
"""

# From the next key to the paint after the explorer's last text, which is its status, has changed.
MEASURE = """() => {
    window.latency = null;
    const status = document.querySelector('.cxr [role=status]').parentElement;
    addEventListener('keydown', event => {
        const watch = new MutationObserver(() => {
            watch.disconnect();
            requestAnimationFrame(() => setTimeout(() => { window.latency = performance.now() - event.timeStamp; }));
        });
        watch.observe(status, {childList: true, subtree: true, characterData: true});
    }, {capture: true, once: true});
}"""


CAM_CELL = """
import numpy as np
from cxrlib.models.architectures import build_model
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.widgets.cam_explorer import CamExplorer

val = Predictions.load("val.npz").take(np.arange(60))
rng = np.random.default_rng(0)
pictures = {name: rng.integers(0, 256, (32, 32), dtype=np.uint8) for name in val.image}
CamExplorer(build_model("mobilenet_v2", "none", 32), pictures, val, Thresholds(np.full(14, 0.2)))
"""

OWN_CELL = """
from cxrlib.widgets import own_radiograph

own_radiograph.OwnRadiograph(["m.pth"])
"""

FAMILIAR_CELL = OWN_CELL.replace("m.pth", "familiar.pth")  # which knows what it was trained on


def know_phantoms(weights, folder):
    """Let a checkpoint tell radiographs from other pictures, as a training on phantoms would."""
    data = open_data("", make_phantoms(folder, n_patients=60, size=64, workers=1, progress=False))
    train, val = data.entries.iloc[::2], data.entries.iloc[1::2]
    parts = (make_dataset(part, data.images, 32) for part in (train, val))
    remember_training([weights], *parts, torch.device("cpu"))


@pytest.fixture(scope="module")
def server(chrome, tmp_path_factory):
    """The address of a JupyterLab, and its folder with stored predictions and a notebook for each explorer."""
    root, home = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    labels = (rng.random((3000, 14)) < 0.2).astype(np.uint8)
    scores = 1 / (1 + np.exp(2.5 - 2 * labels - rng.normal(0, 1, labels.shape)))
    images = np.array([f"{90000 + i:08d}_000.png" for i in range(len(labels))])
    Predictions(scores, labels, images, np.arange(len(labels))).save(root / "val.npz")
    checkpoint(root / "m.pth", thresholds=0.45)
    know_phantoms(checkpoint(root / "familiar.pth", thresholds=0.45), root / "phantoms")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for name, cell in (("explore", CELL), ("maps", CAM_CELL), ("own", OWN_CELL), ("familiar", FAMILIAR_CELL)):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)], metadata=kernel)
        nbformat.write(notebook, root / f"{name}.ipynb")
    with lab.jupyter_lab(root, home) as address:
        yield address, root


@contextmanager
def shown(chrome, server, name):
    """A page with a notebook that has run."""
    address, root = server
    page = chrome.new_page(viewport={"width": 1440, "height": 1300})
    page.set_default_timeout(60_000)
    lab.open_notebook(page, address, f"{name}.ipynb")
    assert lab.restart_and_run_all(page, root / f"{name}.ipynb", timeout=600) == []
    page.wait_for_selector(".cxr [role=status], .cxr .widget-upload")
    yield page
    lab.shut_down(page)
    page.close()


@pytest.fixture(scope="module")
def opened(chrome, server):
    """A page with `ThresholdExplorer`, and the notebook's folder."""
    with shown(chrome, server, "explore") as page:
        page.wait_for_selector(".cxr svg .now")
        yield page, server[1]


def numbers(page):
    return page.locator(".cxr [role=status]").inner_text()


def point(page):
    return page.locator(".cxr svg .now").first.get_attribute("transform")


def threshold_of(page):
    return float(re.search(r" at ([\d.]+):", numbers(page)).group(1))


def handle(page):
    """The handle of the slider of the chosen finding's threshold: after the fourteen of the table."""
    return page.locator(".cxr .noUi-handle").nth(len(FINDINGS))


def press(page, key):
    """Milliseconds from the key to the repainted page."""
    page.evaluate(MEASURE)
    page.keyboard.press(key)
    page.wait_for_function("window.latency !== null", polling=20)
    return page.evaluate("window.latency")


def test_a_key_moves_the_point_and_the_numbers(opened):
    page, _ = opened
    handle(page).focus()
    before, place, figures = threshold_of(page), point(page), page.locator(".cxr tr.now").inner_text()
    press(page, "ArrowRight")
    assert threshold_of(page) > before
    assert point(page) != place
    assert page.locator(".cxr tr.now").inner_text() != figures
    assert f"{threshold_of(page):.3f}" in page.locator(".cxr tr.now").inner_text()
    assert handle(page).evaluate("element => element === document.activeElement"), "the focus stays for the next key"
    press(page, "ArrowLeft")
    assert threshold_of(page) == before


def test_from_key_to_repaint(opened):
    """The one latency the suite asserts. Other processes on the machine may spoil a round: the best round counts."""
    page, _ = opened
    handle(page).focus()
    rounds = []
    for _ in range(ROUNDS):
        keys = ["ArrowLeft"] * (PRESSES // 2) + ["ArrowRight"] * (PRESSES - PRESSES // 2)
        milliseconds = [press(page, key) for key in keys]
        rounds.append((statistics.median(milliseconds), max(milliseconds)))
        if rounds[-1][0] < MEDIAN and rounds[-1][1] < WORST:
            break
    print(f"key to repaint over {PRESSES} presses (median, worst) in ms: {rounds}")
    assert rounds[-1][0] < MEDIAN, rounds
    assert rounds[-1][1] < WORST, rounds


def test_keys_held_down_end_where_they_should(opened):
    page, _ = opened
    handle(page).focus()
    press(page, "Home")
    for _ in range(30):
        page.keyboard.press("ArrowRight")  # without waiting: the kernel must not answer an older key last
    page.wait_for_function(
        "document.querySelector('.cxr [role=status]').textContent.includes(' at 0.120:')", timeout=60_000
    )
    time.sleep(1)
    assert threshold_of(page) == 0.12
    assert page.locator(".cxr input[type=number]").input_value() == "0.12"


def test_undo_and_save_with_the_keyboard(opened):
    page, root = opened
    press_button(page, "tuned (grid)")
    start = threshold_of(page)
    handle(page).focus()
    press(page, "ArrowRight")
    moved = threshold_of(page)
    press_button(page, "undo")
    assert threshold_of(page) == start
    handle(page).focus()
    press(page, "ArrowRight")
    assert threshold_of(page) == moved
    press_button(page, "save")
    assert "Saved to" in numbers(page)
    saved = Thresholds.load(root / "thresholds.json")
    assert moved in saved.values.round(3)
    assert saved.notes.count("by hand") == 1


def press_button(page, name):
    page.get_by_role("button", name=name, exact=True).focus()
    before = page.locator(".cxr").inner_html()
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelector('.cxr').innerHTML !== before", arg=before)
    time.sleep(0.3)


FOCUSED = """() => {
    const at = document.activeElement, handles = [...document.querySelectorAll('.cxr .noUi-handle')];
    if (!at.closest('.cxr')) return null;
    if (handles.includes(at)) return 'slider ' + handles.indexOf(at);
    return at.tagName + ' ' + (at.textContent || at.type).trim();
}"""


def test_tab_reaches_every_control(opened):
    page, _ = opened
    handle(page).focus()
    press(page, "ArrowRight")  # so that undo is on
    page.locator(".cxr select").focus()
    reached = []
    while len(reached) < 60 and None not in reached:
        reached.append(page.evaluate(FOCUSED))
        page.keyboard.press("Tab")
    sliders = {f"slider {i}" for i in range(len(FINDINGS) + 3)}
    buttons = {f"BUTTON {name}" for name in ("tuned (grid)", "tuned (exact)", "0.5", "cheapest", "undo", "save")}
    assert reached[-1] is None, "Tab leaves the explorer, too"
    assert sliders | buttons | {"INPUT number", "INPUT checkbox"} <= set(reached)
    assert reached[0].startswith("SELECT")


def test_the_focus_can_be_seen(opened):
    page, _ = opened
    for place in (handle(page), page.locator(".cxr select")):
        place.focus()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outline").endswith("solid 3px")


def test_it_fits_a_small_screen(opened):
    page, _ = opened
    page.set_viewport_size({"width": 900, "height": 800})
    try:
        page.wait_for_timeout(500)
        wide = page.locator(".cxr").evaluate("element => element.scrollWidth - element.clientWidth")
        assert wide <= 0
    finally:
        page.set_viewport_size({"width": 1440, "height": 1300})


def test_the_saved_notebook_holds_no_radiograph(opened):
    _, root = opened
    text = (root / "explore.ipynb").read_text()
    assert "data:image" not in text
    assert "ThresholdExplorer(14 findings, 3,000 images)" in text


def test_the_heat_map_fades_and_steps(chrome, server):
    """`CamExplorer`: the opacity follows the key without another picture, a button goes to another image."""
    with shown(chrome, server, "maps") as page:
        page.locator(".cxr .noUi-handle").focus()
        opacity = "() => getComputedStyle(document.querySelector('.cxr .heat')).opacity"
        pictures = page.locator(".cxr img")
        before = [picture.get_attribute("src") for picture in pictures.all()]
        assert len(before) == 2, "the radiograph, and its heat map over it"
        assert page.evaluate(opacity) == "0.6"
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"({opacity})() === '0.65'")
        assert [picture.get_attribute("src") for picture in pictures.all()] == before
        page.get_by_role("button", name="next false positive").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("before => document.querySelector('.cxr img').src !== before", arg=before[0])
        page.wait_for_function("document.querySelector('.cxr [role=status]').textContent.includes('false positive')")


def choose(page, path):
    """Open the button's dialogue with the keyboard, and choose a file in it."""
    playwright = pytest.importorskip("playwright.sync_api")
    button = page.get_by_role("button", name="Choose a radiograph")
    for _ in range(5):  # just after a run JupyterLab may take the focus back to its cell
        button.focus()
        try:
            with page.expect_file_chooser(timeout=5000) as opened:
                page.keyboard.press("Enter")
            break
        except playwright.TimeoutError:
            page.evaluate("document.activeElement.blur()")
    else:
        pytest.fail("the button opens no dialogue")
    opened.value.set_files(path)


def test_make_lab_lets_a_dicom_file_through():
    assert f"--ServerApp.tornado_settings='{lab.UPLOADS}'" in (Path(__file__).parents[2] / "Makefile").read_text()


def test_files_of_ones_own(chrome, server, tmp_path):
    """`OwnRadiograph`: a PNG and a large DICOM are shown with bars and map, a text file is refused in a sentence."""
    Image.fromarray(np.round(chest(200) * 255).astype(np.uint8)).save(tmp_path / "film.png")
    values = np.round(chest(2900) * 4095).astype(np.uint16)  # 16.8 MB
    dicom(tmp_path / "a", values, PhotometricInterpretation="MONOCHROME1")
    (tmp_path / "notes.txt").write_text("no image")
    with shown(chrome, server, "own") as page:
        finding = page.get_by_label("Finding")
        assert page.locator(".cxr img").count() == 0
        assert finding.is_disabled()
        choose(page, tmp_path / "film.png")
        page.wait_for_selector('.cxr img[alt="radiograph film.png"]')
        page.locator(".cxr tr svg").nth(len(FINDINGS) - 1).wait_for()  # each part of the widget is a message of its own
        page.wait_for_function("[...document.querySelectorAll('.cxr img')].every(one => one.complete)")
        sizes = page.locator(".cxr img").evaluate_all("all => all.map(one => one.naturalWidth)")
        assert len(sizes) == 2
        assert all(sizes), "the radiograph and the map over it are pictures"
        heat, status = page.locator(".cxr .heat"), page.locator(".cxr [role=status][aria-live]")
        assert "film.png, predicted positive: " in status.inner_text()
        before, other = heat.get_attribute("src"), "Hernia" if "Hernia" not in heat.get_attribute("alt") else "Mass"
        finding.select_option(label=other)
        page.wait_for_selector(f'.cxr img[alt="heat map of {other}"]')
        assert f"{other}: probability" in status.inner_text()
        assert heat.get_attribute("src") != before
        choose(page, tmp_path / "a")
        page.wait_for_selector('.cxr img[alt="radiograph a"]')
        assert "the header says MONOCHROME1" in page.locator(".cxr").inner_text()
        choose(page, tmp_path / "notes.txt")
        alert = page.wait_for_selector(".cxr [role=alert]").inner_text()
        assert alert.startswith("Not predicted. notes.txt cannot be decoded")
        page.wait_for_function("document.querySelector('.cxr img, .cxr tr') === null")
        page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    text = (server[1] / "own.ipynb").read_text()
    assert "OwnRadiograph(mobilenet_v2)" in text
    assert "data:image" not in text


def test_a_photograph_is_refused_and_a_radiograph_is_not(chrome, server, tmp_path):
    Image.fromarray(load_sample_image("china.jpg")).save(tmp_path / "photograph.png")
    radiograph = sorted((server[1] / "phantoms").rglob("*.png"))[0]
    with shown(chrome, server, "familiar") as page:
        choose(page, tmp_path / "photograph.png")
        alert = page.wait_for_selector(".cxr [role=alert]").inner_text()
        assert alert.startswith("Not predicted. photograph.png is refused: no upright frontal chest radiograph")
        assert page.locator(".cxr tr").count() == 0
        choose(page, radiograph)
        page.locator(".cxr tr svg").nth(len(FINDINGS) - 1).wait_for()
        page.wait_for_selector(f'.cxr img[alt="radiograph {radiograph.name}"]')
