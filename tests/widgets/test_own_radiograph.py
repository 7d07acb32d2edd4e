"""`OwnRadiograph` without a browser: an upload is what the browser sets, the `value` of the control."""

import datetime
import json
import re
from dataclasses import replace

import ipywidgets
import nbformat
import numpy as np
import papermill
import pytest
from PIL import Image

from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.thresholds import number
from cxrlib.explain.prediction import Predictor
from cxrlib.plots.style import pretty
from cxrlib.widgets.own_radiograph import OwnRadiograph
from tests.cli.test_predict import checkpoint
from tests.data.test_images import SECRET, chest, dicom


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model") / "m.pth", thresholds=0.45)


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.png"
    Image.fromarray(np.round(chest() * 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def own(weights):
    return OwnRadiograph([weights])


def upload(own, content: bytes, name: str):
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    own._upload.value = [
        {"name": name, "type": "", "size": len(content), "content": memoryview(content), "last_modified": when}
    ]


def table_of(own) -> list[list[str]]:
    rows = re.findall(r'<tr[^>]*><th scope="row">(.*?)</th>(.*?)</tr>', own._table.value, re.DOTALL)
    cells = (re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for _, row in rows)
    return [
        [name, *(re.sub(r"<.*>", "", cell, flags=re.DOTALL).strip() for cell in row)]
        for (name, _), row in zip(rows, cells, strict=True)
    ]


def everything(own) -> str:
    return " ".join(widget.value for widget in widgets_in(own) if isinstance(widget, ipywidgets.HTML))


def widgets_in(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from widgets_in(child)


def test_an_upload_is_what_predict_says_of_the_file(own, film, weights):
    expected = next(Predictor([weights]).predict([film]))
    upload(own, film.read_bytes(), "film.png")
    assert own.case.rows == expected.rows
    found = table_of(own)
    assert [row[0] for row in found] == list(map(pretty, FINDINGS))
    for row, given in zip(found, expected.rows, strict=True):
        assert row[2:] == [number(given["probability"]), "0.45", given["call"]]
    positive = ", ".join(pretty(row["finding"]) for row in expected.rows if row["call"] == "positive")
    assert f"predicted positive: {positive}." in own._status.value.replace("\n", " ")
    assert own._picture.value.count("data:image/") == 2, "the radiograph and the map"
    orange = sum("#de8f05" in bar for bar in re.findall(r"<svg.*?</svg>", own._table.value, re.DOTALL))
    assert orange == expected.positive.sum() > 0


def test_it_begins_with_the_positive_finding_of_the_highest_probability(own, film):
    upload(own, film.read_bytes(), "film.png")
    assert own._finding.value == np.where(own.case.positive, own.case.probability, -1).argmax()
    assert f'<tr class="now"><th scope="row">{pretty(FINDINGS[own._finding.value])}' in own._table.value


def test_a_file_is_predicted_once_and_forgotten(own, film, monkeypatch):
    calls = []
    for name in ("predict", "all_maps"):
        plain = getattr(Predictor, name)
        monkeypatch.setattr(
            Predictor, name, lambda *given, of=plain, name=name, **options: calls.append(name) or of(*given, **options)
        )
    upload(own, film.read_bytes(), "film.png")
    assert calls == ["predict", "all_maps"]
    pictures, maps = set(), own._maps
    for k in range(len(FINDINGS)):
        own._finding.value = k
        assert f"heat map of {pretty(FINDINGS[k])}" in own._picture.value
        assert f"{pretty(FINDINGS[k])}: probability" in own._status.value
        pictures.add(own._picture.value)
    assert len(pictures) == 14
    assert maps is own._maps
    picture = own._picture.value
    own._opacity.value = 0.25
    assert own._picture.value == picture
    assert "opacity: 0.25" in own._opaque.value
    assert calls == ["predict", "all_maps"]
    assert own._upload.value == (), "no byte of the file stays, which a saved notebook could hold"


def test_a_dicom_is_corrected_and_nothing_of_its_header_is_shown(own, tmp_path):
    path = dicom(tmp_path / "a", PhotometricInterpretation="MONOCHROME1", Modality=SECRET)
    upload(own, path.read_bytes(), "a")
    assert own.case.rows[0]["probability"] > 0
    warning = "<b>Warning:</b> the header says MONOCHROME1, with which air is bright; inverted."
    assert warning in own._notice.value
    shown = everything(own)
    assert not [text for text in (SECRET, "ID-4711", "Klinik", "Husten", "horse", "private words") if text in shown]


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"no image", "notes.txt", "notes.txt cannot be decoded (it is neither PNG, JPEG nor DICOM"),
        (b"", "empty.png", "empty.png cannot be decoded"),
        ("frames", "many.dcm", "it has 3 frames; expected one radiograph"),
        ("pieces", "half.png", "half.png cannot be decoded"),
        (b"x", "<b>a\x1b.png", "&lt;b&gt;a\\x1b.png cannot be decoded"),
    ],
    ids=["text", "empty", "frames", "pieces", "name"],
)
def test_what_is_no_radiograph_is_one_sentence_and_nothing_else(own, film, tmp_path, content, name, said):
    upload(own, film.read_bytes(), "film.png")
    if content == "frames":
        values = np.zeros((3, 64, 64), np.uint8)
        path = dicom(tmp_path / "a", values, Rows=64, Columns=64, SamplesPerPixel=1, NumberOfFrames=3)
        content = path.read_bytes()
    upload(own, film.read_bytes()[:-40] if content == "pieces" else content, name)
    assert '<div role="alert"' in own._notice.value
    assert said in own._notice.value
    assert own.case is None
    assert not own._status.value + own._picture.value + own._table.value, "nothing of the film before"
    assert own._finding.disabled
    own._finding.value = 3
    assert not own._picture.value
    upload(own, film.read_bytes(), "film.png")
    assert "alert" not in own._notice.value
    assert own._picture.value
    assert not own._finding.disabled


def test_an_image_that_is_refused_shows_no_number(own, film, monkeypatch):
    plain, refused = Predictor.predict, "film.png is refused: it is no frontal chest radiograph"
    monkeypatch.setattr(
        Predictor, "predict", lambda *given, **how: (replace(case, error=refused) for case in plain(*given, **how))
    )
    upload(own, film.read_bytes(), "film.png")
    assert f"{refused}." in own._notice.value
    assert not own._status.value + own._picture.value + own._table.value


def test_where_nothing_is_tuned_it_is_said(tmp_path, film):
    own = OwnRadiograph([checkpoint(tmp_path / "m.pth", thresholds=None)], film)
    assert {tuple(row[3:]) for row in table_of(own)} == {("–", "not tuned")}
    assert own._table.value.count("no threshold is tuned: run cxr eval") == 1
    assert "no threshold is tuned: run cxr eval" in own._status.value
    assert "predicted positive: no finding" in own._status.value
    assert "#de8f05" not in own._table.value


def test_several_models_are_averaged_with_their_range(tmp_path, film):
    both = [checkpoint(tmp_path / f"{seed}.pth", seed, size) for seed, size in ((1, 32), (2, 48))]
    own = OwnRadiograph(both, film)
    row = own.case.rows[2]
    expected = f"{number(row['probability'])} ({number(row['low'])} to {number(row['high'])})"
    assert table_of(own)[2][2] == expected
    assert repr(own) == "OwnRadiograph(mobilenet_v2, mobilenet_v2)"


def test_every_control_says_what_it_is(own, film):
    upload(own, film.read_bytes(), "film.png")
    controls = [one for one in widgets_in(own) if getattr(one, "description", "")]
    assert {one.description for one in controls} == {"Choose a radiograph", "Finding", "Opacity"}
    assert own._upload.tooltip
    assert own._upload.accept == "", "a DICOM file often has no suffix"
    assert not any(isinstance(widget, ipywidgets.Output) for widget in widgets_in(own))
    assert 'role="status" aria-live="polite"' in own._status.value
    assert 'alt="radiograph film.png"' in own._picture.value
    assert "Not for diagnosis." in everything(own)


CELL = """
from cxrlib.widgets import own_radiograph
own = own_radiograph.OwnRadiograph([{weights!r}], {film!r})
assert own.case is not None
own
"""


def test_papermill_shows_the_example_and_goes_on(weights, film, tmp_path):
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cell = CELL.format(weights=str(weights), film=str(film))
    cells = [nbformat.v4.new_code_cell(cell), nbformat.v4.new_code_cell("print('after')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "in.ipynb")
    papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", progress_bar=False, execution_timeout=600)
    done = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert done.cells[0].outputs[0].data["text/plain"] == "OwnRadiograph(mobilenet_v2)"
    assert [output.output_type for output in done.cells[0].outputs] == ["execute_result"]
    assert done.cells[1].outputs[0].text == "after\n"
    assert "data:image" not in json.dumps(done.cells)
