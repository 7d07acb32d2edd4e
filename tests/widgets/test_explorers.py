"""The explorers without a browser: what the controls do, what is counted, undone and saved."""

import dataclasses
import json
import re

import ipywidgets
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from hypothesis import given, settings, strategies as st

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.calibration import Calibrator
from cxrlib.evaluation.metrics import point_estimates
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import NEVER, Thresholds, tune_thresholds
from cxrlib.explain.gradcam import grad_cam
from cxrlib.models.architectures import ARCHITECTURES, build_model, save_checkpoint
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint
from cxrlib.widgets.cam_explorer import CamExplorer
from cxrlib.widgets.html import COLOURS
from cxrlib.widgets.operating_points import SCALE, Counts, Curve, Session
from cxrlib.widgets.threshold_explorer import ThresholdExplorer

HERNIA = FINDINGS.index("Hernia")


def predicted(n=120, seed=0, empty=()):
    """Scores that know something of the labels; the findings `empty` have no positive image."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 14)) < np.linspace(0.08, 0.4, 14)).astype(np.uint8)
    labels[:, list(empty)] = 0
    scores = 1 / (1 + np.exp(3 - 2.0 * labels - rng.normal(0, 1.2, (n, 14))))
    images = [f"{90000 + i:08d}_000.png" for i in range(n)]
    return Predictions(scores.round(3), labels, np.array(images), np.arange(n))


@pytest.fixture(scope="module")
def val():
    return predicted()


@pytest.fixture(scope="module")
def tuned(val):
    return tune_thresholds(val, resampling=Bootstrap(20))


@pytest.fixture
def explorer(val, tuned, tmp_path):
    return ThresholdExplorer(val, tuned, save_to=tmp_path / "thresholds.json")


def press(explorer, name):
    explorer._buttons[name].click()


def text_of(explorer):
    return " ".join(
        widget.value for widget in (explorer._status, explorer._figures, explorer._confusion, explorer._numbers)
    )


def operating_point(explorer):
    return re.search(r'class="now" transform="translate\(([\d.]+) ([\d.]+)\)', explorer._figures.value).groups()


# ---- counting --------------------------------------------------------------------------------------------------------
@given(data=st.data())
@settings(max_examples=80)
def test_counts_are_those_of_a_loop(data):
    n = data.draw(st.integers(1, 30))
    scores = np.array(data.draw(st.lists(st.sampled_from([0, 0.05, 0.1, 0.3, 0.5, 1]), min_size=n, max_size=n)))
    scores = scores.astype(np.float32)
    labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    threshold = data.draw(st.sampled_from([0, 0.05, 0.07, 0.1, 0.3, 0.4, 0.5, 1, NEVER]))
    fields = {"tp": 0, "fp": 0, "fn": 0, "tn": 0}
    for score, label in zip(scores, labels, strict=True):
        right, wrong = ("tp", "fp") if score >= np.float32(threshold) else ("fn", "tn")
        fields[right if label else wrong] += 1
    assert Curve(scores, labels).counts(threshold) == Counts(**fields)


def test_rates_are_those_of_the_metrics(val):
    threshold = 0.137
    expected = point_estimates(val, np.full(14, threshold))
    for k in range(14):
        counts = Curve(val.scores[:, k], val.labels[:, k]).counts(threshold)
        for name in ("sensitivity", "specificity", "ppv", "f1"):
            np.testing.assert_allclose(counts.rates[name], expected[name][k], atol=1e-12)


def test_what_is_undefined_is_nan():
    nobody_ill, nobody_called = Counts(0, 3, 0, 7), Counts(0, 0, 2, 8)
    assert np.isnan([nobody_ill.rates["sensitivity"], nobody_ill.rates["f1"], nobody_called.rates["ppv"]]).all()
    assert nobody_called.rates["f1"] == 0


@pytest.mark.parametrize("ratio", [0.5, 1, 5, 40])
def test_the_cheapest_threshold_is_the_tuned_one(val, ratio):
    expected = tune_thresholds(val, grid=None, objective=f"cost={ratio}", resampling=Bootstrap(0))
    for k in range(14):
        curve = Curve(val.scores[:, k], val.labels[:, k])
        assert np.float32(curve.cheapest(ratio, curve.prevalence)) == np.float32(expected.values[k])


def test_another_prevalence_keeps_sensitivity_and_specificity():
    there = Counts(30, 20, 10, 40).per(1000, 0.02)
    assert there.tp + there.fn == pytest.approx(20)
    assert there.fp + there.tn == pytest.approx(980)
    assert (there.rates["sensitivity"], there.rates["specificity"]) == pytest.approx((0.75, 2 / 3))
    assert there.rates["ppv"] == pytest.approx(15 / (15 + 980 / 3))


def test_the_scale_is_fine_near_zero_and_holds_every_grid_value():
    assert SCALE[0] == 0
    assert SCALE[-1] == NEVER
    assert (np.diff(SCALE) > 0).all()
    assert (np.diff(SCALE[SCALE <= 0.01]) < 0.0011).all()
    assert {round(0.05 * i, 2) for i in range(1, 9)} <= set(SCALE.tolist())


# ---- undo and save ---------------------------------------------------------------------------------------------------
def test_each_choice_is_one_step_of_undo(val, tuned):
    session = Session(val, tuned)
    session.choose(2, 0.33)
    session.choose(2, 0.33)
    session.choose(2, 0.6)
    session.choose(slice(None), np.full(14, 0.7))
    session.undo()
    assert (session.values[2], session.values[3]) == (0.6, tuned.values[3])
    session.undo()
    assert session.values[2] == 0.33
    session.undo()
    np.testing.assert_array_equal(session.values, tuned.values)
    assert not session.past


def test_what_was_not_moved_keeps_interval_and_note(val, tuned):
    session = Session(val, tuned)
    assert session.thresholds() is tuned
    session.choose(4, 0.123)
    made = session.thresholds()
    assert made.values[4] == 0.123
    assert made.notes[4] == "by hand"
    assert np.isnan(made.low[4])
    np.testing.assert_array_equal(np.delete(made.values, 4), np.delete(tuned.values, 4))
    np.testing.assert_array_equal(np.delete(made.low, 4), np.delete(tuned.low, 4))
    assert made.grid is None
    assert made.objective == "by hand, from f1"
    assert Session(val, made).thresholds() is made


def test_save_writes_what_others_load(explorer, tuned, tmp_path):
    explorer._threshold.index = 40
    press(explorer, "save")
    saved = Thresholds.load(tmp_path / "thresholds.json")
    np.testing.assert_array_equal(saved.values, explorer.session.values)
    assert saved.values[explorer.chosen] == SCALE[40] != tuned.values[explorer.chosen]
    assert "Saved to" in explorer._status.value


def test_save_puts_the_choice_into_the_checkpoint_too(val, tuned, model, tmp_path):
    path = tmp_path / "model_best.pth"
    config = {"arch": "mobilenet_v2", "image_size": 32, "split": "patient", "seed": 0, "val_subset": 0}
    save_checkpoint(path, model, parts={"train": [], "val": []}, config=config, epoch=1)
    explorer = ThresholdExplorer(val, tuned, save_to=tmp_path / "thresholds.json", checkpoint=path)
    explorer._threshold.index = 40
    press(explorer, "save")
    assert load_checkpoint(path)["thresholds"] == Thresholds.load(tmp_path / "thresholds.json").to_dict()
    assert load_checkpoint(path)["arch"] == "mobilenet_v2"
    assert "model_best.pth" in explorer._status.value
    content = load_checkpoint(path)
    other = Calibrator("platt", ({"slope": 1.5, "intercept": 0.2},) * 14).to_dict()
    write_checkpoint(path, content | {"calibration": other})
    (tmp_path / "thresholds.json").unlink()
    press(explorer, "save")
    assert "Not saved:" in explorer._status.value, "the model has another calibration by now"
    assert not (tmp_path / "thresholds.json").exists()
    path.unlink()
    press(explorer, "save")
    assert "Not saved:" in explorer._status.value


def test_saved_thresholds_can_be_explored_again(val, explorer, tmp_path):
    explorer._threshold.index = 40
    press(explorer, "save")
    again = ThresholdExplorer(val, Thresholds.load(tmp_path / "thresholds.json"))
    np.testing.assert_array_equal(again.session.values, explorer.session.values)
    assert again._buttons["save"].disabled


# ---- controls --------------------------------------------------------------------------------------------------------
def test_a_slider_moves_threshold_point_row_and_numbers(explorer):
    k, before, point = explorer.chosen, text_of(explorer), operating_point(explorer)
    explorer._threshold.index += 9
    value = SCALE[explorer._threshold.index]
    assert explorer.session.values[k] == value
    assert operating_point(explorer) != point
    assert text_of(explorer) != before
    assert f"{value:.3f}" in explorer._rows[k].children[2].value
    assert explorer._rows[k].children[1].value == value
    assert explorer._typed.value == pytest.approx(value)
    counts = explorer.session.curves[k].counts(value)
    assert f"{counts.tp} of {counts.tp + counts.fn} found" in explorer._status.value


def test_a_slider_of_the_table_chooses_its_finding(explorer):
    explorer._rows[2].children[1].index = 30
    assert explorer.chosen == explorer._finding.value == 2
    assert explorer.session.values[2] == SCALE[30]
    assert explorer._threshold.index == 30
    chosen = [k for k, row in enumerate(explorer._rows) if "cxr-chosen" in row._dom_classes]
    assert chosen == [2]


def test_choosing_a_finding_moves_no_threshold(explorer, tuned):
    for k in range(14):
        explorer._finding.value = k
    explorer._rows[5].children[0].click()
    assert explorer.chosen == 5
    np.testing.assert_array_equal(explorer.session.values, tuned.values)
    assert not explorer.session.past


def test_an_exact_threshold_stays_exact_beside_its_slider(explorer):
    explorer._typed.value = 0.1234
    assert explorer.session.values[explorer.chosen] == 0.1234
    assert explorer._threshold.value == 0.12
    explorer._finding.value = (explorer.chosen + 1) % 14
    explorer._finding.value = (explorer.chosen - 1) % 14
    assert 0.1234 in explorer.session.values


def test_buttons_set_one_finding_or_all(explorer, val, tuned):
    exact = tune_thresholds(val, grid=None, resampling=Bootstrap(0))
    press(explorer, "0.5")
    assert (explorer.session.values == 0.5).sum() - (tuned.values == 0.5).sum() in (0, 1)
    explorer._all.value = True
    press(explorer, "0.5")
    assert (explorer.session.values == 0.5).all()
    press(explorer, "tuned (exact)")
    np.testing.assert_array_equal(explorer.session.values, exact.values)
    press(explorer, "tuned (grid)")
    np.testing.assert_array_equal(explorer.session.values, tuned.values)
    press(explorer, "undo")
    np.testing.assert_array_equal(explorer.session.values, exact.values)


def test_the_cost_moves_the_cheapest_point_and_not_the_threshold(explorer):
    before = explorer.session.values.copy()
    explorer._ratio.value = 1000
    np.testing.assert_array_equal(explorer.session.values, before)
    press(explorer, "cheapest")
    k = explorer.chosen
    curve = explorer.session.curves[k]
    assert explorer.session.values[k] == curve.cheapest(1000, curve.prevalence)
    assert curve.counts(explorer.session.values[k]).fn == 0, "at this price none is missed"


def test_the_prevalence_changes_ppv_and_is_remembered_by_finding(explorer):
    k = explorer.chosen
    table = explorer._numbers.value
    explorer._prevalence.value = 5
    assert explorer._numbers.value != table
    assert "elsewhere" in explorer._figures.value
    there = explorer.session.curves[k].counts(explorer.session.values[k]).per(1000, 0.005)
    assert f"{there.rates['ppv']:.2f}" in explorer._numbers.value
    explorer._finding.value = (k + 1) % 14
    assert "elsewhere" not in explorer._figures.value
    explorer._finding.value = k
    assert explorer._prevalence.value == 5
    explorer._as_here.click()
    assert explorer._numbers.value == table


def test_the_gallery_shows_what_changes_side(explorer, val, tuned):
    k = explorer.chosen
    assert "No image changes side" in explorer._gallery.value
    explorer._typed.value = 0.9
    scores = val.scores[:, k]
    changed = (scores >= np.float32(0.9)) != (scores >= np.float32(tuned.values[k]))
    assert f"{changed.sum()} images change side" in explorer._gallery.value
    shown = re.findall(r'figure title="([^"]+)"', explorer._gallery.value)
    assert 0 < len(shown) <= 12
    assert set(shown) <= set(val.image[changed])
    assert "more missed" in explorer._gallery.value


def test_pictures_come_from_the_cache(val, tuned):
    pictures = dict.fromkeys(val.image, np.full((32, 32), 7, np.uint8))
    explorer = ThresholdExplorer(val, tuned, images=pictures)
    assert explorer._gallery.value.count("data:image/jpeg;base64,") == 12
    assert "src=" not in ThresholdExplorer(val, tuned)._gallery.value


def test_a_finding_without_a_positive_says_so():
    val = predicted(empty=[HERNIA])
    explorer = ThresholdExplorer(val, tune_thresholds(val, resampling=Bootstrap(0)))
    explorer._finding.value = HERNIA
    assert "there is no image with the finding" in explorer._figures.value
    assert "–" in explorer._numbers.value
    explorer._all.value = True
    press(explorer, "cheapest")
    assert explorer.session.values[HERNIA] == 0.5


def test_thresholds_of_other_scores_are_refused(val, tuned):
    platt = dataclasses.replace(tuned, calibration="platt")
    with pytest.raises(InputError, match="calibrat"):
        ThresholdExplorer(val, platt)


def test_images_of_unknown_label_count_nowhere(val, tuned):
    k, labels = HERNIA - 1, val.labels.astype(float)
    labels[::2, k], labels[:, HERNIA] = np.nan, np.nan
    partly = dataclasses.replace(val, labels=labels)
    explorer = ThresholdExplorer(partly, tuned)
    explorer._finding.value = k
    known = val.take(~np.isnan(labels[:, k]))
    curve, expected = explorer.session.curves[k], Curve(known.scores[:, k], known.labels[:, k])
    assert (curve.n, curve.prevalence) == (60, expected.prevalence)
    np.testing.assert_array_equal(curve.thresholds, expected.thresholds)
    np.testing.assert_array_equal(curve.points.fp, expected.points.fp)
    explorer._typed.value = 0.9
    changed, shown = explorer.session.changed(k)
    scores = known.scores[:, k]
    assert changed.sum() == ((scores >= np.float32(0.9)) != (scores >= np.float32(tuned.values[k]))).sum() > 0
    assert set(partly.image[changed]) | set(partly.image[shown]) <= set(known.image)
    explorer._finding.value = HERNIA
    assert "there is no image with the finding among these 0" in " ".join(explorer._figures.value.split())


# ---- CamExplorer -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def model():
    return build_model("mobilenet_v2", "none", 32)


@pytest.fixture(scope="module")
def pictures(val):
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (32, 32), dtype=np.uint8) for name in val.image}


@pytest.fixture
def cam(model, pictures, val, tuned):
    boxes = pd.DataFrame(
        {"image": val.image[:60], "finding": "Effusion", "x": 100.0, "y": 200.0, "w": 300.0, "h": 80.0}
    )
    return CamExplorer(model, pictures, val, tuned, boxes)


@pytest.mark.parametrize(
    ("outcome", "called", "labelled"),
    [("true positive", 1, 1), ("false positive", 1, 0), ("false negative", 0, 1)],
)
def test_buttons_step_through_the_outcomes_strongest_first(cam, val, tuned, outcome, called, labelled):
    k = cam._finding.value
    expected = np.flatnonzero((tuned.apply(val)[:, k] == called) & (val.labels[:, k] == labelled))
    seen = []
    for _ in range(len(expected) + 1):
        cam._buttons[outcome].click()
        seen.append(cam._row.value)
        assert f"<b>{outcome}</b>" in cam._status.value
    if outcome == "true positive":
        seen = [seen[-2], *seen[:-2], seen[-2]]  # the first of all was shown at the start
    assert sorted(seen[:-1]) == expected.tolist()
    assert seen[-1] == seen[0], "from the top again"
    assert (np.diff(val.scores[seen[:-1], k]) <= 0).all()


def test_an_unknown_label_is_no_outcome(model, pictures, val, tuned):
    cam = CamExplorer(model, pictures, val, tuned)
    k, row = cam._finding.value, cam._row.value
    labels = val.labels.astype(float)
    labels[row, k] = np.nan
    cam = CamExplorer(model, pictures, dataclasses.replace(val, labels=labels), tuned)
    assert cam._row.value != row
    cam._finding.value, cam._row.value = k, row
    assert "<b>label unknown</b>" in cam._status.value
    assert "unknown</td>" in cam._table.value


def test_what_is_not_there_is_said(model, pictures, val):
    never = CamExplorer(model, pictures, val, Thresholds(np.full(14, NEVER)))
    shown = never._row.value
    never._buttons["false positive"].click()
    assert "There is no false positive of" in never._status.value
    assert never._row.value == shown


def shown_maps(cam):
    return cam._maps(cam._row.value, cam._method.value, cam._layer.value)


def test_the_maps_are_those_of_grad_cam_and_kept(cam, model, pictures, val, monkeypatch):
    row, calls = cam._row.value, []
    x = torch.from_numpy(pictures[val.image[row]])[None, None]
    np.testing.assert_allclose(shown_maps(cam), grad_cam(model, x)[0].numpy())
    monkeypatch.setattr("cxrlib.widgets.cam_explorer.grad_cam", lambda *given: calls.append(given) or grad_cam(*given))
    picture = cam._picture.value
    cam._finding.value = (cam._finding.value + 1) % 14
    assert cam._picture.value != picture
    assert not calls, "another finding needs no pass"
    cam._method.value = "layercam"
    cam._layer.value = ARCHITECTURES["mobilenet_v2"].cam_layers[0]
    assert len(calls) == 2
    cam._layer.value = ARCHITECTURES["mobilenet_v2"].cam_layers
    np.testing.assert_allclose(
        shown_maps(cam),
        grad_cam(model, x, list(ARCHITECTURES["mobilenet_v2"].cam_layers), "layercam")[0].numpy(),
        atol=1e-6,
    )


def test_opacity_touches_no_picture(cam):
    picture = cam._picture.value
    cam._opacity.value = 0.25
    assert cam._picture.value == picture
    assert "opacity: 0.25" in cam._opaque.value
    assert len(cam._opaque.value) < 600


def test_boxes_on_demand(cam):
    cam._finding.value = FINDINGS.index("Effusion")
    cam._row.value = 3
    assert "<rect" not in cam._picture.value
    cam._box.value = True
    assert 'x="100" y="200" width="300" height="80"' in cam._picture.value
    cam._finding.value = FINDINGS.index("Mass")
    assert "<rect" not in cam._picture.value
    assert "There is no box of Mass" in cam._status.value


def test_a_small_score_is_shown_with_the_digits_of_its_threshold(model, pictures, val):
    few = val.take(np.arange(3))
    few.scores[:] = 0.0042
    cam = CamExplorer(model, pictures, few, Thresholds(np.full(14, 0.0061)))
    assert "score 0.0042, threshold 0.0061" in cam._status.value
    assert "0.0042" in cam._table.value


def test_no_more_maps_are_kept_than_said(model, pictures, val, tuned, monkeypatch):
    monkeypatch.setattr("cxrlib.widgets.cam_explorer.KEPT", 3)
    cam = CamExplorer(model, pictures, val, tuned)
    for row in range(6):
        cam._row.value = row
    assert cam._maps.cache_info().currsize == 3


def test_the_cam_explorer_says_what_it_is(cam, val):
    assert cam._repr_mimebundle_()["text/plain"] == f"CamExplorer(mobilenet_v2, {len(val)} images)"
    assert not any(isinstance(widget, ipywidgets.Output) for widget in widgets_in(cam))
    assert cam._table.value.count("<tr") == 15


# ---- for everybody ---------------------------------------------------------------------------------------------------
def widgets_in(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from widgets_in(child)


def test_no_output_widget_and_every_control_says_what_it_is(explorer):
    controls = [w for w in widgets_in(explorer) if isinstance(w, ipywidgets.Button | ipywidgets.SelectionSlider)]
    assert len(controls) >= 3 + 14 + 6
    assert all(control.tooltip for control in controls)
    assert not any(isinstance(widget, ipywidgets.Output) for widget in widgets_in(explorer))
    assert 'role="status" aria-live="polite"' in explorer._status.value
    charts = re.findall(r"<svg [^>]*role=\"img\"[^>]*>", explorer._figures.value)
    assert len(charts) == 3
    assert all("aria-label=" in chart for chart in charts)


def test_its_text_is_the_same_every_time(explorer, val):
    bundle = explorer._repr_mimebundle_()
    assert bundle["text/plain"] == f"ThresholdExplorer(14 findings, {len(val)} images)"


def test_text_stands_out_from_its_ground():
    def light(colour):
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [("#000000", "POSITIVE"), ("#ffffff", "NEGATIVE"), ("#000000", "PALE_POSITIVE"),
             ("#000000", "PALE_NEGATIVE"), ("INK", "#ffffff"), ("SOFT", "#ffffff")]  # fmt: skip
    for pair in pairs:
        ink, ground = (COLOURS.get(name, name) for name in pair)
        low, high = sorted((light(ink), light(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{ink} on {ground}"  # WCAG 2.1, level AA


CELL = """
import numpy as np
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import tune_thresholds
from cxrlib.widgets.threshold_explorer import ThresholdExplorer

val = Predictions.load({path!r})
explorer = ThresholdExplorer(val, tune_thresholds(val, resampling=Bootstrap(0)))
explorer._threshold.index += 1
explorer
"""


def test_papermill_shows_it_and_goes_on(val, tmp_path):
    path = val.save(tmp_path / "val.npz")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(CELL.format(path=str(path))), nbformat.v4.new_code_cell("print('after')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "in.ipynb")
    papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", progress_bar=False, execution_timeout=600)
    done = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert done.cells[0].outputs[0].data["text/plain"] == "ThresholdExplorer(14 findings, 120 images)"
    assert done.cells[1].outputs[0].text == "after\n"
    assert [output.output_type for output in done.cells[0].outputs] == ["execute_result"]
    assert "Traceback" not in json.dumps(done)
