"""Overlays: the right map over the right radiograph, with score, threshold and boxes; one file per image."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from cxrlib.core.errors import InputError
from cxrlib.data.cache import build_cache
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import read_boxes
from cxrlib.data.sources import find_images
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import NEVER, Thresholds
from cxrlib.explain import case_maps
from cxrlib.explain.case_maps import highest_labelled, overlay_maps, radiographs, score_table
from cxrlib.plots import style
from cxrlib.plots.maps import overlay_figure, write_overlays

MASS, EDEMA = FINDINGS.index("Mass"), FINDINGS.index("Edema")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def boxes(tiny_nih):
    return read_boxes(tiny_nih.boxes_path)


@pytest.fixture
def cache(tiny_nih, tmp_path):
    return build_cache(find_images(tiny_nih.root), 32, cache_dir=tmp_path / "cache", progress=False)


@pytest.fixture
def predictions(boxes):
    """Three images: of the first box, another one, and one without a finding."""
    names = [boxes["image"][0], "00090001_000.png", "00090004_000.png"]
    labels, scores = np.zeros((3, 14)), np.full((3, 14), 0.1)
    labels[0, FINDINGS.index(boxes["finding"][0])] = 1
    labels[1, [MASS, EDEMA]] = 1
    scores[1, [MASS, EDEMA, 0]] = 0.4, 0.6, 0.9  # 0 is not labelled
    scores[2, 13] = 0.7
    return Predictions(scores, labels, names, [1, 2, 3])


@pytest.fixture
def model(monkeypatch):
    """The map of finding k is k / 14 of the radiograph's grey, and empty for Edema; the model itself is not used."""

    def grad_cam(model, x, layer, method, findings):
        maps = (x / 255) * (findings[:, None, None, None] / 14)
        maps[findings == EDEMA] = 0
        return maps

    monkeypatch.setattr(case_maps, "grad_cam", grad_cam)


def draw(cache, predictions, pairs, thresholds=None, **options):
    table = score_table(predictions, pairs, thresholds)
    return overlay_figure(overlay_maps(None, cache, table, "gradcam"), table, cache, **options)


def write(folder, cache, predictions, thresholds=None, boxes=None):
    table = score_table(predictions, highest_labelled(predictions), thresholds)
    return write_overlays(folder, overlay_maps(None, cache, table, "gradcam"), table, cache, boxes)


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.images]


def test_radiographs_come_in_the_order_asked_for(cache):
    names = [cache.names[5], cache.names[0]]
    batch = radiographs(cache, names)
    assert batch.shape == (2, 1, 32, 32)
    assert batch.dtype == torch.uint8
    assert all((batch[row, 0].numpy() == cache[name]).all() for row, name in enumerate(names))
    with pytest.raises(InputError, match="does not hold"):
        radiographs(cache, ["00000001_000.png"])


def test_each_panel_is_its_own_image_finding_and_score(model, cache, predictions):
    figure = draw(cache, predictions, [(1, MASS), (2, 13)], Thresholds(np.linspace(0.1, 0.9, 14)))
    panels = [axes for axes in figure.axes if axes.images]
    for axes, (row, k) in zip(panels, [(1, MASS), (2, 13)], strict=True):
        picture, heat = (image.get_array() for image in axes.images)
        assert (picture == cache[predictions.image[row]]).all()
        np.testing.assert_allclose(heat, cache[predictions.image[row]] / 255 * k / 14, atol=1e-6)
    assert titles(figure) == ["Mass: 0.40, labelled\nthreshold 0.59", "Hernia: 0.70, not labelled\nthreshold 0.90"]


def test_an_unknown_label_is_neither_drawn_nor_chosen_as_one(model, cache, predictions):
    labels = predictions.labels.astype(float)
    labels[1, 0], labels[2, 13] = np.nan, np.nan
    partly = Predictions(predictions.scores, labels, predictions.image, predictions.patient)
    assert dict(highest_labelled(partly))[1] == EDEMA
    assert titles(draw(cache, partly, [(2, 13), (1, MASS)])) == [
        "Hernia: 0.70, label unknown\nno threshold tuned", "Mass: 0.40, labelled\nno threshold tuned"]  # fmt: skip
    table = score_table(partly, [(2, 13), (1, MASS), (0, 0)])
    assert table["label"].isna().tolist() == [True, False, False]


@pytest.mark.parametrize("name", ["$^$.png", "a_$x$_.png", "_.png"])
def test_the_name_of_a_file_is_no_formula(name):
    grey = np.zeros((8, 8), np.uint8)
    figure = style.plot_radiographs([grey], [name])
    figure.canvas.draw()
    assert figure.axes[0].get_title() == name


def test_a_title_says_what_is_missing(model, cache, predictions):
    figure = draw(cache, predictions, [(1, EDEMA)])
    assert titles(figure) == ["Edema: 0.60, labelled\nno threshold tuned\n(empty: nothing speaks for it)"]


def test_small_numbers_keep_a_digit_and_never_is_a_word(model, cache, predictions):
    values = np.full(14, 0.0042)
    values[13] = NEVER
    predictions.scores[1, MASS] = 0.0031
    figure = draw(cache, predictions, [(1, MASS), (2, 13)], Thresholds(values))
    assert titles(figure) == ["Mass: 0.0031, labelled\nthreshold 0.0042", "Hernia: 0.70, not labelled\nthreshold never"]


def test_boxes_are_drawn_on_their_image_and_finding_only(model, cache, predictions, boxes):
    k = FINDINGS.index(boxes["finding"][0])
    pairs = [(0, k), (0, (k + 1) % 14), (1, k)]
    figure = draw(cache, predictions, pairs, boxes=boxes)
    assert [len(axes.patches) for axes in figure.axes[:3]] == [1, 0, 0]
    box = figure.axes[0].patches[0]
    scale = 32 / 1024
    assert box.get_x() == pytest.approx(boxes["x"][0] * scale - 0.5)
    assert box.get_height() == pytest.approx(boxes["h"][0] * scale)


def test_the_plain_radiograph_stands_beside(model, cache, predictions, boxes):
    k = FINDINGS.index(boxes["finding"][0])
    figure = draw(cache, predictions, [(0, k)], boxes=boxes, plain=True)
    plain, over = (axes for axes in figure.axes if axes.images)
    assert plain.get_title() == predictions.image[0]
    assert not plain.images[1].get_array().any()
    assert over.images[1].get_array().any()
    assert (len(plain.patches), len(over.patches)) == (1, 1)


def test_one_file_per_image_for_its_labelled_finding_with_the_highest_score(model, cache, predictions, boxes, tmp_path):
    folder = tmp_path / "deep" / "gradcam"
    paths = write(folder, cache, predictions, boxes=boxes)
    stems = [name.removesuffix(".png") for name in predictions.image]
    expected = [f"{stems[0]}_{boxes['finding'][0]}.png", f"{stems[1]}_Edema.png", f"{stems[2]}_Hernia.png"]
    assert [path.name for path in paths] == expected
    assert {path.name for path in folder.iterdir()} == {*expected, "scores.csv", "contact_sheet.png"}
    assert len({path.read_bytes() for path in paths}) == 3
    scores = pd.read_csv(folder / "scores.csv", index_col="image")
    assert list(scores.columns) == ["finding", "score", "label", "threshold", "called", *FINDINGS]
    assert list(scores.index) == predictions.image.tolist()
    np.testing.assert_allclose(scores[list(FINDINGS)], predictions.scores, rtol=1e-6)
    assert scores["finding"].tolist() == [boxes["finding"][0], "Edema", "Hernia"]
    np.testing.assert_allclose(scores["score"], [0.1, 0.6, 0.7])
    assert scores["label"].tolist() == [1, 1, 0]
    assert scores[["threshold", "called"]].isna().all(axis=None)
    assert not plt.get_fignums(), "figures are closed, or a large sample fills the memory"


def test_images_of_one_name_in_two_folders_have_a_file_each(cache, tmp_path):
    """As names of a labels.csv have; and a UID has no suffix."""
    names = ["siteA/007.png", "siteB/007.png", "1.2.840.1", "1.2.840.2"]
    table = pd.DataFrame({"image": names, "finding": "Mass", "score": 0.5, "label": 1, "threshold": np.nan})
    pixels = dict.fromkeys(names, np.zeros((8, 8), np.uint8))
    paths = write_overlays(tmp_path, [np.ones((8, 8))] * 4, table, pixels)
    assert sorted(path.name for path in paths) == [
        "1.2.840.1_Mass.png", "1.2.840.2_Mass.png", "siteA+007_Mass.png", "siteB+007_Mass.png"]  # fmt: skip
    assert all(path.is_file() for path in paths)


def test_overlays_of_an_earlier_run_do_not_stay(model, cache, predictions, tmp_path):
    folder = tmp_path / "overlays"
    write(folder, cache, predictions)
    (folder / "mine.png").write_bytes(b"")
    thresholds = Thresholds(np.full(14, 0.65))
    paths = write(folder, cache, predictions.take([1, 2]), thresholds)
    assert {path.name for path in folder.iterdir()} == {
        *(path.name for path in paths), "scores.csv", "contact_sheet.png", "mine.png"}  # fmt: skip
    scores = pd.read_csv(folder / "scores.csv")
    assert scores["threshold"].tolist() == [0.65, 0.65]
    assert scores["called"].tolist() == [False, True]


def test_what_was_there_stays_until_the_new_overlays_are_whole(model, cache, predictions, tmp_path):
    """A run that fails half-way has taken nothing away."""
    write(tmp_path, cache, predictions)
    before = {path.name for path in tmp_path.iterdir()}

    def broken():
        yield np.zeros((32, 32))
        raise RuntimeError("killed")

    table = score_table(predictions, [(2, 0), (2, 1)])
    with pytest.raises(RuntimeError, match="killed"):
        write_overlays(tmp_path, broken(), table, cache)
    assert before <= {path.name for path in tmp_path.iterdir()}
