"""Figures: each shows the numbers it was given, nothing moves out of place, the same figure gives the same bytes."""

import io
import pkgutil
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

import cxrlib.plots
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import BOX_FRAME, read_boxes, read_entries
from cxrlib.data.splits import split
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.plots import data as plots_data, style as plots, training as plots_training


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def entries(tiny_nih):
    return split(read_entries(tiny_nih.csv_path), "patient")


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    labels = rng.random((120, 14)) < 0.3
    labels[:, 6] = False
    scores = np.clip(0.25 * labels + rng.random((120, 14)) * 0.6, 0, 1)
    return Predictions(scores, labels, [f"{n:08d}_000.png" for n in range(120)], np.arange(120) // 2)


def words(figure):
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text) if text.get_visible())


def test_figures_need_no_torch():
    modules = [f"cxrlib.plots.{module.name}" for module in pkgutil.iter_modules(cxrlib.plots.__path__)]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert len(modules) > 5
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- saving ----------------------------------------------------------------------------------------------------------
def test_save_writes_the_same_bytes_every_time(tmp_path, entries):
    plots.save_figure(plots_data.plot_label_counts(entries), "01_counts", tmp_path / "a")
    plots.save_figure(plots_data.plot_label_counts(entries), "01_counts", tmp_path / "deep" / "b")
    first, again = (tmp_path / where / "01_counts.png" for where in ("a", "deep/b"))
    assert first.read_bytes() == again.read_bytes()
    with Image.open(first) as image:
        assert image.size == (8 * plots.DPI, 5 * plots.DPI)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert "Software" not in image.info


def test_the_alt_text_travels_with_the_picture(tmp_path, entries):
    figure = plots.described(plots_data.plot_label_counts(entries), 'bars, "one" a finding')
    plots.save_figure(figure, "x", tmp_path)
    with Image.open(tmp_path / "x.png") as image:
        assert image.info["Description"] == plots.alt_text(figure) == 'bars, "one" a finding'


def test_a_figure_without_description_is_told_by_its_titles():
    figure, (left, right) = plt.subplots(1, 2)
    left.set(title="what\nthis is", xlabel="x (mm)")
    right.set_title("that", loc="center")
    assert plots.alt_text(figure) == "what this is; that; x (mm)"
    assert plots.alt_text(plt.figure()) == "figure"


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata=None: shown.append((data, metadata)))
    return shown


def test_show_displays_once_with_caption_and_alt_text(displayed):
    plots.show(plots.described(plt.figure(figsize=(3, 2)), "a <b>"), "1 < 2")
    (picture, about), (caption, _) = displayed
    assert picture["text/plain"] == about["image/png"]["alt"] == "a <b>"
    with Image.open(io.BytesIO(picture["image/png"])) as image:
        assert image.width > about["image/png"]["width"] == 3 * 80
        assert about["image/png"]["height"] == 2 * 80
    assert caption["text/html"] == "<details><summary>1 &lt; 2</summary>a &lt;b&gt;</details>"
    assert not plt.get_fignums(), "the notebook would show an open figure a second time"


def test_shown_pictures_are_small_and_keep_their_colours(displayed, entries):
    plots.show(plots_data.plot_label_counts(entries))
    noise = np.random.default_rng(0).integers(0, 255, (10, 128, 128), dtype=np.uint8)
    radiographs, png = plots.plot_radiographs(noise, "abcdefghij"), io.BytesIO()
    radiographs.savefig(png, dpi=plots.SHARPER * radiographs.dpi)
    plots.show(radiographs)
    (bars, _), _, (grid, _), _ = displayed
    assert len(bars["image/png"]) < 40_000
    assert len(grid["image/jpeg"]) < 0.6 * len(png.getvalue())
    with Image.open(io.BytesIO(bars["image/png"])) as image:
        seen = {colour for _, colour in image.convert("RGB").getcolors(10_000)}
    assert any(np.allclose(colour, np.array(to_rgb(plots.BLUE)) * 255, atol=3) for colour in seen)


def test_names_for_readers():
    assert [plots.pretty(name) for name in ("Pleural_Thickening", "Mass")] == ["Pleural thickening", "Mass"]


# ---- what they show --------------------------------------------------------------------------------------------------
def test_label_counts(entries):
    figure = plots_data.plot_label_counts(entries)
    counts = entries[list(FINDINGS)].sum().sort_values()
    assert [bar.get_width() for bar in figure.axes[0].patches] == counts.tolist()
    said = words(figure)
    assert f"{counts.max()} ({counts.max() / 63:.1%})" in said
    assert "images (of 63)" in said


def test_cooccurrence_writes_and_colours_the_lift_of_each_pair_once(entries):
    entries = pd.concat([entries.head(4)] * 20)
    entries[list(FINDINGS)] = 0
    entries["Mass"], entries["Edema"], entries["Hernia"] = [1, 1, 0, 0] * 20, [1, 0, 0, 0] * 20, [1, *[0] * 79]
    figure = plots_data.plot_cooccurrence(entries)
    colours = figure.axes[0].collections[0].get_array().reshape(14, 14)
    mass, edema, hernia = (FINDINGS.index(name) for name in ("Mass", "Edema", "Hernia"))
    assert colours[mass, edema] == 1, "together in a quarter of the images, an eighth by chance: log2 of 2"
    assert np.ma.is_masked(colours[edema, mass]), "each pair once"
    assert np.ma.is_masked(colours[1, 0]), "no image with the finding: no lift"
    assert np.ma.is_masked(colours[hernia, mass]), "half an image by chance: no colour, and the number in brackets"
    assert not np.ma.is_masked(figure.axes[0].collections[1].get_array().reshape(14, 14)[hernia, mass])
    written = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert written[(edema + 0.5, mass + 0.5)] == "2.0"
    assert written[(mass + 0.5, hernia + 0.5)] == "(2.0)"
    assert "Edema and Mass 2.0 times" in plots.alt_text(figure)


def test_views_compare_the_shares_of_pa_and_ap(entries):
    entries = entries.assign(view=["AP", "PA"] * (len(entries) // 2) + ["PA"] * (len(entries) % 2))
    figure = plots_data.plot_views(entries)
    pa, ap = (100 * entries.loc[entries["view"] == view, "Mass"].mean() for view in ("PA", "AP"))
    place = [text.get_text() for text in figure.axes[1].get_yticklabels()].index("Mass")
    assert figure.axes[1].lines[0].get_xdata()[place] == pytest.approx(ap / pa)
    assert f"Mass {pa:.1f} and {ap:.1f} %" in plots.alt_text(figure)


def test_agreement_draws_each_kappa_and_its_interval():
    low, high = [0.1, np.nan, 0.4], [0.3, np.nan, 0.7]
    table = pd.DataFrame({"kappa": [0.2, np.nan, 0.5], "kappa_low": low, "kappa_high": high, "expert": [9, 0, 12],
                          "images": 40}, index=["Mass", "Hernia", "Edema"])  # fmt: skip
    axes = plots_data.plot_agreement(table).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Hernia (0)", "Mass (9)", "Edema (12)"]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [np.nan, 0.2, 0.5])
    ends = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments() if len(segment)]
    assert ends[-2:] == [[0.1, 0.3], [0.4, 0.7]]
    other = pd.DataFrame({"kappa": {"Edema": 0.25, "Mass": 0.35, "Hernia": 0.45}, "kappa_low": 0.1, "kappa_high": 0.9})
    figure = plots_data.plot_agreement(table, other)
    assert figure.axes[0].lines[1].get_xdata().tolist() == [0.45, 0.35, 0.25], "in the same order"
    assert "of NIH's: Edema 0.25, Mass 0.35, Hernia 0.45" in plots.alt_text(figure)


def test_visits_show_the_share_of_patients_and_of_images_by_number_of_images():
    entries = pd.DataFrame({"patient": [1] * 6 + [2] * 2 + [3, 4]})
    widths = [bar.get_width() for bar in plots_data.plot_visits(entries).axes[0].patches]
    assert widths == pytest.approx([50, 25, 0, 25, 0, 0, 0, 20, 20, 0, 60, 0, 0, 0])


def test_anatomy_names_what_the_course_speaks_of():
    figure = plots_data.plot_anatomy(np.zeros((64, 64), np.uint8))
    assert all(name in plots.alt_text(figure) for name in ("right lung", "heart", "hilum", "costophrenic angle"))
    clean, named = figure.axes
    assert not clean.texts
    assert len(named.texts) == 8


def test_shift_and_parts_and_leakage(entries):
    part = entries["part"].replace("val", "train")
    figure = plots_data.plot_shift(entries, part, "train", "test")
    shown = {tuple(np.round(xy, 6)) for dots in figure.axes[0].collections[1:] for xy in dots.get_offsets()}
    shares = 100 * entries[part == "test"][list(FINDINGS)].mean().sort_values()
    assert {(round(value, 6), row) for row, value in enumerate(shares)} <= shown
    counts = entries.groupby("part")[list(FINDINGS)].sum()
    lines = {line.get_label(): line for line in plots_data.plot_parts(entries).axes[0].lines}
    for name, line in lines.items():
        assert sorted(line.get_xdata()) == sorted(counts.loc[name])
    without = {line.get_label(): line for line in plots_data.plot_parts(entries[part == "test"]).axes[0].lines}
    assert not without["val"].get_xdata().any(), "a small data set may leave a part empty"
    table = pd.DataFrame({"auroc": [0.7, 0.6], "auroc_low": [0.6, 0.5], "auroc_high": [0.8, 0.7]}, ["leak", "none"])
    figure = plots_data.plot_leakage(table, pd.Series({"difference": 0.1, "low": 0.02, "high": 0.2, "note": ""}))
    axes, below = figure.axes
    assert axes.lines[0].get_xdata().tolist() == [0.7, 0.6]
    assert [text.get_text() for text in axes.texts] == ["0.700", "0.600"]
    assert [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()] == [[0.6, 0.8], [0.5, 0.7]]
    assert [segment[:, 0].tolist() for segment in below.collections[0].get_segments()] == [[0.02, 0.2]]
    assert "difference 0.100 [0.020, 0.200]" in plots.alt_text(figure)


def test_losses_and_steps_draw_what_they_are_given():
    scores = [0.1, 0.5, 0.9]
    figure = plots_training.plot_losses(scores, {"bce": ([3, 2, 1], [1, 2, 3]), "focal": ([2, 1, 0], [0, 1, 2])})
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[3, 2, 1], [2, 1, 0]]
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines] == [[1, 2, 3], [0, 1, 2]]
    figure = plots_training.plot_steps([1e-4, 1e-3, 1e-5], [0.75, 0.5, 0.25], prevalence=0.25)
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1e-4, 1e-3, 1e-5]
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines[:2]] == [[0.75, 0.5, 0.25], [0.75, 0.625, 0.5]]
    assert "rises to 1.0e-03 and falls to 1.0e-05; the training loss goes from 0.75 to 0.50" in plots.alt_text(figure)
    assert "prevalence alone: 0.250" in figure.axes[1].get_legend_handles_labels()[1]


def test_history_circles_the_kept_epoch():
    history = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [3.0, 2, 1], "val_loss": [3.0, 2, 2.5],
                            "val_auroc": [0.5, 0.7, 0.6], "best": [True, True, False]})  # fmt: skip
    figure = plots_training.plot_history(history, prevalence=0.25)
    circle = figure.axes[1].lines[1]
    assert (list(circle.get_xdata()), list(circle.get_ydata())) == ([2], [0.7])
    assert "kept: 0.700" in words(figure)
    assert "val auroc from 0.500 to 0.600; kept is epoch 2" in plots.alt_text(figure)
    assert "prevalence alone: 0.250" in figure.axes[0].get_legend_handles_labels()[1]
    figure = plots_training.plot_history(history.assign(penalty=[3.0, 1.0, 0.3]), 0.25, by="penalty")
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == ["3", "1", "0.3"]
    assert "kept is penalty 1 with" in plots.alt_text(figure)


def test_intervals_show_every_finding_its_interval_and_its_positives(predictions):
    table = evaluate(predictions, replicates=30)
    figure = plots.plot_intervals({"one": table, "two": table})
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[0] == "MACRO MEAN"
    assert labels[1] == "Fibrosis (0 / 0)", "undefined stands at the end, and is there"
    order = [next(name for name in FINDINGS if label.startswith(plots.pretty(name))) for label in labels[1:]]
    counts = table[["positives", "patients"]]
    assert labels[1:] == [f"{plots.pretty(name)} ({a} / {b})" for name, a, b in counts.loc[order].itertuples()]
    assert len(set(order)) == 14
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), table.loc[["macro", *order], "auroc"])
    ends = [segment[:, 0] for segment in axes.collections[0].get_segments() if len(segment)]
    defined = table.loc[["macro", *order]].dropna(subset="auroc_low")
    assert len(defined) == 14
    np.testing.assert_array_equal(ends, defined[["auroc_low", "auroc_high"]])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"one", "two"}
    other = table.assign(positives=table["positives"] + 1)
    labels = plots.plot_intervals({"one": table, "two": other}).axes[0].get_yticklabels()
    assert labels[1].get_text() == "Fibrosis (0 / 0; 1 / 0)", "of other images: the counts of each"


# ---- pictures --------------------------------------------------------------------------------------------------------
def shown(axes):
    return axes.images[0]


def test_radiographs_keep_their_grey_and_their_boxes_their_place(tiny_nih):
    [first, *_] = read_boxes(tiny_nih.boxes_path).itertuples()
    image = np.full((64, 64), 90, np.uint8)
    figure = plots.plot_radiographs([image, image], ["one", "two"], [[(first.x, first.y, first.w, first.h, "box")], []])
    left, right = figure.axes
    assert (shown(left).norm.vmin, shown(left).norm.vmax) == (0, 255)
    scale = 64 / BOX_FRAME
    box = left.patches[0]
    np.testing.assert_allclose(
        [box.get_x() + 0.5, box.get_y() + 0.5, box.get_width(), box.get_height()],
        np.array([first.x, first.y, first.w, first.h]) * scale,
    )
    assert not right.patches
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]


def test_spare_places_stay_empty():
    figure = plots.plot_radiographs([np.zeros((8, 8), np.uint8)] * 5, list("abcde"), columns=4)
    assert len(figure.axes) == 8
    assert [bool(axes.images) for axes in figure.axes] == [True] * 5 + [False] * 3
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False] * 3
    assert not any(len(axes.get_xticks()) for axes in figure.axes[:5])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_hot_corner_is_drawn_in_that_corner(kind):
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1  # top right
    figure = plots.plot_overlays([kind(np.zeros((64, 64), np.uint8))], [kind(heat)], ["x"])
    axes = figure.axes[0]
    over = axes.images[1]
    assert over.origin == "upper"
    left, right, bottom, top = over.get_extent()
    assert (left, right, bottom, top) == (-0.5, 63.5, 63.5, -0.5)
    assert over.get_array()[0, 3] == 1
    assert over.get_alpha()[0, 3] == pytest.approx(0.65)
    assert over.get_alpha()[3, 0] == 0, "where there is no heat the radiograph is seen as it is"
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    box = axes.get_window_extent()
    middle = (int((box.x0 + box.x1) / 2), drawn.shape[0] - int((box.y0 + box.y1) / 2))
    top_right = drawn[int(drawn.shape[0] - box.y1) : middle[1], middle[0] : int(box.x1)]
    assert top_right.max() > 100
    assert drawn[middle[1] + 5 : int(drawn.shape[0] - box.y0) - 5, int(box.x0) + 5 : middle[0] - 5].max() < 20


def test_a_heat_map_is_marked_at_its_peak():
    heat = np.zeros((16, 16))
    heat[4, 10] = 1
    figure = plots.plot_overlays([np.zeros((64, 64), np.uint8)] * 2, [heat, 0 * heat], ["one", "empty"])
    [cross] = figure.axes[0].lines
    assert cross.get_xydata().tolist() == [[10.5 * 4 - 0.5, 4.5 * 4 - 0.5]], "the centre of that cell"
    assert not figure.axes[1].lines, "an empty map has no peak"
