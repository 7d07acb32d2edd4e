"""Figures of maps that are tested: they show the numbers that they were given, and say them in words."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from cxrlib.explain.localization import METRICS
from cxrlib.plots.maps import plot_faithfulness, plot_localization, plot_places, plot_sanity
from cxrlib.plots.style import alt_text


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def table():
    rows = []
    for n, kind in enumerate(("model", "chance", "random", "average", "untrained")):
        for finding, value in (("Mass", 0.9), ("Nodule", 0.3), ("macro", 0.6)):
            rows += [(kind, finding, metric, 20, 9, value - n / 10, value - n / 10 - 0.05, value - n / 10 + 0.05)
                     for metric in METRICS]  # fmt: skip
    return pd.DataFrame(rows, columns=["maps", "finding", "metric", "cases", "patients", "value", "low", "high"])


def test_every_kind_of_map_stands_beside_the_model(table):
    figure = plot_localization({"phantoms": table})
    [axes] = figure.axes
    lines = {line.get_label(): line.get_xdata() for line in axes.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["model", "chance", "random", "average", "untrained"]
    np.testing.assert_allclose(lines["model"], [0.6, 0.3, 0.9])
    np.testing.assert_allclose(lines["untrained"], [0.2, -0.1, 0.5])
    labels = [f"{name}\n20 cases, 9 patients" for name in ("Macro", "Nodule", "Mass")]
    assert [label.get_text() for label in axes.get_yticklabels()] == labels
    assert "phantoms, macro mean: model 0.60, chance 0.50" in alt_text(figure)


def test_several_tables_share_the_order_that_is_given(table):
    other = table.assign(value=1 - table["value"])
    figure = plot_localization({"one": table, "two": other}, order=["Pneumonia", "Nodule"])
    first, second = ({line.get_label(): line.get_xdata() for line in axes.lines} for axes in figure.axes)
    np.testing.assert_allclose(first["model"], [0.6, 0.9, 0.3], err_msg="from below: macro, what has no order, Nodule")
    np.testing.assert_allclose(second["model"], [0.4, 0.1, 0.7])
    named = [[label.get_text() for label in axes.get_yticklabels() if label.get_text()] for axes in figure.axes]
    assert [len(labels) for labels in named] == [3, 0], "the same cases are named once"
    other["cases"] = 21
    figure = plot_localization({"one": table, "two": other})
    assert "Mass\n21 cases, 9 patients" in [label.get_text() for label in figure.axes[1].get_yticklabels()]


def test_controls_may_have_any_name_and_number(table):
    mine = [f"mine {n}" for n in range(9)]
    added = [table[table["maps"] == "chance"].assign(maps=name) for name in mine]
    figure = plot_localization({"phantoms": pd.concat([table, *added])})
    lines = [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in lines] == ["model", "chance", "random", "average", "untrained", *mine]
    looks = [(line.get_color(), line.get_marker()) for line in lines]
    assert len(set(looks)) == len(looks)
    assert "mine 8 0.50" in alt_text(figure)


def bars(container):
    """(low, high) of each error bar."""
    return np.array([segment[:, 1] for segment in container[2][0].get_segments()], float)


def test_density_of_places_is_a_mean_over_patients():
    rows = [("true positives", 1, 3.0, 0.5), ("true positives", 1, 1.0, 0.5), ("true positives", 2, 4.0, 0.5),
            ("false positives", 3, 0.2, 1.0)]  # fmt: skip
    figure = plot_places(pd.DataFrame(rows, columns=["group", "patient", "lungs", "letters"]))
    lines = {line.get_label(): line.get_xdata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["true positives (3 maps, 2 patients)"], [3, 0.5])
    segments = [segment[:, 0] for segment in figure.axes[0].collections[0].get_segments()]
    np.testing.assert_allclose(segments, [[2, 4], [0.5, 0.5]], err_msg="two patients: their values are the ends")
    assert "lungs 3.0 (2.0 to 4.0), letters 0.5" in alt_text(figure)


def test_sanity_is_the_mean_of_what_is_defined_with_its_interval():
    steps = pd.DataFrame({"step": [0, 0, 1, 1, 2, 2], "layer": ["none"] * 2 + ["fc"] * 2 + ["conv1"] * 2,
                          "image": [0, 1] * 3, "rank": [1, 1, 0.5, np.nan, 0.2, 0.0]})  # fmt: skip
    figure = plot_sanity({"gradcam": steps, "layercam": steps.assign(rank=0.9)})
    [gradcam, layercam] = figure.axes[0].containers
    np.testing.assert_allclose(np.array(gradcam[0].get_ydata(), float), [1, 0.5, 0.1])
    np.testing.assert_allclose(bars(gradcam), [[1, 1], [0.5, 0.5], [0, 0.2]], atol=1e-9)
    np.testing.assert_allclose(np.array(layercam[0].get_ydata(), float), 0.9)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["nothing", "the head", "100 %"]
    assert "(2 radiographs)" in figure.axes[0].get_title(loc="left")


def test_curves_are_named_with_their_area_and_what_comes_first():
    shares = [0, 0.5, 1]
    rows = [(image, kind, order, share, score)
            for kind, order, scores in (("deletion", "map", (1, 0, 0)), ("deletion", "random", (1, 0.5, 0)),
                                        ("insertion", "map", (0, 1, 1)), ("insertion", "random", (0, 0.5, 1)))
            for share, score in zip(shares, scores, strict=True) for image in (0, 1)]  # fmt: skip
    figure = plot_faithfulness(pd.DataFrame(rows, columns=["image", "kind", "order", "share", "score"]))
    named = [text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()]
    assert named == ["hottest first: area 0.25", "random order: area 0.50",
                     "hottest first: area 0.75", "random order: area 0.50"]  # fmt: skip
    assert "insertion by map 0.75" in alt_text(figure)
    assert figure.axes[0].get_xlabel() == "blurred (% of the image)"


def test_a_third_order_has_its_own_curve():
    rows = [(image, kind, order, share, (1 - share) / height) for image in (0, 1)
            for kind, height in (("deletion", 2), ("insertion", 1))
            for order in ("map", "random", "activation") for share in (0, 1)]  # fmt: skip
    figure = plot_faithfulness(pd.DataFrame(rows, columns=["image", "kind", "order", "share", "score"]))
    assert len(figure.axes[0].containers) == 3
    assert figure.axes[1].get_ylim()[1] > 1, "no curve of either panel is cut"
    assert "hottest of activation first: area 0.25" in figure.axes[0].get_legend().get_texts()[2].get_text()
