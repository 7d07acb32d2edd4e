"""The smaller copies of a run's figures: their size, their text, and the refusal to put patients into the project."""

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrlib.core.errors import InputError
from cxrlib.core.paths import NOTEBOOKS
from cxrlib.course.report.page import export_figures
from cxrlib.course.runs import RunFolder

ROOT = NOTEBOOKS.parent
WORDS = "AUROC of 14 findings: 0.5 ≤ x"


def run_with(tmp_path, data):
    run = RunFolder(tmp_path / "run")
    run.figures.mkdir(parents=True)
    (run.path / "run.json").write_text(json.dumps(data))
    about = PngInfo()
    about.add_text("Description", WORDS)
    for name in ("05_f1", "01_views"):
        Image.new("RGBA", (900, 601), "white").save(run.figures / f"{name}.png", pnginfo=about, dpi=(300, 300))
    (run.figures / "05_f1.pdf").write_bytes(b"%PDF")
    return run


def test_the_copies_are_smaller_and_keep_their_description(tmp_path):
    run = run_with(tmp_path, {"data": {"phantoms": True}})
    copies = export_figures(run, tmp_path / "new" / "figures")
    assert copies == [tmp_path / "new" / "figures" / name for name in ("01_views.png", "05_f1.png")]
    assert sorted((tmp_path / "new" / "figures").iterdir()) == copies, "no PDF, and nothing unfinished"
    for copy in copies:
        with Image.open(copy) as image:
            assert (image.format, image.size) == ("PNG", (330, 220))
            assert image.info["Description"] == WORDS
            assert image.convert("L").getextrema() == (255, 255)


def test_copies_are_as_large_as_the_original_is_on_paper(tmp_path):
    """Commands save at 150 dpi, notebooks at 300; a Mac may have left a hidden file beside a figure."""
    run = run_with(tmp_path, {"data": {"phantoms": True}})
    Image.new("RGB", (450, 300), "white").save(run.figures / "01_views.png", dpi=(150, 150))
    Image.new("RGB", (900, 600), "white").save(run.figures / "09_by_hand.png")
    (run.figures / "._01_views.png").write_bytes(b"of a Mac")
    for copy in export_figures(run, tmp_path / "figures"):
        assert Image.open(copy).size == (330, 220)


def test_the_originals_are_not_replaced(tmp_path):
    run = run_with(tmp_path, {"data": {"phantoms": True}})
    before = (run.figures / "05_f1.png").read_bytes()
    with pytest.raises(InputError, match="holds the figures for print"):
        export_figures(run, run.path / "other" / ".." / "figures")
    assert (run.figures / "05_f1.png").read_bytes() == before


@pytest.mark.parametrize("recorded", [{}, {"data": {}}, {"data": {"phantoms": False}}, {"data": {"phantoms": None}}])
def test_pictures_of_patients_stay_out_of_the_project(recorded, tmp_path, monkeypatch):
    run = run_with(tmp_path, recorded)
    monkeypatch.chdir(ROOT)
    for folder in (ROOT, ROOT / "figures" / "none", Path("figures/none")):
        with pytest.raises(InputError, match=r"must not be committed; expected a folder outside"):
            export_figures(run, folder)
    assert not (ROOT / "figures" / "none").exists()
    assert len(export_figures(run, tmp_path / "outside")) == 2


def test_a_link_into_the_project_is_in_the_project(tmp_path):
    run = run_with(tmp_path, {})
    (tmp_path / "link").symlink_to(ROOT / "figures", target_is_directory=True)
    with pytest.raises(InputError, match="must not be committed"):
        export_figures(run, tmp_path / "link")


def test_phantoms_may_go_into_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr("cxrlib.course.report.page.NOTEBOOKS", tmp_path / "notebooks")
    run = run_with(tmp_path, {"data": {"phantoms": True}})
    assert len(export_figures(run, tmp_path / "figures")) == 2


def test_a_run_without_figures_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no figures"):
        export_figures(RunFolder(tmp_path / "none"), tmp_path / "figures")
    assert not (tmp_path / "figures").exists()
