"""Figures of evaluation: every mark where the numbers put it, and words that say the same."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.audits import audit
from cxrlib.evaluation.calibration import Calibrator, reliability
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import NEVER, Thresholds
from cxrlib.plots import evaluation as plots_evaluation, style as plots
from tests.evaluation.test_audits import made


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def predictions():
    """120 images; the seventh finding is never there."""
    rng = np.random.default_rng(0)
    labels = rng.random((120, 14)) < 0.3
    labels[:, 6] = False
    names = [f"{i}.png" for i in range(120)]
    return Predictions(ndtr(rng.normal(size=(120, 14)) + labels - 0.5), labels, names, np.arange(120) // 2)


def words(figure):
    said = [text.get_text() for panel in figure.axes for text in [*panel.texts, panel.title]]
    return " ".join(said + [panel.get_title(loc="left") for panel in figure.axes])


def marked(axes, marker):
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == marker]


def test_prevalence_draws_both_curves_and_says_them():
    figure = plots_evaluation.plot_prevalence([0.01, 0.1], [0.0, 0.3], [0.2, 0.5], 0.85)
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(lines["F1 at the best threshold"]) == [0.2, 0.5]
    assert list(lines["F1 at the threshold 0.5"]) == [0.0, 0.3]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "10"]
    assert "1 %: 0.20 and 0.00, 10 %: 0.50 and 0.30" in plots.alt_text(figure)


def test_threshold_curves_mark_the_chosen_and_its_interval():
    grid, values = np.array([0.1, 0.2, 0.3]), np.linspace(0.1, 0.3, 14)
    notes = ["", "", "", "", "", "not tuned: too few"] + [""] * 8
    values[3] = NEVER
    thresholds = Thresholds(values, low=values - 0.05, high=np.minimum(values + 0.05, NEVER), notes=notes)
    figure = plots_evaluation.plot_threshold_curves(grid, np.tile(np.arange(14) / 14, (3, 1)), thresholds)
    tuned = [k for k in range(14) if k != 5]
    assert [figure.axes[k].lines[1].get_xdata()[0] for k in tuned] == values[tuned].tolist()
    bars = [figure.axes[k].collections[0].get_segments()[0][0, 0] for k in tuned]
    assert bars == pytest.approx((values - 0.05)[tuned])
    assert len(figure.axes[5].lines) == 1
    assert [figure.axes[k].lines[2].get_xdata()[0] for k in tuned] == [k / 28 for k in tuned], "half of the best F1"
    cut_off = [figure.axes[k].lines[3].get_visible() for k in tuned]
    assert cut_off == [bool(values[k] + 0.05 >= 0.3) for k in tuned]
    assert f"{plots.pretty(FINDINGS[5])}: not tuned" in words(figure)
    assert f"{plots.pretty(FINDINGS[3])}: never" in words(figure)
    assert [panel.lines[0].get_ydata()[0] for panel in figure.axes[:14]] == (np.arange(14) / 14).tolist()
    assert not figure.axes[14].axison
    assert f"{plots.pretty(FINDINGS[0])} 0.10" in plots.alt_text(figure)


def test_pr_curves_put_each_mark_where_its_threshold_is(predictions):
    values = np.full(14, 0.4)
    values[3] = NEVER
    points = {"tuned": Thresholds(values), "0.5": Thresholds([0.5] * 14)}
    figure = plots_evaluation.plot_pr_curves(predictions, points)
    tables = [evaluate(predictions, one, replicates=0) for one in points.values()]
    for k, (panel, name) in enumerate(zip(figure.axes, FINDINGS, strict=False)):
        for table, marker in zip(tables, "oD", strict=True):
            if k == 6 or (k == 3 and marker == "o"):
                assert not marked(panel, marker)
            else:
                assert marked(panel, marker) == [pytest.approx(tuple(table.loc[name, ["sensitivity", "ppv"]]))]
    assert "no positive" in words(figure)
    with pytest.raises(InputError, match="on scores of calibration platt"):
        plots_evaluation.plot_pr_curves(predictions, {"tuned": Thresholds(values, calibration="platt")})


def test_reliability_draws_share_against_score_with_its_interval(predictions):
    calibrated = Calibrator.fit(predictions).apply(predictions)
    figure = plots_evaluation.plot_reliability({"raw": predictions, "Platt": calibrated}, ["Edema", "Fibrosis"], bins=5)
    for panel, finding in zip(figure.axes[:2], ("Edema", "Fibrosis"), strict=True):
        for bars, scored in zip(panel.containers, (predictions, calibrated), strict=True):
            table = reliability(scored, finding, 5)
            np.testing.assert_allclose(np.array(bars[0].get_xdata(), dtype=float), table["score"])
            np.testing.assert_allclose(np.array(bars[0].get_ydata(), dtype=float), table["share"])
            ends = [segment[:, 1] for segment in bars[2][0].get_segments()]
            np.testing.assert_allclose(np.array(ends, dtype=float), table[["low", "high"]], atol=1e-9)
    positives = predictions.labels[:, FINDINGS.index("Edema")].sum()
    assert f"Edema ({positives})" in words(figure)
    assert "Fibrosis, Platt: the highest scores" in plots.alt_text(figure)


def test_low_scores_of_a_rare_finding_are_said_with_a_digit(predictions):
    rare = Predictions(predictions.scores / 300, predictions.labels, predictions.image, predictions.patient)
    highest = reliability(rare, "Edema", 5)["score"].iloc[-1]
    said = plots.alt_text(plots_evaluation.plot_reliability({"raw": rare}, ["Edema"]))
    assert f"the highest scores, {highest:.2g}, meet" in said


def test_gaps_draw_the_macro_with_its_interval_and_name_the_worst_finding():
    of, entries = made(n=200)
    gaps = audit(of, entries[["image", "sex", "view"]], [0.5] * 14, replicates=20)
    figure = plots_evaluation.plot_gaps(gaps)
    for panel, metric in zip(figure.axes, ("auroc", "miss_rate"), strict=True):
        macro = gaps[(gaps["finding"] == "macro") & (gaps["metric"] == metric)]
        assert marked(panel, "o") == [(gap, row) for row, gap in enumerate(macro["gap"])]
        ends = [collection.get_segments()[0][:, 0].tolist() for collection in panel.collections]
        assert ends == macro[["low", "high"]].to_numpy().tolist()
        for text, row in zip(panel.texts, ("women", "AP"), strict=True):
            single = gaps[(gaps["group"] == row) & (gaps["metric"] == metric) & (gaps["finding"] != "macro")]
            worst = single.set_index("finding")["gap"].agg("idxmin" if metric == "auroc" else "idxmax")
            assert text.get_text() == plots.pretty(worst)
            assert single.set_index("finding")["gap"][worst] in [gap for gap, _ in marked(panel, "8")], "ringed"
    sizes = [f"{row.patients} and {row.patients_others} patients" for row in macro.itertuples()]
    ticks = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert [tick.rpartition(",")[0] for tick in ticks] == [
        f"{name} − others\n{size}" for name, size in zip(("women", "AP"), sizes, strict=True)
    ]
    assert f"AP, gap in miss rate {macro['gap'].iloc[1]:+.2f}" in plots.alt_text(figure)


def test_images_of_unknown_label_enter_no_curve(predictions):
    k = FINDINGS.index("Edema")
    labels = predictions.labels.astype(float)
    labels[::3, k] = np.nan
    partly = replace(predictions, labels=labels)
    known = predictions.take(~np.isnan(labels[:, k]))
    points = {"tuned": Thresholds(np.full(14, 0.5))}
    drawn, expected = (plots_evaluation.plot_pr_curves(one, points).axes[k].lines for one in (partly, known))
    for line, like in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(line.get_xydata(), like.get_xydata())
    nothing = replace(predictions, labels=np.full(labels.shape, np.nan))
    figure = plots_evaluation.plot_reliability({"raw": nothing}, ["Edema"])
    assert not figure.axes[0].containers
    assert "no positive" in words(plots_evaluation.plot_pr_curves(nothing, points))


def test_the_roc_curve_and_the_draws_of_its_area():
    scores, positive = np.array([0.9, 0.8, 0.7, 0.4, 0.3, 0.2]), np.array([1, 0, 1, 1, 0, 0]) == 1
    draws = [np.nan, *np.linspace(0.5, 0.9, 41)]
    figure = plots_evaluation.plot_roc(scores, positive, draws, "Mass")
    assert f"area of {roc_auc_score(positive, scores):.3f}" in plots.alt_text(figure)
    assert "41 draws" in plots.alt_text(figure), "one without a positive has no AUROC"
    assert "between 0.510 and 0.890" in plots.alt_text(figure)
    curve = figure.axes[0].lines[0]
    assert (curve.get_xdata()[0], curve.get_ydata()[-1]) == (0, 1)
